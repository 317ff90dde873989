"""What a fitted model answers: embeddings, reconstructions, samples, scores. The estimator adds how it is fitted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np

from minivae import randomness
from minivae.conditions import Condition
from minivae.conventions import Conventions, match_names, string_names
from minivae.data.batches import Examples
from minivae.data.checks import Scale, as_matrix, require_count
from minivae.data.files import DataError
from minivae.data.schema import Schema
from minivae.evaluation import imputation, inference, samples, scores
from minivae.explorer.contents import gather
from minivae.explorer.page import page
from minivae.network import Network
from minivae.settings import checked_path, plain, read

SLACK = 1.0  # how far grey values of rows that were not fitted on may leave [0, 1]: by as much as the whole range
quietly = np.errstate(all="ignore")  # as a decorator: what is no number is said in a sentence, however NumPy is set


class Fitted(Conventions):
    """The methods of VAE that read a fitted model and change nothing but the count of its samples."""

    settings_: dict[str, Any]
    network_: Network
    scale_: Scale
    condition_: Condition | None
    units_: tuple[tuple[float, float], ...]
    seed_: int
    sample_calls_: int

    @property
    def sigma_(self) -> Any:
        """The sigma of a gaussian; of a table one for each column [D], NaN where it is none. AttributeError without any."""
        self._require_fit()
        return samples.sigma(self.network_)

    @property
    def divide_by_(self) -> float:
        """What data are divided by before the model sees them: the parameter, or 255 for uint8 pixels and 1 for others."""
        return self.scale_.divide_by

    @quietly
    def examples(self, X: Any, rows: np.ndarray | None = None, y: Any = None) -> Examples:
        """All or some rows of X (and y), checked, as the functions of evaluation/ take them. X is not copied.

        Values that leave [0, 1] by up to SLACK, as held-out rows do behind a scaler, are used with a UserWarning.
        """
        self._require_fit()
        match_names(string_names(X), getattr(self, "feature_names_in_", None))
        told = {"y": y, "condition": self.condition_, "units": self.units_, "slack": SLACK}
        return read(X, "X", self.settings_, self.scale_, self.n_features_in_, rows, **told)[0]

    def _side(self, y: Any, n: int) -> np.ndarray | None:
        """y as columns [n, C], or None for a model that is told nothing."""
        return None if self.condition_ is None else self.condition_.columns(y, n, self.network_.dtype)

    def transform(self, X: Any, y: Any = None) -> Any:
        """Posterior means mu [n, latent_dim] of q(z|x). Grey values are embedded as they are, whatever binarize says.

        An array, or the frame that set_output asks for.
        """
        return self._contained(self.posterior(X, y)[0], X)

    @quietly
    def posterior(self, X: Any, y: Any = None) -> tuple[np.ndarray, np.ndarray]:
        """mu [n, latent_dim] and logvar [n, latent_dim] of q(z|x) = N(mu, exp(logvar)), as transform."""
        examples = self.examples(X, y=y)
        return inference.posterior(self.network_, examples)

    @quietly
    def inverse_transform(self, Z: Any, y: Any = None) -> np.ndarray:
        """Decoder means [n, D] at latent points Z [n, latent_dim], as divided by divide_by_."""
        self._require_fit()
        Z, latent_dim = as_matrix(Z, "Z"), self.network_.arch.latent_dim
        if Z.shape[1] != latent_dim:
            raise DataError(f"Z has {Z.shape[1]} columns, and this model has latent_dim={latent_dim}; pass as many")
        for row, column in np.argwhere(~np.isfinite(Z))[:1]:
            raise DataError(f"Z holds {Z[row, column]} at row {row}, column {column} (from 0); leave such rows out")
        return inference.decode(self.network_, Z, self._side(y, len(Z)))

    def reconstruct(self, X: Any, y: Any = None) -> np.ndarray:
        """Decoder means [n, D] at the posterior means of X [n, D]."""
        return self.inverse_transform(self.posterior(X, y)[0], y)

    @quietly
    def sample(
        self, n_samples: int = 1, *, y: Any = None, noise: bool = False, random_state: int | None = None
    ) -> np.ndarray:
        """Decoder means [n_samples, D] at z ~ N(0, I); with noise, draws from p(x|z), which are spread as data are.

        Both as divided by divide_by_. The same random_state gives the same rows. Without it each call draws others, and a
        model of the same seed_ gives the same calls again; fit and load begin anew.
        """
        self._require_fit()
        arch = self.network_.arch
        noise = plain(noise, "noise", ["bool"])
        require_count("n_samples", n_samples, 8 * (arch.latent_dim + arch.outputs + (1 + noise) * arch.data_dim))
        seed, call = (self.seed_, self.sample_calls_) if random_state is None else (random_state, 0)
        seed = randomness.resolve_seed(seed)
        z = samples.prior(n_samples, arch.latent_dim, seed, call)
        side = self._side(y, n_samples)
        self.sample_calls_ += random_state is None
        if noise:
            return samples.observe(self.network_, z, seed, call, side)
        return inference.decode(self.network_, z, side)

    @quietly
    def score_samples(
        self, X: Any, y: Any = None, *, n_samples: int | None = None, n_draws: int = scores.DRAWS
    ) -> np.ndarray:
        """A lower bound of log p(x) per example [n] in nats, in the dtype of the network; -inf where that has no number.

        n_samples None: the ELBO, the KL in closed form and the rest a mean over n_draws draws of z. A number K: the
        importance-sampled log-likelihood (Burda et al. 2016), which rises with K towards log p(x). All rows share one noise,
        so a row's score does not depend on the rows beside it, nor on their order.
        """
        if n_samples is None:
            return self._in_dtype(self._elbo(X, y, n_draws))
        examples = self.examples(X, y=y)
        return self._in_dtype(scores.log_likelihood(self.network_, examples, n_samples, self.seed_))

    @quietly
    def impute(self, X: Any, y: Any = None, *, n_samples: int = imputation.DRAWS) -> np.ndarray:
        """X [n, D] with every NaN replaced by what is expected there, given what was observed in its row.

        Numbers, counts and grey values get their mean, a category its likeliest value; n_samples draws of z for each row.
        The model must have missing="ignore" or "input". What was observed is returned as it was, in float64.
        """
        examples = self.examples(X, y=y)
        if self.network_.arch.missing == "error":
            raise ValueError("this model was fitted with missing='error'; fit with missing='ignore' to impute")
        X = np.array(as_matrix(X, "X"), np.float64)
        expected = imputation.impute(self.network_, examples, n_samples, self.seed_) * examples.divide_by
        return inference.in_dtype(imputation.fill(X, expected, self.network_), np.float64, "what is expected")

    @quietly
    def anomaly_score(
        self, X: Any, y: Any = None, *, per_column: bool = False, n_draws: int = scores.DRAWS
    ) -> np.ndarray:
        """-log p(x|z) in nats, its mean over n_draws draws of z from q(z|x) (An and Cho 2015): the higher, the stranger.

        [n], or per_column [n, D], whose sum over the columns is the former. inf where the row has no number. In the dtype of
        the network; rows share their noise as in score_samples.
        """
        examples = self.examples(X, y=y)
        return self._in_dtype(scores.reconstruction(self.network_, examples, self.seed_, n_draws, per_column))

    @quietly
    def score(self, X: Any, y: Any = None) -> float:
        """The mean ELBO of X in nats per example; higher is better.

        Where models learned different bounds compare score_samples(X, n_samples=100) instead: see docs/bounds.md.
        Its noise is one for all rows, as in score_samples, so that models compare. Its error is therefore not in the spread
        of the rows: 0.07 to 0.24 nats on small data. `minivae evaluate` gives each row its own, and a standard error.
        """
        return float(self._elbo(X, y, scores.DRAWS).mean())

    @quietly
    def to_html(
        self,
        X: Any = None,
        y: Any = None,
        *,
        rows: np.ndarray | None = None,
        image_shape: tuple[int, ...] | None = None,
        schema: Schema | None = None,
        title: str = "",
        precision: str = "auto",
    ) -> str:
        """One self-contained page that explores this model: write it to a file and open that; it loads nothing.

        Rows of X [n, D] (some of them, or 5,000 evenly spaced) are shown where they lie in latent space, coloured by y [n],
        which a conditional model is told. image_shape (H, W) or (H, W, C) draws rows as pictures; schema names the columns
        of a table. precision of the decoder's weights: "single", "half", or "auto", which is half where the mean of these
        rows moves by at most 0.001 of the data's range. Raises DataError or ValueError where one of these does not fit.
        """
        self._require_fit()
        told, arrays = gather(self, X, y, rows, image_shape, schema, precision)
        return page(told | {"title": title or type(self).__name__}, arrays)

    def export(self, path: str | Path, format: str | None = None) -> str:
        """Write this model for other programs, and return the lines of Python that use what was written.

        By the ending of path, or by format: .onnx is "onnx", two graphs NAME.encoder.onnx and NAME.decoder.onnx in float32
        (raw X as transform takes it to mu and logvar, z to what inverse_transform gives); .pt or .pth is "torch", a
        state-dict, with the module that it is of; .safetensors has our own names. from_weights reads both to the bit.
        Raises ImportError without the package onnx, or safetensors, OSError or ValueError.
        """
        from minivae.exchange import formats

        self._require_fit()
        return formats.export(self, checked_path(path), format)

    @classmethod
    @quietly
    def from_weights(cls, source: Any, *, names: Mapping[str, str] | None = None, **parameters: Any) -> Self:
        """A fitted model of the weights of a dense VAE that was trained elsewhere; or that `export` wrote.

        source is a .pt, .ckpt, .safetensors or .npz file, or a dict of arrays by name: those of PyTorch (NAME.weight) or of
        Keras (NAME/kernel). names says which of their layers is which of ours, as {"encoder.0": "fc1", "encoder.1":
        "fc21+fc22", "decoder.0": "fc3", "decoder.1": "fc4"}; None finds it for usual names. The shapes tell latent_dim and
        hidden_dims; the other parameters of VAE, such as activation and likelihood, are passed. No code in a file is run.
        Raises OSError, ImportError, DataError naming the arrays that do not fit, or ModelFileError.
        """
        from minivae.exchange import formats

        vae: Self = formats.load(cls, source, names, parameters)
        return vae

    def _elbo(self, X: Any, y: Any, n_draws: int) -> np.ndarray:
        examples = self.examples(X, y=y)
        recon, kl = scores.elbo_terms(self.network_, examples, self.seed_, n_draws)
        return np.asarray(-(recon + kl))

    def _in_dtype(self, values: np.ndarray) -> np.ndarray:
        """As the digits of a score are worth; beyond the largest float32 it is infinite."""
        return values.astype(self.network_.dtype)
