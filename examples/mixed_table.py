# /// script
# requires-python = ">=3.11"
# dependencies = ["minivae", "numpy"]
# [tool.uv.sources]
# minivae = { path = "..", editable = true }
# ///
"""A table as one meets it: numbers in their own units, counts, a category, and every fifth cell missing.

The flats are made here, by a hidden size and a hidden age, so that what was in a missing cell is known. Prints the score of
flats that training never saw, how well their missing cells are filled, beside the column's mean or most frequent value, how
near the correlations of sampled flats are to those of the data, and in which column a flat is strange.
"""

from __future__ import annotations

import numpy as np

from minivae import VAE

COLUMNS = ("area, m2", "rent, EUR", "rooms", "repairs", "coal", "gas", "heat pump")  # the last three: the heating
LIKELIHOOD = "gaussian*2 poisson*2 categorical*3"


def flats(n, seed):
    """A complete table [n, 7], and the same with NaN in a fifth of its cells; a category is missing as a whole."""
    rng = np.random.default_rng(seed)
    size, age = rng.normal(size=(2, n, 1))
    numbers = np.array([75, 900]) + size * [25, 300] + rng.normal(size=(n, 2)) * [8, 100]
    counts = rng.poisson(np.exp(np.hstack([0.9 + 0.5 * size, 2.5 + 0.5 * age])))
    heating = (age * [2, 0, -2] + rng.gumbel(size=(n, 3))).argmax(axis=1)
    X = np.hstack([numbers, counts, np.eye(3)[heating]])
    return X, np.where((rng.random((n, 5)) < 0.2)[:, [0, 1, 2, 3, 4, 4, 4]], np.nan, X)


def main() -> None:
    (complete, X), (truth, new) = flats(4000, seed=0), flats(1000, seed=1)
    settings = {"hidden_dims": (32,), "epochs": 40, "batch_size": 64, "learning_rate": 0.01, "schedule": "cosine"}
    vae = VAE(latent_dim=2, likelihood=LIKELIHOOD, missing="input", **settings, backend="numpy", random_state=0).fit(X)
    elbo, log_p = vae.score_samples(new, n_draws=500).mean(), vae.score_samples(new, n_samples=500).mean()
    print(f"new flats: ELBO {elbo:.2f}, log p(x) {log_p:.2f} nats per flat\n")

    print(f"{'error in missing cells':22} {'by the column':>14} {'imputed':>9}")
    means, filled, holes = np.nanmean(X, axis=0), vae.impute(new), np.isnan(new)
    for d, name in enumerate(COLUMNS[:4]):
        off = (guess - truth[holes[:, d], d] for guess in (means[d], filled[holes[:, d], d]))
        print(f"{name:22} {{:14.2f}} {{:9.2f}}".format(*(np.sqrt(np.mean(e**2)) for e in off)))
    heating, guessed, hole = truth[:, 4:].argmax(axis=1), filled[:, 4:].argmax(axis=1), holes[:, 4]
    wrong = [np.mean(guess != heating[hole]) for guess in (means[4:].argmax(), guessed[hole])]
    print(f"{'heating, wrong':22} {wrong[0]:14.0%} {wrong[1]:9.0%}\n")

    data, drawn = np.corrcoef(complete.T), np.corrcoef(vae.sample(20_000, noise=True).T)
    print("correlation with rent  " + "".join(f"{name:>11}" for name in COLUMNS))
    for name, row in (("data", data[1]), ("samples", drawn[1])):
        print(f"{name:23}" + "".join(f"{value:11.2f}" for value in row))
    print(f"largest difference of any two columns' correlation: {np.abs(data - drawn).max():.3f}\n")

    cheap = np.array([[120.0, 90, 5, 12, 0, 1, 0]])  # a large flat for a tenth of its rent
    print("anomaly, nats          " + "".join(f"{name:>11}" for name in COLUMNS))
    print(f"{'120 m2 for 90 EUR':23}" + "".join(f"{s:11.1f}" for s in vae.anomaly_score(cheap, per_column=True)[0]))


if __name__ == "__main__":
    main()
