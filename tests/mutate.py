"""Break the library on purpose, in the ways real VAEs are broken, and see which test notices.

    python tests/mutate.py            every mutation; exit status 1 if one survives
    python tests/mutate.py adam clip  only those whose name contains one of these words

Each mutation edits a copy of the package and runs the tests, the fastest first, until one fails. Most come from bugs seen
in public implementations; those marked "consistent" change a forward and its gradient alike, so that no gradient check
can see them. Not part of `make test` (it takes some minutes), but tests/test_mutations.py checks that each edit still
finds its place.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REFERENCE, PHILOX, CUDA = "kernels/reference.py", "kernels/philox.py", "kernels/cuda/kernels.cu"
TESTS = (
    *(
        "test_gradcheck",
        "test_randomness",
        "kernels/test_contract",
        "test_statistics",
        "test_optimizers",
        "kernels/test_cuda",
    ),
    *("kernels/test_gemm", "test_twin", "test_training", "test_estimator", "app/test_cli"),
)


@dataclass(frozen=True)
class Mutation:
    """name, the file under minivae/, and replacements (old, new); every old text occurs exactly once."""

    name: str
    file: str
    edits: tuple[tuple[str, str], ...]


def mutation(name: str, file: str, *edits: tuple[str, str]) -> Mutation:
    return Mutation(name, file, edits)


SIGMA_Z = "sigma = np.exp(0.5 * logvar)\n    np.multiply(sigma, eps, out=z)"
SIGMA_DZ = "sigma = np.exp(0.5 * logvar)\n    np.multiply(dkl, mu, out=dmu)"

MUTATIONS = [
    # the latent variable
    mutation("sigma = exp(logvar) in the forward pass", REFERENCE, (SIGMA_Z, SIGMA_Z.replace("0.5 * ", ""))),
    mutation(
        "sigma = exp(logvar) in sampling, consistent",
        REFERENCE,
        ("np.multiply(sigma, eps, out=z)", "np.multiply(sigma * sigma, eps, out=z)"),
        ("dlogvar *= sigma\n", "dlogvar *= 2 * sigma * sigma\n"),
    ),
    mutation("other noise in the backward pass", REFERENCE, ("multiply(dz, eps,", "multiply(dz, np.roll(eps, 1, 0),")),
    mutation("logvar gradient without its 1/2", REFERENCE, ("(sigma * sigma - 1)\n    dlogvar *= 0.5", "(sigma * sigma - 1)")),
    mutation("dlogvar from the KL without -1", REFERENCE, ("dkl * (sigma * sigma - 1)", "dkl * (sigma * sigma)")),
    mutation("dz does not reach mu", REFERENCE, ("    dmu += dz\n", "")),
    mutation("KL without its 1/2", REFERENCE, ("    kl -= 1\n    kl *= 0.5\n", "    kl -= 1\n")),
    mutation(
        "KL without its 1/2, consistent",
        REFERENCE,
        ("    kl -= 1\n    kl *= 0.5\n", "    kl -= 1\n"),
        ("dkl = weight[:, None] * dkl_mean", "dkl = 2 * weight[:, None] * dkl_mean"),
    ),
    mutation(
        "KL with the wrong sign, consistent",
        REFERENCE,
        ("    kl -= 1\n    kl *= 0.5\n", "    kl -= 1\n    kl *= -0.5\n"),
        ("dkl = weight[:, None] * dkl_mean", "dkl = -weight[:, None] * dkl_mean"),
    ),
    mutation("beta applied twice in the gradient", REFERENCE, ("dkl_mean[...] = beta", "dkl_mean[...] = beta * beta")),
    mutation("beta applied twice in the reported loss", "network.py", ("recon + beta * float(", "recon + beta * beta * float(")),
    mutation("free bits ignored in the gradient", REFERENCE, ("        dkl_mean[kl_mean < free_bits] = 0\n", "        pass\n")),
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
    mutation("gaussian elementwise: dlogvar without its 1/2", REFERENCE, ("    dlogvar *= 0.5\n    dout *=", "    dout *=")),
    mutation("the 1/B is missing", "network.py", ("np.full(rows, 1 / rows,", "np.full(rows, 1.0,")),
    mutation("a short batch is divided by the full size", "network.py", ("np.full(rows, 1 / rows,", "np.full(rows, 1 / self.capacity,")),
    # optimizers
    mutation("adam without bias correction of m", REFERENCE, ("step_size = learning_rate / (1 - beta1**step)", "step_size = learning_rate")),
    mutation("adam without bias correction of v", REFERENCE, ("root_correction = 1 / math.sqrt(1 - beta2**step)", "root_correction = 1")),
    mutation("adam: v averages |g|", REFERENCE, ("np.multiply(gb, gb, out=tb)", "np.abs(gb, out=tb)")),
    mutation("adam: one step counter behind", "training.py", ("update=self.updates + ahead", "update=self.updates + 1 + ahead")),
    mutation("adamw: decay not scaled by the learning rate", REFERENCE, ("pb *= 1 - learning_rate * weight_decay", "pb *= 1 - weight_decay")),
    mutation("sgd: momentum averages", REFERENCE, ("    m += g\n    if nesterov", "    m += (1 - momentum) * g\n    if nesterov")),
    mutation("sgd: nesterov looks ahead without momentum", REFERENCE, ("learning_rate * momentum, out=g", "learning_rate, out=g")),
    mutation("clipping scales short gradients up", REFERENCE, ("if norm[0] > max_norm:", "if norm[0] > 0:")),
    mutation("clipping measures the squared norm", REFERENCE, ("math.sqrt(np.dot(g, g))", "np.dot(g, g)")),
    mutation("cosine schedule does not reach zero", "optimizers.py", ("0.5 * (1 + math.cos", "0.5 * (1.5 + math.cos")),
    # randomness
    mutation("philox: nine rounds", PHILOX, ("for _ in range(10)", "for _ in range(9)")),
    mutation("philox: keys not bumped", PHILOX, ("key = (key + PHILOX_WEYL) & 0xFFFFFFFF", "key = key & 0xFFFFFFFF")),
    mutation("normals: radius without the factor 2", PHILOX, ("np.sqrt(-2 * np.log(", "np.sqrt(-np.log(")),
    mutation("normals: each one twice", PHILOX, ("radius * np.sin(angle)", "radius * np.cos(angle)")),
    mutation("noise ignores the example", PHILOX, ("np.asarray(examples)[:, None], step", "0, step")),
    mutation("the same noise at every step", "evaluation.py", ('(seed, purpose, Var("step"))', "(seed, purpose, 0)")),
    mutation("the same order in every epoch", "training.py", ("randomness.SHUFFLE, self.epoch)", "randomness.SHUFFLE, 0)")),
    mutation("binarize draws the complement", REFERENCE, ("np.less(u, x, out=x", "np.greater(u, x, out=x")),
    # the GPU, on its emulator, and the products of compiled code
    mutation("cuda: a barrier is missing in the block sum", CUDA, ("    numbers[threadIdx.x] = mine;\n    __syncthreads();\n", "    numbers[threadIdx.x] = mine;\n")),
    mutation("cuda: relu hides NaN", CUDA, ("return x < 0 ? real(0) : x; }", "return x > 0 ? x : real(0); }")),
    mutation("cuda: adam goes on after a NaN", CUDA, ("    if (stop && stop[0]) return;\n    real step_size", "    real step_size")),
    mutation("cuda: a rehearsal records", CUDA, ("    if (stop && stop[0] >= 2) return;\n", "")),
    mutation("cuda: the failed step moves on", CUDA, ("    if (state[0]) return;  //", "    //")),
    mutation("cuda: the product's last rows are left out", CUDA, ("k0 + ka < K ? a[", "k0 + ka < K - K % DEPTH ? a[")),
    mutation("cuda: dlogvar without its 1/2", CUDA, ("real(0.5) * (dz[i] * eps[i]", "(dz[i] * eps[i]")),
    mutation("cublas: factors in the order of C", "kernels/cuda/cublas.py", ("for x in (b, a) for", "for x in (a, b) for")),
    mutation("graph: variables one step late", "kernels/cuda/graph.py", ("np.asarray(values)[ran : ran + count]", "np.asarray(values)[:count]")),
    mutation("graph: adam's scalars at kl's place", "kernels/cuda/graph.py", ("self.places.append(tuple(counts))", "self.places.append((0, 0))")),
    mutation("products: later blocks of k replace the sum", "kernels/numba/gemm.py", ("c_row, block > 0, scratch)", "c_row, False, scratch)")),
    mutation("products: the mask of the last vector is one too long", "kernels/numba/gemm.py", ('at.icmp_signed("<", numbers', 'at.icmp_signed("<=", numbers')),
    # the loop and what surrounds it
    mutation("stale rows: only the first batch is gathered", "kernels/__init__.py", ("self.to_device(rows[i])", "self.to_device(rows[0])")),
    mutation("data are not divided", REFERENCE, ("np.divide(data[rows], divide_by,", "np.divide(data[rows], 1.0,")),
    mutation("the last epoch is kept, not the best", "training.py", ("                self.network.set_parameters(good)\n", "")),
    mutation("held-out rows are trained on", "data/batches.py", ("np.sort(order[held:])", "np.sort(order)")),
    mutation("warm-up counted in steps of the whole run", "training.py", ("position = self.epoch + index", "position = self.step + index")),
    mutation("log-likelihood without - log K", "evaluation.py", ("total - math.log(n_samples)", "total")),
    mutation("log-likelihood without the entropy of q", "evaluation.py", ("(logvar + eps**2 - z**2)", "(eps**2 - z**2)")),
    mutation("decoder means are logits", "evaluation.py", ('if network.arch.likelihood == "bernoulli":', "if False:")),
    mutation("transform returns logvar", "evaluation.py", ("    return mu, logvar\n", "    return logvar, mu\n")),
    mutation("no Glorot: weights ten times too small", "architecture.py", ("limit * (2 * u - 1)", "0.1 * limit * (2 * u - 1)")),
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


def caught_by(mutated: Mutation) -> str | None:
    """The first test that fails, or None when the mutation survives."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ROOT / "minivae", Path(folder) / "minivae", ignore=shutil.ignore_patterns("__pycache__"))
        apply(mutated, Path(folder) / "minivae")
        environment = {**os.environ, "PYTHONPATH": folder, "PYTHONDONTWRITEBYTECODE": "1", "OPENBLAS_NUM_THREADS": "1"}
        environment["MINIVAE_BACKEND"] = "numpy"  # the compiled kernels are held to the reference, which is mutated
        options = ["-x", "-q", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml")]
        for name in TESTS:
            others = (
                "not numba and not cupy" if name == "test_twin" else "not numba"
            )  # a thousand steps on an emulator are slow
            command = [sys.executable, "-m", "pytest", *options, "-k", others, str(ROOT / "tests" / f"{name}.py")]
            # run in the copy's folder: Python looks there first, and finds the mutated package
            result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
            if result.returncode:
                found = re.search(r"^(?:FAILED|ERROR) (\S+)", result.stdout, re.MULTILINE)
                return found[1].partition("tests/")[2] if found else f"{name} (exit status {result.returncode})"
    return None


def main(words: list[str]) -> int:
    chosen = [m for m in MUTATIONS if not words or any(word in m.name for word in words)]
    survivors, begun = [], time.monotonic()
    for i, mutated in enumerate(chosen, 1):
        test = caught_by(mutated)
        print(f"{i:3}/{len(chosen)}  {mutated.name:52} {test or 'SURVIVED'}", flush=True)
        if test is None:
            survivors.append(mutated.name)
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} mutations caught in {time.monotonic() - begun:.0f} s")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
