"""minivae train | evaluate | sample | reconstruct | plot | gradcheck | data | bench | backends: arguments, and errors.

Results go to standard output, progress to standard error. Exit status: 0, 1 (one clear line), 2 (usage), and after Ctrl-C,
SIGTERM and SIGHUP 130, 143 and 129.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from minivae.progress import say

# What loads NumPy is imported inside the functions, so that Ctrl-C meanwhile ends in `main` too.


def _sigma(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _widths(text: str) -> list[int]:
    return [int(word) for word in text.replace(",", " ").split()]


class _Flatten(argparse.Action):
    """ "256,128" and "256 128" and "256, 128" are the same."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        setattr(namespace, self.dest, tuple(width for word in values for width in word))


def _choice(*names: str) -> dict[str, Any]:
    return {"choices": names}


def train_options() -> dict[str, dict[str, tuple[dict[str, Any], str]]]:
    """The parameters of VAE as options of `train`: type, and one line of help. Defaults are taken from VAE itself."""
    from minivae.architecture import INITS, MISSING, OUTPUT_BIASES
    from minivae.data.batches import BINARIZE
    from minivae.kernels import MODULES
    from minivae.kernels.reference import ACTIVATIONS
    from minivae.likelihoods import LIKELIHOODS
    from minivae.optimizers import OPTIMIZERS, SCHEDULES

    return {
        "model": {
            "latent_dim": ({"type": int}, "number of latent dimensions Z"),
            "hidden_dims": (
                {"type": _widths, "nargs": "*", "action": _Flatten},
                "widths of the encoder's hidden layers; the decoder mirrors them",
            ),
            "activation": (_choice(*ACTIVATIONS), "of the hidden layers"),
            "likelihood": (
                {"metavar": "NAME"},
                "; ".join(f"{name}: {l.data}" for name, l in LIKELIHOODS.items())
                + "; or columns in their order, as 'gaussian*4 poisson categorical*3'",
            ),
            "sigma": ({"type": _sigma}, "of the gaussian: a number, learned, or elementwise"),
            "missing": (_choice(*MISSING), "NaN: an error; not observed; not observed, and the encoder told so"),
            "standardize": (
                {"action": "store_true"},
                "bring each column to one scale, gaussian ones to mean 0 and spread 1; results stay in the data's own units",
            ),
            "conditional": ({"action": "store_true"}, "tell encoder and decoder the labels of the data"),
            "init": (_choice(*INITS), "initial weights"),
            "output_bias": (_choice(*OUTPUT_BIASES), "initial bias of the decoder's last layer"),
        },
        "objective": {
            "beta": ({"type": float}, "weight of the KL"),
            "kl_warmup": ({"type": float}, "epochs in which beta rises from 0"),
            "free_bits": ({"type": float}, "nats per latent dimension below which the KL is not pushed"),
            "kl_cycles": ({"type": int}, "cycles in the epochs, in each of which beta rises from 0 over kl-warmup"),
            "capacity": ({"type": float}, "nats C to which the KL is drawn, by beta |KL - C|; 0 for none"),
            "capacity_warmup": ({"type": float}, "epochs in which the capacity rises from 0"),
        },
        "optimizer": {
            "optimizer": (_choice(*OPTIMIZERS), "update rule"),
            "learning_rate": ({"type": float}, "at its highest"),
            "momentum": ({"type": float}, "of sgd"),
            "nesterov": ({"action": "store_true"}, "Nesterov's form of momentum"),
            "beta1": ({"type": float}, "Adam: decay of the first moment"),
            "beta2": ({"type": float}, "Adam: decay of the second moment"),
            "epsilon": ({"type": float}, "Adam: added to the root of the second moment"),
            "weight_decay": ({"type": float}, "of adamw, on all parameters as in PyTorch"),
            "max_grad_norm": ({"type": float}, "clip the gradient to this global norm"),
            "schedule": (_choice(*SCHEDULES), "of the learning rate"),
            "lr_warmup": ({"type": float}, "epochs in which the learning rate rises from 0"),
            "decay_every": ({"type": float}, "schedule step: epochs between two decays"),
            "decay_factor": ({"type": float}, "schedule step: factor of each decay"),
        },
        "training": {
            "batch_size": ({"type": int}, "examples per step"),
            "epochs": ({"type": int}, "passes over the data"),
            "validation_fraction": (
                {"type": float},
                "part of the training data held out to choose the best epoch (default: 0.1; for data with a test part and "
                "without --patience 0: the test loss is shown after each epoch and the last epoch is kept)",
            ),
            "patience": ({"type": int}, "stop after so many epochs without a better held-out loss"),
            "backend": (_choice("auto", *MODULES), "what runs the kernels"),
            "dtype": (_choice("float32", "float64"), "of parameters and arithmetic"),
            "random_state": ({"type": int}, "seed: the same seed gives the same run (default: 0)"),
        },
        "data": {
            "binarize": (_choice(*BINARIZE), "draw pixels from grey values: once (static) or at every step (dynamic)"),
            "divide_by": (
                {"type": float},
                "divide the data by this number (default: 255 for uint8 that is not all 0 and 1, else 1)",
            ),
        },
    }


def build_parser() -> argparse.ArgumentParser:
    import inspect

    from minivae import __version__
    from minivae.app import commands
    from minivae.app.train import RECIPES, recipe_options
    from minivae.bench.report import add_arguments as add_bench_arguments
    from minivae.estimator import VAE
    from minivae.kernels import MODULES

    parser = argparse.ArgumentParser(
        prog="minivae",
        description="A variational autoencoder in NumPy with hand-derived, proved gradients.",
        epilog="example:\n  minivae train digits --out runs/digits",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"minivae {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="command")

    def command(name: str, summary: str, *examples: str) -> argparse.ArgumentParser:
        sub = subparsers.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog="example:\n" + "\n".join(f"  {example}" for example in examples),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(run=getattr(commands, name))
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
        return sub

    def as_json(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--json", action="store_true", help="print the result as JSON")

    def model(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("model", help="a run folder or a model.npz")

    def which_data(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--data", help="a dataset or file instead of the one the model was trained on")
        sub.add_argument(
            "--split",
            choices=("train", "validation", "test"),
            help="default: test, or validation if there is no test part",
        )

    train = command(
        "train",
        "train a model and write it, its history and its figures to a folder",
        "minivae train digits",
        "minivae train mnist --hidden-dims 400 --latent-dim 20 --epochs 10 --out runs/mnist",
        "minivae train table.csv --likelihood gaussian --latent-dim 8",
        "minivae train digits --conditional",
        "minivae train --resume runs/mnist --epochs 40",
    )
    recipes = "".join(f"\n  {name}: {recipe_options(recipe)}" for name, recipe in RECIPES.items())
    train.epilog = f"{train.epilog}\nnamed datasets bring settings, over which any option wins:{recipes}"
    train.usage = "minivae train [-h] DATA [options]\n       minivae train [-h] --resume RUN [options]"
    train.add_argument(
        "data",
        metavar="DATA",
        nargs="?",
        help="a dataset (see `minivae data`), a .npy, .npz or .csv file, or a folder of images",
    )
    train.add_argument(
        "--resume", metavar="RUN", help="go on with a run that was cut short, or to more --epochs; its own options hold"
    )
    train.add_argument("--out", help="run folder (default: runs/NAME, with a number where that exists)")
    train.add_argument(
        "--overwrite", action="store_true", help="replace the run in a folder, once the new one is complete"
    )
    train.add_argument("--download", action="store_true", help="fetch a named dataset that is not on this machine")
    train.add_argument(
        "--image-shape", type=int, nargs="+", metavar="N", help="height, width [, 3] of a row, for figures"
    )
    train.add_argument(
        "--condition", type=int, metavar="COLUMN", help="tell the model this column of the table (from 0 on) instead"
    )
    train.add_argument("--no-figures", action="store_true", help="write no figures")
    train.add_argument("--quiet", action="store_true", help="no progress")
    defaults = inspect.signature(VAE).parameters
    for title, options in train_options().items():
        group = train.add_argument_group(title)
        for name, (keywords, text) in options.items():
            default = defaults[name].default
            if default is not None and "(default" not in text and keywords.get("action") != "store_true":
                shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
                text = f"{text} (default: {shown})"
            # SUPPRESS: an option that is not given leaves the dataset's recipe, then VAE's own default, in place
            if "type" in keywords:
                keywords = {"metavar": {int: "N", float: "X", _widths: "N"}.get(keywords["type"], "SIGMA"), **keywords}
            group.add_argument(f"--{name.replace('_', '-')}", help=text, default=argparse.SUPPRESS, **keywords)
    as_json(train)

    evaluate = command(
        "evaluate",
        "report ELBO, importance-sampled log-likelihood and active units, in nats per example",
        "minivae evaluate runs/mnist --split test --n-samples 5000 --json",
    )
    model(evaluate)
    which_data(evaluate)
    evaluate.add_argument("--n-samples", type=int, default=100, help="importance samples per example (default: 100)")
    evaluate.add_argument("--limit", type=int, help="use only the first so many examples")
    evaluate.add_argument("--quiet", action="store_true", help="no progress")
    as_json(evaluate)

    sample = command(
        "sample",
        "decode draws from the prior into a figure or an array",
        "minivae sample runs/mnist -n 64",
        "minivae sample runs/table -n 1000 --noise --out synthetic.npy",
    )
    model(sample)
    sample.add_argument("-n", "--n", type=int, default=64, help="how many (default: 64)")
    sample.add_argument(
        "--y", nargs="+", metavar="LABEL", help="what a conditional model is told (default: all, in turns)"
    )
    sample.add_argument("--noise", action="store_true", help="draw data from p(x|z) instead of showing its mean")
    sample.add_argument("--random-state", type=int, help="seed (default: the model's, so that each run draws the same)")
    sample.add_argument("--out", default="samples.png", help="a .png figure or a .npy array (default: samples.png)")

    reconstruct = command(
        "reconstruct", "encode and decode examples into a figure or an array", "minivae reconstruct runs/mnist -n 10"
    )
    model(reconstruct)
    which_data(reconstruct)
    reconstruct.add_argument("-n", "--n", type=int, default=10, help="how many, from the first on (default: 10)")
    reconstruct.add_argument("--out", default="reconstructions.png", help="a .png figure or a .npy array")

    plot = command("plot", "write the figures of a run again", "minivae plot runs/mnist")
    model(plot)
    plot.add_argument("--out", help="folder for the figures (default: the run's figures/)")

    gradcheck = command(
        "gradcheck",
        "compare every hand-derived gradient with finite differences; exit 1 if one is wrong",
        "minivae gradcheck",
        "minivae gradcheck --backend all --json",
    )
    gradcheck.add_argument("--backend", choices=("all", *MODULES), default="numpy", help="default: numpy")
    as_json(gradcheck)

    data = command("data", "list the named datasets, or fetch one", "minivae data", "minivae data mnist --download")
    data.add_argument("name", nargs="?", help="one dataset")
    data.add_argument("--download", action="store_true", help="fetch it into the cache and verify it")
    as_json(data)

    bench = command(
        "bench",
        "measure the backends against PyTorch, JAX and the limit of this machine",
        "minivae bench --quick",
        "minivae bench --suite step --out results.json --figure results.png",
    )
    add_bench_arguments(bench)

    as_json(command("backends", "say which backends work here, and why", "minivae backends"))
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    options = None
    _fill_places()
    try:
        options = build_parser().parse_args(arguments)
        status = int(options.run(options))
        if sys.stdout is not None:
            sys.stdout.flush()  # here a full disk can still be told
        return status
    except KeyboardInterrupt:
        say("minivae: interrupted")
        return 130
    except (ValueError, TypeError, OSError, ArithmeticError, ImportError, MemoryError, RuntimeError) as error:
        if options is None or options.debug:
            raise
        text = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, OSError) and error.errno and not error.filename:  # of a file it would have the name
            text = f"standard output cannot be written to ({error.strerror})"
        if not isinstance(error, BrokenPipeError):  # the reader has left, as in `minivae gradcheck | head`
            say(f"minivae: {text}")
        if isinstance(error, OSError):
            _let_go()
        return 1


def _fill_places() -> None:
    """Where standard input, output or error was closed, the next file that is opened would take its number, and its text."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _let_go() -> None:
    """What could not be written to standard output would be tried again at exit, and be an error of its own there."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
