"""VAE(...).fit(X): the class that users import."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from minivae import randomness
from minivae.architecture import initial_parameters
from minivae.conditions import Condition
from minivae.conventions import match_names, string_names
from minivae.data.batches import Examples, holdout
from minivae.data.checks import Scale, Summary, as_matrix, summarize
from minivae.data.files import DataError
from minivae.evaluation.inference import active_units, collapse, posterior
from minivae.fitted import SLACK, Fitted, quietly
from minivae.kernels import load as load_backend
from minivae.network import Network
from minivae.parallel import ALONE, Ranks, share_threads
from minivae.progress import say
from minivae.settings import (
    NEW_SETTINGS,
    architecture,
    check_continuation,
    check_memory,
    check_spread,
    checked_path,
    checked_settings,
    column_units,
    held_fraction,
    in_units,
    optimizer_and_objective,
    plan,
    read,
    resolved,
)
from minivae.storage import persistence
from minivae.storage.checkpoints import Checkpoints, capture, check_resume, fingerprint, restored
from minivae.training import Best, Trainer
from minivae.verdict import kept_record, verdict


@dataclass(eq=False, repr=False)
class VAE(Fitted):
    """Variational autoencoder with a Gaussian latent variable (Kingma and Welling 2013).

    All losses are in nats per example, summed over data and latent dimensions; the ELBO is score(X).

    Parameters
    ----------
    latent_dim, hidden_dims, activation : the encoder is X - hidden_dims - latent_dim; the decoder mirrors it. activation:
        "relu", "tanh", "sigmoid", "softplus", "leaky_relu", "gelu" (tanh form) or "identity".
    likelihood : what the data are; `likelihoods.LIKELIHOODS` has all of them, each with the data that it takes. "bernoulli"
        is for data in [0, 1] (grey values count as targets of the cross-entropy), "gaussian" for any. A table whose columns
        differ is described in their order: "gaussian*4 poisson categorical*3" (a category as one-hot columns). Such a table
        stays in its own units.
    sigma : of the gaussian: a number (fixed), "learned" (one for all columns; one for each in a table or with cells missing)
        or "elementwise" (each row and column).
    missing : "error" refuses NaN; "ignore" takes it for a cell that was not observed, which adds nothing to the loss and
        looks average to the encoder; "input" tells the encoder besides which cells were observed.
    standardize : whether each column is brought to one scale by what fit finds in it: gaussian ones to mean 0 and spread 1,
        those that shall lie in [0, 1] by their least and largest value. Losses, samples, reconstructions and what is imputed
        stay in the data's own units, and "learned" trains a sigma for each column.
    conditional : whether encoder and decoder are told y, labels [n] or numbers [n] or [n, C] (Sohn et al. 2015); then every
        method that reads X or makes it needs y too, one for each row, or one for all.
    objective, n_samples : "elbo"; or the bound of n_samples importance-weighted samples of z (with missing cells: MIWAE),
        "iwae" (Burda et al. 2016), whose encoder gets a better gradient from "dreg" (Tucker et al. 2019) or, biased, "stl"
        (Roeder et al. 2017). In the decoder a step takes n_samples times as long. To "elbo" they are draws for one mean.
    beta, kl_warmup, free_bits : weight of the KL (Higgins et al. 2017), epochs in which it rises from 0, and the nats
        below which a latent dimension is not pushed (Kingma et al. 2016).
    kl_cycles : with more than 1, `epochs` are divided into so many cycles: in each, beta rises from 0 over kl_warmup epochs,
        then stays (Fu et al. 2019, who take 4 cycles and half of each: kl_warmup = epochs / 8). After the last, beta stays.
    capacity, capacity_warmup : with a capacity, beta |KL - C| takes the place of beta KL, where C rises from 0 to so many
        nats in capacity_warmup epochs and the KL is summed over latents (Burgess et al. 2018, whose gamma is beta: to
        hold the KL at C it must outweigh the reconstruction, so well above 1). free_bits must be 0. 0 is no capacity.
    init, output_bias : see `architecture.initial_parameters`.
    optimizer, learning_rate, momentum, nesterov, beta1, beta2, epsilon, weight_decay, max_grad_norm, schedule, lr_warmup,
        decay_every, decay_factor, decay_growth : see `optimizers.Optimizer`. AdamW decays all parameters, as PyTorch's does.
    batch_size, epochs : examples per step, passes over the data. None follows the number of rows: `settings.resolved` says
        how, and settings_ what came of it. epochs None ends when the held-out loss has stopped falling.
    micro_batch_size : rows of a batch that go through the network at once, where memory is short; None takes all. The step
        is the same, but for rounding: gradients are added up.
    validation_fraction : the part of X held out by fit to choose the best epoch; None is 0.1, or 0 if fit gets X_val.
    patience : stop after so many epochs without a better held-out loss; None never stops early if epochs are given.
    binarize : "none", "static" (each pixel drawn once) or "dynamic" (anew at every step).
    divide_by : all data are divided by it as batches are made. None decides in fit: 255 for uint8 (1 where that holds only
        0 and 1, or counts), 1 for others; later arrays of the other kind are what the likelihood's range says ([0, 1]
        or counts), an error to a gaussian.
    backend, dtype : "auto", "numpy", "numba", "cupy"; "float32" or "float64".
    random_state : seed of everything; None takes a fresh one, a generator of NumPy gives one in fit. It is kept in seed_.
    verbose : 0 silent, 1 a line per epoch and, on a terminal, a bar.
    callbacks : functions f(vae, record) called after each epoch; vae.stop(reason) ends the training. A model is pickled with
        them, so that pickle wants functions of a module; joblib's workers take lambdas too.

    Attributes
    ----------
    network_, history_ (records as in `training.Trainer`), settings_ (the parameters at the last training, which the fitted
    model follows), divide_by_, seed_, n_features_in_, feature_names_in_ (of a frame), n_parameters_, stopped_ (why
    training ended early, or ""), held_rows_ (the rows of X that fit held out), sigma_ (of a gaussian whose sigma is fixed or
    learned), sample_calls_ (how often sample has drawn since fit or load)
    """

    latent_dim: int = 2
    _: KW_ONLY
    hidden_dims: Sequence[int] | int = (256, 128)
    activation: str = "relu"
    likelihood: str = "bernoulli"
    sigma: float | str = "learned"
    missing: str = "error"
    standardize: bool = False
    conditional: bool = False
    objective: str = "elbo"
    n_samples: int = 1
    beta: float = 1.0
    kl_warmup: float = 0.0
    free_bits: float = 0.0
    kl_cycles: int = 1
    capacity: float = 0.0
    capacity_warmup: float = 0.0
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
    decay_growth: float = 1.0
    batch_size: int | None = None
    epochs: int | None = None
    micro_batch_size: int | None = None
    validation_fraction: float | None = None
    patience: int | None = None
    binarize: str = "none"
    divide_by: float | None = None
    backend: str = "auto"
    dtype: str = "float32"
    random_state: int | np.random.RandomState | np.random.Generator | None = None
    verbose: int = 0
    callbacks: Sequence[Callable[[VAE, dict[str, Any]], Any]] = ()

    # ---- Training

    @quietly
    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        X_val: Any = None,
        X_test: Any = None,
        y_val: Any = None,
        y_test: Any = None,
        checkpoint: str | Path | Checkpoints | None = None,
        resume: bool = False,
        comm: Any = None,
    ) -> VAE:
        """Train on X [n, D] from fresh parameters, and keep those of the epoch with the best held-out loss.

        Without X_val, validation_fraction of X is held out; with 0, the last epoch's parameters are kept. The loss of X_test
        is recorded after each epoch, and chooses nothing. y is ignored unless conditional.

        checkpoint names a file that is written as the training goes. If this process is ended, VAE.load(checkpoint).fit(X,
        resume=True), with all other data that were passed, goes on from there up to `epochs`: the end is, bit for bit, that
        of a training never interrupted. Settings changed in between take effect, but for those of the network and the data.

        comm is a communicator of mpi4py whose processes all call this with the same arguments: each takes its part of every
        batch, and all end with the same model (`minivae.parallel`). Rank 0 tells and writes. Unless MINIVAE_NUM_THREADS is
        set, it is set to this process's share of the machine's processors.

        Raises DataError before the first step if the data do not fit the likelihood, hold NaN, have the wrong shape or are
        not those of the checkpoint, NotFinite if the loss stops being a number, and KeyboardInterrupt after Ctrl-C, with the
        epoch ended and the best parameters in place.
        """
        settings, names, X, ranks = checked_settings(self), string_names(X), as_matrix(X, "X"), Ranks(comm)
        settings["verbose"] *= ranks.rank == 0
        if ranks.size > 1:
            whole = settings | {"verbose": 0}
            if isinstance(self.random_state, randomness.GENERATORS):  # rank 0's is drawn from
                del whole["random_state"]
            ends = [np.asarray(X[i : i + 1]).tobytes() for i in (0, len(X) - 1)]
            held = X_val is None, X_test is None, load_backend(settings["backend"]).__name__
            began = resume and hasattr(self, "trainer_") and (self.trainer_.step, self.seed_)
            ranks.require_alike(sorted(whole.items()), X.shape, X.dtype, ends, held, resume, began)
            share_threads(comm)
        if checkpoint is None or isinstance(checkpoint, Checkpoints):
            keeper = checkpoint
        else:
            keeper = Checkpoints(checked_path(checkpoint, "checkpoint"))
            if not keeper.path.parent.is_dir():
                raise FileNotFoundError(f"checkpoint {checkpoint} lies in a folder that is not there; create it first")
        if resume:
            self._require_fit()
        fraction = held_fraction(settings, X_val is not None, len(X), began=resume)
        before, watched = self.settings_ if resume else None, bool(fraction) or X_val is not None
        settings = resolved(settings, len(X) - round(len(X) * fraction), watched, before)
        if resume:
            check_resume(self.settings_, settings, getattr(self, "trainer_", None))
            match_names(names, getattr(self, "feature_names_in_", None))
            scale, condition = self.scale_, self.condition_
        else:
            scale = Scale.fitted(X, settings["divide_by"], settings["likelihood"], settings["standardize"])
            condition = Condition.fitted(y) if settings["conditional"] else None
        # a generator is drawn from when the data are accepted: until then from a copy
        seed = self.seed_ if resume else ranks.first(randomness.resolve_seed(copy.deepcopy(self.random_state)))
        rows, held_rows = np.arange(len(X)), np.empty(0, np.int64)
        if fraction:
            rows, held_rows = holdout(len(X), fraction, randomness.permutation(len(X), seed, randomness.HOLDOUT))
        columns, units = (self.n_features_in_, self.units_) if resume else (X.shape[1], None)
        examples, summary = read(X, "X", settings, scale, columns, y=y, condition=condition, units=units, ranks=ranks)
        if fraction and not resume:
            # of what is trained on; but the range is that of all rows, as no value may leave it
            mine = ranks.part(rows)
            part = ranks.merged(summarize(X, examples.divide_by, "X", mine, missing=settings["missing"] != "error"))
            summary = replace(part, minimum=summary.minimum, maximum=summary.maximum)
        units, val, test = column_units(settings, summary) if units is None else units, None, None
        later: dict[str, Any] = {"condition": condition, "units": units, "slack": SLACK, "ranks": ranks}
        examples = in_units(replace(examples, rows=rows), settings, units)
        if fraction:
            val = replace(examples, rows=held_rows)
        if X_val is not None:
            match_names(string_names(X_val), names, "X_val")
            val, _ = read(X_val, "X_val", settings, scale, columns, y=y_val, **later)
        if X_test is not None:
            match_names(string_names(X_test), names, "X_test")
            test, _ = read(X_test, "X_test", settings, scale, columns, y=y_test, **later)
        if resume:
            self._continue(settings, examples, val, held_rows)
        else:
            if isinstance(self.random_state, randomness.GENERATORS):
                randomness.resolve_seed(self.random_state)
            self._start(settings, summary, scale, seed, condition, units, names)
        self.held_rows_: np.ndarray = held_rows
        self.trainer_.ranks = ranks
        if keeper is not None and ranks.rank == 0:
            keeper.begin(examples, val)
            self.trainer_.checkpoint = lambda _, trace, moment: keeper.offer(self, trace, moment)
        if settings["verbose"] and None in (self.epochs, self.batch_size):
            say(plan(settings))
        epochs = settings["epochs"] - self.trainer_.epoch
        try:
            self.trainer_.fit(examples, epochs, val, test, settings["patience"], resume=resume)
        finally:  # where to go on from stands in the file; here are the best parameters, not the last
            self.trainer_.best = self.trainer_.checkpoint = None
            self.trainer_.ranks = ALONE
        if settings["verbose"] and not isinstance(checkpoint, Checkpoints):  # whose owner reports
            active = kept_record(self.history_)["active_units"]
            some = next((p for p in (test, val, examples) if p is not None and len(p.rows) > 1), None)
            if some is not None:  # as `minivae evaluate` counts them
                active = int(active_units(posterior(self.network_, some, np.float64)[0]).sum())
            lines = verdict(self.history_, settings["latent_dim"], self.stopped_, active=active)[1]
            for line in (*lines, collapse(active, settings["latent_dim"], settings["objective"])):
                if line:
                    say(line)
        return self

    @quietly
    def partial_fit(self, X: Any, y: Any = None) -> VAE:
        """One more epoch over X [n, D], continuing where the last call ended: for data that come in pieces.

        Settings changed since then take effect, but for those that make up the network. A cosine schedule and kl_cycles
        run over `epochs` calls; the learning rate is 0 and beta stays after them.
        A conditional model's classes (or spread of numbers) and the units of a table's columns are those of the first piece.
        """
        settings, names, X = checked_settings(self), string_names(X), as_matrix(X, "X")
        settings = resolved(settings, len(X), watched=False, before=getattr(self, "settings_", None))
        if not hasattr(self, "network_"):
            scale = Scale.fitted(X, settings["divide_by"], settings["likelihood"], settings["standardize"])
            condition = Condition.fitted(y) if settings["conditional"] else None
            examples, summary = read(X, "X", settings, scale, y=y, condition=condition)
            seed = randomness.resolve_seed(self.random_state)
            self._start(settings, summary, scale, seed, condition, column_units(settings, summary), names)
        else:
            check_continuation(self.settings_, settings, self.history_[-1]["epoch"] if self.history_ else 0)
            match_names(names, getattr(self, "feature_names_in_", None))
            scale = self.scale_
            if settings["divide_by"] is not None:
                scale = Scale.fitted(X, settings["divide_by"], settings["likelihood"])
            told = {"y": y, "condition": self.condition_, "units": self.units_}
            examples, _ = read(X, "X", settings, scale, self.n_features_in_, **told)
            moments: dict[str, Any] = {}  # afresh for another optimizer, or where the file had none
            if getattr(self, "trainer_", None) is not None and self.trainer_.optimizer.name == settings["optimizer"]:
                moments = {"moments": self.trainer_.moments, "updates": self.trainer_.updates}
            trainer = self._trainer(settings, self.network_, self.seed_, self.history_, **moments)
            self._adopt(settings, scale, trainer)
        self.held_rows_ = np.empty(0, np.int64)
        self.trainer_.fit(examples, epochs=1, schedule_epochs=settings["epochs"])
        return self

    def fit_transform(self, X: Any, y: Any = None, **fit_params: Any) -> Any:
        """fit(X), then transform(X)."""
        return self.fit(X, y, **fit_params).transform(X, y)

    def stop(self, reason: str) -> None:
        """Ask a running fit to end after the current step; callbacks call this."""
        self.trainer_.stop(reason)

    @property
    def stopped_(self) -> str:
        """Why the training ended early, or ""; of a run's model.npz also that its training was cut short."""
        run, trainer = getattr(self, "run_", None), getattr(self, "trainer_", None)
        if run is None or (trainer is not None and trainer.stopped):
            return "" if trainer is None else trainer.stopped
        if run.get("stopped") is None:
            return f"cut short after {len(self.history_)} of {self.settings_['epochs']} epochs"
        return str(run["stopped"])

    def _start(
        self,
        settings: dict[str, Any],
        summary: Summary,
        scale: Scale,
        seed: int,
        condition: Condition | None,
        units: tuple[tuple[float, float], ...],
        names: np.ndarray | None,
    ) -> None:
        """Fresh parameters and a fresh trainer. Everything that can be wrong is found before the old ones are let go."""
        check_spread(settings, summary)
        arch = architecture(settings, len(summary.mean), units, condition)
        check_memory(arch, settings, summary.rows)
        network = Network(arch, load_backend(settings["backend"]), settings["dtype"])
        start = initial_parameters(
            arch, seed, settings["init"], settings["output_bias"], summary.mean, summary.variance
        )
        network.set_parameters(start)
        self._adopt(settings, scale, self._trainer(settings, network, seed, []))
        self.condition_ = condition
        self.sample_calls_ = 0
        vars(self).pop("feature_names_in_", None)
        if names is not None:
            self.feature_names_in_ = names

    def _continue(
        self, settings: dict[str, Any], examples: Examples, val: Examples | None, held_rows: np.ndarray
    ) -> None:
        """A trainer where that of a checkpoint stood."""
        before = self.trainer_
        assert before.best is not None
        if not np.array_equal(held_rows, self.held_rows_) or (val is None and before.best.loss < np.inf):
            raise ValueError("this training held out other rows; pass X_val, or leave it out, as when it began")
        if load_backend(settings["backend"]) is not self.network_.kernels:
            raise ValueError("this model was loaded for another backend; name it there: VAE.load(path, backend=...)")
        if fingerprint(examples, val) != self.trained_on_:
            what = "X" if val is None or val.data is examples.data else "X, or X_val,"
            raise DataError(
                f"{what} is not what this training began with; pass the same rows of the same type, or fit anew"
            )
        if before.begun is not None and len(before.begun) > -(-len(examples.rows) // settings["batch_size"]):
            raise DataError("this checkpoint has had more steps of its epoch than there are; fit anew")
        names = ["best", "begun", "spent", "step", "epoch"]
        if before.optimizer.name == settings["optimizer"]:  # the moments of another rule mean other things
            names += ["moments", "updates"]
        kept = {name: getattr(before, name) for name in names}
        meaning = ("objective", "n_samples", "beta", "free_bits", "capacity")
        if any(settings[name] != self.settings_[name] for name in meaning):
            kept["best"] = Best(self.network_.get_parameters(), before.epoch)  # held-out losses mean something else now
        self._adopt(settings, self.scale_, self._trainer(settings, self.network_, self.seed_, self.history_, **kept))

    def _adopt(self, settings: dict[str, Any], scale: Scale, trainer: Trainer) -> None:
        self.settings_: dict[str, Any] = settings
        self.scale_: Scale = scale
        self.seed_: int = trainer.seed
        self.network_: Network = trainer.network
        self.trainer_: Trainer = trainer
        self.run_: dict[str, Any] | None = None  # what a run's file says of it, no longer true
        self.history_: list[dict[str, Any]] = trainer.history
        self.units_: tuple[tuple[float, float], ...] = trainer.network.arch.units
        self.n_features_in_: int = trainer.network.arch.data_dim
        self.n_parameters_: int = trainer.network.parameters.size

    def _trainer(
        self, settings: dict[str, Any], network: Network, seed: int, history: list[dict[str, Any]], **state: Any
    ) -> Trainer:
        optimizer, objective = optimizer_and_objective(settings)
        callbacks = [lambda _, record, f=f: f(self, record) for f in self.callbacks]
        step, epoch = (history[-1]["step"], history[-1]["epoch"]) if history else (0, 0)
        rest: dict[str, Any] = {"step": step, "epoch": epoch, "history": history, "callbacks": callbacks} | state
        rest["micro_batch_size"] = settings["micro_batch_size"]
        return Trainer(network, optimizer, objective, settings["batch_size"], seed, settings["verbose"], **rest)

    # ---- Files and copies

    def save(self, path: str | Path, *, include_optimizer: bool = True) -> None:
        """Write parameters, fitted settings and history to one .npz file, atomically. Callbacks are not saved.

        With the optimizer's moments, two numbers a parameter for Adam, partial_fit goes on after load as without.
        """
        self._require_fit()
        trainer = getattr(self, "trainer_", None)
        training, values = capture(trainer) if include_optimizer and trainer is not None else (None, None)
        persistence.save(self, checked_path(path), training=training, values=values)

    def restore_training(self, arrays: dict[str, np.ndarray], values: dict[str, Any]) -> None:
        """Of a file: what `checkpoints.capture` found there."""
        fields = restored(arrays, values, self.network_)
        self.trained_on_ = values.get("data", 0)
        self.trainer_ = self._trainer(self.settings_, self.network_, self.seed_, self.history_, **fields)

    @classmethod
    def load(cls, path: str | Path, *, backend: str = "auto") -> VAE:
        """The model in `path`; backend "auto" is a checkpoint's own, else the best here. Raises OSError, ModelFileError."""
        vae: VAE = persistence.load(cls, checked_path(path), backend)
        return vae

    def __copy__(self) -> VAE:
        """A model of its own: parameters and history that two models train would be neither's."""
        return copy.deepcopy(self)

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and copy: the arrays on the host, the backend by its name."""
        state = dict(vars(self))
        if "network_" in state:
            state["parameters"] = state.pop("network_").get_parameters()
        if (trainer := state.pop("trainer_", None)) is not None:
            state["training"] = capture(trainer)
        return state

    @quietly
    def __setstate__(self, state: dict[str, Any]) -> None:
        state = {"units_": (), "condition_": None} | state  # which older models have not
        if "settings_" in state:
            state["settings_"] = NEW_SETTINGS | state["settings_"]
        if "moments" in state:  # as older versions pickled them
            old = state["moments"]
            state["training"] = old["moments"], {"updates": old["updates"], "stopped": old["stopped"], "best": None}
        apart = ("parameters", "moments", "training")
        vars(self).update({name: value for name, value in state.items() if name not in apart})
        if "parameters" in state:
            self.sample_calls_ = state.get("sample_calls_", 0)  # a file has none
            settings = self.settings_
            kernels = load_backend(settings["backend"])
            arch = architecture(settings, self.n_features_in_, self.units_, self.condition_)
            self.network_ = Network(arch, kernels, settings["dtype"])
            self.network_.set_parameters(state["parameters"])
        if "training" in state:
            self.restore_training(*state["training"])
