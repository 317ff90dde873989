"""minivae COMMAND ...: the arguments of every command, and its errors.

Results go to standard output, progress to standard error. Exit status: 0, 1 (one clear line), 2 (usage), and after Ctrl-C,
SIGTERM and SIGHUP 130, 143 and 129.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout

from minivae.processors import launched
from minivae.progress import TROUBLE, one_line, say

MEANS = (
    "a figure (.png, .pdf, .svg), or numbers: .csv, .tsv, .parquet in the data's own units, .npy as well, but of uint8 "
    "pixels fractions from 0 to 1; - is CSV on standard output"
)

# What loads NumPy is imported inside the functions, so that Ctrl-C meanwhile ends in `main` too.


def build_parser(typed: str | None = None) -> argparse.ArgumentParser:
    """typed: the command whose options are asked for, as those of some cost imports; None for those of all."""
    from minivae import __version__
    from minivae.app.options import Parser

    parser = Parser(
        prog="minivae",
        description="A variational autoencoder in NumPy with hand-derived, proved gradients.",
        epilog="example:\n  minivae train digits --out runs/digits\n"
        "completion of options by TAB:\n  pip install shtab && shtab -s bash minivae.app.cli.build_parser",
    )
    parser.add_argument("--version", action="version", version=f"minivae {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="command")

    def command(name: str, summary: str, *examples: str) -> argparse.ArgumentParser:
        sub = subparsers.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog="example:\n" + "\n".join(f"  {example}" for example in examples),
        )
        sub.set_defaults(run=name)
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
        return sub

    def as_json(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--json", action="store_true", help="print the result as JSON")

    def model(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("model", help="a run folder or a model.npz")

    def split(sub: argparse.ArgumentParser, otherwise: str = "validation") -> None:
        text = f"default: test, or {otherwise} if there is no test part"
        sub.add_argument("--split", choices=("train", "validation", "test"), help=text)

    def which_data(sub: argparse.ArgumentParser, otherwise: str = "validation") -> None:
        instead = "a dataset or file instead of the one the model was trained on"
        sub.add_argument("data", metavar="DATA", nargs="?", default=argparse.SUPPRESS, help=instead)
        sub.add_argument("--data", help="the same")
        split(sub, otherwise)

    def table(name: str, summary: str, *examples: str) -> argparse.ArgumentParser:
        sub = command(name, summary, *examples)
        model(sub)
        which_data(sub, "all rows")
        kinds = ".csv, .tsv, .parquet" + ("" if name == "score" else " or .npy")
        text = f"a file: {kinds} (default: CSV on standard output); a label named as a result has an underscore behind"
        sub.add_argument("-o", "--out", help=text)
        sub.add_argument("--quiet", action="store_true", help="no progress")
        as_json(sub)
        return sub

    train = command(
        "train",
        "train a model and write it, its history and its figures to a folder",
        "minivae train digits",
        "minivae train mnist --hidden-dims 400 --latent-dim 20 --epochs 10 --out runs/mnist",
        "minivae train table.csv --likelihood gaussian --latent-dim 8",
        "minivae train digits --conditional",
        "minivae train --resume runs/mnist --epochs 40",
    )
    if typed in (None, "train"):
        from minivae.app.options import add_train_options

        add_train_options(train)
    as_json(train)

    evaluate = command(
        "evaluate",
        "report ELBO, log-likelihood, information, samples and latents of a model, with standard errors",
        "minivae evaluate runs/mnist --split test --n-samples 5000 --json",
    )
    model(evaluate)
    which_data(evaluate)
    evaluate.add_argument("--n-samples", type=int, default=100, help="importance samples per example (default: 100)")
    evaluate.add_argument("--ais", type=int, metavar="N", help="bound log p(x) by chains of N temperatures as well")
    evaluate.add_argument("--chains", type=int, help="annealed chains per example, with --ais (default: 16)")
    calibration = "test on N simulated rows whether q(z|x) is the posterior (p-values)"
    evaluate.add_argument("--calibration", type=int, metavar="N", help=calibration)
    evaluate.add_argument("--limit", type=int, help="use only the first so many examples")
    evaluate.add_argument("--quiet", action="store_true", help="no progress")
    as_json(evaluate)

    compare = command(
        "compare",
        "print a table of runs, best first: the settings that differ, ELBO or log-likelihood, active units, seconds",
        "minivae compare runs/*",
        "minivae compare runs/elbo runs/iwae --n-samples 5000",
        "minivae compare runs/a runs/b --split test --figure compare.png",
    )
    compare.add_argument("runs", nargs="+", metavar="RUN", help="run folders or model files")
    compare.add_argument("--data", help="a dataset or file instead of those the models were trained on")
    split(compare)
    compare.add_argument("--limit", type=int, help="use only the first so many examples")
    samples = "rank by log p(x) of so many importance samples (default: by ELBO; 32 where a run learned another bound)"
    compare.add_argument("--n-samples", type=int, metavar="K", help=samples)
    compare.add_argument("--figure", help="draw the runs that compare into this file, such as compare.png")
    compare.add_argument("--quiet", action="store_true", help="no progress")
    as_json(compare)

    sample = command(
        "sample",
        "decode draws from the prior into a figure or an array",
        "minivae sample runs/mnist -n 64",
        "minivae sample runs/table -n 1000 --noise --out synthetic.npy",
    )
    model(sample)
    sample.add_argument("-n", "--n", type=int, default=64, help="how many (default: 64)")
    sample.add_argument("--y", nargs="+", metavar="LABEL", help="what a model is told (default: all labels, in turns)")
    sample.add_argument("--noise", action="store_true", help="draw data from p(x|z) instead of showing its mean")
    sample.add_argument(
        "--nearest", action="store_true", help="and the training row nearest to each (no .npy): is it a copy?"
    )
    seed = "seed (default: the model's, so that each run draws the same)"
    sample.add_argument("--random-state", "--seed", type=int, help=seed)
    sample.add_argument("-o", "--out", default="samples.png", help=f"{MEANS} (default: samples.png)")

    does, out = "encode and decode examples into a figure or an array", "reconstructions.png"
    reconstruct = command("reconstruct", does, "minivae reconstruct runs/mnist -n 10")
    model(reconstruct)
    which_data(reconstruct)
    reconstruct.add_argument("-n", "--n", type=int, default=10, help="how many, from the first on (default: 10)")
    reconstruct.add_argument("-o", "--out", default=out, help=f"{MEANS} (default: {out})")

    inspect = command(
        "inspect",
        "show the next training step on a few rows call by call: arrays, gradients checked, what the optimizer does",
        "minivae inspect runs/digits",
        "minivae inspect runs/digits --set 'decoder.0.W[1, 7]=0.5'",
    )
    model(inspect)
    which_data(inspect)
    inspect.add_argument("-n", "--n", type=int, default=8, help="how many rows, from the first on (default: 8)")
    moves = "and what moves if these weights do"
    inspect.add_argument("--set", nargs="+", action="extend", default=[], metavar="ENTRY=VALUE", help=moves)
    as_json(inspect)

    explore = command(
        "explore",
        "write one page that opens anywhere: drag in latent space, and the decoder draws",
        "minivae explore runs/digits",
        "minivae explore runs/mnist --split test --limit 2000 -o mnist.html",
    )
    model(explore)
    which_data(explore)
    explore.add_argument("--limit", type=int, help="show so many rows, evenly spaced (default: 5000)")
    precise = "of the decoder's weights (default: half where no eye sees a difference)"
    explore.add_argument("--precision", choices=("auto", "half", "single"), default="auto", help=precise)
    explore.add_argument("-o", "--out", default="explorer.html", help="a .html file (default: explorer.html)")

    does, more = (
        "write a model for other programs, and print the lines of Python that use it",
        "minivae export runs/digits -o",
    )
    export = command(
        "export", does, f"{more} digits.onnx", f"{more} digits.pt > digits.py", f"{more} digits.safetensors"
    )
    model(export)
    export.add_argument("-o", "--out", required=True, help="a .onnx (of which two are made), .pt or .safetensors file")
    kinds = ("onnx", "torch", "safetensors")
    export.add_argument("--format", choices=kinds, help="whatever the file's name ends in (default: as it ends)")
    as_json(export)

    imported = command(
        "import",
        "make a model.npz of the weights of a dense VAE trained elsewhere, or of an exported .pt or .safetensors",
        "minivae import keras.npz --activation tanh --likelihood gaussian --sigma 1",
        "minivae import vae.pt --names encoder.0=fc1 encoder.1=fc21+fc22 decoder.0=fc3 decoder.1=fc4",
    )
    imported.set_defaults(run="import_")  # as Python keeps the other name
    imported.add_argument("weights", metavar="FILE", help=".pt, .pth, .ckpt, .safetensors, or .npz of arrays by name")
    theirs = "which of their layers is which of ours (default: by usual names)"
    imported.add_argument("--names", nargs="+", action="extend", metavar="OURS=THEIRS", help=theirs)
    if typed in (None, "import"):
        from minivae.app.options import add_import_options

        add_import_options(imported)
    imported.add_argument("-o", "--out", default="model.npz", help="a .npz file (default: model.npz)")
    as_json(imported)

    encode = table(
        "encode",
        "write the posterior mean of every row, z1 to zZ",
        "minivae encode runs/wine new.csv --out z.csv",
        "minivae encode runs/wine | head",
    )
    encode.add_argument("--sigma", action="store_true", help="and its standard deviations, sigma1 to sigmaZ")

    decode = command("decode", "decode latent points that encode wrote", "minivae decode runs/wine z.csv --out x.csv")
    model(decode)
    decode.add_argument("latents", metavar="Z", help="a .csv, .tsv, .parquet or .npy file; - is CSV on standard input")
    decode.add_argument("--y", nargs="+", metavar="LABEL", help="what a model is told (default: the labels in Z)")
    decode.add_argument("-o", "--out", help=f"{MEANS} (default: CSV on standard output)")

    score = table(
        "score",
        "score every row in nats: elbo, kl, anomaly_score = -log p(x|z); the columns that fit worst",
        "minivae score runs/wine new.csv --n-samples 1000 --out scores.csv",
    )
    score.add_argument("--n-samples", type=int, metavar="K", help="log_likelihood too, from so many importance samples")
    score.add_argument("--worst", type=int, metavar="N", help="name so many columns (default: 3 of a table, else 0)")

    impute = table(
        "impute",
        "fill the missing cells of a table with what is expected there; what was observed stays as it is",
        "minivae impute runs/penguins holes.csv --out full.csv",
    )
    impute.add_argument("--n-samples", type=int, default=200, help="draws of z for each row (default: 200)")

    plot = command("plot", "write the figures of a run again", "minivae plot runs/mnist")
    model(plot)
    plot.add_argument("-o", "--out", help="folder for the figures (default: the run's figures/)")

    gradcheck = command(
        "gradcheck",
        "compare every hand-derived gradient with finite differences; exit 1 if one is wrong",
        "minivae gradcheck",
        "minivae gradcheck --backend all --json",
        "minivae gradcheck --dtype longdouble",
    )
    if typed in (None, "gradcheck"):
        from minivae.kernels import MODULES

        gradcheck.add_argument("--backend", choices=("all", *MODULES), default="numpy", help="default: numpy")
    more = "longdouble: to 1e-11, numpy alone"
    gradcheck.add_argument("--dtype", choices=("float64", "longdouble"), default="float64", help=more)
    as_json(gradcheck)

    grade = command(
        "grade",
        "run the answers to docs/exercises.md, and tell the first number of each step that is wrong; exit 1 if one is",
        "minivae grade --stubs answers.py",
        "minivae grade answers.py --step dense",
    )
    text = "your Python file; it is run as by an import: all that it says, but what is under `if __name__ == ...`"
    grade.add_argument("answers", metavar="FILE", help=text)
    one_of = grade.add_mutually_exclusive_group()
    one_of.add_argument("--stubs", action="store_true", help="write FILE, a new one, to begin with")
    if typed in (None, "grade"):
        from minivae.grading.steps import STEPS

        one_of.add_argument("--step", choices=tuple(STEPS), help="grade this step alone")
    as_json(grade)

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
    if typed in (None, "bench"):
        from minivae.bench.report import add_arguments

        add_arguments(bench)

    as_json(command("backends", "say which backends work here, and why", "minivae backends"))
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    with warnings.catch_warnings():  # which would be told with a place in our source
        warnings.showwarning = lambda message, *_: say(one_line(message))
        if launched()[1] == 1:
            return _main(arguments)
        from minivae.parallel import together

        return together(lambda: _main(arguments))


def _main(arguments: Sequence[str] | None) -> int:
    options = None
    _fill_places()
    try:
        arguments = sys.argv[1:] if arguments is None else arguments
        parser, (rank, size) = build_parser(next((a for a in arguments if not a.startswith("-")), "")), launched()
        with redirect_stdout(sys.stdout if rank == 0 else None), redirect_stderr(sys.stderr if rank == 0 else None):
            options = parser.parse_args(arguments)  # what is wrong in all, or --help, one tells
            if size > 1 and options.run != "train":
                each = "start one, or set MINIVAE_MPI=0 for each to do the whole"
                parser.error(f"{options.command} is for one process, and {size} were started; {each}")
        commands = importlib.import_module("minivae.app.commands")
        status = int(getattr(commands, options.run)(options))
        if sys.stdout is not None:
            sys.stdout.flush()  # here a full disk can still be told
        return status
    except KeyboardInterrupt:
        say("minivae: interrupted")
        if launched()[1] > 1:
            raise SystemExit(130) from None
        return 130
    except TROUBLE as error:
        if options is None or options.debug:
            raise
        if launched()[1] > 1:
            importlib.import_module("minivae.parallel").after_first()
        text = one_line(error)
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
