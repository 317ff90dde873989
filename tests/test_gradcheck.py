"""The proof, and that the proof can fail."""

from __future__ import annotations

import itertools
import os
from types import SimpleNamespace

import numpy as np
import pytest

from minivae import check_gradient, proof
from minivae.architecture import Architecture
from minivae.kernels import load, reference
from minivae.kernels.reference import ACTIVATIONS
from minivae.kernels.table import TABLE
from minivae.likelihoods import LIKELIHOODS
from minivae.network import Bound, Network

TRIALS = int(os.environ.get("MINIVAE_TRIALS", "1"))
ROWS = list(proof.run(load("numpy")))


def test_every_gradient_is_right_to_1e_7():
    wrong = [row for row in ROWS if not row.error <= 1e-7]
    assert not wrong and len(ROWS) > 300


def test_every_activation_with_every_likelihood_is_among_the_whole_models():
    subjects = {row.subject for row in ROWS if row.subject.startswith("VAE")}
    forms = [*(set(LIKELIHOODS) - {"gaussian"}), *(f"gaussian sigma={sigma}" for sigma in proof.SIGMAS)]
    for activation, form in itertools.product(ACTIVATIONS, forms):
        assert f"VAE {activation} {form}" in subjects


def test_every_kernel_with_a_gradient_has_rows():
    checked = {row.subject.split()[0] for row in ROWS}
    assert {"dense_forward", "sample_forward", "kl_loss"} < checked
    assert {name for name in TABLE if name.endswith("_loss")} < checked


def test_a_wrong_gradient_is_found(monkeypatch):
    def forgets_half(dh, dz, h, eps, dkl_mean, weight):
        right(dh, dz, h, eps, dkl_mean, weight)
        dh[:, h.shape[1] // 2 :] *= 2

    right = reference.sample_backward
    monkeypatch.setattr(reference, "sample_backward", forgets_half)
    rows = list(proof.kernel_rows(reference))
    found = [row.subject for row in rows if not row.passed]
    assert found == ["sample_forward", "sample_forward of 3 samples"]


def test_check_gradient_on_a_function_with_a_known_gradient():
    x = np.linspace(-1, 2, 12).reshape(3, 4)
    assert check_gradient(lambda v: float(np.sin(v).sum()), np.cos(x), x) < 1e-10
    wrong = [check_gradient(lambda v: float(np.sin(v).sum()), 1.001 * np.cos(x), x, seed=seed) for seed in range(5)]
    assert max(wrong) == pytest.approx(1e-3, rel=0.01) and min(wrong) > 1e-4
    assert check_gradient(lambda v: float(np.sin(v).sum()), np.cos(x + 0.1), x) > 1e-2


def test_check_gradient_leaves_x_alone_and_finds_nan():
    x = np.ones(5)
    assert np.isnan(check_gradient(lambda v: float("nan"), x, x))
    assert not proof.Row("f", "dx", float("nan")).passed
    np.testing.assert_array_equal(x, np.ones(5))


def test_check_gradient_takes_lists_and_wants_shapes_that_agree():
    assert check_gradient(lambda v: float(v @ v), [2, 4], [1, 2]) < 1e-10
    with pytest.raises(ValueError, match=r"gradient has shape \(1, 2\) and x \(2,\); they must agree"):
        check_gradient(lambda v: float(v @ v), [[2, 4]], [1, 2])
    with pytest.raises(ValueError, match=r"where has shape \(1,\) and x \(2,\)"):
        check_gradient(lambda v: float(v @ v), [2, 4], [1, 2], where=[True])
    with pytest.raises(ValueError, match="no entry to check"):
        check_gradient(lambda v: float(v @ v), [2, 4], [1, 2], where=[False, False])


def test_check_gradient_can_be_confined_to_some_entries():
    x = np.arange(6.0)
    wrong_elsewhere = 2 * x
    wrong_elsewhere[4] = 100
    first = np.arange(6) < 3
    assert check_gradient(lambda v: float(v @ v), wrong_elsewhere, x, where=first) < 1e-9
    assert check_gradient(lambda v: float(v @ v), wrong_elsewhere, x, where=~first) > 1e-2


# ---- In long double


@pytest.fixture
def wide():
    if np.finfo(np.longdouble).eps >= np.finfo(np.float64).eps:
        pytest.skip("long double is float64 on this system")


def exact_rows():
    """Of the whole models those in which most meets; all of them where MINIVAE_TRIALS is more than 1."""
    book = load("numpy")
    if TRIALS > 1:
        yield from proof.run(book, "longdouble")
        return
    yield from proof.kernel_rows(book, "longdouble")
    for activation, likelihood in zip(ACTIVATIONS, (*LIKELIHOODS, "bernoulli")):
        yield from proof.model_check(book, Architecture(7, 2, (6, 5), activation, likelihood), dtype="longdouble")
    mixed = Architecture(7, 2, (6, 5), "tanh", proof.MIXED, missing="input", units=((0.5, 2.0),) * 7, conditions=3)
    for bound in (Bound(), Bound(free_bits=0.2), Bound("iwae", 3), Bound("stl", 3), Bound("dreg", 3)):
        yield from proof.model_check(book, mixed, bound, 0.7, "longdouble")


def test_every_gradient_is_right_to_1e_11_in_long_double(wide):
    rows = list(exact_rows())
    assert {row.tolerance for row in rows} == {1e-11} and len(rows) > 150
    assert not [row for row in rows if not row.passed]


def test_an_error_that_float64_cannot_see_is_found_in_long_double(wide, monkeypatch):
    """Such as a constant that was rounded in a backward and not in its forward."""
    monkeypatch.setattr(reference, "GELU_K", np.longdouble("0.044715"))
    forward, backward = reference.ACTIVATIONS["gelu"]

    def rounded(dy, a, y):
        with monkeypatch.context() as patch:
            patch.setattr(reference, "GELU_K", float(np.float32(0.044715)))
            backward(dy, a, y)

    monkeypatch.setitem(reference.ACTIVATIONS, "gelu", (forward, rounded))
    for dtype, found in (("float64", set()), ("longdouble", {"dense_forward gelu"})):
        assert {row.subject for row in proof.kernel_rows(reference, dtype) if not row.passed} == found


def test_a_known_gradient_in_long_double_has_its_digits(wide):
    x = np.linspace(-1, 2, 12, dtype=np.longdouble)
    assert check_gradient(lambda v: np.sin(v).sum(), np.cos(x), x) < 1e-14
    assert 1e-10 < check_gradient(lambda v: np.sin(v).sum(), np.cos(x) * (1 + 1e-9), x) < 1e-8


def test_a_direction_across_the_gradient_is_no_error():
    """<g, v> is then all rounding; what is known of it is its size beside the usual one."""
    v = check_direction(2)
    across = np.array([-v[1], v[0]]) + 1e-9 * v
    assert check_gradient(lambda x: float(10 + across @ x), across, np.zeros(2)) < 1e-10
    assert check_gradient(lambda x: float(10 + across @ x), -across + v, np.zeros(2)) > 0.5


def check_direction(n):
    """The unit vector along which check_gradient looks."""
    seen = []
    check_gradient(lambda x: seen.append(x) or 0.0, np.ones(n), np.zeros(n), step=1.0)
    return seen[0]


def test_long_double_belongs_to_the_book_where_it_is_longer(monkeypatch):
    with pytest.raises(ValueError, match="dtype must be 'float32' or 'float64', not 'longdouble'"):
        Network(Architecture(3), SimpleNamespace(__name__="minivae.kernels.numba.backend"), "longdouble")
    with monkeypatch.context() as patch:
        patch.setattr(np, "finfo", lambda dtype: SimpleNamespace(eps=2.0**-52))
        with pytest.raises(ValueError, match="longdouble holds no more digits than float64 on this system"):
            next(proof.run(load("numpy"), "longdouble"))
