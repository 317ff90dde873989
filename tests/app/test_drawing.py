"""The figures of a run are of the model that was kept, and say of which rows."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'minivae[plot]'")

from minivae import VAE, load_dataset
from minivae.app.cli import main
from minivae.app.drawing import figures
from minivae.app.runs import Run, open_run
from minivae.data.datasets import Dataset
from minivae.data.schema import Column, Schema
from minivae.evaluation import inference
from minivae.figures import plots

MINUS = "\N{MINUS SIGN}"
FAST = ["--hidden-dims", "16", "--backend", "numpy", "--quiet", "--no-figures"]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def shown(figure):
    import matplotlib.text

    return [text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_text()]


def draw(run, tmp_path, monkeypatch, dataset=None):
    """The figures of a run by their names, as objects."""
    found, run = {}, run if isinstance(run, Run) else open_run(run)
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
    assert main(["train", "few.npy", *FAST, *train, "--out", "run", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
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
    assert report["active_units"] == told["active_units"]
    for name in ("kl", "traversals", "interpolations", "reconstructions"):
        assert any("27 validation examples" in text for text in shown(found[name])), name
    assert any(
        text.startswith("90 training and validation examples") for text in shown(found["latent"])
    )  # 27 points would say little
    assert f"nats per example; the model is of epoch {kept}, the dotted line" in shown(found["loss"])
    lines = {line.get_label(): line.get_ydata() for line in found["kl"].axes[1].lines}
    most = int(np.argmax(history[kept - 1]["kl_per_dim"]))
    assert lines[f"z{most + 1}"].tolist() == [record["kl_per_dim"][most] for record in history]


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
    mu = inference.posterior(run.vae.network_, run.vae.examples(np.load("many.npy")), np.float64)[0]
    np.testing.assert_array_equal(found["latent"].axes[0].collections[0].get_offsets(), mu[:5000])
    some = np.linspace(0, 4999, 60).round().astype(int)
    np.testing.assert_array_equal(found["posterior"].axes[0].collections[0].get_offsets(), mu[some])
    assert "the first 5,000 of 6,000 training examples" in shown(found["posterior"])
    elbo = np.sort(run.vae.score_samples(np.load("many.npy")[:1000]).astype(float))[::-1]
    told = [float(text.get_text().replace(MINUS, "-")) for text in found["scores"].axes[0].texts]
    np.testing.assert_allclose(told, elbo[[*range(4), *range(498, 502), *range(996, 1000)]], atol=0.06)
    assert any("the first 1,000 of 6,000 training examples; ELBO" in text for text in shown(found["scores"]))


def table(columns, rng):
    """A run on a table of ten columns in units of their own, with holes in one and a category of three, and its data."""
    z = rng.standard_normal((400, 2))
    numbers = z @ rng.standard_normal((2, columns)) + 0.1 * rng.standard_normal((400, columns))
    numbers = 5 + numbers * 10.0 ** (np.arange(columns) % 7 - 3)
    numbers[::7, 0] = np.nan
    X = np.column_stack([numbers, np.eye(3)[np.digitize(z[:, 0], [-0.5, 0.5])]])
    schema = Schema((*(Column(f"c{j}", "number") for j in range(columns)), Column("kind", "category", ("a", "b", "c"))))
    vae = VAE(
        likelihood=schema.likelihood, standardize=True, missing="ignore", epochs=30, batch_size=32, backend="numpy",
        hidden_dims=(32,), learning_rate=5e-3, random_state=0, validation_fraction=0.1,
    ).fit(X)  # fmt: skip
    run = Run(vae, {"data": None, "image_shape": None, "table": schema.to_dict()}, None)
    return run, Dataset("table", X, None, None, None, None, "here"), schema


def test_a_table_is_drawn_column_by_column_in_its_own_units(tmp_path, monkeypatch):
    run, dataset, schema = table(8, np.random.default_rng(0))
    found = draw(run, tmp_path, monkeypatch, dataset)
    X = dataset.train[run.vae.held_rows_]
    means = run.vae.reconstruct(X)
    for figure in (found["reconstructions"], found["samples"]):
        assert [axes.get_title(loc="left") for axes in figure.axes] == list(schema.names)
        rows = (
            "40 validation examples" if figure is found["reconstructions"] else "400 training and validation examples"
        )
        assert any(text.startswith(rows) for text in shown(figure))
    for j, axes in enumerate(found["reconstructions"].axes):
        points = axes.collections[0].get_offsets()
        seen = ~np.isnan(X[:, j])
        np.testing.assert_allclose(points, np.stack([X[seen, j], means[seen, j]], axis=1), rtol=1e-6)
        left = ((X[seen, j] - means[seen, j]) ** 2).mean() / X[seen, j].var()
        assert axes.texts[0].get_text() == f"R\N{SUPERSCRIPT TWO} {1 - left:.2f}"
        assert left < 0.5  # it has learned something, or the units are wrong
    samples = run.vae.sample(1000, noise=True, random_state=run.vae.seed_)
    for j, axes in enumerate(found["samples"].axes):
        cells = dataset.train[:, j]
        both = [cells[~np.isnan(cells)], samples[:, j]]
        edges = np.histogram_bin_edges(np.concatenate(both), int(len(both[0]) ** 0.5))
        for values, stairs in zip(both, axes.patches, strict=True):
            np.testing.assert_array_equal(stairs.get_data().values, np.histogram(values, edges)[0] / len(values))
            np.testing.assert_array_equal(stairs.get_data().edges, edges)
    units = "columns in standard deviations from their mean"
    assert any(units in text for text in shown(found["manifold"]))


def test_a_table_that_is_divided_comes_back_whole(tmp_path, monkeypatch):
    X = np.random.default_rng(0).standard_normal((60, 3)) * 40 + 80
    vae = VAE(likelihood="gaussian", divide_by=50.0, epochs=2, backend="numpy", hidden_dims=(8,), random_state=0).fit(X)
    table = Schema(tuple(Column(name, "number") for name in "abc")).to_dict()
    run = Run(vae, {"data": None, "image_shape": None, "table": table}, None)
    found = draw(run, tmp_path, monkeypatch, Dataset("table", X, None, None, None, None, "here"))
    means, some = 50 * vae.reconstruct(X[vae.held_rows_]), vae.sample(1000, noise=True, random_state=0) * 50
    for j in range(3):
        np.testing.assert_allclose(found["reconstructions"].axes[j].collections[0].get_offsets()[:, 1], means[:, j])
        edges = found["samples"].axes[j].patches[1].get_data().edges
        assert edges[-1] >= some[:, j].max() > 60
    assert "values" in " ".join(shown(found["manifold"]))
    low, high = (
        float(word.replace(MINUS, "-")) for word in shown(found["manifold"])[-1].split("values ")[1].split(" to ")
    )
    assert max(abs(low), abs(high)) < 3  # standard deviations, and not tens


def test_many_columns_of_one_unit_are_lines_and_of_many_units_the_first_twelve(tmp_path, monkeypatch):
    run, dataset, schema = table(27, np.random.default_rng(1))
    found = draw(run, tmp_path, monkeypatch, dataset)
    assert [axes.get_title(loc="left") for axes in found["samples"].axes] == list(schema.names[:12])
    assert any("the first 12 of 30 columns" in text for text in shown(found["reconstructions"]))
    series = Schema(tuple(Column(f"t{j}", "number") for j in range(30)))
    X = np.random.default_rng(0).standard_normal((50, 30))
    vae = VAE(likelihood="gaussian", epochs=1, backend="numpy", hidden_dims=(8,), random_state=0).fit(X)
    run = Run(vae, {"data": None, "image_shape": None, "table": series.to_dict()}, None)
    found = draw(run, tmp_path, monkeypatch, Dataset("series", X, None, None, None, None, "here"))
    assert len(found["reconstructions"].axes) == 1 and len(found["reconstructions"].axes[0].lines) == 2


def test_a_model_that_was_imported_has_no_history_to_plot_and_can_be_sampled(tmp_path, capsys):
    layers = {"fc1": (4, 6), "fc21": (2, 4), "fc22": (2, 4), "fc3": (4, 2), "fc4": (6, 4)}
    weights = {f"{name}.weight": np.ones(shape) for name, shape in layers.items()}
    weights |= {f"{name}.bias": np.zeros(shape[0]) for name, shape in layers.items()}
    VAE.from_weights(weights, backend="numpy").save("imported.npz")
    assert main(["plot", "imported.npz", "--out", "drawn"]) == 1 and not (tmp_path / "drawn").exists()
    assert "imported.npz has no training history to plot; `minivae sample`" in capsys.readouterr().err
    assert main(["sample", "imported.npz", "-n", "2", "--out", "made.csv"]) == 0 and (tmp_path / "made.csv").exists()
