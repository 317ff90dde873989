"""The proof, and that the proof can fail."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from minivae import check_gradient, proof
from minivae.kernels import load, reference
from minivae.kernels.reference import ACTIVATIONS
from minivae.kernels.table import TABLE
from minivae.likelihoods import LIKELIHOODS

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
    assert check_gradient(lambda v: float(np.sin(v).sum()), 1.001 * np.cos(x), x) == pytest.approx(1e-3, rel=0.01)
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
