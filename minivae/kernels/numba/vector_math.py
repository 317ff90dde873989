"""exp, expm1, log, tanh, sigmoid, softplus, sin and cos for compiled loops, which LLVM can turn into vector instructions.

A call of the C library handles one number at a time. Each function here is plain arithmetic on one number, with neither
a call nor a branch, so that a compiled loop over it handles as many numbers at once as a register of the machine holds.
Every function works in the type of its argument, float32 or float64, passes NaN through, and is exact at its limits.

How: bring x to a short interval by arithmetic that loses next to nothing, sum a Taylor series there, and put the rest back
by way of the bits of the number. Each docstring bounds the first term left out of the series; the whole error, measured in
tests/kernels/test_vector_math.py, is at most 1.1 ulp (distance between neighbours) for exp and log, 2.1 for tanh, else 2.
Sources: reduction by ln 2 in two parts: Cody and Waite, Software Manual for the Elementary Functions (1980); the two parts
in float32: Cephes (Moshier); in float64, and log by way of s = f / (2 + f): FDLIBM (Sun Microsystems, 1993).
"""

from __future__ import annotations

import math
from collections import namedtuple

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, overload

from minivae.kernels.columns import LOG_2PI, STIRLING

# Contraction (a * b + c rounded once) is the only liberty the compiler gets: it keeps NaN, infinity and the order of sums.
# Inlining is forced because a call that is left in a loop keeps the whole loop from becoming vector instructions.
vector_function = njit(fastmath={"contract"}, error_model="numpy", forceinline=True)

# ---- Constants, once for each type: a constant of the wrong type would carry float32 arithmetic over to float64.
# Adding magic = 1.5 * 2^mantissa_bits rounds to a whole number and leaves that number in the lowest bits. tiny is the
# smallest normal number. n * ln2_high is exact for every exponent n. exp is 0 below exp_lowest and infinite above
# exp_highest, expm1 is -1 below expm1_lowest, tanh is 1 above tanh_highest.

Constants = namedtuple(
    "Constants",
    "zero quarter half one two infinity nan magic magic_bias tiny mantissa_bits scale log2_e sqrt2_minus_1 two_pi "
    "ln2_high ln2_low exp_lowest exp_highest expm1_lowest tanh_highest nine half_log_2pi "
    "exp_series log_series sin_series cos_series small_factors stirling",
)


def make_constants(real, chosen, terms):
    """The constants of one type: those that the type settles, those chosen for it, and the series with so many terms."""
    info = np.finfo(real)
    magic, bias = 1.5 * 2**info.nmant, info.maxexp - 1
    numbers = [0, 0.25, 0.5, 1, 2, math.inf, math.nan, magic, magic + bias, info.tiny, info.nmant, 2**info.nmant]
    numbers += [math.log2(math.e), math.sqrt(2) - 1, 2 * math.pi, *chosen, 9, 0.5 * LOG_2PI]
    series = [
        [1 / math.factorial(k + 2) for k in range(terms[0])],  # (e^r - 1 - r) / r^2
        [2 / (2 * k + 3) for k in range(terms[1])],  # (log((1 + s) / (1 - s)) - 2 s) / s^3, in s^2
        [(-1) ** (k + 1) / math.factorial(2 * k + 3) for k in range(terms[2])],  # (sin a - a) / a^3, in a^2
        [(-1) ** k / math.factorial(2 * k + 4) for k in range(terms[2])],  # (cos a - 1 + a^2 / 2) / a^4, in a^2
        range(2, 9),
        STIRLING[::-1],
    ]
    return Constants(*map(real, numbers), *(tuple(map(real, coefficients)) for coefficients in series))


CONSTANTS32 = make_constants(np.float32, (0.693359375, -2.12194440e-4, -104, 89, -20, 10), (6, 4, 4))
CONSTANTS64 = make_constants(np.float64, (0.6931471803691238, 1.9082149292705877e-10, -746, 710, -40, 20), (12, 10, 8))


def constants(x):
    """The constants of x's type, in compiled code only: Numba chooses while it compiles, so nothing is left at run time."""


@overload(constants)
def constants_in_compiled_code(x):
    if x == types.float32:
        return lambda x: CONSTANTS32
    if x == types.float64:
        return lambda x: CONSTANTS64
    return None  # Numba then says at the call that no other type is taken


# ---- What Numba has no words for: selections without a branch, and the bits of a number


def layout(real):
    """(integer type of the same size, bits of the mantissa, bias of the exponent) of float32 or float64"""
    mantissa_bits = int((CONSTANTS32 if real == types.float32 else CONSTANTS64).mantissa_bits)
    return ir.IntType(real.bitwidth), mantissa_bits, 2 ** (real.bitwidth - mantissa_bits - 2) - 1


@intrinsic
def select(typing_context, condition, a, b):
    """a where the condition holds, else b"""

    def generate(context, builder, signature, arguments):
        return builder.select(*arguments)

    return (a(types.boolean, a, a), generate) if a == b else None


@intrinsic
def copysign(typing_context, size, sign):
    """|size| with the sign of sign"""

    def generate(context, builder, signature, arguments):
        real = arguments[0].type
        kind = ir.FunctionType(real, [real, real])
        return builder.call(builder.module.declare_intrinsic("llvm.copysign", [real], kind), arguments)

    return (size(size, size), generate) if size == sign else None


@intrinsic
def polynomial(typing_context, x, coefficients):
    """c_0 + c_1 x + c_2 x^2 + ..., by Horner's rule: c_0 + x (c_1 + x (c_2 + ...))"""

    def generate(context, builder, signature, arguments):
        x, tuple_ = arguments
        last, *others = reversed([builder.extract_value(tuple_, k) for k in range(len(coefficients))])
        for coefficient in others:
            last = builder.fadd(builder.fmul(last, x), coefficient)
        return last

    return x(x, coefficients), generate


@intrinsic
def power_of_two(typing_context, t):
    """2^n from t = n + magic: the low bits of t are n, and n + bias is the exponent of 2^n, which must be normal."""
    integer, mantissa_bits, bias = layout(t)

    def generate(context, builder, signature, arguments):
        exponent = builder.add(builder.bitcast(arguments[0], integer), integer(bias))
        return builder.bitcast(builder.shl(exponent, integer(mantissa_bits)), arguments[0].type)

    return t(t), generate


@intrinsic
def split(typing_context, x):
    """(m, t) with x = m 2^n, sqrt(1/2) <= m < sqrt(2) and t = n + bias + magic, from a positive normal x.

    Read as an integer, x is exponent and mantissa side by side. Adding one - sqrt_half carries into the exponent just
    where the mantissa is that of sqrt(1/2) or more; what is left in the mantissa counts from sqrt(1/2).
    """
    integer, mantissa_bits, bias = layout(x)
    scale = 2**mantissa_bits
    one, magic = bias * scale, (bias + mantissa_bits) * scale + scale // 2
    sqrt_half = (bias - 1) * scale + math.isqrt(2 * scale**2) - scale

    def generate(context, builder, signature, arguments):
        real = arguments[0].type
        shifted = builder.add(builder.bitcast(arguments[0], integer), integer(one - sqrt_half))
        m = builder.add(builder.and_(shifted, integer(scale - 1)), integer(sqrt_half))
        t = builder.add(builder.lshr(shifted, integer(mantissa_bits)), integer(magic))
        return context.make_tuple(builder, signature.return_type, (builder.bitcast(m, real), builder.bitcast(t, real)))

    return types.UniTuple(x, 2)(x), generate


# ---- The functions


@vector_function
def exp_reduced(x):
    """(q, n, t) with e^x = 2^n (1 + q), n whole, t = n + magic; x must be within exp_lowest .. exp_highest.

    n = round(x / ln 2),   r = x - n ln 2,   |r| <= ln(2) / 2 = 0.347
    q = e^r - 1 = r + r^2 / 2! + r^3 / 3! + ...    left out: 0.347^8 / 8! = 5e-9, in float64 0.347^14 / 14! = 4e-18
    low is what rounding took from r: to first order, e^(r + low) - 1 = q + low
    """
    c = constants(x)
    t = x * c.log2_e + c.magic
    n = t - c.magic
    high = x - n * c.ln2_high
    r = high - n * c.ln2_low
    low = (high - r) - n * c.ln2_low
    return r + (low + r * r * polynomial(r, c.exp_series)), n, t


@vector_function
def exp(x):
    """e^x. Overflows to infinity and underflows through the subnormal numbers to 0 where e^x does.

    2^n = 2^k 2^(n - k) with k = round(n / 2): 2^n itself may be no normal number where e^x is still a number.
    """
    c = constants(x)
    x = select(x < c.exp_lowest, c.exp_lowest, x)
    q, n, _ = exp_reduced(select(x > c.exp_highest, c.exp_highest, x))
    t = n * c.half + c.magic
    return (c.one + q) * power_of_two(t) * power_of_two(n - (t - c.magic) + c.magic)


@vector_function
def expm1(x):
    """e^x - 1, without the cancellation for small x: 2^n (1 + q) - 1 = 2^n q + (2^n - 1), which for n = 0 is q.

    Twice half of it, because 2^128 (2^1024 in float64) is infinite where q 2^n still makes up for it.
    """
    c = constants(x)
    x = select(x < c.expm1_lowest, c.expm1_lowest, x)
    q, n, t = exp_reduced(select(x > c.exp_highest, c.exp_highest, x))
    s = power_of_two(t - c.one)
    return copysign(select(n == c.zero, q, c.two * (s * q + (s - c.half))), x)


@vector_function
def share_of_whole(b, of_one):
    """The share of 1 in 1 + b where of_one holds, else the share of b, for b >= 0, as if 1 + b had not been rounded.

    whole = 1 + b rounded,   lost = 1 + b - whole,   share = (1 or b) / whole
    (1 or b) / (whole + lost) = share (1 - lost / whole)   to first order,   and 1 / whole is the share of 1
    """
    c = constants(b)
    whole = c.one + b
    lost = b - (whole - c.one)
    share = select(of_one, c.one, b) / whole
    return share - share * (lost * select(of_one, share, c.one - share))


@vector_function
def tanh(x):
    """tanh x, odd to the last bit.

    b = (e^(2|x|) - 1) / 2;   tanh |x| = b / (1 + b) = 1 - 1 / (1 + b)
    The first form has no cancellation for small x, the second none of b's error for large x: b = 1, tanh = 1/2 parts them.
    """
    c = constants(x)
    size = abs(x)
    q, _, t = exp_reduced(c.two * select(size > c.tanh_highest, c.tanh_highest, size))
    s = power_of_two(t - c.one)
    b = s * q + (s - c.half)
    large = b > c.one
    share = share_of_whole(b, large)
    return copysign(select(large, c.one - share, share), x)


@vector_function
def sigmoid(x):
    """1 / (1 + e^-x) = e^x / (1 + e^x): the form whose exponential is at most 1, so that small results are accurate too."""
    c = constants(x)
    return share_of_whole(exp(-abs(x)), x >= c.zero)


@vector_function
def log_of_product(f, n):
    """log( 2^n (1 + f) )  for  sqrt(1/2) <= 1 + f <= sqrt(2)

    s = f / (2 + f),   so 1 + f = (1 + s) / (1 - s)  and  |s| <= 0.172
    log(1 + f) = 2 s + s R,   R = 2/3 s^2 + 2/5 s^4 + ...     left out: s^10 / 11 = 2e-9, in float64 s^22 / 23 = 7e-19
               = f - f^2/2 + s (f^2/2 + R)                    as 2 s = f - s f: f is exact and s only corrects it
    """
    c = constants(f)
    s = f / (c.two + f)
    z = s * s
    h = c.half * f * f
    return n * c.ln2_high + (f - (h - (s * (h + z * polynomial(z, c.log_series)) + n * c.ln2_low)))


@vector_function
def log(x):
    """log x, of subnormal numbers too; log 0 = -infinity, log of a negative number = NaN."""
    c = constants(x)
    subnormal = x < c.tiny
    m, t = split(select(subnormal, x * c.scale, x))
    n = t - select(subnormal, c.magic_bias + c.mantissa_bits, c.magic_bias)
    y = select(x < c.infinity, log_of_product(m - c.one, n), x)
    return select(x > c.zero, y, select(x == c.zero, -c.infinity, c.nan))


@vector_function
def log1p_unit(t):
    """log(1 + t) for 0 <= t <= 1, without the cancellation for small t: 1 + t = 2 (1 + (t - 1) / 2) where above sqrt(2)."""
    c = constants(t)
    large = t > c.sqrt2_minus_1
    return log_of_product(select(large, c.half * t - c.half, t), select(large, c.one, c.zero))


@vector_function
def softplus(x):
    """log(1 + e^x) = max(x, 0) + log(1 + e^-|x|), where e^-|x| <= 1. Small results are accurate too."""
    c = constants(x)
    return select(x > c.zero, x, c.zero) + log1p_unit(exp(-abs(x)))


@vector_function
def nll_of_count(a, x):
    """exp(a) - x a + log x! for whole x, as the book takes it: without large numbers that cancel."""
    c = constants(x)
    product, few = c.one, x < c.nine
    for k in c.small_factors:
        product *= select(x >= k, k, c.one)
    logarithm = log(select(few, product, x))
    n, u = select(few, c.nine, x), a - logarithm
    series = polynomial(c.one / (n * n), c.stirling) / n
    many = n * (expm1(u) - u) + c.half_log_2pi + c.half * logarithm + series
    return select(few, exp(a) - x * a + logarithm, many)


@vector_function
def sincos_2pi(u):
    """( sin(2 pi u), cos(2 pi u) ) for 0 <= u <= 1. The reduction is exact, so the zeros and the ones are exact too.

    k = round(4 u),   a = 2 pi (u - k/4),   |a| <= pi/4 = 0.785:   2 pi u is a plus k quarter turns
    sin a = a - a^3 / 3! + ...       left out: 0.785^10 / 11! = 2e-9, in float64 0.785^18 / 19! = 1e-19, relative to a
    cos a = 1 - a^2 / 2! + ...       left out: 0.785^12 / 12! = 1e-10, in float64 0.785^20 / 20! = 3e-21
    a quarter turn takes (sin, cos) to (cos, -sin)
    """
    c = constants(u)
    k = (c.two * c.two * u + c.magic) - c.magic
    a = c.two_pi * (u - c.quarter * k)
    z = a * a
    sine = a + a * z * polynomial(z, c.sin_series)
    cosine = (c.one - c.half * z) + z * z * polynomial(z, c.cos_series)
    first, third = k == c.one, k == c.one + c.two
    odd, second = first | third, k == c.two
    sin_size, cos_size = select(odd, cosine, sine), select(odd, sine, cosine)
    return select(second | third, -sin_size, sin_size), select(first | second, -cos_size, cos_size)
