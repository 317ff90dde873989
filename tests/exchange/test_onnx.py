"""The ONNX graphs, run by onnxruntime, give the numbers of VAE.posterior and VAE.inverse_transform."""

from __future__ import annotations

import json

import numpy as np
import pytest
from wild_models import GREY, LIKELIHOODS, MIXED, NAMES, REAL, RNG, Z, wild

import minivae
from minivae.evaluation import samples
from minivae.evaluation.inference import outputs
from minivae.exchange import onnx as exchange
from minivae.kernels.reference import ACTIVATIONS
from minivae.network import decode_program

onnx = pytest.importorskip("onnx", reason="needs onnx")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")


def answer(vae, part, **inputs):
    session = onnxruntime.InferenceSession(exchange.graphs(vae)[part == "decoder"], providers=["CPUExecutionProvider"])
    return session.run(None, inputs)


def spreads(vae, n):
    """sigma and r of p(x|z), [n, D] each, as VAE.sample draws with them."""
    arch, found = vae.network_.arch, {}
    out = outputs(vae.network_, decode_program(arch), Z[:n], None) if arch.sigma == "elementwise" else None
    for run in arch.runs:
        for name, likelihood in (("sigma", "gaussian"), ("r", "negative_binomial")):
            if run.likelihood == likelihood:
                spread = samples.spread(vae.network_, run, out)
                spread = spread * arch.column_units()[1, run.columns] if name == "sigma" else spread
                found.setdefault(name, np.full((n, arch.data_dim), np.nan))[:, run.columns] = spread
    return found.values()


def check(vae, X, y=None, told=None):
    """Both graphs give what the model does, of many rows and of one; told: y as the graphs take it."""
    for n in (len(X), 1):
        side = {} if told is None else {"y": told[:n]}
        some = None if y is None else y[:n]
        found = [*answer(vae, "encoder", x=X[:n], **side), *answer(vae, "decoder", z=Z[:n], **side)]
        right = [*vae.posterior(X[:n], some), vae.inverse_transform(Z[:n], some), *spreads(vae, n)]
        for a, b in zip(found, right, strict=True):
            assert a.shape == b.shape and not np.isinf(b).any()
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    return found


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(activation):
    check(wild(GREY, activation=activation), GREY)


@pytest.mark.parametrize("X, parameters", LIKELIHOODS)
def test_likelihoods(X, parameters):
    check(wild(X, **parameters), X)


def test_the_mean_of_a_continuous_bernoulli_is_right_near_0_and_far_from_it():
    vae = wild(GREY, likelihood="continuous_bernoulli", latent_dim=1, hidden_dims=())
    vae.network_.named["decoder.0.W"][...] = 1
    vae.network_.named["decoder.0.b"][...] = 0
    z = np.array([0, 1e-6, -1e-3, 0.2999, 0.3001, -0.3001, 5, -40, 300, -3e4], np.float32)[:, None]
    np.testing.assert_allclose(answer(vae, "decoder", z=z)[0], vae.inverse_transform(z), rtol=2e-6)


@pytest.mark.parametrize("missing", ["ignore", "input"])
def test_missing_cells(missing):
    X = np.where(RNG.random(REAL.shape) < 0.3, np.float32(np.nan), REAL)
    check(wild(X, likelihood="gaussian", missing=missing), X)


def test_pixels_go_in_as_bytes():
    X = (255 * GREY).astype(np.uint8)
    check(wild(X), X)


def test_times_in_seconds_keep_their_digits():
    X = 1.7e9 + 3600 * REAL.astype(np.float64)
    mean = check(wild(X, likelihood="gaussian", standardize=True), X)[2]
    assert mean.dtype == np.float64


def test_sigma_is_that_of_the_model():
    vae = wild(MIXED, likelihood=NAMES, standardize=True)
    sigma, r = answer(vae, "decoder", z=Z)[1:]
    np.testing.assert_allclose(sigma, np.broadcast_to(vae.sigma_, sigma.shape), rtol=1e-6)
    assert (np.isnan(r).sum(axis=0) == [40, 40, 40, 40, 40, 0, 40, 40, 40]).all()


@pytest.mark.parametrize(
    "activation, y, opset", [("relu", None, 13), ("gelu", None, 20), ("tanh", ["a", "b"], 19), ("tanh", [0, 1], 13)]
)
def test_the_opset_is_the_lowest_that_has_the_graph(activation, y, opset):
    side = {} if y is None else {"y": np.array(y)[np.arange(40) % 2], "conditional": True}
    told = onnx.load_from_string(exchange.graphs(wild(GREY, activation=activation, **side))[0])
    assert told.opset_import[0].version == opset and "mu, logvar" in told.doc_string


@pytest.mark.parametrize("labels", [["b", "a", "\u00e9"], [3, -1, 10], [False, True]])
def test_labels_are_told_as_they_are(labels):
    y = np.array(labels)[np.arange(40) % len(labels)]
    vae = wild(GREY, y, conditional=True)
    check(vae, GREY, y, y.astype(object) if y.dtype.kind == "U" else y)
    unknown = np.array(["c"], object) if y.dtype.kind == "U" else np.array([7])
    if y.dtype != bool:  # what the model was never told has no answer, rather than that of no label
        assert np.isnan(answer(vae, "encoder", x=GREY[:1], y=unknown)[0]).all()


def test_numbers_are_told_as_they_are():
    y = RNG.normal(1e6, 10, size=(40, 2))
    check(wild(GREY, y, conditional=True), GREY, y, y)


def test_a_graph_says_what_it_is_of():
    told = onnx.load_from_string(exchange.graphs(wild(GREY, activation="tanh"))[0])
    props = {prop.key: prop.value for prop in told.metadata_props}
    assert props["minivae"] == told.producer_version == minivae.__version__
    assert json.loads(props["config"])["settings"]["activation"] == "tanh"
    assert [value.name for value in [*told.graph.input, *told.graph.output]] == ["x", "mu", "logvar"]
    assert told.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert {"encoder.0.W", "encoder.2.b"} <= {array.name for array in told.graph.initializer}


def test_what_one_file_cannot_hold_is_refused(monkeypatch):
    monkeypatch.setattr(exchange, "MOST", 100)
    with pytest.raises(ValueError, match=r"more than one ONNX file holds; export \.safetensors"):
        exchange.graphs(wild(GREY))
