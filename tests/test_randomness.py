"""Randomness as a function: published known answers, independence of batches and order, and the laws that it must obey.

The samples are fixed by their seeds, so the statistical thresholds are met or missed once and for all.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from minivae import randomness
from minivae.kernels.philox import philox_bits, philox_normal, philox_uniform, philox_words, unit_interval

PURPOSES = [name for name, value in vars(randomness).items() if name.isupper() and isinstance(value, int)]
FILLS = {"uniform": philox_uniform, "normal": philox_normal}
both_laws = pytest.mark.parametrize("law", FILLS)

# The philox4x32-10 lines of the file kat_vectors in Random123, by the authors of Salmon et al. (2011).
KNOWN_ANSWERS = """
00000000 00000000 00000000 00000000 00000000 00000000   6627e8d5 e169c58d bc57ac4c 9b00dbd8
ffffffff ffffffff ffffffff ffffffff ffffffff ffffffff   408f276d 41c83b0e a20bc7c6 6d5451fd
243f6a88 85a308d3 13198a2e 03707344 a4093822 299f31d0   d16cfe09 94fdcceb 5001e420 24126ea1
"""
KNOWN_ANSWERS = [[int(word, 16) for word in line.split()] for line in KNOWN_ANSWERS.split("\n") if line]


def draw(law, examples, columns, seed=1, purpose=4, step=1, dtype=np.float64):
    out = np.full((len(examples), columns), np.nan, dtype)
    FILLS[law](out, np.asarray(examples), seed, purpose, step)
    return out


# ---- The generator


@pytest.mark.parametrize("line", KNOWN_ANSWERS, ids=("zeros", "ones", "digits of pi"))
def test_philox_gives_the_published_known_answers(line):
    words = philox_bits(np.array([line[:4]]).T, line[4:6])
    assert [int(word) for word in words[:, 0]] == line[6:]


def test_philox_of_many_counters_at_once_is_that_of_each_alone():
    counters = np.array([line[:4] for line in KNOWN_ANSWERS]).T
    together = philox_bits(counters, KNOWN_ANSWERS[2][4:6])
    alone = [philox_bits(counters[:, i : i + 1], KNOWN_ANSWERS[2][4:6])[:, 0] for i in range(3)]
    np.testing.assert_array_equal(together.T, alone)
    assert together[:, 2].tolist() == KNOWN_ANSWERS[2][6:]


def test_counter_is_block_example_step_purpose_and_the_key_is_the_seed():
    # With these arguments the second block of four words is the published answer for the digits of pi ...
    block, example, step, purpose, k0, k1 = KNOWN_ANSWERS[2][:6]
    words = philox_bits(np.array([[block, 1], [example] * 2, [step] * 2, [purpose] * 2]), (k0, k1))
    assert words[:, 0].tolist() == KNOWN_ANSWERS[2][6:]
    # ... and the words of an example are those of its blocks 0, 1, ... one after the other.
    row = philox_words([5, example], 8, k0 + (k1 << 32), purpose, step)
    np.testing.assert_array_equal(row[1, 1], words[:, 1])


def test_uniform_and_normal_of_the_first_published_answer():
    # seed, purpose, step and example 0: the words are 6627e8d5 e169c58d bc57ac4c 9b00dbd8
    u = [((word >> 9) + 0.5) / 2**23 for word in KNOWN_ANSWERS[0][6:]]
    np.testing.assert_array_equal(draw("uniform", [0], 4, 0, 0, 0), [u])
    radius, angle = math.sqrt(-2 * math.log(u[0])), 2 * math.pi * u[1]
    expected = [radius * math.cos(angle), radius * math.sin(angle)]
    np.testing.assert_allclose(draw("normal", [0], 4, 0, 0, 0)[0, :2], expected, rtol=1e-14)


# ---- A function of (seed, purpose, step, example, element), and of nothing else


@both_laws
def test_a_row_does_not_depend_on_the_batch_that_it_comes_in(law):
    alone = draw(law, [42], 10)
    np.testing.assert_array_equal(draw(law, [7, 42, 3], 10)[1], alone[0])
    np.testing.assert_array_equal(draw(law, np.arange(100), 10)[42], alone[0])
    np.testing.assert_array_equal(draw(law, [42, 42], 10), np.repeat(alone, 2, axis=0))


@both_laws
def test_an_element_does_not_depend_on_how_many_follow_it(law):
    wide = draw(law, [3, 4], 13)
    for columns in range(1, 13):
        np.testing.assert_array_equal(draw(law, [3, 4], columns), wide[:, :columns])


@both_laws
def test_order_of_the_examples_only_orders_the_rows(law):
    order = np.random.default_rng(0).permutation(50)
    np.testing.assert_array_equal(draw(law, order, 6), draw(law, np.arange(50), 6)[order])


@both_laws
def test_two_draws_are_equal_with_anything_drawn_in_between(law):
    first = draw(law, np.arange(5), 6)
    draw(law, np.arange(500), 6, seed=9)
    np.random.default_rng(0).normal(size=100)
    np.testing.assert_array_equal(draw(law, np.arange(5), 6), first)


@pytest.mark.parametrize(
    "change",
    ({"seed": 2}, {"seed": 1 + 2**32}, {"seed": 1 + 2**63}, {"purpose": 5}, {"step": 2}, {"step": 2**31}),
    ids=str,
)
@both_laws
def test_another_seed_purpose_or_step_gives_other_numbers_everywhere(law, change):
    assert (draw(law, np.arange(20), 8) != draw(law, np.arange(20), 8, **change)).all()


@both_laws
def test_no_two_examples_steps_purposes_or_elements_share_a_number(law):
    numbers = [draw(law, np.arange(10), 8, purpose=p, step=s) for p in range(1, 6) for s in range(5)]
    counts = np.unique(np.concatenate(numbers), return_counts=True)[1]
    # 2,000 draws out of 2^23 values meet by chance 0.24 times; a shared stream would meet at least 8 times
    assert (counts > 1).sum() <= 2


def test_purposes_are_distinct_so_that_no_stream_meets_another():
    numbers = [getattr(randomness, name) for name in PURPOSES]
    assert len(set(numbers)) == len(numbers) >= 5
    assert all(0 <= number < 2**32 for number in numbers)


@pytest.mark.parametrize("law", ("uniform", "normal"))
def test_convenience_functions_draw_consecutive_examples_of_the_same_stream(law):
    function = getattr(randomness, law)
    expected = draw(law, np.arange(30, 37), 5, seed=6, purpose=randomness.PRIOR, step=8)
    np.testing.assert_array_equal(function((7, 5), 6, randomness.PRIOR, step=8, first_example=30), expected)
    assert function((2, 3), 6, randomness.PRIOR).dtype == np.float64


def test_uniform_is_the_same_number_in_float32_and_float64():
    single, double = (draw("uniform", np.arange(500), 40, dtype=dtype) for dtype in (np.float32, np.float64))
    assert single.dtype == np.float32
    np.testing.assert_array_equal(single.astype(np.float64), double)


def test_normal_is_the_same_number_in_float32_and_float64_up_to_rounding():
    single, double = (draw("normal", np.arange(500), 40, dtype=dtype) for dtype in (np.float32, np.float64))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, double, rtol=0, atol=3e-6)


# ---- Laws


def test_uniform_lies_strictly_between_0_and_1_for_every_word():
    extremes = np.array([0, 1, 511, 512, 2**31, 2**32 - 1], np.uint32)
    for dtype in (np.float32, np.float64):
        u = unit_interval(extremes, dtype)
        assert u.dtype == dtype
        assert u.min() > 0
        assert u.max() < 1
        assert np.isfinite(np.log(u)).all()  # log 0 would be the only way for a normal to be infinite
        np.testing.assert_array_equal(u[0], 1 - u[-1])


def test_uniform_passes_kolmogorov_smirnov_and_has_the_moments_of_the_uniform():
    u = draw("uniform", np.arange(1000), 200).reshape(-1)
    assert stats.kstest(u, "uniform").pvalue > 0.01
    assert abs(u.mean() - 0.5) < 5 * math.sqrt(1 / 12 / u.size)
    assert abs(u.var() - 1 / 12) < 5 * math.sqrt(1 / 180 / u.size)


@pytest.mark.parametrize("dtype", ("float32", "float64"))
def test_normal_passes_kolmogorov_smirnov_and_has_the_moments_of_the_normal(dtype):
    eps = draw("normal", np.arange(1000), 200, dtype=dtype).astype(np.float64).reshape(-1)
    assert stats.kstest(eps, "norm").pvalue > 0.01
    # E x = 0, E x^2 = 1, E x^3 = 0, E x^4 = 3; the variance of x^k is (2k-1)!! - (E x^k)^2
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(np.mean(eps**power) - moment) < 5 * math.sqrt(variance / eps.size)
    assert 4 < np.abs(eps).max() < 5.8  # 200,000 draws reach 4.5 on average, and 23 bits of uniform end at 5.77


@pytest.mark.parametrize("lane", range(4))
def test_each_of_the_four_words_of_a_block_is_normal_by_itself(lane):
    eps = draw("normal", np.arange(5000), 4)[:, lane]
    assert stats.kstest(eps, "norm").pvalue > 0.01


def correlation(x, y):
    return abs(np.corrcoef(x.reshape(-1), y.reshape(-1))[0, 1]) * math.sqrt(x.size)


@both_laws
def test_lanes_neighbouring_rows_steps_purposes_and_seeds_are_uncorrelated(law):
    x = draw(law, np.arange(2000), 12)
    others = {
        **{f"lane {i} and {j}": (x[:, i::4], x[:, j::4]) for i in range(4) for j in range(i)},
        "neighbouring blocks": (x[:, :8], x[:, 4:]),
        "neighbouring examples": (x[:-1], x[1:]),
        "neighbouring steps": (x, draw(law, np.arange(2000), 12, step=2)),
        "neighbouring purposes": (x, draw(law, np.arange(2000), 12, purpose=5)),
        "neighbouring seeds": (x, draw(law, np.arange(2000), 12, seed=2)),
    }
    # also in the size, which Box and Muller share between the two normals of a pair
    measured = {name: max(correlation(a, b), correlation(a**2, b**2)) for name, (a, b) in others.items()}
    assert {name: value for name, value in measured.items() if value > 4.5} == {}


def test_correlation_above_can_fail():
    x = draw("normal", np.arange(2000), 12)
    assert correlation(x, x + 20 * draw("normal", np.arange(2000), 12, step=9)) > 4.5


# ---- Orders and seeds


@pytest.mark.parametrize("n", (1, 2, 3, 5, 1000))
def test_permutation_holds_every_index_once(n):
    np.testing.assert_array_equal(np.sort(randomness.permutation(n, 3, randomness.SHUFFLE, 4)), np.arange(n))


def test_permutation_is_a_function_of_seed_purpose_and_epoch():
    base = randomness.permutation(100, 3, randomness.SHUFFLE, 4)
    np.testing.assert_array_equal(randomness.permutation(100, 3, randomness.SHUFFLE, 4), base)
    for other in ((4, randomness.SHUFFLE, 4), (3, randomness.HOLDOUT, 4), (3, randomness.SHUFFLE, 5)):
        assert (randomness.permutation(100, *other) != base).mean() > 0.9


def test_every_order_of_three_comes_equally_often():
    orders = [tuple(randomness.permutation(3, 8, randomness.SHUFFLE, epoch)) for epoch in range(1200)]
    counts = list({order: orders.count(order) for order in orders}.values())
    assert len(counts) == 6
    assert stats.chisquare(counts).pvalue > 0.01


def test_resolve_seed_keeps_a_given_seed_and_draws_a_fresh_one_for_none():
    assert [randomness.resolve_seed(s) for s in (0, 7, 2**64 - 1, np.int64(5), np.uint8(3))] == [0, 7, 2**64 - 1, 5, 3]
    assert type(randomness.resolve_seed(np.int64(5))) is int
    fresh = {randomness.resolve_seed(None) for _ in range(20)}
    assert len(fresh) > 15
    assert all(0 <= seed < 2**64 for seed in fresh)


@pytest.mark.parametrize("bad", (1.5, "7", True, np.float32(2), [1]), ids=repr)
def test_resolve_seed_refuses_what_is_no_integer_by_name(bad):
    with pytest.raises(TypeError, match="random_state must be an integer or None"):
        randomness.resolve_seed(bad)


@pytest.mark.parametrize("bad", (-1, 2**64))
def test_resolve_seed_refuses_what_does_not_fit_64_bits_by_name(bad):
    with pytest.raises(ValueError, match=r"random_state must lie in 0 \.\. 2\^64 - 1"):
        randomness.resolve_seed(bad)


def test_largest_seed_step_and_example_are_used_whole():
    top = 2**32 - 1
    expected = philox_bits(np.array([[0, top, top, top]]).T, (top, top))[:, 0]
    np.testing.assert_array_equal(philox_words([top], 4, 2**64 - 1, top, top)[0, 0], expected)
