"""The figures of a run are of the model that was kept, and say of which rows."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'minivae[plot]'")

from minivae import evaluation, load_dataset
from minivae.app.cli import main
from minivae.app.drawing import figures
from minivae.app.runs import open_run
from minivae.figures import plots

FAST = ["--hidden-dims", "16", "--backend", "numpy", "--quiet", "--no-figures"]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def shown(figure):
    import matplotlib.text

    return [text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_text()]


def draw(run, tmp_path, monkeypatch, dataset=None):
    """The figures of a run by their names, as objects."""
    found, run = {}, open_run(run)
    with monkeypatch.context() as patch:
        patch.setattr(plots, "save", lambda figure, path: found.setdefault(path.stem, figure))
        figures(run, dataset or run.dataset(), tmp_path / "figures")
    return found


def bars(figure):
    """The KL of each latent dimension, as it is drawn."""
    axes = figure.axes[0]
    names = [int(tick.get_text()[1:]) - 1 for tick in axes.get_xticklabels()]
    return np.array([axes.patches[names.index(j)].get_height() for j in range(len(names))])


@pytest.mark.parametrize("binarize", ["none", "static"])
def test_kl_is_of_the_kept_parameters_and_agrees_with_evaluate(binarize, tmp_path, monkeypatch, capsys):
    """Ninety rows are learned by heart: the last epoch is another than the kept one, in its KL and its active latents."""
    np.save("few.npy", load_dataset("digits").train[:90])
    train = ["--validation-fraction", "0.3", "--patience", "15", "--learning-rate", "0.01", "--epochs", "99"]
    train += ["--latent-dim", "8", "--binarize", binarize, "--batch-size", "16"]
    assert main(["train", "few.npy", *FAST, *train, "--out", "run"]) == 0
    history = open_run("run").vae.history_
    kept = next(record["epoch"] for record in reversed(history) if record["kept"])
    assert kept == len(history) - 15
    capsys.readouterr()
    assert main(["evaluate", "run", "--n-samples", "1", "--quiet", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    found = draw("run", tmp_path, monkeypatch)
    assert bars(found["kl"]).sum() == pytest.approx(told["kl"], rel=1e-6)
    assert not np.allclose(bars(found["kl"]), history[-1]["kl_per_dim"], rtol=0.01)
    assert f"Active latent dimensions: {told['active_units']} of 8" in shown(found["kl"])
    for name in ("kl", "latent", "traversals", "interpolations", "reconstructions"):
        assert any("27 validation examples" in text for text in shown(found[name])), name
    assert f"nats per example; the model is of epoch {kept}, the dotted line" in shown(found["loss"])


def test_a_conditional_model_says_what_it_is_told(tmp_path, monkeypatch):
    assert main(["train", "digits", *FAST, "--epochs", "1", "--conditional", "--latent-dim", "2", "--out", "run"]) == 0
    found = draw("run", tmp_path, monkeypatch)
    assert [tick.get_text() for tick in found["samples"].axes[0].get_xticklabels()] == list("0123456789")
    label = open_run("run").dataset().test_labels[0]
    assert any(text.endswith(f"; the model is told {label}") for text in shown(found["manifold"]))


@pytest.mark.parametrize(("pictures", "rows"), [(8, "7 training"), (200, "20 validation")])
def test_few_colour_pictures(pictures, rows, tmp_path, monkeypatch, capsys):
    np.save("small.npy", np.random.default_rng(0).integers(0, 256, (pictures, 6, 5, 3), dtype=np.uint8))
    fixed = ["--epochs", "2", "--batch-size", "8", "--latent-dim", "20", "--validation-fraction", "0.1"]
    assert main(["train", "small.npy", *FAST, *fixed, "--out", "run"]) == 0
    found = draw("run", tmp_path, monkeypatch)
    assert any(text.startswith(f"{rows} examples") for text in shown(found["kl"]))
    assert found["reconstructions"].axes[0].images[0].get_array().shape[2] == 3


def test_more_rows_than_are_drawn(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    np.save("many.npy", rng.random((6000, 3)))
    assert main(["train", "many.npy", *FAST, "--epochs", "1", "--validation-fraction", "0", "--out", "run"]) == 0
    found = draw("run", tmp_path, monkeypatch)
    assert "the first 5,000 of 6,000 training examples" in shown(found["latent"])
    assert any("6,000 training examples; mean KL" in text for text in shown(found["kl"]))
    run = open_run("run")
    mu = evaluation.posterior(run.vae.network_, run.vae.examples(np.load("many.npy")), np.float64)[0]
    np.testing.assert_array_equal(found["latent"].axes[0].collections[0].get_offsets(), mu[:5000])
