"""VAE(...).fit(X): the class that users import."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from minivae import evaluation, modelfile, randomness
from minivae.architecture import Architecture, initial_parameters
from minivae.data import Examples, holdout
from minivae.data_checks import Summary, as_matrix, check_range, resolve_divisor, summarize
from minivae.data_files import DataError
from minivae.kernels import load as load_backend
from minivae.network import Network
from minivae.optimizers import Optimizer
from minivae.parameters import views
from minivae.training import Objective, Trainer, check_plan

DEFAULT_VALIDATION_FRACTION = 0.1


class NotFittedError(ValueError, AttributeError):
    """The model has no parameters yet."""


@dataclass(eq=False, repr=False)
class VAE:
    """Variational autoencoder with a Gaussian latent variable (Kingma and Welling 2013).

    All losses are in nats per example, summed over data and latent dimensions; the ELBO is score(X).

    Parameters
    ----------
    latent_dim, hidden_dims, activation : the encoder is X - hidden_dims - latent_dim; the decoder mirrors it. activation:
        "relu", "tanh", "sigmoid", "softplus", "leaky_relu", "gelu" (tanh form) or "identity".
    likelihood : "bernoulli" for data in [0, 1] (grey values count as targets of the cross-entropy), or "gaussian".
    sigma : of the gaussian: a number (fixed), "learned" (one for all columns) or "elementwise" (each row and column).
    beta, kl_warmup, free_bits : weight of the KL (Higgins et al. 2017), epochs in which it rises from 0, and the nats
        below which a latent dimension is not pushed (Kingma et al. 2016).
    init, output_bias : see `architecture.initial_parameters`.
    optimizer, learning_rate, momentum, nesterov, beta1, beta2, epsilon, weight_decay, max_grad_norm, schedule, lr_warmup,
        decay_every, decay_factor : see `optimizers.Optimizer`.
    batch_size, epochs : examples per step, passes over the data.
    validation_fraction : the part of X held out by fit to choose the best epoch; None is 0.1, or 0 if fit gets X_val.
    patience : stop after so many epochs without a better held-out loss; None never stops early.
    binarize : "none", "static" (each pixel drawn once) or "dynamic" (anew at every step).
    divide_by : data are divided by it as batches are made; None is 255 for uint8 arrays and 1 for all others.
    backend, dtype : "auto", "numpy", "numba", "cupy"; "float32" or "float64".
    random_state : seed of everything; None takes a fresh one and keeps it in seed_.
    verbose : 0 silent, 1 a line per epoch and, on a terminal, a bar.
    callbacks : functions f(vae, record) called after each epoch; vae.stop(reason) ends the training.

    Attributes
    ----------
    network_, history_ (records as in `training.Trainer`), seed_, n_features_in_, n_parameters_, stopped_ (why training
    ended early, or ""), held_rows_ (the rows of X that fit held out)
    """

    latent_dim: int = 2
    _: KW_ONLY
    hidden_dims: Sequence[int] = (256, 128)
    activation: str = "relu"
    likelihood: str = "bernoulli"
    sigma: float | str = "learned"
    beta: float = 1.0
    kl_warmup: float = 0.0
    free_bits: float = 0.0
    init: str = "glorot"
    output_bias: str = "auto"
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    momentum: float = 0.9
    nesterov: bool = False
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    max_grad_norm: float | None = None
    schedule: str = "constant"
    lr_warmup: float = 0.0
    decay_every: float = 10.0
    decay_factor: float = 0.5
    batch_size: int = 128
    epochs: int = 50
    validation_fraction: float | None = None
    patience: int | None = None
    binarize: str = "none"
    divide_by: float | None = None
    backend: str = "auto"
    dtype: str = "float32"
    random_state: int | None = None
    verbose: int = 0
    callbacks: Sequence[Callable[[VAE, dict[str, Any]], Any]] = ()

    # ---- Training

    def fit(self, X: Any, y: Any = None, *, X_val: Any = None) -> VAE:
        """Train on X [n, D] from fresh parameters, and keep those of the epoch with the best held-out loss.

        Without X_val, validation_fraction of X is held out; with 0, the last epoch's parameters are kept. y is ignored.
        Raises DataError before the first step if the data do not fit the likelihood, hold NaN or have the wrong shape,
        and NotFinite if the loss stops being a number.
        """
        return self._fit(X, X_val, "val", keep_best=True)

    def _fit(self, X: Any, X_val: Any, held_out_name: str, keep_best: bool) -> VAE:
        X, summary = self._checked(X, "X")
        held_out, rows, held_rows = None, np.arange(len(X)), np.empty(0, np.int64)
        seed = randomness.resolve_seed(self.random_state)
        if X_val is not None:
            X_val, _ = self._checked(X_val, "X_val", columns=X.shape[1])
            held_out = self._examples(X_val)
        fraction = self.validation_fraction
        if fraction is None:
            fraction = 0.0 if X_val is not None else DEFAULT_VALIDATION_FRACTION
        if fraction > 0:
            if held_out is not None:
                raise ValueError("X_val and validation_fraction both name a held-out part; give one of them")
            order = randomness.permutation(len(X), seed, randomness.HOLDOUT)
            rows, held_rows = holdout(len(X), fraction, order)
            held_out = self._examples(X, held_rows)
        check_plan(self.epochs, self.patience, held_out)
        self._start(summary, seed)
        self.held_rows_ = held_rows
        self.trainer_.fit(self._examples(X, rows), self.epochs, held_out, held_out_name, keep_best, self.patience)
        self._finish()
        return self

    def partial_fit(self, X: Any, y: Any = None) -> VAE:
        """One more epoch over X [n, D], continuing where the last call ended: for data that come in pieces.

        A cosine schedule runs over `epochs` calls, and stays at its end after them.
        """
        fitted = hasattr(self, "network_")
        X, summary = self._checked(X, "X", columns=self.n_features_in_ if fitted else None)
        if not fitted:
            self._start(summary, randomness.resolve_seed(self.random_state))
        elif not hasattr(self, "trainer_"):  # loaded from a file: the moments start afresh
            self._new_trainer()
        self.trainer_.fit(self._examples(X), epochs=1, keep_best=False, schedule_epochs=self.epochs)
        self._finish()
        return self

    def stop(self, reason: str) -> None:
        """Ask a running fit to end after the current step; callbacks call this."""
        self.trainer_.stop(reason)

    def _start(self, summary: Summary, seed: int) -> None:
        """Fresh parameters and a fresh trainer. Everything that can be wrong is found before the old ones are let go."""
        arch = self._architecture(len(summary.mean))
        network = Network(arch, load_backend(self.backend), self.dtype)
        network.set_parameters(
            initial_parameters(arch, seed, self.init, self.output_bias, summary.mean, summary.variance)
        )
        trainer = self._make_trainer(network, seed)
        self.network_, self.trainer_, self.seed_, self.history_, self.stopped_ = (
            network,
            trainer,
            seed,
            trainer.history,
            "",
        )
        self.n_features_in_, self.n_parameters_ = arch.data_dim, network.parameters.size

    def _architecture(self, data_dim: int) -> Architecture:
        hidden_dims = tuple(self.hidden_dims)
        return Architecture(data_dim, self.latent_dim, hidden_dims, self.activation, self.likelihood, self.sigma)

    def _make_trainer(self, network: Network, seed: int) -> Trainer:
        settings = {f.name: getattr(self, f.name) for f in fields(Optimizer) if f.name != "name"}
        objective = Objective(self.beta, self.kl_warmup, self.free_bits)
        callbacks = [lambda _, record, f=f: f(self, record) for f in self.callbacks]
        optimizer = Optimizer(self.optimizer, **settings)
        return Trainer(network, optimizer, objective, self.batch_size, seed, self.verbose, callbacks)

    def _new_trainer(self) -> None:
        self.trainer_ = self._make_trainer(self.network_, self.seed_)
        self.trainer_.history = self.history_
        if self.history_:
            self.trainer_.step, self.trainer_.epoch = self.history_[-1]["step"], self.history_[-1]["epoch"]

    def _finish(self) -> None:
        self.stopped_ = self.trainer_.stopped

    # ---- Use

    def transform(self, X: Any) -> np.ndarray:
        """Posterior means mu [n, latent_dim] of q(z|x)."""
        return self.posterior(X)[0]

    def posterior(self, X: Any) -> tuple[np.ndarray, np.ndarray]:
        """mu [n, latent_dim] and logvar [n, latent_dim] of q(z|x) = N(mu, exp(logvar))."""
        examples = self._use(X)
        return evaluation.posterior(self.network_, examples, self.seed_)

    def fit_transform(self, X: Any, y: Any = None) -> np.ndarray:
        """fit(X), then transform(X)."""
        return self.fit(X).transform(X)

    def inverse_transform(self, Z: Any) -> np.ndarray:
        """Decoder means [n, D] at latent points Z [n, latent_dim], as divided by divide_by."""
        self._require_fit()
        Z = as_matrix(Z, "Z")
        if Z.shape[1] != self.latent_dim:
            raise DataError(
                f"Z has {Z.shape[1]} columns, and this model has latent_dim={self.latent_dim}; pass as many"
            )
        return evaluation.decode(self.network_, Z)

    def reconstruct(self, X: Any) -> np.ndarray:
        """Decoder means [n, D] at the posterior means of X [n, D]."""
        return self.inverse_transform(self.transform(X))

    def sample(self, n_samples: int = 1, *, random_state: int | None = None) -> np.ndarray:
        """Decoder means [n_samples, D] at z ~ N(0, I). The same seed gives the same samples; None is the model's seed."""
        self._require_fit()
        if n_samples < 1:
            raise ValueError(f"n_samples must be at least 1, not {n_samples}")
        seed = self.seed_ if random_state is None else randomness.resolve_seed(random_state)
        return self.inverse_transform(randomness.normal((n_samples, self.latent_dim), seed, randomness.PRIOR))

    def score_samples(self, X: Any, *, n_samples: int | None = None) -> np.ndarray:
        """A lower bound of log p(x) per example [n] in nats.

        n_samples None: the ELBO with the KL in closed form. A number K: the importance-sampled log-likelihood (Burda et
        al. 2016), which rises with K towards log p(x).
        """
        examples = self._use(X)
        if n_samples is None:
            recon, kl = evaluation.elbo_terms(self.network_, examples, self.seed_)
            return np.asarray(-(recon + kl.sum(axis=1)))
        return evaluation.log_likelihood(self.network_, examples, n_samples, self.seed_)

    def score(self, X: Any, y: Any = None) -> float:
        """The mean ELBO of X in nats per example; higher is better."""
        return float(self.score_samples(X).mean())

    def _use(self, X: Any) -> Examples:
        self._require_fit()
        return self._examples(self._checked(X, "X", columns=self.n_features_in_)[0])

    def _examples(self, X: np.ndarray, rows: np.ndarray | None = None) -> Examples:
        rows = np.arange(len(X)) if rows is None else rows
        return Examples(X, rows, resolve_divisor(X, self.divide_by), self.binarize)

    def _checked(self, X: Any, name: str, columns: int | None = None) -> tuple[np.ndarray, Summary]:
        X = as_matrix(X, name)
        if columns is not None and X.shape[1] != columns:
            raise DataError(f"{name} has {X.shape[1]} columns, and the model was built for {columns}; pass as many")
        summary = summarize(X, self.divide_by, name)
        check_range(summary, self.likelihood)
        return X, summary

    def _require_fit(self) -> None:
        if not hasattr(self, "network_"):
            raise NotFittedError("this VAE is not fitted yet; call fit(X) first")

    # ---- Files

    def save(self, path: str | Path) -> None:
        """Write parameters, settings and history to one .npz file, atomically. Callbacks are not saved."""
        self._require_fit()
        network = self.network_
        config = {
            "settings": {n: v for n, v in self.get_params().items() if n != "callbacks"},
            "data_dim": self.n_features_in_,
            "seed": self.seed_,
            "history": self.history_,
        }
        modelfile.save(path, views(network.get_parameters(), network.layout), config)

    @classmethod
    def load(cls, path: str | Path, *, backend: str = "auto") -> VAE:
        """The model in `path`, on this machine's backend. Raises FileNotFoundError or ModelFileError."""
        arrays, config = modelfile.load(path)
        try:
            settings = {**config["settings"], "backend": backend}
            vae = cls(**{**settings, "hidden_dims": tuple(settings["hidden_dims"])})
            arch = vae._architecture(config["data_dim"])
            network = Network(arch, load_backend(backend), vae.dtype)
            flat = network.get_parameters()
            for name, view in views(flat, network.layout).items():
                if arrays[name].shape != view.shape:
                    raise ValueError(f"{name} has shape {arrays[name].shape} instead of {view.shape}")
                view[...] = arrays[name]
            network.set_parameters(flat)
            vae.network_, vae.seed_, vae.history_ = network, config["seed"], config["history"]
        except (KeyError, TypeError, ValueError) as error:
            raise modelfile.ModelFileError(
                f"{path} does not describe a model ({error}); save or train it again"
            ) from error
        vae.n_features_in_, vae.n_parameters_, vae.stopped_ = arch.data_dim, flat.size, ""
        return vae

    # ---- scikit-learn's conventions

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor's arguments by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def set_params(self, **params: Any) -> VAE:
        """Change constructor arguments; an unknown name changes nothing."""
        known = self.get_params()
        for name in params:
            if name not in known:
                raise ValueError(f"VAE has no parameter {name!r}; it has {', '.join(known)}")
        for name, value in params.items():
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        changed = [f"{f.name}={getattr(self, f.name)!r}" for f in fields(self) if getattr(self, f.name) != f.default]
        return f"VAE({', '.join(changed)})"
