"""Break the library on purpose, and see which test notices.

    python tests/mutate.py                    every mutation; exit status 1 if one survives
    python tests/mutate.py adam training.py   only those whose name or file contains one of these words
    --only picked | generated, --per-file 20, --jobs 2, --fresh (forget what earlier calls found)

Two kinds. The picked ones below are the ways in which real VAEs are broken: most come from bugs seen in public
implementations; those marked "consistent" change a forward and its gradient alike, so that no gradient check can see
them. The generated ones are a fixed sample of all small edits of each file in TESTS, see mutants.py.

Each is made in a copy of package and tests, which nobody edits meanwhile, and tried by the tests that concern its file until
one fails; a test that never ends has noticed as well. What was found is kept in build/mutants.jsonl as long as neither
package nor those tests change, so a call that was stopped goes on where it was. Not part of `make test`, but
tests/test_mutations.py checks that each edit still finds its place.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

import mutants

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "mutants"
RESULTS = ROOT / "build" / "mutants.jsonl"
COPIED = ("minivae", "tests", "benchmarks", "pyproject.toml")
REFERENCE, PHILOX, CUDA = "kernels/reference.py", "kernels/philox.py", "kernels/cuda/kernels.cu"
CUBLAS = "kernels/cuda/cublas.py"
BOUNDS, NUMBA_BOUNDS = "kernels/bounds.py", "kernels/numba/bounds.py"
COLUMNS, NUMBA_COLUMNS = "kernels/columns.py", "kernels/numba/columns.py"
GRADE, STEPS = "grading/grade.py", "grading/steps.py"
ROWS, INTERPRETER, ENCODE = (f"kernels/numba/{name}.py" for name in ("rows", "interpreter", "encode"))

# The tests that concern a file, the likeliest and cheapest first. They run on one backend only: see `half`.
TESTS = {
    REFERENCE: "test_gradcheck kernels/test_contract test_optimizers test_statistics test_twin test_training",
    PHILOX: "test_randomness kernels/test_contract test_statistics",
    COLUMNS: "test_gradcheck kernels/test_contract test_columns test_twin",
    BOUNDS: "test_bounds test_gradcheck kernels/test_contract test_twin",
    NUMBA_BOUNDS: "kernels/test_contract test_bounds test_twin",
    "kernels/__init__.py": "kernels/test_contract test_optimizers test_training test_estimator app/test_cli",
    "kernels/table.py": "kernels/test_contract kernels/test_real_sizes test_house test_gradcheck",
    "kernels/numba/tile.py": "kernels/test_gemm kernels/test_real_sizes kernels/test_contract",
    "kernels/numba/gemm.py": "kernels/test_gemm kernels/test_real_sizes kernels/test_contract",
    "kernels/numba/rows.py": "kernels/test_real_sizes kernels/test_numba_step kernels/test_contract",
    "kernels/numba/encode.py": "kernels/test_real_sizes kernels/test_numba_step kernels/test_contract",
    "kernels/numba/interpreter.py": "kernels/test_real_sizes kernels/test_numba_step kernels/test_contract",
    NUMBA_COLUMNS: "kernels/test_contract test_twin test_columns",
    "kernels/numba/threads.py": "kernels/test_real_sizes kernels/test_numba_step kernels/test_contract",
    "kernels/numba/tables.py": "kernels/test_real_sizes kernels/test_numba_step kernels/test_contract",
    "kernels/numba/backend.py": "kernels/test_real_sizes kernels/test_numba_step kernels/test_contract",
    "kernels/cuda/launches.py": "kernels/test_contract kernels/test_cuda",
    "kernels/cuda/graph.py": "kernels/test_contract kernels/test_cuda",
    CUBLAS: "kernels/test_contract kernels/test_cuda",
    CUDA: "kernels/test_contract kernels/test_cuda",
    "randomness.py": "test_small_laws test_randomness test_training test_estimator app/test_cli",
    "parameters.py": "test_small_laws test_gradcheck test_optimizers test_twin test_estimator",
    "architecture.py": "test_small_laws test_gradcheck test_optimizers test_counts test_statistics test_twin test_training test_estimator app/test_cli",
    "likelihoods.py": "test_columns test_counts test_small_laws test_estimator",
    "network.py": "test_bounds test_standardize test_gradcheck test_optimizers kernels/test_contract test_statistics test_training test_twin test_estimator",
    "optimizers.py": "test_optimizers test_training test_twin test_estimator app/test_cli",
    "storage/archives.py": "attacks/test_model_files attacks/test_data_files",
    "data/text.py": "data/test_tables data/test_data attacks/test_data_files",
    "data/tables.py": "data/test_tables",
    "data/pictures.py": "data/test_pictures",
    "data/files.py": "test_small_laws data/test_data attacks/test_data_files app/test_cli",
    "data/checks.py": "test_small_laws data/test_data test_counts test_estimator app/test_cli test_settings",
    "data/batches.py": "test_standardize test_small_laws data/test_data test_statistics test_training test_estimator app/test_cli",
    "evaluation/inference.py": "test_small_laws test_kl_tools test_statistics test_counts test_training test_estimator app/test_cli test_finite",
    "evaluation/scores.py": "test_scores test_measures test_columns test_statistics test_estimator app/test_cli test_finite",
    "evaluation/measures.py": "test_measures app/test_evaluate",
    "evaluation/calibration.py": "test_calibration",
    "gradcheck.py": "test_gradcheck",
    "app/evaluate.py": "app/test_evaluate app/test_cli",
    GRADE: "test_grading",
    STEPS: "test_grading",
    "evaluation/samples.py": "test_samples test_columns test_estimator app/test_cli",
    "evaluation/annealed.py": "test_annealed",
    "evaluation/imputation.py": "test_columns test_finite",
    "training.py": "test_bounds test_checkpoints test_small_laws test_kl_tools test_optimizers test_training test_twin test_estimator app/test_cli test_finite",
    "storage/persistence.py": "attacks/test_model_files test_estimator app/test_cli test_finite",
    "storage/durable.py": "faults/test_a_save test_small_laws test_estimator app/test_cli",
    "storage/modelfile.py": "attacks/test_model_files test_small_laws test_estimator app/test_cli test_finite",
    "settings.py": "test_defaults test_small_laws test_optimizers test_counts test_estimator app/test_cli test_settings",
    "storage/checkpoints.py": "test_checkpoints",
    "storage/folders.py": "faults/test_a_folder faults/test_a_training",
    "app/recorder.py": "faults/test_a_training faults/test_processes",
    "forks.py": "test_processes",
    "progress.py": "faults/test_processes test_training",
    "kernels/numba/cache.py": "kernels/test_cache",
    "parallel.py": "test_parallel",
    "trouble.py": "faults/test_a_training test_parallel",
    "fitted.py": "test_estimator test_scores test_samples test_columns test_finite",
    "conventions.py": "test_sklearn",
    "app/results.py": "app/test_results",
    "figures/panels.py": "figures/test_panels",
    "figures/grids.py": "figures/test_panels",
    "figures/layout.py": "figures/test_plots",
    "app/writing.py": "app/test_results",
    "explorer/contents.py": "test_explorer",
    "explorer/page.py": "test_explorer",
    "explorer/steps.py": "test_explorer",
    "exchange/onnx.py": "exchange/test_onnx",
    "exchange/torch.py": "exchange/test_state_dict exchange/test_weights exchange/test_pickles",
    "exchange/pickles.py": "exchange/test_state_dict exchange/test_pickles",
    "exchange/safetensors.py": "exchange/test_weights exchange/test_pickles",
    "exchange/module.py": "exchange/test_state_dict",
    "exchange/foreign.py": "exchange/test_weights exchange/test_pickles",
    "estimator.py": "test_standardize test_checkpoints test_small_laws test_optimizers test_counts test_estimator test_scores test_samples test_training app/test_cli",
}  # fmt: skip
PICKED_ONLY = (
    CUBLAS,
    "gradcheck.py",
    "data/tables.py",
    "data/pictures.py",
    "conventions.py",
    "app/results.py",
    "figures/panels.py",
    "figures/grids.py",
    "figures/layout.py",
    "app/writing.py",
    "app/evaluate.py",
    GRADE,
    STEPS,
    "explorer/contents.py",
    "explorer/page.py",
    "parallel.py",
    "trouble.py",
    "explorer/steps.py",
    "exchange/onnx.py",
    "exchange/torch.py",
    "exchange/pickles.py",
    "exchange/safetensors.py",
    "exchange/module.py",
    "exchange/foreign.py",
)


@dataclass(frozen=True)
class Mutation:
    """name, the file under minivae/, and replacements (old, new); every old text occurs exactly once."""

    name: str
    file: str
    edits: tuple[tuple[str, str], ...]


def mutation(name: str, file: str, *edits: tuple[str, str]) -> Mutation:
    return Mutation(name, file, edits)


SIGMA_Z = "sigma = np.exp(0.5 * logvar)\n    z[...]"
SIGMA_DZ = "np.exp(0.5 * logvar), _by_example(dz, h)"

MUTATIONS = [
    # the latent variable
    mutation("sigma = exp(logvar) in the forward pass", REFERENCE, (SIGMA_Z, SIGMA_Z.replace("0.5 * ", ""))),
    mutation(
        "sigma = exp(logvar) in sampling, consistent",
        REFERENCE,
        ("(sigma[:, None] * _by_example", "(sigma[:, None] ** 2 * _by_example"),
        ("dlogvar *= sigma\n", "dlogvar *= 2 * sigma * sigma\n"),
    ),
    mutation("other noise in the backward pass", REFERENCE, ("dz, _by_example(eps, h), out", "dz, _by_example(np.roll(eps, 1, 0), h), out")),
    mutation("logvar gradient without its 1/2", REFERENCE, ("(sigma * sigma - 1)\n    dlogvar *= 0.5", "(sigma * sigma - 1)")),
    mutation("dlogvar from the KL without -1", REFERENCE, ("dkl * (sigma * sigma - 1)", "dkl * (sigma * sigma)")),
    mutation("dz does not reach mu", REFERENCE, ("    dmu += dz.sum(axis=1)\n", "")),
    mutation("KL without its 1/2", REFERENCE, ("    kl -= 1\n    kl *= 0.5\n", "    kl -= 1\n")),
    mutation(
        "KL without its 1/2, consistent",
        REFERENCE,
        ("    kl -= 1\n    kl *= 0.5\n", "    kl -= 1\n"),
        ("= weight[:, None] * dkl_mean,", "= 2 * weight[:, None] * dkl_mean,"),
    ),
    mutation(
        "KL with the wrong sign, consistent",
        REFERENCE,
        ("    kl -= 1\n    kl *= 0.5\n", "    kl -= 1\n    kl *= -0.5\n"),
        ("= weight[:, None] * dkl_mean,", "= -weight[:, None] * dkl_mean,"),
    ),
    mutation("beta applied twice in the gradient", REFERENCE, ("dkl_mean[...] = beta", "dkl_mean[...] = beta * beta")),
    mutation("beta applied twice in the reported loss", "network.py", ("recon + beta * abs(", "recon + beta * beta * abs(")),
    mutation("free bits ignored in the gradient", REFERENCE, ("        dkl_mean[kl_mean < free_bits] = 0\n", "        pass\n")),
    mutation("the KL pushed down below its capacity too", REFERENCE, ("        dkl_mean *= np.sign(np.maximum(kl_mean, free_bits).sum() - capacity)\n", "        pass\n")),
    mutation("a capacity for each latent by itself", REFERENCE, ("np.sign(np.maximum(kl_mean, free_bits).sum() - capacity)", "np.sign(kl_mean - capacity)")),
    mutation("numba: dkl_mean is beta whatever the capacity", ENCODE, ("for scalar in (free_bits, capacity))", "for scalar in (free_bits,))")),
    mutation("CUDA: capacity is left out of a recorded step", "kernels/cuda/launches.py", ("if isinstance(capacity, Var) or capacity > 0:", "if not isinstance(capacity, Var) and capacity > 0:")),
    mutation("beta rises once, whatever kl_cycles", "training.py", ("position * self.kl_cycles % epochs / self.kl_cycles", "position")),
    # activations and the dense layer
    mutation("relu derivative skipped", REFERENCE, ("    dy *= y > 0\n", "")),
    mutation("leaky relu: another slope backward", REFERENCE, ("np.multiply(dy, 0.01, out", "np.multiply(dy, 0.1, out")),
    mutation("tanh derivative from the wrong side", REFERENCE, ("dy *= 1 - y * y", "dy *= 1 - a * a")),
    mutation("sigmoid derivative y (1 + y)", REFERENCE, ("dy *= y * (1 - y)", "dy *= y * (1 + y)")),
    mutation("softplus derivative with the wrong sign of y", REFERENCE, ("-np.expm1(-y)", "np.expm1(y)")),
    mutation("gelu derivative without the factor 3", REFERENCE, ("(1 + 3 * GELU_K * square)", "(1 + GELU_K * square)")),
    mutation("bias gradient dropped", REFERENCE, ("np.add.reduce(dy, axis=0, out=db)", "db[...] = 0")),
    mutation("bias gradient is a mean", REFERENCE, ("np.add.reduce(dy, axis=0, out=db)", "np.mean(dy, axis=0, out=db)")),
    mutation("weight gradient accumulates over steps", REFERENCE, ("np.matmul(x.T, dy, out=dW)", "dW += x.T @ dy")),
    mutation("the bias is not added", REFERENCE, ("    a += b\n", "")),
    # likelihoods
    mutation("bernoulli: mean over pixels", REFERENCE, ("np.add.reduce(terms, axis=1, out=nll)", "np.mean(terms, axis=1, out=nll)")),
    mutation(
        "bernoulli: mean over pixels, consistent",
        REFERENCE,
        ('    nll -= np.einsum("bd,bd->b", x, logits)\n', '    nll -= np.einsum("bd,bd->b", x, logits)\n    nll /= x.shape[1]\n'),
        ("    dlogits -= x\n", "    dlogits -= x\n    dlogits /= x.shape[1]\n"),
    ),
    mutation("bernoulli: gradient against the data's sign", REFERENCE, ("    dlogits -= x\n", "    dlogits += x\n")),
    mutation("gaussian: log sigma missing", REFERENCE, ("D * (log_sigma + 0.5 * LOG_2PI)", "D * (0.5 * LOG_2PI)")),
    mutation("gaussian: log 2 pi missing, consistent", REFERENCE, ("D * (log_sigma + 0.5 * LOG_2PI)", "D * log_sigma")),
    mutation("gaussian: dlog_sigma with the wrong sign", REFERENCE, ("np.dot(weight, D - squares)", "np.dot(weight, squares - D)")),
    mutation("the 1/B is missing", "network.py", ('("weight", rows, share)', '("weight", rows, 1)')),
    mutation("a short batch is divided by the full size", "network.py", ('share = 1 / (of or rows)', 'share = 1 / (of or self.capacity)')),
    # columns and missing cells
    mutation("cells: the mask on the wrong side", COLUMNS, ("seen = observed[:, c : c + n] > 0", "seen = observed[:, c : c + n] == 0")),
    mutation("cells: the gradient is divided by how many were observed", COLUMNS, ("dout *= weight[:, None]", "dout *= (weight / np.maximum(observed.sum(axis=1), 1))[:, None]")),
    mutation(
        "cells: a row's loss is a mean over those observed, consistent",
        COLUMNS,
        ("    dout *= weight[:, None]\n", "    weight = weight / np.maximum(observed.mean(axis=1), 1e-9)\n    nll /= np.maximum(observed.mean(axis=1), 1e-9)\n    dout *= weight[:, None]\n"),
    ),
    mutation("observe: a missing cell is 0 in the table's units", COLUMNS, ("    x -= shift\n", "    x[observed == 0] = 0\n    x -= shift\n"), ("    x /= scale\n    x[observed == 0] = 0\n", "    x /= scale\n")),
    mutation("observe: the encoder is told what is missing", COLUMNS, ("inputs[:, D:] = observed[", "inputs[:, D:] = 1 - observed[")),
    mutation("units: log scale left out, consistent", COLUMNS, ("nll[:] = observed @ log_scale", "nll[:] = 0")),
    mutation("units: log scale of missing cells too, consistent", COLUMNS, ("nll[:] = observed @ log_scale", "nll[:] = log_scale.sum()")),
    mutation("units: a fixed sigma is in units of the spread", "architecture.py", ("np.log(self.sigma / self.column_units()[1])", "np.log(self.sigma + 0 * self.column_units()[1])")),
    mutation("categorical: the sum runs over the rows", COLUMNS, ("total = e.sum(axis=1, keepdims=True)", "total = e.sum(axis=0, keepdims=True)")),
    mutation("categorical: softmax without the maximum", COLUMNS, ("top = a.max(axis=1, keepdims=True)", "top = 0")),
    mutation("categorical: its mean is read from other outputs", "likelihoods.py", ("out[:, self.output : self.output + self.count]", "out[:, self.column : self.column + self.count]")),
    mutation("categorical: its mean without the maximum", "likelihoods.py", ("np.exp(a - a.max(axis=-1, keepdims=True))", "np.exp(a)")),
    mutation("poisson by columns: log x! in the gradient", COLUMNS, ("return np.where(x > FEW, many, few), rate - x, 0", "return np.where(x > FEW, many, few), rate - x + np.log(few_factorial(x)), 0")),
    mutation("dispersion: its gradient without the weight", COLUMNS, ("    dt *= weight[:, None]\n", "")),
    mutation("dispersion: its gradient is a mean over the rows", COLUMNS, ("np.add.reduce(part, axis=0, out=total)", "np.mean(part, axis=0, out=total)")),
    mutation("sigma's floor has slope 1", COLUMNS, ("np.where(t < LEAST, e, 1) / (1 + e)", "np.ones_like(e)")),
    mutation("sigma has no floor, consistent", COLUMNS, ("    return LEAST + np.maximum(t - LEAST, 0) + np.log1p(e), np.where(t < LEAST, e, 1) / (1 + e)", "    return t + 0 * e, np.ones_like(e)")),
    mutation("continuous bernoulli: a sign of the series", COLUMNS, ("1 / 30240, -1 / 720, 1 / 12)", "1 / 30240, 1 / 720, 1 / 12)")),
    mutation(
        "negative binomial: variance m + r m^2, consistent",
        COLUMNS,
        ("np.exp(np.minimum(t, MOST)), a - np.minimum(t, MOST)", "np.exp(-np.minimum(t, MOST)), a + np.minimum(t, MOST)"),
        ("(r * (share - slope) - da) * (t < MOST)", "-(r * (share - slope) - da) * (t < MOST)"),
    ),
    mutation("negative binomial: the mean is r e^a, consistent", COLUMNS, ("a - np.minimum(t, MOST)", "a + 0 * t"), ("(r * (share - slope) - da) * (t < MOST)", "r * (share - slope) * (t < MOST)")),
    mutation("negative binomial: draws with 1 / r for r", "evaluation/samples.py", ("generator.gamma(r, 1 / r, a.shape)", "generator.gamma(1 / r, r, a.shape)")),
    mutation("draws of a gaussian column have no units", "evaluation/samples.py", ("in_dtype(shift + scale * x,", "in_dtype(x,")),
    mutation("numba: a missing category is learned from", NUMBA_COLUMNS, ("group(da, a, values, w * seen[0])", "group(da, a, values, w)")),
    mutation("numba: sigma's floor has slope 1", NUMBA_COLUMNS, ("(one - r * r) * sigmoid(above)", "(one - r * r)")),
    mutation("numba: softmax without the maximum", NUMBA_COLUMNS, ("        top = max(top, a[c])\n", "        top = real(0)\n")),
    mutation("CUDA: a missing category is learned from", CUDA, ("da[k] = seen[0] > 0 ? w * (exp_of", "da[k] = seen[0] >= 0 ? w * (exp_of")),
    mutation("CUDA: log scale of missing cells too, consistent", CUDA, ("            dt_of[k] = 0;\n", "            dt_of[k] = 0;\n            if (seen[k] <= 0) mine += log_scale[c + k];\n")),
    mutation("CUDA: sigma's floor has slope 1", CUDA, ("(real(1) - r * r) * (above < 0 ? e : real(1)) / (real(1) + e)", "(real(1) - r * r)")),
    mutation("imputation: weights that do not add up to 1", "evaluation/imputation.py", ("result / total", "result")),
    mutation("imputation: weights without their maximum", "evaluation/imputation.py", ("new = np.maximum(top[piece], np.nan_to_num(log_w, nan=-np.inf)[:, None])", "new = np.zeros_like(top[piece])")),
    mutation("imputation: the weight of a draw before is kept as it was", "evaluation/imputation.py", ("result[piece] = result[piece] * before +", "result[piece] = result[piece] +")),
    mutation("imputation: a category by its least probable value", "evaluation/imputation.py", (".argmax(axis=1)", ".argmin(axis=1)")),
    mutation("imputation: what was observed is replaced as well", "evaluation/imputation.py", ("np.where(np.isnan(X), filled, X)", "filled")),
    mutation("scores: a missing cell is an anomaly", "evaluation/scores.py", ("np.where(observed > 0, table, 0)", "table")),
    mutation("scores: a column's units left out", "evaluation/scores.py", ("[0] + log_scale[run.columns]", "[0]")),
    # importance-weighted bounds
    mutation("bound: log K forgotten, consistent", BOUNDS, ("np.log(total / w.shape[1])", "np.log(total)")),
    mutation(
        "bound: the density of q forgotten, consistent",
        BOUNDS,
        ("np.sum(eps * eps - z * z, axis=1).reshape(B, -1) + np.sum(logvar, axis=1, keepdims=True)", "-np.sum(z * z, axis=1).reshape(B, -1)"),
        ("        dlogvar -= beta * c.sum(axis=1)\n", "        pass\n"),
    ),
    mutation("bound: q's sigma forgotten", BOUNDS, (" + np.sum(logvar, axis=1, keepdims=True)", "")),
    mutation("bound: weights that do not add up to 1", BOUNDS, ("(w / total)).ravel()", "w).ravel()")),
    mutation("bound: every sample counts the same", BOUNDS, ("(w / total)).ravel()", "np.full_like(w, 1 / w.shape[1])).ravel()")),
    mutation("bound: the decoder's weights are squared", BOUNDS, ("(w / total)).ravel()", "(w / total) ** 2).ravel()")),
    mutation("bound: the largest weight is not taken out", BOUNDS, ("top = log_w.max(axis=1, keepdims=True)", "top = np.zeros((B, 1))")),
    mutation("bound: weights are shared by the batch", BOUNDS, ("total = w.sum(axis=1, keepdims=True)", "total = w.sum() / B")),
    mutation("bound: beta does not weigh the densities", BOUNDS, ("log_w = beta * 0.5 * ratio", "log_w = 0.5 * ratio")),
    mutation("bound: the samples of an example lie apart", BOUNDS, ("np.repeat(x, len(y) // len(x), axis=0)", "np.tile(x, (len(y) // len(x), 1))")),
    mutation("iwae: the entropy of q has no gradient", BOUNDS, ("        dlogvar -= beta * c.sum(axis=1)\n", "        pass\n")),
    mutation("iwae: the score of q is left out, as by stl", BOUNDS, ('if estimator != "iwae":\n        g', 'if True:\n        g')),
    mutation("iwae: the prior has no gradient", BOUNDS, ("g = beta * c * z.reshape(B, K, -1) + dz", "g = 0 * c * z.reshape(B, K, -1) + dz")),
    mutation("dreg: w in place of w^2", BOUNDS, ("g *= 1 - beta + beta * c / weight[:, None, None]", "g *= 1")),
    mutation("dreg: a factor that beta does not know", BOUNDS, ("g *= 1 - beta + beta * c /", "g *= c /")),
    mutation("stl: the score without its sigma", BOUNDS, ("g -= beta * c * e / sigma[:, None]", "g -= beta * c * e")),
    mutation("bound: a loss is not weighed", BOUNDS, ("    dout *= dnll[:, None]\n", "")),
    mutation("bound: infinity times 0", BOUNDS, ("    dout[dnll == 0] = 0  # whatever it was: infinity times 0 is no number\n", "")),
    mutation("bound: a loss is weighed twice", "network.py", ('loss_program(arch, K, "one")', 'loss_program(arch, K, k("weight", K))')),
    mutation("bound: a held-out loss is the ELBO", "training.py", ("        if not aim.bound.weighted:\n", "        if True:\n")),
    mutation("bound: one sample in training", "training.py", ("Bound(self.objective, self.n_samples,", "Bound(self.objective, 1,")),
    mutation("annealed: equal rows have one noise", "evaluation/annealed.py", ("self.words = examples.rows.astype(np.int64)", "self.words = 0 * examples.rows.astype(np.int64)")),
    mutation("numba: dreg is stl", NUMBA_BOUNDS, ("if estimator == DREG else one", "if False else one")),
    mutation("numba: weights by the first sample", NUMBA_BOUNDS, ("if dnll[s] > top or dnll[s] != dnll[s] else top", "if s == r * K else top")),
    mutation("CUDA: dreg is stl", CUDA, ("if (estimator == 2) g *=", "if (estimator == 3) g *=")),
    mutation("CUDA: a barrier is missing before the weights", CUDA, ("    __syncthreads();  // all know", "    // all know")),
    mutation("stages do not grow", "optimizers.py", ("np.log1p(passed * (growth - 1)) / math.log(growth)", "passed")),
    # optimizers
    mutation("adam without bias correction of m", REFERENCE, ("step_size = learning_rate / (1 - beta1**step)", "step_size = learning_rate")),
    mutation("adam without bias correction of v", REFERENCE, ("root_correction = 1 / math.sqrt(1 - beta2**step)", "root_correction = 1")),
    mutation("adam: v averages |g|", REFERENCE, ("np.multiply(gb, gb, out=tb)", "np.abs(gb, out=tb)")),
    mutation("adam: one step counter behind", "training.py", ("\"update\": self.updates + ahead", "\"update\": self.updates + 1 + ahead")),
    mutation("adamw: decay not scaled by the learning rate", REFERENCE, ("pb *= 1 - learning_rate * weight_decay", "pb *= 1 - weight_decay")),
    mutation("sgd: momentum averages", REFERENCE, ("    m += g\n    if nesterov", "    m += (1 - momentum) * g\n    if nesterov")),
    mutation("sgd: nesterov looks ahead without momentum", REFERENCE, ("learning_rate * momentum, out=g", "learning_rate, out=g")),
    mutation("clipping scales short gradients up", REFERENCE, ("if norm[0] > max_norm:", "if norm[0] > 0:")),
    mutation("clipping measures the squared norm", REFERENCE, ("norm[0] = math.sqrt(squares)", "norm[0] = squares")),
    mutation("cosine schedule does not reach zero", "optimizers.py", ("0.5 * (1 + math.cos", "0.5 * (1.5 + math.cos")),
    # randomness
    mutation("philox: nine rounds", PHILOX, ("for _ in range(10)", "for _ in range(9)")),
    mutation("philox: keys not bumped", PHILOX, ("key = (key + PHILOX_WEYL) & 0xFFFFFFFF", "key = key & 0xFFFFFFFF")),
    mutation("normals: radius without the factor 2", PHILOX, ("np.sqrt(-2 * np.log(", "np.sqrt(-np.log(")),
    mutation("normals: each one twice", PHILOX, ("radius * np.sin(angle)", "radius * np.cos(angle)")),
    mutation("noise ignores the example", PHILOX, ("np.asarray(examples)[:, None], step", "0, step")),
    mutation("the same noise at every step", "evaluation/inference.py", ('(seed, purpose, Var("step"))', "(seed, purpose, 0)")),
    mutation("the same order in every epoch", "training.py", ("randomness.SHUFFLE, self.epoch)", "randomness.SHUFFLE, 0)")),
    mutation("binarize draws the complement", REFERENCE, ("np.less(u, x, out=x", "np.greater(u, x, out=x")),
    # the compiled step at real sizes: column shares with an offset, second blocks of dW, batches in pieces, missing threads
    mutation("dx of a column share ignores its first row of W", ROWS, ("at(b, c0, 0) if transpose_b", "at(b, 0, 0) if transpose_b")),
    mutation("bias of a column share from index 0", ROWS, ("b[first:last], activation", "b[0 : last - first], activation")),
    mutation("a column share of W begins at column 0", ROWS, ("else at(b, 0, c0), at(c, r0, c0)", "else at(b, 0, 0), at(c, r0, c0)")),
    mutation("the second block of dW reads the first columns of x", ROWS, ("a.shape[0], at(a, 0, r0)", "a.shape[0], at(a, 0, 0)")),
    mutation("adam updates the first block for every block", ROWS, ("p, m, v, g = p[first:last], m[first:last]", "p, m, v, g = p[: last - first], m[first:last]")),
    mutation("all rows keep their squares in one place", ROWS, ("squares[r] = total", "squares[0] = total")),
    mutation("a row is lost between two pieces", ENCODE, ("return [(first, last, float(last - first))", "return [(first + (unit == 1 < first), last, float(last - first))")),
    mutation("the last share leaves out what is no whole vector", ENCODE, ("* unit, n)).tolist()", "* unit, n // unit * unit)).tolist()")),
    mutation("a block begins before the phase above it is done", INTERPRETER, ("            wait(plan.state, end, plan.give_way)\n", "")),
    # the GPU, on its emulator, and the products of compiled code
    mutation("cuda: a barrier is missing in the block sum", CUDA, ("    numbers[threadIdx.x] = mine;\n    __syncthreads();\n", "    numbers[threadIdx.x] = mine;\n")),
    mutation("cuda: relu hides NaN", CUDA, ("return x < 0 ? real(0) : x; }", "return x > 0 ? x : real(0); }")),
    mutation("cuda: adam goes on after a NaN", CUDA, ("    if (stop && stop[0]) return;\n    real step_size", "    real step_size")),
    mutation("cuda: a rehearsal records", CUDA, ("    if (stop && stop[0] >= 2) return;\n", "")),
    mutation("cuda: the failed step moves on", CUDA, ("    if (state[0]) return;  //", "    //")),
    mutation("cuda: the product's last rows are left out", CUDA, ("k0 + ka < K ? a[", "k0 + ka < K - K % DEPTH ? a[")),
    mutation("cuda: dlogvar without its 1/2", CUDA, ("real(0.5) * (dlogvar * sigma + dkl", "(dlogvar * sigma + dkl")),
    mutation("cublas: factors in the order of C", "kernels/cuda/cublas.py", ("for x in (b, a) for", "for x in (a, b) for")),
    mutation("graph: variables one step late", "kernels/cuda/graph.py", ("np.asarray(values)[ran : ran + count]", "np.asarray(values)[:count]")),
    mutation("graph: adam's scalars at kl's place", "kernels/cuda/graph.py", ("self.places.append(tuple(counts))", "self.places.append((0, 0))")),
    mutation("products: later blocks of k replace the sum", "kernels/numba/gemm.py", ("i1 - i0, block > 0", "i1 - i0, False")),
    mutation("products: the mask of the last vector is one too long", "kernels/numba/tile.py", ('at.icmp_signed("<", numbers', 'at.icmp_signed("<=", numbers')),
    # the loop and what surrounds it
    mutation("stale rows: only the first batch is gathered", "kernels/__init__.py", ("self.to_device(rows[i])", "self.to_device(rows[0])")),
    mutation("data are not divided", REFERENCE, ("np.divide(data[rows], divide_by,", "np.divide(data[rows], 1.0,")),
    mutation("the last epoch is kept, not the best", "training.py", ("                self.network.set_parameters(self.best.parameters)\n", "")),
    mutation("held-out rows are trained on", "data/batches.py", ("np.sort(order[held:])", "np.sort(order)")),
    mutation("warm-up counted in steps of the whole run", "training.py", ("position = self.epoch + index", "position = self.step + index")),
    mutation("log-likelihood without - log K", "evaluation/scores.py", ("math.log(len(eps)) - total", "-total")),
    mutation("log-likelihood without the entropy of q", "evaluation/scores.py", ("(logvar + e**2 - z**2)", "(e**2 - z**2)")),
    mutation("ELBO of one draw where many were asked for", "evaluation/scores.py", ("in enumerate(eps):\n", "in enumerate(eps[:1]):\n")),
    mutation("grade: inputs may be overwritten", GRADE, ("argument.flags.writeable = False", "argument.flags.writeable = True")),
    mutation("grade: a mistake is named by the first array alone", GRADE, ("if count > most and", "if count > most and best is None and")),
    mutation("grade: a mistake is named whatever its numbers", GRADE, ("best, most = None, list(mine).index(array)", "best, most = None, -1")),
    mutation("grade: a second call is not compared", GRADE, ("mine, once()[0], right", "mine, mine, right")),
    mutation("grade: a mistake is named that makes wrong what is right", GRADE, ("contradicted = any(", "contradicted = all(")),
    mutation("grade: a mistake is named that shows in a case before", GRADE, ("given in cases[:-1]]", "given in ()]")),
    mutation("grade: what was never written is what it was before", GRADE, ('startswith("numba")', 'startswith("")')),
    mutation("grade: train is judged by its last parameters alone", GRADE, ("found, wanted = seen | found, {name: known[name] for name in seen} | wanted", "pass")),
    mutation("grade: an interrupt does not say where", GRADE, ("frames[-1].name, frames[-1].lineno)", "frames[0].name, None)")),
    mutation("grade: no bound is near the ends of float64", STEPS, ("log_w + low) for low in lows]", "log_w - 5)]")),
    mutation("annealed: the gradient's sign", "evaluation/annealed.py", ("u - sigma * (z + dz)", "u - sigma * (z - dz)")),
    mutation("annealed: leapfrog begins with a whole step", "evaluation/annealed.py", ("momentum + s / 2 * (beta", "momentum + s * (beta")),
    mutation("annealed: log q forgotten", "evaluation/annealed.py", ("(logvar + u * u - z * z)", "(-z * z)")),
    mutation("annealed: every move is accepted", "evaluation/annealed.py", ("uniform[:, 0] < chance", "uniform[:, 0] < 1")),
    mutation("annealed: all chains adapt their step on the way", "evaluation/annealed.py", ("chains(chains, FORWARD), betas, steps, progress)", "chains(chains, FORWARD), betas, steps, progress, adapt=True)")),
    mutation("annealed: backwards from the prior", "evaluation/annealed.py", ("BACKWARD, z[which][place])", "BACKWARD)")),
    mutation("no second evaluation in float64", "evaluation/inference.py", ("        if lost.size and", "        if False and")),
    mutation("rows without a number pass", "evaluation/inference.py", ("    if lost.size:\n        fits", "    if False:\n        fits")),
    mutation("nothing looks at the last update", "training.py", ("if self.network.not_finite() or not", "if not")),
    mutation("a loss that is no number is recorded", "training.py", ("not_finite() or not math.isfinite(loss):", "not_finite():")),
    mutation("parameters that are no numbers are saved", "storage/persistence.py", ("        vae.network_.require_finite()\n        parameters", "        parameters")),
    mutation("packed records are read as they lie", "data/checks.py", ("if not sparse and whole and array", "if not sparse and array")),
    mutation("numbers of any size are taken", "settings.py", ("not -(2**63) <= value < 2**64", "False")),
    mutation("pixels binarized by their row's number", "evaluation/scores.py", ("[zlib.crc32(row.tobytes()) for row in grey]", "rows")),
    mutation("each row's own noise is that of the first row", "evaluation/scores.py", ('drawing.put("rows", rows)', 'drawing.put("rows", 0 * rows)')),
    mutation("log-likelihood of K draws divided by all draws", "evaluation/scores.py", ("math.log(n_samples) - table[:, 2]", "math.log(len(eps)) - table[:, 2]")),
    mutation("calibration without importance weights", "evaluation/calibration.py", ("(log_w + gumbel.T)", "(gumbel.T)")),
    mutation("ranks counted from above", "evaluation/calibration.py", ("(posterior < z[at])", "(posterior > z[at])")),
    mutation("a rank among equal numbers is the lowest", "evaluation/calibration.py", ("np.floor(chance[at] * (equal + 1)).astype(int)", "0 * equal")),
    mutation("gradcheck: a direction across the gradient is an error", "gradcheck.py", (", abs(analytic), typical)", ", abs(analytic))")),
    mutation("the mixture of all q(z|x) without its 1/n", "evaluation/measures.py", ("(math.log(n) - top - np.log(total))", "-(top + np.log(total))")),
    mutation("few rows' deviations stand for those of all unscaled", "evaluation/measures.py", (" * (n / len(rows))", "")),
    mutation("bits per dimension of the values as the model reads them", "evaluation/measures.py", ("seen @ density * math.log(examples.divide_by) - log_p", "-log_p")),
    mutation("the probe takes the nearest row in each block alone", "evaluation/measures.py", ("order % k, axis=1), start + order - k)", "0 * order, axis=1), start + order - k)")),
    mutation("antithetic noise twice the same", "evaluation/scores.py", ("np.stack([eps, -eps]", "np.stack([eps, eps]")),
    mutation("the noise of x is that of z", "evaluation/samples.py", ("(seed, randomness.OBSERVE, call)", "(seed, randomness.PRIOR, call)")),
    mutation("samples spread by the variance", "evaluation/samples.py", ("log_sigma = 0.5 * out[:", "log_sigma = out[:")),
    mutation("every call of sample is the first", "fitted.py", ("self.sample_calls_ += random_state is None", "self.sample_calls_ += 0")),
    mutation("decoder means are logits", "evaluation/inference.py", ("    if isinstance(mean, str):\n", "    if False:\n")),
    mutation("transform returns logvar", "evaluation/inference.py", ("    return mu, logvar\n", "    return logvar, mu\n")),
    mutation("no Glorot: weights ten times too small", "architecture.py", ("limit * (2 * u - 1)", "0.1 * limit * (2 * u - 1)")),
    mutation("a checkpoint forgets which epoch was best", "storage/checkpoints.py", ('"best": best.parameters}', '"best": trainer.network.get_parameters()}')),
    mutation("a checkpoint counts an epoch that was cut short", "storage/checkpoints.py", ('self.over |= moment == "cut"', "self.over |= False")),
    mutation("a checkpoint forgets the data", "estimator.py", ("if fingerprint(examples, val) != self.trained_on_:", "if False:")),
    mutation("a resumed training has fresh moments", "estimator.py", ('names += ["moments", "updates"]', "names += []")),
    mutation("a resumed epoch begins again", "training.py", ("first = 0 if self.begun is None else len(self.begun)", "first = 0")),
    mutation("a rename comes before the data", "storage/durable.py", ("            os.fsync(file.fileno())\n", "")),
    mutation("nobody looks at the sha256", "storage/modelfile.py", ("stored is not None and (stored != digest(entries)).any()", "False")),
    mutation("two runs hold one folder", "storage/folders.py", ("fcntl.LOCK_EX | fcntl.LOCK_NB", "fcntl.LOCK_SH | fcntl.LOCK_NB")),
    mutation("--overwrite trains over the old run", "storage/folders.py", ("            self.place = self.path / NEW\n", "            self.place = self.path\n")),
    mutation("SIGTERM does not wait for the step", "trouble.py", ("        trainer.signal = number\n", "        at_once(number)\n")),
    mutation("a fork waits for nobody", "forks.py", ("    _forking.add(me)\n    try:\n", "    _forking.add(me)\n    return\n    try:\n")),
    mutation("compiled code is run as it is found", "kernels/numba/cache.py", ("if hashlib.sha256(data[32:]).digest() == data[:32]:", "if True:")),
    mutation("a bar that fails ends the training", "progress.py", ("    def advance(count: int) -> None:\n        with suppress(Exception):\n            if made", "    def advance(count: int) -> None:\n        if True:\n            if made")),
    mutation("standardized columns keep their units", "data/batches.py", ("x if self.units is None else (x - self.units[0]) / self.units[1]", "x")),
    mutation("grey values have a density's scale", "network.py", ('log_scale[run.columns] *= run.likelihood != "bernoulli"', "pass")),
    mutation("held-out rows are read in units of their own", "estimator.py", ('"units": units, "slack": SLACK', '"units": None, "slack": SLACK')),
    mutation("the label is trained on", "data/tables.py", ("if name == label or name in out", "if name in out")),
    mutation("a category's values as they come", "data/tables.py", ("tuple(sorted(counts))", "tuple(sorted(counts, reverse=True))")),
    mutation("icons are black on black", "data/pictures.py", ("background = 0 if found.light > LIGHT * found.alpha else 255", "background = 0")),
    mutation("photographs lie on their side", "data/pictures.py", ("turned = ImageOps.exif_transpose(image)", "turned = image")),
    mutation("columns in another order pass", "conventions.py", ("elif not np.array_equal(seen, known):", "elif set(seen) != set(known):")),
    mutation("small data have large batches", "settings.py", ("1 << min(7, max(4,", "1 << min(7, max(7,")),
    mutation("the column with the largest numbers fits worst", "app/results.py", (" - log_sigmas(vae)", "")),
    mutation("a page's label can end its script", "explorer/page.py", ('.replace("<", "\\\\u003c")', "")),
    mutation("a page may load what it likes", "explorer/page.py", ("default-src 'none'; ", "")),
    mutation("a page's weights are half whatever is lost", "explorer/contents.py", ("(error <= VISIBLE or", "(True or")),
    mutation("each process weighs its rows by its own batch", "parallel.py", ("self.bound(len(piece), len(batch))", "self.bound(len(piece), len(piece))")),
    mutation("the gradient of one process is that of all", "parallel.py", ("        self.ranks.add(total)\n", "")),
    mutation("free bits are counted by the rows of one process", "parallel.py", ("terms[...] = kernels.to_device(few[1:].astype(network.dtype))", "pass")),
    mutation("the pieces of a batch take each other's place", "parallel.py", ("total += kernels.to_host(g)", "total[...] = kernels.to_host(g)")),
    mutation("one process is asked to stop, and stops alone", "parallel.py", ("getattr(mpi, how))", "getattr(mpi, how)) if how != 'MAX' else None")),
    mutation("each process takes all processors", "parallel.py", ("len(all_of_us) // here.Get_size()", "len(all_of_us)")),
    mutation("only the first process tells what was no number", "trouble.py", ("int(ranks.add(np.array([first]), \"MIN\")[0])", "first")),
    mutation("a weight's slider does not start where the weight is", "explorer/steps.py", ("linspace(-REACH", "linspace(0")),
    mutation("a step on the page is of other rows", "explorer/steps.py", ("rows[:ROWS])\n    loss", "rows[-ROWS:])\n    loss")),
    mutation("an estimator of no loss is drawn as its slope", "explorer/steps.py", ("None if gradient.error is None else ", "")),
    mutation("a page's points are of other rows", "explorer/contents.py", ('"row": chosen.astype', '"row": np.sort(chosen).astype')),
    mutation("ONNX brings times in seconds to their units in float32", "exchange/onnx.py", ('"DOUBLE" if wide else "FLOAT"', '"FLOAT"'), ("shift, scale = arch.column_units()\n        x = g", "shift, scale = arch.column_units().astype(np.float32)\n        x = g")),
    mutation("a label unknown to the model is no label in ONNX", "exchange/onnx.py", ('self("Div", same, self("ReduceSum", same, np.array([1]), keepdims=1))', "same")),
    mutation("mu and logvar of others change places", "exchange/foreign.py", ('[means[0], spreads[MU.sub("*", means[0])]]', '[spreads[MU.sub("*", means[0])], means[0]]')),
    mutation("a tensor may reach beyond its storage", "exchange/torch.py", (">= storage.size:", "> 2 * storage.size:")),
    mutation("a shape may be larger than its file", "exchange/torch.py", ("or math.prod(shape) > storage.size:", "or False:")),
    mutation("an optimizer's moments are weights", "exchange/torch.py", (' and not {"state", "param_groups"} <= value.keys()', "")),
    mutation("an OrderedDict is no dict", "exchange/pickles.py", ("made.name in DICTS", "False")),
    mutation("a tensor that is quantized is passed over", "exchange/torch.py", ('value.name.startswith("torch._utils ")', "False")),
    mutation("a .pt of ours forgets which model it is", "exchange/torch.py", ("if config else {}", "if not config else {}")),
    mutation("what a larger module calls the VAE is a part of names", "exchange/foreign.py", ('self.prefix = common[1] if common else ""', 'self.prefix = ""')),
    mutation("sigma of ONNX is in the network's units", "exchange/onnx.py", ('(unit if name == "sigma" else 1)', "1")),
    mutation("bfloat16 is the lower half", "exchange/safetensors.py", (" << 16)", ")")),
    mutation("the pasted module has the other gelu", "exchange/module.py", ('approximate="tanh"', "")),
    mutation("results without the number of their row", "app/writing.py", ('else {"row": rows}', "else {}")),
    mutation("an ellipse of half its sigma", "figures/panels.py", ("2 * sigmas * sigma.T", "sigmas * sigma.T")),
    mutation("a hole is wherever the prior is denser", "figures/panels.py", ("sigma) < p / 10)", "sigma) < p)")),
    mutation("a hole is judged by a q as wide as the picture's cells", "figures/panels.py", ("sigma) < p / 10)", "np.hypot(sigma, reach / 80)) < p / 10)")),
    mutation("the lines around q hold less than they say", "figures/panels.py", ("np.cumsum(ranked) * (at[1] - at[0]) ** 2", "np.cumsum(ranked) / ranked.sum() * 0.9")),
    mutation("names that differ at their ends are cut there", "figures/layout.py", ("if len(set(cut)) == len(set(names)):", "if cut:")),
    mutation("latents are named as training ended, not as it was kept", "figures/panels.py", ('if record.get("kept")] or [-1]', "if False] or [-1]")),
    mutation("the median rows are the next best", "figures/grids.py", ("(len(score) - each) // 2", "each")),
]  # fmt: skip


def apply(mutated: Mutation, package: Path) -> None:
    """Edit the copy; an edit that does not find its place exactly once is an error of this list."""
    path = package / mutated.file
    text = path.read_text()
    for old, new in mutated.edits:
        if text.count(old) != 1:
            raise ValueError(f"{mutated.name}: {old!r} occurs {text.count(old)} times in {mutated.file}")
        text = text.replace(old, new)
    path.write_text(text)


# ---- One mutation and its tests


@dataclass(frozen=True)
class Job:
    """A mutation to be tried: what it is called, its file under minivae/, and that file's text with it; none: as it is."""

    name: str
    file: str
    text: str | None = None
    mutant: mutants.Mutant | None = None


def half(file: str) -> tuple[str, str]:
    """MINIVAE_BACKEND, and which of the tests that run on every backend: the one that this file belongs to."""
    words = {"numpy": "[numpy", "numba": "[numba", "cupy": "[cupy"}
    own = "numba" if file.startswith("kernels/numba/") else "cupy" if file.startswith("kernels/cuda/") else "numpy"
    others = " and ".join(f"not {word}" for name, word in words.items() if name != own)
    return "numba" if own == "numba" else "numpy", others  # cupy is asked for by name, and runs on an emulator


def digest(*parts: str | bytes) -> str:
    return hashlib.sha256(b"\0".join(p.encode() if isinstance(p, str) else p for p in parts)).hexdigest()[:16]


def state(base: Path, file: str) -> str:
    """A word that changes with the package, with the tests of this file, and with what all tests share."""
    own = {base / "tests" / f"{name}.py" for name in TESTS[file].split()}
    shared = {p for p in (base / "tests").rglob("*") if not p.name.startswith(("test_", "mut", "equivalent"))}
    paths = own | {p for p in shared if p.is_file()} | {p for p in (base / "minivae").rglob("*") if p.is_file()}
    return digest(TESTS[file], *(p.read_bytes() for p in sorted(paths)))


@dataclass
class Workers:
    """Folders with a copy of package and tests, each lent to one test run at a time, and the runs under way."""

    base: Path
    scratch: Path
    folders: queue.Queue = field(default_factory=queue.Queue)
    running: set[subprocess.Popen] = field(default_factory=set)

    def start(self, count: int) -> None:
        for i in range(count):
            folder = BUILD / str(i)  # the same folder each time, for Numba's cache goes by the path
            for part in COPIED:
                copy(self.base / part, folder / part)
            (self.scratch / str(i)).mkdir()
            self.folders.put(folder)

    def stop(self) -> None:
        for process in list(self.running):
            end(process)

    def run(self, job: Job, limit: float) -> tuple[str, float]:
        """The first test that fails, "" if none does, and how long it took. Longer than the limit counts as failed."""
        folder = self.folders.get()
        path, kept = folder / "minivae" / job.file, self.base / "minivae" / job.file
        try:
            if job.text is not None:
                path.write_text(job.text)
            begun = time.monotonic()
            return self.tests(folder, job, limit), time.monotonic() - begun
        finally:
            shutil.copy2(kept, path)
            self.folders.put(folder)

    def tests(self, folder: Path, job: Job, limit: float) -> str:
        backend, choice = half(job.file)
        scratch = self.scratch / folder.name
        cache = folder / "numba"
        if job.text is not None and job.file.startswith("kernels/"):  # compiled into what the cache holds
            cache = Path(tempfile.mkdtemp(dir=scratch))
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MINIVAE_")}
        environment |= {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": str(scratch)}
        environment |= {"OPENBLAS_NUM_THREADS": "1", "NUMBA_CACHE_DIR": str(cache), "MINIVAE_BACKEND": backend}
        environment["HYPOTHESIS_STORAGE_DIRECTORY"] = str(scratch / "hypothesis")
        options = ["-x", "-q", "-p", "no:cacheprovider", "--hypothesis-seed=0", "-c", "pyproject.toml", "-k", choice]
        files = [f"tests/{name}.py" for name in TESTS[job.file].split()]
        with tempfile.TemporaryFile("w+", dir=scratch) as output:
            # in the copy's folder: Python looks there first, and finds the mutated package; with a session of its own, so
            # that all that the tests have started ends with it
            process = subprocess.Popen(
                [sys.executable, "-m", "pytest", *options, *files],
                **{"cwd": folder, "env": environment, "start_new_session": True},
                **{"stdin": subprocess.DEVNULL, "stdout": output, "stderr": subprocess.STDOUT},
            )
            self.running.add(process)
            limit_memory(process)
            try:
                status = process.wait(limit)
            except subprocess.TimeoutExpired:
                return f"no end within {limit:.0f} s"
            finally:
                end(process)
                self.running.discard(process)
                if cache.parent == scratch:
                    shutil.rmtree(cache, ignore_errors=True)
            output.seek(0)
            found = re.search(r"^(?:FAILED|ERROR) (?:tests/)?(\S+)", output.read(), re.MULTILINE)
            return "" if status == 0 else found[1] if found else f"exit status {status}"


def end(process: subprocess.Popen) -> None:
    """End a test run and all that it has started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL) if os.name == "posix" else process.kill()
    process.wait()


def limit_memory(process: subprocess.Popen) -> None:
    """A mutant may ask for more memory than there is; where the system can tell, it gets none."""
    with contextlib.suppress(ImportError, AttributeError, OSError):
        import resource

        resource.prlimit(process.pid, resource.RLIMIT_AS, (2**33, 2**33))


def copy(source: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy2(source, target)


# ---- All of them


def jobs(base: Path, words: list[str], only: str, per_file: int) -> Iterator[Job]:
    """The chosen mutations of the package as it lies in `base`; those that are known to change nothing left out."""
    known = mutants.equivalent()
    for picked in MUTATIONS if only != "generated" else []:
        if not words or any(word in picked.name or word in picked.file for word in words):
            with tempfile.TemporaryDirectory() as folder:
                copy(base / "minivae" / picked.file, Path(folder) / picked.file)
                apply(picked, Path(folder))
                yield Job(picked.name, picked.file, (Path(folder) / picked.file).read_text())
    for file in TESTS if only != "picked" else []:
        if file not in PICKED_ONLY:
            source = (base / "minivae" / file).read_text()
            for m in mutants.sample(mutants.mutants(file, source), per_file):
                name = f"{file}:{m.line} {m.kind}"
                if m.key not in known and (not words or any(word in name for word in words)):
                    yield Job(name, file, m.apply(source), m)


def known_results(fresh: bool) -> dict[str, dict]:
    if fresh or not RESULTS.exists():
        RESULTS.unlink(missing_ok=True)
        return {}
    lines = [json.loads(line) for line in RESULTS.read_text().splitlines() if line.endswith("}")]
    return {line["key"]: line for line in lines}


def try_all(workers: Workers, todo: dict[str, tuple[Job, float]], results: dict[str, dict], count: int) -> None:
    """Run them side by side, each with its limit, and add what comes out to the results and to their file."""
    RESULTS.parent.mkdir(exist_ok=True)
    with ThreadPoolExecutor(count) as pool, RESULTS.open("a") as file:
        futures = {pool.submit(workers.run, job, limit): (key, job) for key, (job, limit) in todo.items()}
        try:
            for i, future in enumerate(as_completed(futures), 1):
                (key, job), (test, seconds) = futures[future], future.result()
                results[key] = {"key": key, "name": job.name, "caught_by": test, "seconds": round(seconds, 1)}
                file.write(json.dumps(results[key]) + "\n")
                file.flush()
                test = test or ("SURVIVED" if job.text else "passed")
                print(f"{i:3}/{len(todo)} {seconds:6.1f} s  {job.name:52} {test}", flush=True)
        finally:  # whoever interrupts us leaves no test behind, and nothing on record that did not end by itself
            pool.shutdown(wait=False, cancel_futures=True)
            workers.stop()


def report(chosen: dict[str, Job], results: dict[str, dict]) -> bool:
    """The table by file and the survivors; whether there are none."""
    width = max(map(len, TESTS))
    print(f"\n{'file':{width}}  mutants  killed  survived  killed %")
    survivors = [(key, job) for key, job in chosen.items() if not results[key]["caught_by"]]
    for file in [f for f in TESTS if any(job.file == f for job in chosen.values())] + [""]:
        here = [job for job in chosen.values() if job.file.startswith(file)]
        lost = sum(job.file.startswith(file) for _, job in survivors)
        share = 100 * (len(here) - lost) / len(here)
        print(f"{file or 'all':{width}}  {len(here):7}  {len(here) - lost:6}  {lost:8}  {share:7.1f}%")
    for _, job in survivors:
        print(f"\nSURVIVED  {job.name}")
        if job.mutant:
            print(f"  {job.mutant.key}\n  - {job.mutant.old}\n  + {job.mutant.new}")
    return not survivors


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Break the library on purpose, and see which test notices.")
    parser.add_argument("words", nargs="*", help="only mutations whose name or file contains one of these")
    parser.add_argument("--only", choices=("picked", "generated"), default="")
    parser.add_argument("--per-file", type=int, default=20, help="generated mutants of a file (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="side by side (default: one per processor)")
    parser.add_argument("--fresh", action="store_true", help="forget what earlier calls have found")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    base, begun = BUILD / "base", time.monotonic()
    for part in COPIED:
        copy(ROOT / part, base / part)
    states = {file: state(base, file) for file in TESTS}
    chosen = {
        digest(states[job.file], job.file, job.text): job
        for job in jobs(base, options.words, options.only, options.per_file)
    }
    results = known_results(options.fresh)
    # first the tests without a mutation: they have to pass, and show how long they take
    plain = {job.file: digest(states[job.file], *half(job.file)) for key, job in chosen.items() if key not in results}
    first = {
        key: (Job(f"no mutation, tests of {file}", file), 1800.0)
        for file, key in plain.items()
        if key not in results or results[key]["caught_by"]
    }
    with tempfile.TemporaryDirectory() as scratch:
        workers = Workers(base, Path(scratch))
        workers.start(options.jobs)
        try_all(workers, first, results, options.jobs)
        for key in plain.values():
            if test := results[key]["caught_by"]:
                raise SystemExit(f"{results[key]['name']}: {test} fails as it is")
        limits = {file: 60 + 4 * results[key]["seconds"] for file, key in plain.items()}
        todo = {key: (job, limits[job.file]) for key, job in chosen.items() if key not in results}
        print(f"{len(chosen)} mutations, {len(chosen) - len(todo)} of them known from before", flush=True)
        try_all(workers, todo, results, options.jobs)
    passed = report(chosen, results)
    every = {m.key for file in TESTS for m in mutants.mutants(file, (base / "minivae" / file).read_text())}
    for key, rest in mutants.equivalent().items():
        if key not in every:
            print(f"equivalent_mutants.txt names a mutant that no longer exists: {key} {rest}")
    print(f"\n{time.monotonic() - begun:.0f} s")
    return 0 if passed else 1


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit("stopped; the next call goes on from here")
