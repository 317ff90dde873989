"""The same names as reference.py, as compiled loops. A whole program is compiled by encode.py.

This module imports without Numba, so that it can say what is missing; everything else loads when a kernel is first used.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from typing import Any

import numpy as np

from minivae.kernels.reference import synchronize, to_device, to_host  # noqa: F401  (arrays live where NumPy's do)


def availability() -> tuple[bool, str]:
    """Whether this backend works here, and a sentence that says why or why not."""
    if importlib.util.find_spec("numba") is None:
        return False, "numba is not installed; run pip install 'minivae[numba]'"
    try:
        from minivae.kernels.numba.gemm import description
        from minivae.kernels.numba.threads import thread_limit
    except ImportError as error:  # a Numba that does not fit this NumPy
        return False, str(error)
    version = importlib.metadata.version("numba")
    return True, f"Numba {version}, {thread_limit()} threads at most, {description()}"


def compile_program(kernels: Any, program: Any, arrays: Any) -> Any:
    from minivae.kernels.numba.encode import CompiledProgram

    return CompiledProgram(kernels, program, arrays)


def empty(shape: Any, dtype: Any) -> np.ndarray:
    return np.empty(shape, dtype)


# ---- The interface, all rows at once


def _rows() -> Any:
    from minivae.kernels.numba import rows

    return rows


def _scratch(dtype: Any) -> np.ndarray:
    from minivae.kernels.numba.gemm import SCRATCH

    return np.empty(SCRATCH, dtype)


def _flat(array: np.ndarray) -> np.ndarray:
    """Compiled code reads rows as runs of numbers: a strided view is copied."""
    return np.ascontiguousarray(array)


def dense_forward(y, a, x, W, b, activation):
    rows, code = _rows(), _rows().ACTIVATION[activation]
    rows.dense_forward_block(y, a, _flat(x), W, b, code, 0, len(x), 0, len(b), _scratch(W.dtype))


def dense_backward(dx, dW, db, dy, x, a, y, W, activation):
    rows, scratch, x = _rows(), _scratch(W.dtype), _flat(x)
    rows.dense_backward_rows(dy, a, y, rows.ACTIVATION[activation], 0, len(x))
    rows.weight_gradient_block(dW, x, dy, 0, len(dW), scratch)
    rows.bias_gradient(db, dy)
    if dx is not None:
        rows.input_gradient_block(dx, dy, W, 0, len(x), 0, len(W), scratch)


def sample_forward(z, kl, h, eps):
    _rows().sample_forward_rows(z, kl, h, eps, 0, len(z))


def sample_backward(dh, dz, h, eps, dkl_mean, weight):
    _rows().sample_backward_rows(dh, dz, h, eps, dkl_mean, weight, 0, len(dz))


def kl_loss(kl_mean, dkl_mean, kl, weight, beta, free_bits):
    _rows().kl_loss_all(kl_mean, dkl_mean, kl, weight, float(beta), float(free_bits))


def bernoulli_loss(dlogits, nll, logits, x, weight):
    _rows().bernoulli_loss_rows(dlogits, nll, logits, x, weight, 0, len(x))


def gaussian_loss(dmean, dlog_sigma, nll, mean, x, log_sigma, weight):
    rows = _rows()
    rows.sigma_gradient(dlog_sigma, mean, x, log_sigma, weight)
    rows.gaussian_loss_rows(dmean, nll, mean, x, log_sigma, weight, 0, len(x))


def gaussian_elementwise_loss(dout, nll, out, x, weight):
    _rows().gaussian_elementwise_loss_rows(dout, nll, out, x, weight, 0, len(x))


def clip_global_norm(norm, g, max_norm):
    norm[0] = np.sqrt(_rows().squared_norm(g))
    if norm[0] > max_norm:
        _rows().scale(g, g.dtype.type(max_norm / norm[0]))


def sgd_step(p, m, g, learning_rate, momentum, nesterov):
    _rows().sgd_update(p, m, g, float(learning_rate), float(momentum), bool(nesterov))


def adam_step(p, m, v, g, learning_rate, beta1, beta2, epsilon, step, weight_decay):
    numbers = [float(s) for s in (learning_rate, beta1, beta2, epsilon)]
    _rows().adam_update(p, m, v, g, *numbers, int(step), float(weight_decay))


def philox_uniform(u, examples, seed, purpose, step):
    _rows().uniform_rows(u, np.asarray(examples, np.int64), _words(seed), purpose, step, 0, len(u))


def philox_normal(eps, examples, seed, purpose, step):
    _rows().normal_rows(eps, np.asarray(examples, np.int64), _words(seed), purpose, step, 0, len(eps))


def _words(seed: int) -> np.ndarray:
    return np.array([seed & 0xFFFFFFFF, seed >> 32], np.int64)


def gather(x, data, rows, divide_by):
    _rows().gather_rows(x, np.asarray(data[rows]), np.arange(len(rows)), float(divide_by), 0, len(x))


def binarize(x, u):
    _rows().binarize_rows(x, u, 0, len(x))


def record(trace, nll, kl_mean, norm, weight, index):
    _rows().record_all(trace, nll, kl_mean, norm, weight, int(index))
