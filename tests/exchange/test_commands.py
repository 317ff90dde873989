"""`minivae export` and `minivae import` from a shell's point of view."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from wild_models import GREY, wild

from minivae import VAE
from minivae.app.cli import main
from minivae.storage import persistence

RUN = {"id": "1", "image_shape": [2, 3], "condition": None, "watch_test": False, "backend": "numpy", "stopped": None}
RUN |= {"versions": {}, "reading": {}, "table": None}  # what train says of it


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    persistence.save(wild(GREY), "model.npz", run=RUN)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").touch()
    for name in ("odd.name", "run/model.npz"):
        shutil.copy("model.npz", name)
    np.savez("keras.npz", **{f"{name}/kernel": np.ones(s) for name, s in (("a", (6, 4)), ("b", (2, 6)))})
    return tmp_path


def test_a_model_goes_out_and_comes_back(here, capsys):
    assert main(["export", "model.npz", "-o", "m.pt"]) == 0
    out, err = capsys.readouterr()
    assert "class VAE(nn.Module):" in out and "wrote m.pt (0.01 MB)" in err
    assert main(["import", "m.pt", "-o", "back.npz"]) == 0
    assert capsys.readouterr().out == "wrote back.npz: encoder 6 - 7 - 5 - 3, relu, bernoulli, float32\n"


@pytest.mark.parametrize("name", ["M.PT", "m.pth", "M.SafeTensors"])
def test_what_comes_back_is_the_model_of_its_run_and_what_is_replaced_is_told(here, capsys, name):
    if "f" in name:
        pytest.importorskip("safetensors", reason="needs safetensors")
    for word, old in (("wrote", False), ("replaced", True)):
        assert main(["export", "model.npz", "-o", name]) == 0
        assert f"{word} {name} (" in capsys.readouterr().err
        assert main(["import", name, "-o", "back.npz", "--json"]) == 0
        told = {"out": "back.npz", "replaced": old, "encoder": [6, 7, 5, 3]}
        told |= {"activation": "relu", "likelihood": "bernoulli", "dtype": "float32"}
        assert json.loads(capsys.readouterr().out) == told
    first, back = (VAE.load(name, backend="numpy") for name in ("model.npz", "back.npz"))
    assert (
        back.run_ == RUN and back.history_ == first.history_ and (back.transform(GREY) == first.transform(GREY)).all()
    )
    assert main(["export", "model.npz", "-o", name, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["files"] == [{"file": name, "bytes": Path(name).stat().st_size, "replaced": True}]
    assert told["python"].startswith(("import torch", "from minivae import VAE"))


def test_onnx_makes_two_files_and_says_how_to_run_them(here, capsys):
    pytest.importorskip("onnx", reason="needs onnx")
    assert main(["export", "model.npz", "-o", "v1.0", "--format", "onnx"]) == 0
    out, err = capsys.readouterr()
    assert "wrote v1.0.encoder.onnx" in err and "wrote v1.0.decoder.onnx" in err
    assert 'encoder.run(None, {"x": X})  # X float32 [n, 6]' in out
    assert main(["export", "model.npz", "-o", "D.ONNX"]) == 0
    assert "wrote D.encoder.onnx" in capsys.readouterr().err
    runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    names = {"X": GREY}
    exec(out, names)
    assert runtime and names["mean"].shape == GREY.shape


def test_layers_are_named_on_the_line(here, capsys):
    rest = ["--likelihood", "gaussian", "--sigma", "0.5", "--activation", "tanh", "-o", "m.npz"]
    assert main(["import", "keras.npz", "--names", "encoder.0=a", "decoder.0=b", *rest]) == 0
    first = VAE.load("m.npz")
    assert first.sigma_ == 0.5 and first.activation == "tanh" and first.dtype == "float64"
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    "words, told",
    [
        (["export", "model.npz", "-o", "m.h5"], "m.h5 does not end in .onnx, .safetensors, .pt or .pth"),
        (["export", "gone.npz", "-o", "m.pt"], "there is no model at gone.npz"),
        (["export", "model.npz", "-o", "gone/m.pt"], "gone, where m.pt should go, is not a folder"),
        (
            ["import", "keras.npz"],
            "keras.npz: which layers are the decoder's cannot be told from a, b; name the layers",
        ),
        (["import", "keras.npz", "-o", "keras.npz"], "--out keras.npz is keras.npz itself, which stays as it is"),
        (["import", "keras.npz", "--names", "encoder.0"], "--names encoder.0 names no layer of theirs"),
        (["import", "keras.npz", "--names", "encoder.0=a", "encoder.0=b"], "--names has 1 of our layers twice"),
        (["import", "model.npz", "-o", "m.npz"], "model.npz is a model of minivae's own already"),
        (["import", "gone.pt"], "there is no file gone.pt"),
        (["import", ".", "-o", "m.npz"], ". is a folder; name a file of weights"),
        (["import", "run", "-o", "m.npz"], "run is a folder"),
        (["import", "keras.npz", "-o", "run/model.npz"], "--out run/model.npz is a file of the run in run"),
        (["import", "keras.npz", "-o", "run/checkpoint.npz"], "--out run/checkpoint.npz is a file of the run in run"),
        (["export", "run", "-o", "run/config.json", "--format", "torch"], "config.json is a file of the run in run"),
        (["import", "keras.npz", "-o", "-"], "--out - is no file"),
        (["export", "model.npz", "-o", "m.onnx", "--format", "torch"], "m.onnx does not end as format torch does"),
        (["export", "model.npz", "-o", "m.npz", "--format", "torch"], "name a .pt, or no format"),
        (["export", "odd.name", "-o", "odd.name", "--format", "torch"], "odd.name is odd.name itself"),
    ],
)
def test_what_is_wrong_is_one_line(here, capsys, words, told):
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    assert main(words) == 1
    out, err = capsys.readouterr()
    assert told in err and err.count("\n") == 1 and not out
    assert {path: path.read_bytes() for path in here.rglob("*") if path.is_file()} == before
