"""Weights of others as models of ours, and models of ours back from what was exported."""

from __future__ import annotations

import json

import numpy as np
import pytest
from wild_models import GREY, LIKELIHOODS, REAL, Z, wild

from minivae import VAE, DataError
from minivae.exchange import torch
from minivae.storage.modelfile import ModelFileError

RNG = np.random.default_rng(1)
GIVEN = ("likelihood", "sigma", "activation", "standardize", "missing", "divide_by")


def layers(kind, *shapes, tail=""):
    """Arrays of dense layers NAME of I to O, as "weight" has them or as "kernel" has them."""
    found = {}
    for name, I, O in shapes:
        dot = "." if kind == "weight" else "/"
        found[f"{name}{dot}{kind}{tail}"] = RNG.normal(size=(O, I) if kind == "weight" else (I, O)).astype(np.float32)
        found[f"{name}{dot}bias{tail}"] = RNG.normal(size=O).astype(np.float32)
    return found


def example(D=6):
    """The names of PyTorch's own example of a VAE."""
    return layers("weight", ("fc1", D, 5), ("fc21", 5, 2), ("fc22", 5, 2), ("fc3", 2, 5), ("fc4", 5, D))


def same(vae, other):
    """One model: parameters to the bit, and so what it answers."""
    assert vae.network_.get_parameters().tobytes() == other.network_.get_parameters().tobytes()
    assert vae.network_.arch == other.network_.arch


# ---- Our own files


@pytest.mark.parametrize("X, parameters", LIKELIHOODS)
def test_a_state_dict_comes_back_alone_and_with_its_model(tmp_path, X, parameters):
    vae = wild(X, **parameters)
    vae.export(tmp_path / "m.pt")
    back = VAE.from_weights(tmp_path / "m.pt", backend="numpy")
    assert back.history_ == vae.history_ and (back.held_rows_ == vae.held_rows_).all() and back.scale_ == vae.scale_
    (tmp_path / "m.pt").write_bytes(torch.file(torch.state_dict(vae.network_)))  # what torch.save makes of torch.load's
    given = {name: value for name, value in vae.get_params().items() if name in GIVEN}
    for again in (back, VAE.from_weights(tmp_path / "m.pt", backend="numpy", **given)):
        same(vae, again)
        assert (again.transform(X) == vae.transform(X)).all()


@pytest.mark.parametrize("X, parameters", [*LIKELIHOODS, (REAL, {"likelihood": "gaussian", "missing": "input"})])
def test_a_model_comes_back_from_safetensors_to_the_bit(tmp_path, X, parameters):
    library = pytest.importorskip("safetensors.numpy", reason="needs safetensors")
    vae = wild(X, **parameters)
    vae.export(tmp_path / "m.safetensors")
    back = VAE.from_weights(tmp_path / "m.safetensors", backend="numpy")
    same(vae, back)
    assert back.history_ == vae.history_ and back.get_params() == vae.get_params()
    assert back.score(X) == vae.score(X)
    found = library.load_file(tmp_path / "m.safetensors")
    assert (found["encoder.0.W"] == vae.network_.named["encoder.0.W"]).all()


def test_a_conditional_model_with_names_comes_back_from_safetensors(tmp_path):
    pandas = pytest.importorskip("pandas", reason="needs pandas")
    pytest.importorskip("safetensors", reason="needs safetensors")
    X, y = pandas.DataFrame(GREY, columns=[*"abcdef"]), np.array(["n", "m"])[np.arange(40) % 2]
    vae = wild(X, y, conditional=True)
    vae.export(tmp_path / "m", format="safetensors")
    (tmp_path / "m").rename(tmp_path / "m.safetensors")
    back = VAE.from_weights(tmp_path / "m.safetensors", backend="numpy")
    same(vae, back)
    assert back.condition_ == vae.condition_ and [*back.feature_names_in_] == [*"abcdef"]


def test_a_forged_safetensors_is_told(tmp_path):
    library = pytest.importorskip("safetensors.numpy", reason="needs safetensors")
    path, vae = tmp_path / "m.safetensors", wild(GREY)
    vae.export(path)
    arrays, whole = library.load_file(path), path.read_bytes()
    told = json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])["__metadata__"]
    config = json.loads(told["config"])

    def refused(reason, arrays=arrays, config=config):
        library.save_file(
            arrays, path, {"minivae": "1", "config": config if isinstance(config, str) else json.dumps(config)}
        )
        with pytest.raises(ModelFileError, match=rf"m.safetensors cannot be read .*{reason}"):
            VAE.from_weights(path)

    refused("decoder.0.W is missing", {name: a for name, a in arrays.items() if name != "decoder.0.W"})
    refused("more is no part of this model", arrays | {"more": np.zeros(3)})
    refused(r"encoder.0.b has shape \(9,\)", arrays | {"encoder.0.b": np.zeros(9, np.float32)})
    refused("dtype float64 instead", arrays | {"encoder.0.b": np.zeros(7)})
    refused("encoder.0.b holds NaN", arrays | {"encoder.0.b": np.full(7, np.nan, np.float32)})
    refused("format version 9", config=config | {"format_version": 9})
    refused(
        r"encoder.0.W has shape \(6, 7\)", config=config | {"settings": config["settings"] | {"hidden_dims": [2**40]}}
    )
    refused("values", config="[" * 2**19)
    for place in (0, 7, 20, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:place])
        with pytest.raises(ModelFileError, match=r"m.safetensors cannot be read"):
            VAE.from_weights(path)
    path.write_bytes((2**60).to_bytes(8, "little") + whole[8:])
    with pytest.raises(ModelFileError, match="cannot be read"):
        VAE.from_weights(path)
    path.write_bytes(whole)
    with pytest.raises(ValueError, match="tells all of its model; leave names and parameters out"):
        VAE.from_weights(path, likelihood="gaussian")


# ---- Theirs


def test_the_example_of_pytorch_is_read_and_works(tmp_path):
    arrays = example()
    vae = VAE.from_weights(arrays, random_state=0, backend="numpy")
    hidden = np.maximum(GREY @ arrays["fc1.weight"].T + arrays["fc1.bias"], 0)
    mu, logvar = vae.posterior(GREY)
    for found, name in ((mu, "fc21"), (logvar, "fc22")):
        np.testing.assert_allclose(found, hidden @ arrays[f"{name}.weight"].T + arrays[f"{name}.bias"], atol=1e-5)
    hidden = np.maximum(Z[:, :2] @ arrays["fc3.weight"].T + arrays["fc3.bias"], 0)
    logits = hidden @ arrays["fc4.weight"].T + arrays["fc4.bias"]
    np.testing.assert_allclose(vae.inverse_transform(Z[:, :2]), 1 / (1 + np.exp(-logits)), atol=1e-5)
    vae.save(tmp_path / "m.npz")
    again = VAE.load(tmp_path / "m.npz", backend="numpy")
    assert again.score(GREY) == vae.score(GREY) and (again.sample(3) == vae.sample(3)).all()
    assert again.get_params()["epochs"] is None
    assert again.partial_fit(GREY).score(GREY) > vae.score(GREY)  # and can be trained on


@pytest.mark.parametrize("tail", ["", ":0"])
@pytest.mark.parametrize("decoder", [("dense_2", "dense_10"), ("decoder/hidden_1", "decoder/hidden_2")])
def test_a_keras_vae_is_read(tmp_path, tail, decoder):
    shapes = [("dense", 6, 8), ("dense_1", 8, 4), ("z_mean", 4, 3), ("z_log_var", 4, 3)]
    shapes += [(decoder[0], 3, 4), (decoder[1], 4, 8), ("decoder/output" if "/" in decoder[0] else "dense_11", 8, 6)]
    arrays = layers("kernel", *shapes, tail=tail)
    for name in ("z_mean/kernel", "z_log_var/kernel"):
        arrays[f"{name}{tail}"] *= 0.1
    np.savez(tmp_path / "m.npz", **arrays)
    vae = VAE.from_weights(tmp_path / "m.npz", activation="tanh", likelihood="gaussian", sigma=1.0, backend="numpy")
    a = REAL
    for name in ("dense", "dense_1"):
        a = np.tanh(a @ arrays[f"{name}/kernel{tail}"] + arrays[f"{name}/bias{tail}"])
    np.testing.assert_allclose(
        vae.transform(REAL), a @ arrays[f"z_mean/kernel{tail}"] + arrays[f"z_mean/bias{tail}"], atol=1e-5
    )
    a = Z
    for name in decoder:
        a = np.tanh(a @ arrays[f"{name}/kernel{tail}"] + arrays[f"{name}/bias{tail}"])
    a = a @ arrays[f"{shapes[-1][0]}/kernel{tail}"] + arrays[f"{shapes[-1][0]}/bias{tail}"]
    np.testing.assert_allclose(vae.inverse_transform(Z), a, atol=1e-5)


def test_layers_whose_order_no_name_tells_are_not_guessed():
    shapes = [("encoder.one", 6, 5), ("encoder.two", 5, 5), ("encoder.three", 5, 5), ("mu", 5, 2), ("logvar", 5, 2)]
    shapes += [("decoder.one", 2, 5), ("decoder.two", 5, 5), ("decoder.three", 5, 5), ("decoder.out", 5, 6)]
    arrays = layers("weight", *shapes)
    with pytest.raises(DataError, match=r"whether encoder\.two or encoder\.three comes first, their names do not tell"):
        VAE.from_weights(arrays)
    names = {f"encoder.{i}": f"encoder.{name}" for i, name in enumerate(("one", "two", "three"))} | {
        "encoder.3": "mu+logvar"
    }
    names |= {f"decoder.{i}": f"decoder.{name}" for i, name in enumerate(("one", "two", "three", "out"))}
    model = VAE.from_weights(arrays, names=names)
    assert (model.network_.named["encoder.2.W"] == arrays["encoder.three.weight"].T).all()


def test_what_our_own_state_dict_has_beside_its_layers_is_not_dropped(tmp_path):
    vae = VAE(likelihood="gaussian", hidden_dims=7, epochs=1, random_state=0, backend="numpy").fit(
        np.random.default_rng(0).random((40, 5))
    )
    (tmp_path / "own.pt").write_bytes(torch.file(torch.state_dict(vae.network_)))
    with pytest.raises(DataError, match="log_sigma is no part of this model; say the likelihood"):
        VAE.from_weights(tmp_path / "own.pt")
    same = VAE.from_weights(tmp_path / "own.pt", likelihood="gaussian")
    assert same.sigma_ == vae.sigma_


def test_a_table_names_the_layers_of_any_file():
    arrays = layers("weight", ("in", 6, 5), ("a", 5, 2), ("b", 5, 2), ("q", 2, 5), ("out", 5, 6)) | {
        "steps": np.arange(3)
    }
    del arrays["q.bias"]  # a layer may have none
    names = {"encoder.0": "in", "encoder.1": "a+b", "decoder.0": "q", "decoder.1": "out"}
    vae = VAE.from_weights(arrays, names=names)
    assert (vae.network_.named["encoder.1.W"] == np.hstack([arrays["a.weight"].T, arrays["b.weight"].T])).all()
    assert not vae.network_.named["decoder.0.b"].any()
    arrays["spread"] = np.array([0.3], np.float32)
    vae = VAE.from_weights(arrays, names=names | {"log_sigma": "spread"}, likelihood="gaussian")
    assert vae.sigma_ == pytest.approx(np.exp(0.3))
    with pytest.raises(
        DataError, match="spread is no part of this model; leave it out of the file"
    ):  # nothing is dropped
        VAE.from_weights(arrays, names=names)
    double = {name: array.astype(np.float64) for name, array in arrays.items() if name.endswith(("weight", "bias"))}
    wide = VAE.from_weights(double, names=names)
    assert wide.network_.dtype == np.float64


@pytest.mark.parametrize(
    "change, parameters, reason",
    [
        ({"fc21.weight": (2, 4), "fc22.weight": (2, 4)}, {}, r"fc21.weight \+ fc22.weight takes 4 .* fc1.weight gives 5"),
        ({"fc22.weight": (3, 5), "fc22.bias": (3,)}, {}, r"fc22.weight and fc21.weight have the shapes \(5, 3\)"),
        ({"fc1.bias": (4,)}, {}, r"fc1.bias has shape \(4,\), and fc1.weight gives 5 values"),
        ({"fc4.weight": (6, 4)}, {}, "fc4.weight takes 4 values, and fc3.weight gives 5"),
        ({"fc3.weight": (5, 3)}, {}, "which layers are the decoder's cannot be told from fc1, fc3, fc4, fc21, fc22"),
        ({"fc4.weight": (7, 5), "fc4.bias": (7,)}, {}, "fc4.weight gives 7 values, and likelihood 'bernoulli' .* fc1"),
        ({"fc1.weight": (5, 6, 1)}, {}, r"fc1.weight of shape \(5, 6, 1\) and dtype float32 is no matrix"),
        ({"norm.running_mean": (5,), "seed": (), "other": (2,)}, {}, "norm.running_mean is no part of this model"),
        ({}, {"likelihood": "gaussian"}, "there is no log_sigma"),
        ({"shift": (5,)}, {"likelihood": "gaussian", "standardize": True, "sigma": 1}, r"shift has shape \(5,\) instead"),
        ({"log_sigma": (2,)}, {"likelihood": "gaussian"}, r"log_sigma has shape \(2,\) instead of \(1,\)"),
        ({}, {"sigma": "elementwise", "likelihood": "gaussian"}, "fc4.weight gives 6 values, .* needs 12"),
        ({}, {"names": {"encoder.0": "fc1", "decoder.0": "fc9"}}, "there is no fc9.weight and no fc9/kernel"),
        ({}, {"names": {"encoder.1": "fc1", "decoder.0": "fc3"}}, "the table names encoder.1 .* not encoder.0 on"),
        ({}, {"names": {"encoder.0": "fc1", "decoder.0": "fc4"}}, "fc4.weight takes 5 .* fc1.weight gives 5, not twice"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(tmp_path, change, parameters, reason):
    arrays = example() | {name: np.zeros(shape, np.float32) for name, shape in change.items()}
    np.savez(tmp_path / "m.npz", **arrays)
    with pytest.raises(DataError, match=f"m.npz: {reason}"):
        VAE.from_weights(tmp_path / "m.npz", **parameters)


def test_other_wrong_weights_are_told(tmp_path):
    class Tensor:
        def __array__(self, dtype=None, copy=None):
            raise TypeError("Got unsupported ScalarType BFloat16")

    with pytest.raises(
        DataError, match=r"BFloat16; give arrays of NumPy, such as tensor\.float\(\)\.cpu\(\)\.numpy\(\)"
    ):
        VAE.from_weights(example() | {"fc1.bias": Tensor()})
    with pytest.raises(
        DataError, match=r"hidden layers of \[5\], the decoder, from .+ back, of \[4\]; no such model can be made"
    ):
        VAE.from_weights(layers("weight", ("enc.0", 6, 5), ("enc.1", 5, 4), ("dec.0", 2, 4), ("dec.1", 4, 6)))
    with pytest.raises(DataError, match=r"^fc1\.bias holds NaN"):  # by their name
        VAE.from_weights(example() | {"fc1.bias": np.full(5, np.nan, np.float32)})
    with pytest.raises(ValueError, match="leave conditional out"):
        VAE.from_weights(example(), conditional=True)
    (tmp_path / "m.h5").touch()
    with pytest.raises(DataError, match=r"m.h5 ends in none of \.safetensors, \.npz, \.pt, .* with np.savez"):
        VAE.from_weights(tmp_path / "m.h5")
    np.savez(tmp_path / "m.npz", **{"\x1b[31m/kernel": np.ones((2, 2))})
    with pytest.raises(ModelFileError, match="names that no terminal shows"):
        VAE.from_weights(tmp_path / "m.npz")
    with pytest.raises(FileNotFoundError, match=r"m.pt"):
        VAE.from_weights(tmp_path / "m.pt")
    np.savez(tmp_path / "m.npz", a=np.array([{}], object))
    with pytest.raises(ModelFileError, match="pickled data"):
        VAE.from_weights(tmp_path / "m.npz")
    with pytest.raises(ValueError, match=r"does not end in \.onnx, \.safetensors, \.pt or \.pth"):
        wild(GREY).export(tmp_path / "m.h5")
    with pytest.raises(ValueError, match="format 'h5': the formats are onnx, safetensors, torch"):
        wild(GREY).export(tmp_path / "m.pt", format="h5")
