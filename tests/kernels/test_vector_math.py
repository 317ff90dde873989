"""The vector functions against wider arithmetic: error in ulp, limits, NaN, symmetry; that their loops are vectorised."""

from __future__ import annotations

import importlib
import platform
import re

import numpy as np
import pytest

numba = pytest.importorskip("numba", reason="needs numba")
vector_math = importlib.import_module("minivae.kernels.numba.vector_math")

INF, NAN = np.inf, np.nan
FLOATS = [np.float32, np.float64]
LARGEST_ERROR = {"exp": 1.1, "log": 1.1, "expm1": 2, "log1p_unit": 2, "tanh": 2.1, "sigmoid": 2, "softplus": 2}
LARGEST_ERROR |= {"sin_2pi": 2, "cos_2pi": 2}


def compiled_loop(function, **flags):
    @numba.njit(**flags)
    def loop(y, x):
        for i in range(x.size):
            y[i] = function(x[i])

    return loop


@numba.njit
def sin_2pi(u):
    return vector_math.sincos_2pi(u)[0]


@numba.njit
def cos_2pi(u):
    return vector_math.sincos_2pi(u)[1]


OURS = {"sin_2pi": sin_2pi, "cos_2pi": cos_2pi}
LOOPS = {name: compiled_loop(OURS.get(name) or getattr(vector_math, name)) for name in LARGEST_ERROR}
every_function = pytest.mark.parametrize("name", LOOPS)
both_types = pytest.mark.parametrize("dtype", FLOATS)


def ours(name, x):
    y = np.empty_like(x)
    LOOPS[name](y, x)
    return y


def reference(name, x):
    """The same function in the next wider type: float64 for float32, long double for float64."""
    x = x.astype(np.float64 if x.dtype == np.float32 else np.longdouble)
    if name == "sigmoid":
        e = np.exp(-abs(x))
        return np.where(x < 0, e, 1) / (1 + e)
    if name == "softplus":
        return np.maximum(x, 0) + np.log1p(np.exp(-abs(x)))
    if name in ("sin_2pi", "cos_2pi"):
        k = np.rint(4 * x)
        a = 2 * x.dtype.type("3.14159265358979323846264338327950288") * (x - k / 4)
        sine, cosine = np.sin(a), np.cos(a)
        turns = (k.astype(int) + (name == "cos_2pi")) % 4
        return np.choose(turns, [sine, cosine, -sine, -cosine])
    return getattr(np, name.removesuffix("_unit"))(x)


def arguments(name, dtype):
    """Bit patterns spread over the whole type (each exponent, both signs, NaN), and dense samples where the work is done."""
    if dtype == np.float64 and np.finfo(np.longdouble).eps >= np.finfo(np.float64).eps:
        pytest.skip("needs a long double wider than float64")
    unsigned, bits, count = (np.uint32, 32, 2_000_000) if dtype == np.float32 else (np.uint64, 64, 200_000)
    spread = (np.arange(count, dtype=unsigned) * unsigned(2**bits // count | 1)).view(dtype)
    uniform = np.random.default_rng(0).uniform(-1, 1, count // 8)
    dense = [(scale * uniform).astype(dtype) for scale in (1, 3, 20, 110, 760)]
    x = np.concatenate([spread, *dense, np.array([0.0, -0.0, INF, -INF, NAN], dtype)])
    if name.endswith(("_unit", "_2pi")):
        x = x[(x >= 0) & (x <= 1)]
    return x


def error_in_ulp(y, exact):
    """The largest distance of the finite results in units of the last place; the others must be equal."""
    rounded = exact.astype(y.dtype)
    finite = np.isfinite(rounded)
    np.testing.assert_array_equal(y[~finite], rounded[~finite])
    ulp = np.spacing(abs(rounded[finite])).astype(exact.dtype)
    return float((abs(y[finite].astype(exact.dtype) - exact[finite]) / ulp).max())


@both_types
@every_function
def test_error_over_the_whole_range(name, dtype):
    with np.errstate(all="ignore"):
        x = arguments(name, dtype)
        assert error_in_ulp(ours(name, x), reference(name, x)) <= LARGEST_ERROR[name]


@pytest.mark.parametrize("name", ["sin_2pi", "cos_2pi", "log"])
def test_error_for_every_number_that_the_random_streams_can_draw(name):
    """u = (k + 1/2) / 2^23: of these, log(u) and the two angles make the normal noise."""
    u = (np.arange(2**23) + 0.5).astype(np.float32) * np.float32(2**-23)
    assert error_in_ulp(ours(name, u), reference(name, u)) <= LARGEST_ERROR[name]


LIMITS = {  # arguments, and what they give
    "exp": ([INF, -INF, 0.0, -0.0, 1e4, -1e4], [INF, 0.0, 1.0, 1.0, INF, 0.0]),
    "expm1": ([INF, -INF, 0.0, -0.0, 1e4, -1e4], [INF, -1.0, 0.0, -0.0, INF, -1.0]),
    "log": ([INF, -INF, 0.0, -0.0, 1.0, -1.0, -1e-40], [INF, NAN, -INF, -INF, 0.0, NAN, NAN]),
    "log1p_unit": ([0.0], [0.0]),
    "tanh": ([INF, -INF, 0.0, -0.0, 50.0, -50.0], [1.0, -1.0, 0.0, -0.0, 1.0, -1.0]),
    "sigmoid": ([INF, -INF, 0.0, -0.0, 1e4, -1e4], [1.0, 0.0, 0.5, 0.5, 1.0, 0.0]),
    "softplus": ([INF, -INF, 1e4, -1e4], [INF, 0.0, 1e4, 0.0]),
    "sin_2pi": ([0.0, 0.25, 0.75], [0.0, 1.0, -1.0]),
    "cos_2pi": ([0.0, 0.5, 1.0], [1.0, -1.0, 1.0]),
}


@both_types
@every_function
def test_limits_are_exact_and_nan_passes(name, dtype):
    x, y = (np.array([*numbers, NAN], dtype) for numbers in LIMITS[name])
    got = ours(name, x)
    np.testing.assert_array_equal(got, y)
    known = ~np.isnan(y)
    np.testing.assert_array_equal(np.signbit(got[known]), np.signbit(y[known]))


@both_types
def test_exp_ends_where_the_numbers_end(dtype):
    """The largest x with a finite e^x, the next one, and the same for the smallest number above 0."""
    largest = np.log(np.longdouble(np.finfo(dtype).max)).astype(dtype)
    smallest = np.log(np.longdouble(np.finfo(dtype).smallest_subnormal) / 2).astype(dtype)
    edges = np.array([largest * (1 - dtype(1e-6)), largest * (1 + dtype(1e-6))], dtype)
    np.testing.assert_array_equal(np.isfinite(ours("exp", edges)), [True, False])
    edges = np.array([smallest * (1 - dtype(1e-6)), smallest * (1 + dtype(1e-6))], dtype)
    np.testing.assert_array_equal(ours("exp", edges), [np.finfo(dtype).smallest_subnormal, 0])


@both_types
def test_tanh_is_odd_to_the_last_bit(dtype):
    x = np.random.default_rng(1).normal(0, 4, 100_000).astype(dtype)
    np.testing.assert_array_equal(ours("tanh", -x), -ours("tanh", x))


# Where one formula takes over from the next: rounding to the next n, tanh = 1/2, sqrt(2) in log, the sign of x
SEAMS = {
    "exp": np.log(2) * np.array([-125.5, -1.5, -0.5, 0.5, 1.5, 100.5]),
    "expm1": np.log(2) * np.array([-1.5, -0.5, 0.5, 1.5]),
    "log": np.sqrt(2) * 2.0 ** np.array([-60, -1, 0, 1, 60]),
    "log1p_unit": np.array([np.sqrt(2) - 1]),
    "tanh": np.array([np.log(2) / 4, np.log(2) * 0.75, np.arctanh(0.5), 8.0]),
    "sigmoid": np.array([-87.0, -np.log(2) / 2, 1e-3, np.log(2) / 2]),
    "softplus": np.array([-87.0, np.log(np.sqrt(2) - 1), -1e-3, 1e-3, -np.log(np.sqrt(2) - 1)]),
}


@both_types
@pytest.mark.parametrize("name", SEAMS)
def test_neighbours_are_in_order_at_the_seams(name, dtype):
    """Over 2,000 neighbouring arguments on either side, no result is more than one ulp below the one before."""
    steps = np.arange(-2000, 2001)
    for seam in SEAMS[name].astype(dtype):
        x = np.sort((seam + steps * np.spacing(seam)).astype(dtype))
        y = ours(name, x)
        assert (np.diff(y) >= -np.spacing(abs(y[1:]))).all(), seam


@every_function
def test_the_type_of_the_argument_is_kept(name):
    """A constant of the wrong type would widen float32, which only the speed would show."""
    function = OURS.get(name) or getattr(vector_math, name)
    for real in (numba.float32, numba.float64):
        function.compile((real,))
        assert function.overloads[(real,)].signature.return_type == real
    with pytest.raises(numba.TypingError):
        function.compile((numba.int64,))


PACKED_PRODUCT = r"\bv?(?:mul|fn?m(?:add|sub)(?:132|213|231))p{}\b"


def assert_vectorised(loop, dtype):
    if platform.machine().lower() not in ("x86_64", "amd64"):
        pytest.skip("knows the instruction names of x86-64 only")
    y = np.ones(1, dtype)
    loop(y, y)
    [assembly] = [text for signature, text in loop.inspect_asm().items() if signature[-1].dtype.name == dtype.__name__]
    assert re.search(PACKED_PRODUCT.format("s" if dtype == np.float32 else "d"), assembly)


@both_types
@every_function
def test_loops_become_vector_instructions(name, dtype):
    assert_vectorised(LOOPS[name], dtype)


def test_flags_of_the_caller_do_not_reach_inside():
    """A caller that lets the compiler reorder its own sums must not undo (x + magic) - magic, or forget NaN."""
    loop = compiled_loop(vector_math.softplus, fastmath=True)
    x = np.append(np.linspace(-120, 120, 10_001), [INF, -INF, NAN]).astype(np.float32)
    y = np.empty_like(x)
    loop(y, x)
    np.testing.assert_array_equal(y, ours("softplus", x))


def test_a_caller_can_be_cached(tmp_path, monkeypatch):
    """What a first process compiles and stores, a second one loads: nothing in it may belong to the first process."""
    (tmp_path / "cached_caller.py").write_text(
        "import numba\n"
        "from minivae.kernels.numba.vector_math import tanh\n"
        "@numba.njit(cache=True)\n"
        "def loop(y, x):\n"
        "    for i in range(x.size):\n"
        "        y[i] = tanh(x[i])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    x = np.linspace(-3, 3, 101, dtype=np.float32)
    for hits in (0, 1):
        module = importlib.import_module("cached_caller")
        importlib.reload(module)
        y = np.empty_like(x)
        module.loop(y, x)
        assert sum(module.loop.stats.cache_hits.values()) == hits
        np.testing.assert_array_equal(y, ours("tanh", x))
