"""VAE(standardize=True): columns of any size and place train alike, and all that comes back is in the data's own units."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from minivae import VAE, DataError
from minivae.kernels import MODULES, availability

BACKENDS = [name for name in MODULES if availability(name)[0]]
SETTINGS = {"likelihood": "gaussian", "latent_dim": 2, "hidden_dims": (16,), "epochs": 20, "batch_size": 32}
SETTINGS |= {"learning_rate": 1e-2, "random_state": 0, "standardize": True}
PLACE, SIZE = np.array([0.0, 3e2, -5e-3, 0.0]), np.array([1.0, 1e2, 1e-3, 1e4])


def table(n: int = 200) -> np.ndarray:
    """Four columns that hang together, each of mean 0 and spread 1 or so."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(n, 1))
    return z * [1, -1, 0.5, 0.8] + 0.3 * rng.normal(size=(n, 4))


@pytest.mark.parametrize("backend", BACKENDS)
def test_place_and_size_of_a_column_change_nothing_but_the_units(backend):
    X = table()
    plain, moved = VAE(**SETTINGS, backend=backend).fit(X), VAE(**SETTINGS, backend=backend).fit(PLACE + SIZE * X)
    there = PLACE + SIZE * X
    np.testing.assert_allclose(moved.transform(there), plain.transform(X), atol=2e-3)
    np.testing.assert_allclose(
        moved.reconstruct(there), PLACE + SIZE * plain.reconstruct(X), rtol=2e-3, atol=2e-3 * SIZE[1]
    )
    np.testing.assert_allclose(moved.sigma_, SIZE * plain.sigma_, rtol=2e-3)
    # a density: ten times as wide is a tenth as high
    assert moved.score(there) == pytest.approx(plain.score(X) - np.log(SIZE).sum(), abs=5e-3)
    one, other = (vae.sample(5, noise=True, random_state=3) for vae in (plain, moved))
    np.testing.assert_allclose((other - PLACE) / SIZE, one, atol=5e-3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_time_in_seconds_is_told_apart_in_float32(backend):
    """float32 knows 1.7e9 to 128: the spread of these times."""
    X = table()
    origin = np.array([1.7e9, 0, 0, 0])
    X[:, 0] *= 100
    near, far = VAE(**SETTINGS, backend=backend).fit(X), VAE(**SETTINGS, backend=backend).fit(X + origin)
    assert far.history_[-1]["loss"] == pytest.approx(near.history_[-1]["loss"], abs=1e-3)
    np.testing.assert_allclose(far.transform(X + origin), near.transform(X), atol=1e-3)
    np.testing.assert_allclose(far.reconstruct(X + origin) - origin, near.reconstruct(X), atol=0.2)
    assert np.ptp(far.sample(50)[:, 0]) > 20  # and not one of three values
    for ask in ("score_samples", "anomaly_score"):
        np.testing.assert_allclose(getattr(far, ask)(X + origin), getattr(near, ask)(X), atol=5e-3)
    np.testing.assert_allclose(
        far.score_samples(X[:20] + origin, n_samples=50), near.score_samples(X[:20], n_samples=50), atol=5e-3
    )


@pytest.mark.parametrize("size", [1e-40, 1e36])
def test_a_column_of_no_usual_size(size):
    X = table()
    X[:, 1] *= size
    vae = VAE(**SETTINGS).fit(X)
    error = (vae.reconstruct(X) - X) / X.std(axis=0)
    assert (error**2).mean() < 0.4


def test_values_in_a_range_come_by_their_least_and_largest():
    """As one who has scaled them by hand, with the likelihood's own kernel."""
    X = 3 + 10 * table()
    X[:, 3] = X[:, 3] > 3  # yes or no stays
    low, reach = X.min(axis=0), np.ptp(X, axis=0)
    by_hand = VAE(**SETTINGS | {"likelihood": "bernoulli", "standardize": False}).fit((X - low) / reach)
    vae = VAE(**SETTINGS | {"likelihood": "bernoulli"}).fit(X)
    assert vae.units_[3] == (0, 1)
    assert vae.score(X) == pytest.approx(by_hand.score((X - low) / reach), abs=1e-3)
    np.testing.assert_allclose(vae.reconstruct(X), low + reach * by_hand.reconstruct((X - low) / reach), rtol=2e-3)
    drawn = vae.sample(50, noise=True)
    assert all(set(drawn[:, j]) <= {low[j].astype("f4"), X.max(axis=0)[j].astype("f4")} for j in range(4))
    dense = VAE(**SETTINGS | {"likelihood": "continuous_bernoulli"}).fit(X)
    assert (dense.sample(50, noise=True).max(axis=0) > low + 0.6 * reach).all()


def test_what_is_missing_is_filled_in_its_own_units_and_place():
    X = PLACE + SIZE * table() + [1.7e9, 0, 0, 0]
    holes = X.copy()
    holes[::4, 0] = np.nan
    vae = VAE(**SETTINGS | {"epochs": 60}, missing="ignore").fit(holes)
    full = vae.impute(holes)
    seen = ~np.isnan(holes)
    assert (full[seen] == X[seen]).all()
    assert np.abs(full[::4, 0] - X[::4, 0]).mean() < 0.6 * np.abs(X[:, 0] - X[:, 0].mean()).mean()


def test_the_units_are_those_of_the_fit():
    """A later piece, a row alone and a copy from a file are read as the first data were."""
    X = PLACE + SIZE * table() + [1.7e9, 0, 0, 0]
    few = X[:40] + 4 * SIZE  # of another mean
    vae = VAE(**SETTINGS).fit(X, X_val=few)
    kept = next(record for record in reversed(vae.history_) if record["kept"])
    assert kept["val_loss"] == pytest.approx(-vae.score(few), rel=0.1)
    alone = np.concatenate([vae.transform(X[i : i + 1]) for i in range(5)])
    np.testing.assert_allclose(alone, vae.transform(X)[:5], atol=1e-5)
    again = pickle.loads(pickle.dumps(vae))
    assert (again.transform(X) == vae.transform(X)).all() and again.units_ == vae.units_
    again.partial_fit(X[:40] + SIZE)
    assert again.units_ == vae.units_


def test_a_file_and_a_training_that_goes_on(tmp_path):
    X = PLACE + SIZE * table() + [1.7e9, 0, 0, 0]
    whole = VAE(**SETTINGS).fit(X)
    path = tmp_path / "half.npz"

    def end(vae, record):
        if record["epoch"] == 7:
            vae.stop("enough")

    VAE(**SETTINGS, callbacks=[end]).fit(X, checkpoint=path)
    rest = VAE.load(path).fit(X, resume=True)
    assert (rest.network_.get_parameters() == whole.network_.get_parameters()).all()
    whole.save(path)
    assert (VAE.load(path).reconstruct(X) == whole.reconstruct(X)).all()


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"likelihood": "poisson"}, "takes only 0, 1, 2"),
        ({"likelihood": "bernoulli", "binarize": "dynamic"}, "need no standardize"),
        ({"standardize": 1}, "standardize must be True or False, not 1"),
    ],
)
def test_what_cannot_be_standardized(settings, words):
    with pytest.raises((ValueError, TypeError), match=words):
        VAE(**SETTINGS | settings).fit(np.ones((20, 3)))


def test_a_constant_column_and_a_mixed_table():
    X = np.column_stack([table(), np.full(200, 7.0), np.eye(2)[np.arange(200) % 2]])
    vae = VAE(**SETTINGS | {"likelihood": "gaussian*5 categorical*2"}).fit(X)
    assert np.abs(vae.reconstruct(X)[:, 4] - 7).max() < 0.2
    with pytest.raises(DataError, match="has 6 features, but VAE is expecting 7"):
        vae.transform(X[:, :6])
