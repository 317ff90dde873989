"""How the options of every command are read, and which `minivae train` has."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Iterable
from typing import Any

# Parameters of VAE that its weights do not tell.
OF_WEIGHTS = ("likelihood", "activation", "sigma", "standardize", "missing", "divide_by", "dtype")
ALIASES = {"learning_rate": "--lr", "random_state": "--seed"}  # as people type them


class Parser(argparse.ArgumentParser):
    """No abbreviations: --lr must never be --lr-warmup. What is no option is an error of its command, with a near miss."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **keywords)

    def parse_known_args(self, *arguments: Any) -> Any:  # type: ignore[override]
        found, unknown = super().parse_known_args(*arguments)
        for word in unknown:
            if word.startswith("-"):
                close = difflib.get_close_matches(word.split("=")[0], self._option_string_actions, 1)
                self.error(f"there is no option {word}" + (f"; did you mean {close[0]}?" if close else ""))
        return found, unknown


def _sigma(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _widths(text: str) -> list[int]:
    try:
        return [int(word) for word in text.replace(",", " ").split()]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of whole numbers such as 256,128") from None


class _Flatten(argparse.Action):
    """ "256,128" and "256 128" and "256, 128" are the same."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        setattr(namespace, self.dest, tuple(width for word in values for width in word))


def train_options() -> dict[str, dict[str, str]]:
    """The parameters of VAE as options of `train`: one line of help. Types and defaults are taken from VAE itself."""
    from minivae.likelihoods import LIKELIHOODS

    known = "; ".join(f"{name}: {l.data}" for name, l in LIKELIHOODS.items())
    return {
        "model": {
            "latent_dim": "number of latent dimensions Z",
            "hidden_dims": "widths of the encoder's hidden layers; the decoder mirrors them",
            "activation": "of the hidden layers",
            "likelihood": f"{known}; or columns in order, as 'gaussian*4 poisson categorical*3'",
            "sigma": "of the gaussian: a number, learned, or elementwise",
            "missing": "NaN: an error; not observed; not observed, and the encoder told so",
            "standardize": "bring each column to one scale, gaussian ones to mean 0 and spread 1; results stay in the "
            "data's own units",
            "conditional": "tell encoder and decoder the labels of the data",
            "init": "initial weights",
            "output_bias": "initial bias of the decoder's last layer",
        },
        "objective": {
            "objective": "ELBO, or the importance-weighted bound by one of its estimators",
            "n_samples": "samples K of z for each example: of the bound, or for the mean of the ELBO",
            "beta": "weight of the KL",
            "kl_warmup": "epochs in which beta rises from 0",
            "free_bits": "nats per latent dimension below which the KL is not pushed",
            "kl_cycles": "cycles in the epochs, in each of which beta rises from 0 over kl-warmup",
            "capacity": "nats C to which the KL is drawn, by beta |KL - C|; 0 for none",
            "capacity_warmup": "epochs in which the capacity rises from 0",
        },
        "optimizer": {
            "optimizer": "update rule",
            "learning_rate": "at its highest",
            "momentum": "of sgd",
            "nesterov": "Nesterov's form of momentum",
            "beta1": "Adam: decay of the first moment",
            "beta2": "Adam: decay of the second moment",
            "epsilon": "Adam: added to the root of the second moment",
            "weight_decay": "of adamw, on all parameters as in PyTorch",
            "max_grad_norm": "clip the gradient to this global norm",
            "schedule": "of the learning rate",
            "lr_warmup": "epochs in which the learning rate rises from 0",
            "decay_every": "schedule step: epochs between two decays",
            "decay_factor": "schedule step: factor of each decay",
            "decay_growth": "schedule step: times as many epochs to each further decay (Burda et al.: 3)",
        },
        "training": {
            "batch_size": "examples per step (default: by the rows, 16 to 128)",
            "micro_batch_size": "rows of it that go through at once, where memory is short (default: all)",
            "epochs": "passes over the data (default: until the held-out loss stops falling)",
            "validation_fraction": "part of the training data held out to choose the best epoch (default: 0.1; for data "
            "with a test part, with epochs and without --patience 0: the test loss is shown after each epoch and the last "
            "epoch is kept)",
            "patience": "stop after so many epochs without a better held-out loss",
            "backend": "what runs the kernels",
            "dtype": "of parameters and arithmetic",
            "random_state": "seed: the same seed gives the same run (default: 0)",
        },
        "data": {
            "binarize": "draw pixels from grey values: once (static) or at every step (dynamic)",
            "divide_by": "what data are divided by (default: 255 for uint8 not all 0 and 1, else 1)",
        },
    }


def add_train_options(train: argparse.ArgumentParser) -> None:
    """Its own options, then the parameters of VAE."""
    from minivae.app.train import RECIPES, recipe_options
    from minivae.data.opening import KINDS

    recipes = "".join(f"\n  {name}: {recipe_options(recipe)}" for name, recipe in RECIPES.items())
    train.epilog = f"{train.epilog}\nnamed datasets bring settings, over which any option wins:{recipes}"
    train.usage = "minivae train [-h] DATA [options]\n       minivae train [-h] --resume RUN [options]"
    add, instead = train.add_argument, "replace the run in a folder, once the new one is complete"
    add("data", metavar="DATA", nargs="?", help=f"a dataset (see `minivae data`), or a file: {KINDS}")
    add(
        "--resume", metavar="RUN", help="go on with a run that was cut short, or to more --epochs; its own options hold"
    )
    add("-o", "--out", help="run folder (default: runs/NAME, with a number where that exists)")
    add("--overwrite", action="store_true", default=None, help=instead)
    add("--download", action="store_true", help="fetch a named dataset that is not on this machine")
    add("--image-shape", type=int, nargs="+", metavar="N", help="height, width [, 3] of a row, for figures")
    add("--resize", type=int, nargs=2, metavar=("H", "W"), help="bring pictures to this height and width")
    add("--array", metavar="NAME", help="the array of a .npz that is the data")
    add("--label", metavar="COLUMN", help="column, by name or from 0, that colours figures; not trained on")
    add("--condition", metavar="COLUMN", help="the same as --label COLUMN --conditional")
    add("--drop", nargs="+", metavar="COLUMN", help="columns of the table to leave out")
    add("--columns", nargs="+", metavar="COLUMN", help="the only columns of the table to train on")
    add("--delimiter", metavar="C", help="what separates the cells of a text (default: recognised)")
    add("--encoding", metavar="NAME", help="of a text, such as latin-1 (default: UTF-8, or UTF-16 if so marked)")
    add("--decimal", choices=(".", ","), help="decimal mark of a text (default: recognised)")
    add("--header", action=argparse.BooleanOptionalAction, help="whether a text begins with names (or recognised)")
    add("--no-figures", action="store_true", help="write no figures")
    add("--quiet", action="store_true", help="no progress")
    for title, options in train_options().items():
        _add(train.add_argument_group(title), options)


def add_import_options(imported: argparse.ArgumentParser) -> None:
    options = {name: option for group in train_options().values() for name, option in group.items()}
    _add(imported, {name: options[name] for name in OF_WEIGHTS})


def _add(group: Any, options: dict[str, str]) -> None:
    import inspect

    from minivae.architecture import INITS, MISSING, OUTPUT_BIASES
    from minivae.data.batches import BINARIZE
    from minivae.estimator import VAE
    from minivae.kernels import MODULES
    from minivae.kernels.reference import ACTIVATIONS
    from minivae.optimizers import OPTIMIZERS, SCHEDULES
    from minivae.training import OBJECTIVES

    of_type: dict[str, dict[str, Any]] = {
        "int": {"type": int, "metavar": "N"},
        "float": {"type": float, "metavar": "X"},
        "bool": {"action": argparse.BooleanOptionalAction},  # so that a recipe can be told no
    }
    own: dict[str, dict[str, Any]] = {
        "hidden_dims": {"type": _widths, "metavar": "N", "nargs": "*", "action": _Flatten},
        "likelihood": {"metavar": "NAME"},
        "sigma": {"type": _sigma, "metavar": "SIGMA"},
    }
    choices: dict[str, Iterable[str]] = {
        "activation": ACTIVATIONS, "missing": MISSING, "init": INITS, "output_bias": OUTPUT_BIASES, "objective": OBJECTIVES,
        "optimizer": OPTIMIZERS, "schedule": SCHEDULES, "backend": ("auto", *MODULES), "dtype": ("float32", "float64"),
        "binarize": BINARIZE,
    }  # fmt: skip
    own |= {name: {"choices": tuple(values)} for name, values in choices.items()}
    parameters = inspect.signature(VAE).parameters
    for name, text in options.items():
        default = parameters[name].default
        if default is not None and "(default" not in text and default is not False:
            shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
            text = f"{text} (default: {shown})"
        how = own.get(name) or of_type[parameters[name].annotation.split()[0]]  # "float | None" is a float
        flags = [f"--{name.replace('_', '-')}", *([ALIASES[name]] if name in ALIASES else [])]
        # SUPPRESS: an option that is not given leaves the dataset's recipe, then VAE's own default, in place
        group.add_argument(*flags, help=text, default=argparse.SUPPRESS, **how)
