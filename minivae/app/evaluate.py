"""`minivae evaluate`: what a model is worth on some rows, one line a number with its standard error."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np

from minivae.app.compare import spread
from minivae.app.runs import Part, Run, open_run, pick
from minivae.app.train import learned, say_collapse
from minivae.data.batches import Examples
from minivae.data.checks import require_count
from minivae.data.files import Array, DataError
from minivae.evaluation import annealed, calibration, inference, measures
from minivae.evaluation.measures import Estimate, Measured, mean_of, median_of
from minivae.evaluation.scores import DRAWS
from minivae.fitted import quietly
from minivae.progress import bar, say
from minivae.storage.modelfile import json_text

WORST = 5  # p-values of latents in the table
SAMPLES = 300  # of the model, and as many held-out rows, whose nearest training row is looked for
PRODUCTS = 2 * 10**10  # fewer where it would take more
KNOWN = 60_000  # training rows that the probe knows, at most
TESTED = 50_000_000  # pairs of these and the rows that it is tried on, at most


class Line(NamedTuple):
    """A number: its label in the table, or "", its name in JSON, where its error is `<name>_standard_error`, and a note."""

    label: str
    name: str
    estimate: Estimate
    note: str = ""
    exact: bool = False  # it has no error


@quietly
def evaluate(options: argparse.Namespace) -> int:
    for name in ("limit", "n_samples", "ais", "chains", "calibration"):
        if getattr(options, name) is not None:
            require_count(name, getattr(options, name))
    if options.chains is not None and options.ais is None:
        raise ValueError("--chains are those of --ais; say of how many temperatures, as in --ais 200")
    options.chains = options.chains or annealed.CHAINS
    if options.calibration is not None:
        calibration.chi_square(options.calibration)  # before the work
    run = open_run(options.model)
    vae, dataset, own = run.vae, run.dataset(options.data), options.data is None
    part = pick(run, dataset, options.split, own).first(options.limit)
    examples, n, K = vae.examples(part.data, part.rows, part.told), len(part.rows), options.n_samples
    calibrated = list(_calibrated(run, examples, options))  # first, for it may ask for more rows, or SciPy
    with bar(n * max(K, DRAWS), "draws", not options.quiet) as advance:
        measured = Measured.of(vae.network_, examples, vae.seed_, K, advance)
    if lost := int((~np.isfinite(measured.log_p)).sum()):
        say(f"{lost:,} of {n:,} rows have no finite log p(x), and no mean has one; `minivae score` says which they are")
    lines = [*_bounds(run, measured, K), *_annealed(run, measured, options), *calibrated, *_active(run, measured)]
    if own and part.split != "train":  # else training rows are not known, or are these
        lines += _beside_training(run, part, pick(run, dataset, "train", own), measured)
    _print(options, lines, {
        "data": dataset.name, "split": part.split, "examples": n, "n_samples": K, "latent_dim": vae.latent_dim,
        "binarize": examples.fixed().binarize, "temperatures": options.ais, "chains": options.ais and options.chains,
        "simulated": options.calibration, "objective": vae.settings_["objective"],
        "objective_samples": vae.settings_["n_samples"],
    }, learned(vae.settings_))  # fmt: skip
    return 0


def _bounds(run: Run, measured: Measured, n_samples: int) -> Iterator[Line]:
    """The ELBO in its parts, and the likelihood that it bounds; further bounds of log p(x) stand beside it."""
    network, n = run.vae.network_, len(measured.kl)
    shared = measures.information(measured.h, run.vae.seed_)
    yield Line("ELBO", "elbo", mean_of(measured.elbo), "-(recon + KL)")
    yield Line("  recon", "recon", mean_of(measured.recon), "-log p(x|z)")
    yield Line("  KL", "kl", mean_of(measured.kl))
    note = f"of rows and latents, at most log n = {math.log(n):.3f}"
    note += ": near that, more rows raise it" * bool(shared.mean() > 0.9 * math.log(n))
    yield Line("    mutual information", "mutual_information", mean_of(shared), note)
    note = "KL( q(z) || p(z) ), q(z) the mean of q(z|x)"
    yield Line("    marginal KL", "marginal_kl", mean_of(measured.kl - shared), note)
    note = f"{n_samples:,} importance sample{'s' * (n_samples > 1)}"
    yield Line("log-likelihood", "log_likelihood", mean_of(measured.log_p), note)
    bits = measures.bits_per_dimension(measured.log_p, network, measured.examples)
    yield Line("  bits per dimension", "bits_per_dimension", bits)


def _annealed(run: Run, measured: Measured, options: argparse.Namespace) -> Iterator[Line]:
    """A tighter lower bound of log p(x), and how far off it may be: the gap to an upper one on rows that the model makes."""
    if options.ais is None:
        return
    network, examples, seed, n = run.vae.network_, measured.examples, run.vae.seed_, len(measured.kl)
    side = None if examples.side is None else examples.side[examples.rows]
    with bar(5 * n * options.ais, "annealed chains", not options.quiet) as advance:
        lower = annealed.lower_bound(network, examples, seed, options.ais, options.chains, advance)
        found = annealed.sandwich(network, n, seed, options.ais, options.chains, side, advance)
    note = f"chains of {options.ais:,} temperatures: {options.chains:,}"
    yield Line("annealed lower bound", "annealed_log_likelihood", mean_of(lower), note)
    gap = Estimate(found.gap, found.standard_error)
    rows = "simulated row" if network.arch.missing == "error" else "complete simulated row"
    yield Line("  gap of the sandwich", "annealed_gap", gap, f"to an upper bound, on {n:,} {rows}{'s' * (n > 1)}")


def _calibrated(run: Run, examples: Examples, options: argparse.Namespace) -> Iterator[Line]:
    """Whether q(z|x), weighed as for the log-likelihood, is the posterior of rows that the model makes."""
    if (n := options.calibration) is None:
        return
    K = max(L := calibration.DRAWS - 1, options.n_samples)
    side = None if examples.side is None else examples.side[np.resize(examples.rows, n)]
    with bar(n * K, "simulated rows", not options.quiet) as advance:
        p = calibration.p_values(calibration.ranks(run.vae.network_, n, run.vae.seed_, L, K, side, advance))
    note = f"the smallest, times {len(p)}: ranks of z among {L} of {K} draws, on {n:,} simulated rows"
    yield Line("calibration p-value", "calibration_p", Estimate(calibration.smallest(p), math.nan), note, True)
    few = np.sort(p)[:WORST][-1]
    for j, value in enumerate(p, 1):
        label = f"  of z{j}" * bool(value <= few)
        yield Line(label, f"calibration_p_z{j}", Estimate(float(value), math.nan), exact=True)


def _active(run: Run, measured: Measured) -> Iterator[Line]:
    active = measures.active_units(measured.mu)
    if not math.isnan(active.value):
        say_collapse(int(active.value), run.vae.settings_)
    yield Line("active units", "active_units", active)


def _beside_training(run: Run, part: Part, train: Part, measured: Measured) -> Iterator[Line]:
    """Whether the model repeats rows that it was trained on, and what its latents tell of the labels."""
    vae, n = run.vae, len(part.rows)
    if vae.network_.arch.missing == "error":  # rows with holes are at no distance
        m = measures.spaced(n, min(SAMPLES, PRODUCTS // (len(train.rows) * vae.n_features_in_)))
        y = None if vae.condition_ is None or part.labels is None else part.labels[m]
        held = part.data[part.rows[m]] / measured.examples.divide_by
        grey = vae.network_.arch.likelihood == "bernoulli" and not np.isin(held, (0, 1)).all()  # such rows are no draws
        X = vae.sample(len(m), y=y, noise=not grey, random_state=vae.seed_)
        samples, held_out = np.split(nearest_training(run, np.concatenate([X, held]), train)[2], 2)
        note = f"median distance of {len(m):,} {'decoder means' if grey else 'draws'}"
        yield Line("nearest training row", "sample_distance", median_of(samples), note)
        yield Line("  of held-out rows", "held_out_distance", median_of(held_out), f"of {len(m):,}")
    labels, names = measures.classes(part.labels), measures.classes(train.labels)
    if labels is not None and names is not None:
        some = measures.spaced(len(train.rows), KNOWN)
        m = measures.spaced(n, TESTED // len(some))
        mu = inference.posterior(vae.network_, vae.examples(train.data, train.rows[some], train.told), np.float64)[0]
        right, common = measures.probe(measured.mu[m], labels[m], mu, names[some])
        note = f"of {len(m):,} rows, by {measures.NEIGHBOURS} of {len(some):,} training rows"
        yield Line("k-NN accuracy", "probe_accuracy", mean_of(right), note)
        yield Line("  of the commonest label", "commonest_label_accuracy", mean_of(common))


def nearest_training(run: Run, X: Array, train: Part | None = None) -> tuple[Examples, Array, Array]:
    """The training rows of a run, the place among them of the one nearest to each of X [m, D], and how near that is."""
    vae = run.vae
    if vae.network_.arch.missing != "error":
        raise DataError("rows with missing cells are at no distance from a sample; leave --nearest out")
    train = train or pick(run, run.dataset(), "train", own=True)
    known = vae.examples(train.data, train.rows, train.told)
    return known, *measures.neighbours(X, vae.network_, known)


def _print(options: argparse.Namespace, lines: list[Line], told: dict[str, Any], learned: str) -> None:
    if options.json:
        for line in lines:
            told |= {line.name: line.estimate.value}
            told |= {} if line.exact else {f"{line.name}_standard_error": line.estimate.error}
        print(json_text(told))
        return
    print(f"{told['examples']:,} {told['split']} examples of {told['data']}, nats per example{learned}")
    width = max(len(line.label) for line in lines)
    for label, name, (value, error), note, _ in filter(itemgetter(0), lines):
        shown = spread(value, error, 10)
        if name == "active_units":
            shown = f"{'?' if math.isnan(value) else value} of {told['latent_dim']}".rjust(10) + shown[10:]
        print(f"  {label:{width}}{shown:23} {'(' * bool(note) + note + ')' * bool(note)}".rstrip())
