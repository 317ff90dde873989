"""Conditional models: encoder and decoder are told labels, or numbers, that stand beside the data."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

from minivae import VAE, DataError, load_dataset
from minivae.conditions import Condition
from minivae.evaluation.scores import elbo_terms
from minivae.kernels import availability
from minivae.storage.persistence import condition_of

SETTINGS = {
    "conditional": True,
    "hidden_dims": (64,),
    "latent_dim": 4,
    "epochs": 15,
    "random_state": 0,
    "batch_size": 64,
}


@pytest.fixture(scope="module")
def labelled():
    dataset = load_dataset("digits")
    return dataset.train / np.float32(255), dataset.train_labels


@pytest.fixture(scope="module")
def fitted(labelled):
    return VAE(**SETTINGS).fit(*labelled)


def test_samples_of_a_label_look_like_it(fitted, labelled):
    """The nearest mean of a class names most of them."""
    X, y = labelled
    means = np.array([X[y == label].mean(axis=0) for label in range(10)])
    hits = []
    for label in range(10):
        samples = fitted.sample(50, y=label)
        hits.append((((samples[:, None] - means) ** 2).sum(axis=2).argmin(axis=1) == label).mean())
    assert min(hits) > 0.4 and np.mean(hits) > 0.75
    mixed = fitted.sample(10, y=np.arange(10), random_state=3)
    assert (((mixed[:, None] - means) ** 2).sum(axis=2).argmin(axis=1) == np.arange(10)).sum() >= 7


def test_a_model_that_is_told_the_label_knows_more(fitted, labelled):
    """It needs fewer nats than one that has to find the label out, and the wrong label costs it some."""
    X, y = labelled
    alone = VAE(**SETTINGS | {"conditional": False}).fit(X)
    assert fitted.score(X, y) > alone.score(X) + 0.5
    assert fitted.score(X, y) > fitted.score(X, (y + 1) % 10) + 2
    several = fitted.score_samples(X[:50], y[:50], n_samples=200)
    assert several.mean() > fitted.score(X[:50], y[:50]) + 0.02  # a better bound, by more than the draws differ


@pytest.mark.parametrize("backend", ["numba", "cupy"])
def test_every_backend_trains_it_as_numpy_does(backend, labelled, request):
    if backend == "cupy":
        request.getfixturevalue("cupy")
    elif not availability(backend)[0]:
        pytest.skip(f"backend {backend}: {availability(backend)[1]}")
    X, y = (part[:150] for part in labelled)
    settings = SETTINGS | {"epochs": 3, "dtype": "float64", "binarize": "dynamic"}
    found, expected = (VAE(**settings | {"backend": name}).fit(X, y) for name in (backend, "numpy"))
    np.testing.assert_allclose(
        [record["val_loss"] for record in found.history_],
        [record["val_loss"] for record in expected.history_],
        rtol=1e-9,
    )


def test_numbers_may_be_the_condition():
    """x is twice the number beside it: a decoder that is told the number needs no latent to say so."""
    rng = np.random.default_rng(0)
    y = rng.normal(100, 15, size=(500, 2))
    X = 2 * y[:, :1] + rng.normal(size=(500, 3))
    vae = VAE(**SETTINGS | {"epochs": 60, "learning_rate": 1e-2, "likelihood": "gaussian*3"}).fit(X, y)
    low, high = (vae.sample(200, y=[[value, 100.0]]).mean() for value in (85.0, 115.0))
    assert low == pytest.approx(170, abs=4) and high == pytest.approx(230, abs=4)
    with pytest.raises(DataError, match="y has 1 columns, and the model was fitted with 2"):
        vae.sample(3, y=[[1.0]])


def test_files_pickles_and_copies_keep_the_condition(fitted, labelled, tmp_path):
    X, y = (part[:20] for part in labelled)
    fitted.save(tmp_path / "model.npz")
    for again in (VAE.load(tmp_path / "model.npz"), pickle.loads(pickle.dumps(fitted)), copy.deepcopy(fitted)):
        np.testing.assert_array_equal(again.transform(X, y), fitted.transform(X, y))
        np.testing.assert_array_equal(again.sample(3, y=2, random_state=1), fitted.sample(3, y=2, random_state=1))


def test_partial_fit_goes_on_with_the_labels_it_began_with(labelled):
    X, y = labelled
    vae = VAE(**SETTINGS).partial_fit(X[:300], y[:300])
    first = vae.history_[-1]["loss"]
    for _ in range(3):
        vae.partial_fit(X[300:600], y[300:600])
    assert vae.history_[-1]["loss"] < first
    with pytest.raises(DataError, match="y holds 11, and the model was fitted with the labels 0, 1"):
        vae.partial_fit(X[:5], [0, 1, 2, 11, 3])


def test_missing_cells_and_conditions_go_together(labelled):
    X, y = labelled
    X = X.astype(np.float64)
    X[np.random.default_rng(0).random(X.shape) < 0.3] = np.nan
    vae = VAE(**SETTINGS | {"epochs": 30}, missing="input", likelihood="gaussian").fit(X, y)
    filled, complete = vae.impute(X[:200], y[:200], n_samples=50), labelled[0][:200]
    holes = np.isnan(X[:200])
    means = np.broadcast_to(np.nanmean(X, axis=0), complete.shape)
    assert np.mean((filled - complete)[holes] ** 2) < 0.6 * np.mean((means - complete)[holes] ** 2)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda vae, X, y: vae.fit(X), "conditional=True needs y"),
        (lambda vae, X, y: vae.fit(X, y).transform(X), "this model is conditional; pass y"),
        (lambda vae, X, y: vae.fit(X, y).sample(3), "this model is conditional; pass y"),
        (lambda vae, X, y: vae.fit(X, y).transform(X, y[:3]), "y has 3 rows where 40 are needed"),
        (lambda vae, X, y: vae.fit(X, y[:3]), "y has 3 rows where 40 are needed"),
        (lambda vae, X, y: vae.fit(X, np.where(y == y[1], np.nan, 1.0)), "y holds nan at row 1, column 0"),
        (lambda vae, X, y: vae.fit(X, y[:, None, None] * 1.0), "neither labels"),
        (lambda vae, X, y: vae.fit(X, y, X_val=X), "conditional=True needs y|pass y"),
    ],
)
def test_what_is_missing_is_said(call, message, labelled):
    X, y = (part[:40] for part in labelled)
    with pytest.raises(DataError, match=message):
        call(VAE(**SETTINGS | {"epochs": 1, "validation_fraction": None}), X, y)


def test_labels_may_be_words():
    condition = Condition.fitted(np.array(["red", "blue", "red"], dtype=object))
    assert condition.classes == ("blue", "red")
    np.testing.assert_array_equal(condition.columns("red", 2, "float32"), [[0, 1], [0, 1]])
    assert condition_of(condition.to_dict()) == condition and condition_of(None) is None


# ---- The command line


def test_labels_of_a_dataset_are_told_on_the_command_line(tmp_path, capsys):
    from minivae.app.cli import main

    run, samples = str(tmp_path / "run"), str(tmp_path / "s.npy")
    train = ["train", "digits", "--conditional", "--epochs", "3", "--out", run, "--quiet", "--latent-dim", "3"]
    assert main(train) == 0 and (tmp_path / "run" / "figures" / "traversals.png").exists()
    capsys.readouterr()
    assert main(["evaluate", run, "--json", "--quiet", "--n-samples", "3"]) == 0
    import json

    dataset, vae = load_dataset("digits"), VAE.load(tmp_path / "run" / "model.npz")
    _, kl = elbo_terms(vae.network_, vae.examples(dataset.test, y=dataset.test_labels), seed=0)
    assert json.loads(capsys.readouterr().out)["kl"] == pytest.approx(kl.mean(), rel=1e-6)  # which has no noise
    assert main(["sample", run, "--y", "3", "-n", "5", "--out", samples]) == 0
    np.testing.assert_array_equal(np.load(samples), vae.sample(5, y=3))
    assert main(["sample", run, "--y", "12", "--out", samples]) == 1
    assert "'12' is none of the labels of this model, '0', '1'" in capsys.readouterr().err
    assert main(["reconstruct", run, "-n", "4", "--out", samples]) == 0
    np.testing.assert_array_equal(np.load(samples), vae.reconstruct(dataset.test[:4], dataset.test_labels[:4]))


def test_a_column_of_a_table_is_told_on_the_command_line(tmp_path, capsys):
    from minivae.app.cli import main

    rng, run, samples = np.random.default_rng(0), str(tmp_path / "run"), str(tmp_path / "s.npy")
    kind = np.arange(300) % 3
    table = np.stack([rng.normal(size=300), kind, 5 * kind + rng.normal(size=300)], axis=1)
    np.savetxt(tmp_path / "t.csv", table, delimiter=",", header="a,kind,b", comments="")
    options = ["--likelihood", "gaussian", "--condition", "1", "--epochs", "30", "--quiet", "--no-figures"]
    assert main(["train", str(tmp_path / "t.csv"), *options, "--out", run, "--learning-rate", "5e-3"]) == 0
    assert main(["evaluate", run, "--quiet", "--n-samples", "2"]) == 0
    assert main(["sample", run, "--y", "2", "-n", "300", "--noise", "--out", samples]) == 0
    assert np.load(samples).shape == (300, 2) and np.load(samples)[:, 1].mean() == pytest.approx(10, abs=1)
    capsys.readouterr()
    assert (
        main(["train", str(tmp_path / "t.csv"), *options[:2], "--condition", "7", "--out", str(tmp_path / "no")]) == 1
    )
    assert "there is no column 7" in capsys.readouterr().err and not (tmp_path / "no").exists()
    assert main(["train", str(tmp_path / "t.csv"), *options[:2], "--conditional", "--out", str(tmp_path / "no")]) == 1
    assert "has no labels to tell the model; name a column of it" in capsys.readouterr().err


# ---- What a fresh reader found


def test_labels_come_as_columns_objects_and_bytes_and_numbers_may_all_be_the_same(labelled, tmp_path):
    X, y = (part[:60] for part in labelled)
    settings = SETTINGS | {"epochs": 1}
    vae = VAE(**settings).fit(X, y)
    np.testing.assert_array_equal(vae.transform(X, y[:, None]), vae.transform(X, y))
    np.testing.assert_array_equal(vae.transform(X, y.astype(object)), vae.transform(X, y))
    VAE(**settings).fit(X, y.astype("S1")).save(tmp_path / "bytes.npz")
    assert VAE.load(tmp_path / "bytes.npz").condition_.classes == tuple("0123456789")
    assert Condition.fitted(np.full(50, 0.1)).scale == (1.0,)
    with pytest.raises(DataError, match="y cannot be made an array"):
        VAE(**settings).fit(X, [[1], [1, 2]])


def test_a_model_pickled_before_there_were_conditions_still_loads(labelled):
    vae = VAE(hidden_dims=(8,), epochs=1, random_state=0).fit(labelled[0])
    state = {name: value for name, value in vae.__getstate__().items() if name not in ("units_", "condition_")}
    older = VAE()
    older.__setstate__(state)
    np.testing.assert_array_equal(older.transform(labelled[0]), vae.transform(labelled[0]))


def test_a_column_of_numbers_is_a_condition_on_the_command_line(tmp_path, capsys):
    from minivae.app.cli import main

    rng, run = np.random.default_rng(0), str(tmp_path / "run")
    np.savetxt(tmp_path / "t.csv", rng.normal(size=(60, 3)), delimiter=",")
    options = ["--likelihood", "gaussian", "--condition", "2", "--epochs", "2", "--quiet", "--hidden-dims", "8"]
    assert main(["train", str(tmp_path / "t.csv"), *options, "--out", run]) == 0
    assert (tmp_path / "run" / "figures" / "samples.png").exists()
    assert main(["sample", run, "--y", "0.5", "-n", "3", "--out", str(tmp_path / "s.npy")]) == 0
    capsys.readouterr()
    assert main(["sample", run, "--y", "much", "--out", str(tmp_path / "s.npy")]) == 1
    assert "--y takes numbers for this model" in capsys.readouterr().err


def test_a_model_told_very_many_numbers_can_be_kept(tmp_path):
    rng = np.random.default_rng(0)
    X, y = rng.random((40, 5)), rng.random((40, 30_000))
    vae = VAE(hidden_dims=2, epochs=1, batch_size=40, backend="numpy", random_state=0, conditional=True).fit(X, y)
    vae.save(tmp_path / "wide.npz")
    loaded = VAE.load(tmp_path / "wide.npz", backend="numpy")
    np.testing.assert_array_equal(loaded.transform(X, y), vae.transform(X, y))
