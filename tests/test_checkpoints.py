"""A training that goes on from a checkpoint ends bit for bit as one that was never interrupted."""

from __future__ import annotations

import pickle
import shutil
import signal
from contextlib import contextmanager

import numpy as np
import pytest
from training_cases import CASES, suited

from minivae import VAE, training
from minivae.data.files import DataError
from minivae.kernels import availability
from minivae.storage.checkpoints import Checkpoints
from minivae.training import NotFinite

BACKENDS = [name for name in ("numpy", "numba") if availability(name)[0]]
TIMES = ("seconds", "examples_per_second")


class Killed(Exception):
    """As if the process had ended here."""


class Often(Checkpoints):
    """Writes at every moment, and ends the training after so many of them."""

    def __init__(self, path, offers=-1):
        super().__init__(path)
        self.left, self.moments = offers, []

    def due(self, moment):
        return True

    def offer(self, vae, trace, moment):
        super().offer(vae, trace, moment)
        self.moments.append(moment)
        self.left -= 1
        if self.left == 0:
            raise Killed


def history(vae):
    return [{name: value for name, value in record.items() if name not in TIMES} for record in vae.history_]


def assert_same(found, expected):
    np.testing.assert_array_equal(found.network_.get_parameters(), expected.network_.get_parameters())
    assert history(found) == history(expected)
    for name, vector in expected.trainer_.moments.items():
        np.testing.assert_array_equal(found.trainer_.moments[name], vector)
    for name in ("step", "epoch", "updates", "stopped"):
        assert getattr(found.trainer_, name) == getattr(expected.trainer_, name), name


def killed_and_resumed(settings, path, offers, *given, **parts):
    with pytest.raises(Killed):
        VAE(**settings).fit(*given, **parts, checkpoint=Often(path, offers))
    vae = VAE.load(path, backend=settings["backend"])
    return vae.fit(*given, **parts, resume=True, checkpoint=path)


X = np.random.default_rng(0).random((150, 12), np.float32)
BASE = {"hidden_dims": (16,), "epochs": 4, "batch_size": 32, "random_state": 3, "learning_rate": 0.03}
FORMS = {
    "cosine, warm-up": {"validation_fraction": 0.0, "schedule": "cosine", "lr_warmup": 1.5, "kl_warmup": 3.0},
    "best epoch, patience": {"validation_fraction": 0.2, "patience": 1, "learning_rate": 0.3, "epochs": 8},
    "pixels drawn anew": {"validation_fraction": 0.1, "binarize": "dynamic", "max_grad_norm": 0.5},
    "sgd in cycles": {
        "validation_fraction": 0.0,
        "optimizer": "sgd",
        "learning_rate": 1e-3,
        "kl_cycles": 2,
        "kl_warmup": 1.0,
    },
    "columns, capacity": {"likelihood": "gaussian*12", "missing": "ignore", "capacity": 1.0, "capacity_warmup": 2.0},
    "float64, adamw": {"dtype": "float64", "optimizer": "adamw", "weight_decay": 0.1, "activation": "gelu"},
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("form", FORMS)
def test_from_every_moment_the_end_is_the_same(form, backend, tmp_path):
    settings = BASE | FORMS[form] | {"backend": backend}
    whole = Often(tmp_path / "whole.npz")
    expected = VAE(**settings).fit(X, checkpoint=whole)
    assert {"step", "epoch", "end"} == set(whole.moments)
    if form == "best epoch, patience":  # the best epoch is not the last, and patience ends the training
        assert expected.stopped_ and not expected.history_[-1]["kept"]
    for offers in range(1, len(whole.moments)):
        assert_same(killed_and_resumed(settings, tmp_path / "cut.npz", offers, X), expected)


def test_a_conditional_model_with_parts_of_its_own_goes_on(tmp_path):
    y, settings = np.arange(150) % 3, BASE | {"backend": "numpy", "conditional": True, "patience": 3}
    parts = {"X_val": X[:20], "y_val": y[:20], "X_test": X[20:30], "y_test": y[20:30]}
    expected = VAE(**settings).fit(X, y, **parts)
    assert_same(killed_and_resumed(settings, tmp_path / "c.npz", 7, X, y, **parts), expected)
    with pytest.raises(ValueError, match="held out other rows; pass X_val"):
        VAE.load(tmp_path / "c.npz", backend="numpy").set_params(epochs=9, patience=None).fit(X, y, resume=True)


def test_an_interrupt_keeps_the_step_before_it_and_the_end_is_that_of_all_epochs(tmp_path):
    """Ctrl-C ends the epoch early, which the uninterrupted training did not do: the checkpoint is of the moment before."""
    settings = BASE | {"backend": "numpy", "validation_fraction": 0.2}
    expected = VAE(**settings).fit(X)
    path = tmp_path / "c.npz"

    class Stopping(Often):
        def offer(self, vae, trace, moment):
            if moment == "step" and vae.trainer_.epoch == 1 and len(trace) >= 2:
                vae.stop("for a test")  # the epoch has two more steps, and will not have them
            super().offer(vae, trace, moment)

    cut = VAE(**settings).fit(X, checkpoint=Stopping(path))
    assert cut.stopped_ == "for a test" and cut.history_[1]["step"] < expected.history_[1]["step"]
    assert_same(VAE.load(path, backend="numpy").fit(X, resume=True), expected)


def test_ctrl_c_before_the_first_step_keeps_the_running_epoch(tmp_path, monkeypatch, ctrl_c):
    """The checkpoint lies within an epoch; written again before that goes on, it still does."""
    settings, path = BASE | {"backend": "numpy"}, tmp_path / "c.npz"
    expected = VAE(**settings).fit(X)
    with pytest.raises(Killed):
        VAE(**settings).fit(X, checkpoint=Often(path, 2))
    assert len(VAE.load(path).trainer_.begun)

    @contextmanager
    def interrupted(*_):
        signal.raise_signal(signal.SIGINT)
        yield

    with monkeypatch.context() as only_now:
        only_now.setattr(training, "one_blas_thread", interrupted)
        with pytest.raises(KeyboardInterrupt):
            VAE.load(path).fit(X, resume=True, checkpoint=path)
    assert_same(VAE.load(path).fit(X, resume=True), expected)


def test_more_epochs_are_a_training_of_so_many_from_the_beginning(tmp_path):
    settings = BASE | {"backend": "numpy", "validation_fraction": 0.2}
    path = tmp_path / "c.npz"
    VAE(**settings).fit(X, checkpoint=path)
    with pytest.raises(ValueError, match="has had its 4 epochs; raise epochs"):
        VAE.load(path, backend="numpy").fit(X, resume=True)
    longer = VAE.load(path, backend="numpy").set_params(epochs=7).fit(X, resume=True)
    assert_same(longer, VAE(**settings | {"epochs": 7}).fit(X))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latent_dim": 3}, "latent_dim=2"),
        ({"binarize": "static"}, "began with binarize='none'"),
        ({"random_state": 4}, "began with random_state=3"),
        ({"validation_fraction": 0.3}, "began with validation_fraction=None"),
        ({"batch_size": 16}, "lies within epoch 1, which began with batch_size=32"),
        ({"objective": "iwae"}, "lies within epoch 1, which began with objective='elbo'"),
        ({"n_samples": 3}, "lies within epoch 1, which began with n_samples=1"),
        ({"patience": 1, "epochs": 2}, None),
        ({"learning_rate": 1e-3, "beta": 2.0}, None),
        ({"optimizer": "sgd", "learning_rate": 1e-4}, None),
    ],
)
def test_what_may_change_and_what_may_not(change, message, tmp_path):
    path = tmp_path / "c.npz"
    with pytest.raises(Killed):
        VAE(**BASE, backend="numpy").fit(X, checkpoint=Often(path, 2))
    vae = VAE.load(path, backend="numpy").set_params(**change)
    before = vae.network_.get_parameters()
    if message is None:
        vae.fit(X, resume=True)
        assert len(vae.history_) == change.get("epochs", 4) and vae.settings_ | change == vae.settings_
    else:
        with pytest.raises(ValueError, match=message):
            vae.fit(X, resume=True)
        np.testing.assert_array_equal(vae.network_.get_parameters(), before)
        assert_same(
            VAE.load(path, backend="numpy").fit(X, resume=True), VAE(**BASE, backend="numpy").fit(X)
        )  # the file is as it was


@pytest.mark.parametrize("other", ["a value", "the order", "a row less", "the type"])
def test_other_data_are_refused(other, tmp_path):
    path, changed = tmp_path / "c.npz", X.copy()
    with pytest.raises(Killed):
        VAE(**BASE, backend="numpy").fit(X, checkpoint=Often(path, 2))
    if other == "a value":
        changed[77, 3] = 0.5
    changed = {"the order": changed[::-1], "a row less": changed[1:], "the type": changed.astype(float)}.get(
        other, changed
    )
    with pytest.raises(DataError, match="X is not what this training began with"):
        VAE.load(path, backend="numpy").fit(changed, resume=True)


def test_other_held_out_data_are_refused(tmp_path):
    val, path = X[:30] / 2, tmp_path / "c.npz"
    with pytest.raises(Killed):
        VAE(**BASE, backend="numpy").fit(X, X_val=val, checkpoint=Often(path, 2))
    with pytest.raises(DataError, match="X, or X_val, is not what this training began with"):
        VAE.load(path, backend="numpy").fit(X, X_val=val / 2, resume=True)
    with pytest.raises(DataError, match="X is not what this training began with"):
        VAE.load(path, backend="numpy").fit(X, X_val=X, resume=True)
    VAE.load(path, backend="numpy").fit(X, X_val=val.copy(), resume=True)


@pytest.mark.skipif(
    "numba" not in BACKENDS, reason="numba does not work here, and another backend than NumPy is needed"
)
def test_another_backend_is_named_where_the_file_is_loaded(tmp_path):
    with pytest.raises(Killed):
        VAE(**BASE, backend="numba").fit(X, checkpoint=Often(tmp_path / "c.npz", 2))
    vae = VAE.load(tmp_path / "c.npz", backend="numba").set_params(backend="numpy")
    with pytest.raises(ValueError, match="loaded for another backend"):
        vae.fit(X, resume=True)
    vae = VAE.load(tmp_path / "c.npz", backend="numpy").fit(X, resume=True)
    assert vae.network_.kernels.__name__.endswith("reference") and vae.settings_["backend"] == "numpy"


def test_a_model_without_a_training_cannot_go_on(tmp_path):
    vae = VAE(**BASE, backend="numpy").fit(X)
    with pytest.raises(ValueError, match=r"load the file that fit\(checkpoint=\.\.\.\) wrote"):
        vae.set_params(epochs=7).fit(X, resume=True)
    vae.save(tmp_path / "m.npz")
    with pytest.raises(ValueError, match=r"load the file that fit\(checkpoint=\.\.\.\) wrote"):
        VAE.load(tmp_path / "m.npz", backend="numpy").fit(X, resume=True)


@pytest.mark.parametrize("way", ["file", "pickle"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_partial_fit_goes_on_after_load_as_without(way, backend, tmp_path):
    settings = BASE | {"backend": backend}
    expected, vae = (VAE(**settings).partial_fit(X[:100]) for _ in range(2))
    for piece in (X[50:], X[:70], X):
        if way == "file":
            vae.save(tmp_path / "m.npz")
            vae = VAE.load(tmp_path / "m.npz", backend=backend)
        else:
            vae = pickle.loads(pickle.dumps(vae))
        vae.partial_fit(piece)
        assert_same(vae, expected.partial_fit(piece))
    small, large = tmp_path / "small.npz", tmp_path / "large.npz"
    vae.save(large)
    vae.save(small, include_optimizer=False)
    assert large.stat().st_size - small.stat().st_size >= 2 * vae.network_.get_parameters().nbytes
    assert VAE.load(small, backend=backend).partial_fit(X).trainer_.updates == 5  # of moments that are afresh


def test_a_fit_that_ends_in_numbers_that_are_none_leaves_a_checkpoint_from_before(tmp_path):
    path = tmp_path / "c.npz"
    settings = BASE | {"backend": "numpy", "validation_fraction": 0.0}
    with pytest.raises(NotFinite):
        VAE(**settings | {"optimizer": "sgd", "learning_rate": 1e25}).fit(X, checkpoint=Often(path))
    if path.exists():
        assert np.isfinite(VAE.load(path, backend="numpy").network_.get_parameters()).all()


def test_a_checkpoint_that_cannot_be_written_is_told_and_tried_again(tmp_path, capsys):
    folder = tmp_path / "gone"

    def move(vae, record):
        if record["epoch"] == 1:
            shutil.rmtree(folder)
        if record["epoch"] == 3:
            folder.mkdir()

    vae = VAE(**BASE, backend="numpy", callbacks=[move])
    with pytest.raises(FileNotFoundError, match="lies in a folder that is not there"):
        vae.fit(X, checkpoint=folder / "c.npz")
    folder.mkdir()
    vae.fit(X, checkpoint=Often(folder / "c.npz"))
    assert capsys.readouterr().err.count("no checkpoint (") >= 2 and len(vae.history_) == 4
    assert VAE.load(folder / "c.npz", backend="numpy").trainer_.epoch == 4


def test_what_callbacks_write_into_a_record_is_kept_if_it_is_a_number(tmp_path):
    def add(vae, record):
        record |= {"mine": 2.5, "a word": "x", 1: 2.0, "huge": 10**400, "yes": np.bool_(True), "active_units": -1}

    VAE(**BASE, backend="numpy", callbacks=[add]).fit(X, checkpoint=tmp_path / "c.npz")
    record = VAE.load(tmp_path / "c.npz", backend="numpy").history_[-1]
    assert (record["mine"], record["yes"]) == (2.5, 1.0) and not record.keys() & {"a word", 1, "huge", "active_units"}


def test_a_checkpoint_goes_on_where_it_began_and_another_beta_begins_a_new_best(tmp_path):
    """The backend is the file's; held-out losses with another weight of the KL do not compare."""
    path = tmp_path / "c.npz"
    VAE(**BASE | {"validation_fraction": 0.2, "beta": 0.0}, backend="numpy").fit(X, checkpoint=path)
    vae = VAE.load(path).set_params(epochs=5, beta=50.0)
    assert vae.network_.kernels.__name__ == "minivae.kernels.reference"
    vae.fit(X, resume=True)
    assert vae.history_[-1]["kept"] and vae.history_[-1]["val_loss"] > vae.history_[-2]["val_loss"]


def test_each_case_of_the_step_goes_on(tmp_path):
    """Moments, schedules and noise of every optimizer, objective and likelihood stand in the file."""
    for name, (arch, *_) in CASES.items():
        if arch.sigma == "elementwise" and arch.likelihood == "gaussian":
            continue  # VAE takes it by columns: "columns, capacity" above
        data = suited(X.copy(), name)
        settings = {
            n: getattr(arch, n) for n in ("latent_dim", "hidden_dims", "activation", "likelihood", "sigma", "missing")
        }
        settings |= {"epochs": 2, "batch_size": 64, "random_state": 0, "backend": "numpy", "validation_fraction": 0.0}
        expected = VAE(**settings).fit(data)
        assert_same(killed_and_resumed(settings, tmp_path / "c.npz", 2, data), expected)
