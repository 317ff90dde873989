"""How well anomalies are ranked, beside scikit-learn's isolation forest: wild cells, and tumours of the other kind.

Prints the area under the ROC curve (0.5 is chance, 1 is perfect) of anomaly_score, of -ELBO and of the forest, all with
their defaults, and how often the column that was changed has the largest anomaly score. Needs scikit-learn.

    PYTHONPATH=. python benchmarks/anomalies.py
"""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score

from minivae import VAE, load_dataset


def ranking(train, ordinary, strange, seed):
    """The three areas, and the fitted VAE."""
    vae = VAE(likelihood="gaussian", batch_size=128, epochs=50, random_state=seed).fit(train)
    forest = IsolationForest(random_state=seed).fit(train)
    X, label = np.vstack([ordinary, strange]), np.repeat([0, 1], [len(ordinary), len(strange)])
    scores = vae.anomaly_score(X), -vae.score_samples(X), -forest.score_samples(X)
    return [roc_auc_score(label, np.minimum(score, np.finfo(np.float32).max)) for score in scores], vae


def main() -> None:
    X, benign = load_breast_cancer(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(X))
    digits = load_dataset("digits")
    tables = {"tumours": (X[order[:400]], X[order[400:]]), "digits": (digits.train / 255, digits.test / 255)}
    print(f"{'':34}{'anomaly':>9}{'-ELBO':>9}{'forest':>9}   column named")
    for name, (train, test) in tables.items():
        mean, spread = (train.mean(axis=0), train.std(axis=0)) if name == "tumours" else (train.mean(), train.std())
        train, test = (train - mean) / spread, (test - mean) / spread
        for size in (3, 10, 100, 1e4, 1e8, 1e12):
            rng, wild = np.random.default_rng(1), test.copy()
            column = rng.integers(0, test.shape[1], len(test))
            wild[np.arange(len(test)), column] += size * rng.choice([-1, 1], len(test))
            areas, vae = ranking(train, test, wild, seed=0)
            named = np.mean(vae.anomaly_score(wild, per_column=True).argmax(axis=1) == column)
            print(
                f"{name}, one cell off by {size:<9g}".ljust(34) + "".join(f"{a:9.3f}" for a in areas) + f"{named:15.1%}"
            )
    found = []
    for seed in range(5):
        rows = np.random.default_rng(seed).permutation(np.flatnonzero(benign == 1))
        mean, spread = X[rows[:238]].mean(axis=0), X[rows[:238]].std(axis=0)
        Z = (X - mean) / spread
        found.append(ranking(Z[rows[:238]], Z[rows[238:]], Z[benign == 0], seed)[0])
    print("malignant, trained on benign, of 5".ljust(34) + "".join(f"{a:9.3f}" for a in np.mean(found, axis=0)))


if __name__ == "__main__":
    main()
