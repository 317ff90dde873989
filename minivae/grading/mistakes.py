"""Wrong answers that people give: each is the right answer with an edit, and the words that name it.

A student's numbers are compared with those of the edited answer on the same inputs, so that no mistake is named that was not
made. Most were found in public VAEs, see the bugs in docs/derivations.md. The words name the mistake and not the answer.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import Any


def text(name: str) -> str:
    """stubs.txt, the file to begin with, or answers.txt"""
    return files("minivae.grading").joinpath(name).read_text(encoding="utf-8")


def right_answers() -> str:
    """A whole answer file: what the stubs begin with, and the answers."""
    return text("stubs.txt").partition("# ---- ")[0] + text("answers.txt")


@cache
def wrong(name: str, *edits: str) -> Callable[..., Any]:
    """The function with these edits of the answers: old, new, old, new, ... Every old text stands there once."""
    source, names = right_answers(), dict[str, Any]()
    for old, new in zip(edits[::2], edits[1::2]):
        source = source.replace(old, new)
    exec(compile(source, "answers.txt", "exec", dont_inherit=True), names)
    return names[name]  # type: ignore[no-any-return]


SIGMOID, RELU, ACTIVE = "0.5 * (1 + np.tanh(0.5 * a))", "return np.maximum(a, 0)", "np.tanh(x @ W + b)"
NLL = "return (softplus - x * a).sum(axis=1), sigmoid(a) - x"
LOG_P = "return -(x * np.log({0}) + (1 - x) * np.log({1})).sum(axis=1), sigmoid(a) - x"
Z, KL = "return mu + np.exp(logvar / 2) * eps, ", "0.5 * (mu**2 + np.exp(logvar) - logvar - 1)"
DMU, DLOGVAR = "dmu = dz + dkl * mu", "dlogvar = dz * eps * sigma / 2 + dkl * (sigma**2 - 1) / 2"
DKL, LOSS = "dh = sample_backward(dz, 1 / B, h, eps)", "return (nll.sum() + kl.sum()) / B, gradient"
M, V, M_HAT, V_HAT = "m += 0.1 * (g - m)", "v += 0.001 * (g * g - v)", "m / (1 - 0.9**t)", "v / (1 - 0.999**t)"
STEP, EPOCH, ORDER = "m_hat / (np.sqrt(v_hat) + 1e-8)", "for _ in range(epochs):\n", "rng.permutation(len(data))"
DB, POISSON = "x.T @ da, da.sum(axis=0)", "return (np.exp(a) - x * a + log_factorial).sum(axis=1), np.exp(a) - x"
LOG_W = "return 0.5 * (logvar + eps**2 - z**2).sum(axis=2) - nll"
BOUND = "np.logaddexp.reduce(log_w, axis=1) - np.log(log_w.shape[1])"
SHIFTED = "(np.log(np.exp(log_w - {0}).mean(axis=1)) + {0}{1})"
W, SUM = "np.exp(log_w - log_w.max(axis=1, keepdims=True))", "    w /= w.sum(axis=1, keepdims=True)\n"
G, DREG = "g = w[:, :, None] * (dz + z)\n", "g = w[:, :, None] ** 2 * (dz + z - eps / sigma)"
ENTROPY, RETURN_W = "dlogvar = 0.5 * (g * eps * sigma - w[:, :, None])", "return w, np.hstack"

MISTAKES: dict[str, tuple[tuple[str, ...], ...]] = {
    "sigmoid": (
        ("exp(a) overflows for a large a, and infinity / infinity is no number", SIGMOID, "np.exp(a) / (1 + np.exp(a))"),
        ("the sign of a is wrong: this falls from 1 to 0", SIGMOID, "1 / (1 + np.exp(a))"),
        ("this is tanh", SIGMOID, "np.tanh(a)"),
    ),
    "sigmoid_backward": (
        ("dy is missing: this is the derivative of sigmoid alone", "dy * y * (1 - y)", "y * (1 - y)"),
        ("this is the derivative of tanh", "dy * y * (1 - y)", "dy * (1 - y**2)"),
        ("y is sigmoid(a) already, and went through sigmoid a second time", "dy * y * (1 - y)", "dy * sigmoid(y) * (1 - sigmoid(y))"),
    ),
    "relu": (
        ("this is the mask alone", RELU, "return 1.0 * (a > 0)"),
    ),
    "relu_backward": (
        ("dy passes where the unit was off, at y = 0: there is no mask, or it is y >= 0, which always holds", "dy * (y > 0)", "dy * 1"),
        ("the mask was made from dy: it says whether the unit was on, not which sign its gradient has", "dy * (y > 0)", "dy * (dy > 0)"),
        ("dy is missing: this is the mask alone", "dy * (y > 0)", "1.0 * (y > 0)"),
    ),
    "dense": (
        ("the activation is missing", ACTIVE, "x @ W + b"),
        ("the bias is missing", ACTIVE, "np.tanh(x @ W)"),
    ),
    "dense_backward": (
        ("the activation's derivative is missing: dy is used as da", "da = dy * (1 - y**2)", "da = dy"),
        ("y is tanh(a) already, and went through tanh a second time", "da = dy * (1 - y**2)", "da = dy * (1 - np.tanh(y) ** 2)"),
        ("this has the derivative of the sigmoid, and the layer has tanh", "da = dy * (1 - y**2)", "da = dy * y * (1 - y)"),
        ("dx is made from dy, without the activation's derivative", "da @ W.T, x.T", "dy @ W.T, x.T"),
        ("dW is transposed", DB, "da.T @ x, da.sum(axis=0)"),
        ("dW is a mean over the batch: where 1/B belongs, dy has it already", DB, "x.T @ da / len(x), da.sum(axis=0)"),
        ("dW is made from dy, without the activation's derivative", DB, "x.T @ dy, da.sum(axis=0)"),
        ("db is a mean over the batch: where 1/B belongs, dy has it already", DB, "x.T @ da, da.mean(axis=0)"),
        ("db is not summed over the batch", DB, "x.T @ da, da"),
        ("db is made from dy, without the activation's derivative", DB, "x.T @ da, dy.sum(axis=0)"),
    ),
    "bernoulli": (
        ("the sign of nll is wrong: this is log p(x)", NLL, "return -(softplus - x * a).sum(axis=1), sigmoid(a) - x"),
        ("nll is a mean over the pixels", NLL, "return (softplus - x * a).mean(axis=1), sigmoid(a) - x"),
        ("nll is not summed over the pixels", NLL, "return softplus - x * a, sigmoid(a) - x"),
        ("the logarithm is taken of a probability that was rounded", NLL, "p = 1 / (1 + np.exp(-a))\n    return -(x * np.log(p) + (1 - x) * np.log(1 - p)).sum(axis=1), p - x"),
        ("exp(a) overflows for large logits", "np.maximum(a, 0) + np.log1p(np.exp(-np.abs(a)))", "np.log(1 + np.exp(a))"),
        *((f"the probability is kept {e} away from 0 and 1, as by clipping it: nll cannot grow as it should", NLL, LOG_P.format(f"np.clip(sigmoid(a), {e}, 1 - {e})", f"np.clip(sigmoid(-a), {e}, 1 - {e})")) for e in ("1e-6", "1e-7", "1e-8", "1e-10", "1e-12")),
        *((f"{e} is added to the probability: another nll, which cannot grow as it should", NLL, LOG_P.format(f"sigmoid(a) + {e}", f"sigmoid(-a) + {e}")) for e in ("1e-6", "1e-7", "1e-8")),
        ("the logarithm is cut off at -100, as PyTorch's BCELoss does", NLL, LOG_P.format("np.maximum(sigmoid(a), np.exp(-100))", "np.maximum(sigmoid(-a), np.exp(-100))")),
        ("the sign of da is wrong", NLL, "return (softplus - x * a).sum(axis=1), x - sigmoid(a)"),
        ("da has p (1 - p) once too often: by the logit it cancels", NLL, "p = sigmoid(a)\n    return (softplus - x * a).sum(axis=1), (p - x) * p * (1 - p)"),
        ("da is divided by the batch size, and nll is not", NLL, "return (softplus - x * a).sum(axis=1), (sigmoid(a) - x) / len(x)"),
        ("da is the gradient with respect to the probability, not to the logit", NLL, "p = sigmoid(a)\n    return (softplus - x * a).sum(axis=1), (p - x) / (p * (1 - p))"),
    ),
    "sample": (
        ("sigma = exp(logvar) was taken; logvar is log sigma^2", Z, "return mu + np.exp(logvar) * eps, "),
        ("logvar itself was taken for sigma", Z, "return mu + logvar * eps, "),
        ("h was split as [logvar | mu]", "def sample(h, eps):\n    mu, logvar", "def sample(h, eps):\n    logvar, mu"),
        ("the KL lacks its 1/2", KL, KL[6:]),
        ("the sign of the KL is wrong", KL, f"-{KL}"),
        ("logvar has the wrong sign in the KL", KL, KL.replace("- logvar", "+ logvar")),
        ("the KL is summed over the latent dimensions already", KL, f"({KL}).sum(axis=1)"),
        ("the KL lacks its -1: it is not 0 where q is the prior", KL, KL.replace(" - 1", "")),
        ("the KL takes sigma where sigma^2 belongs", KL, KL.replace("np.exp(logvar)", "np.exp(logvar / 2)")),
    ),
    "sample_backward": (
        ("this is the gradient for sigma = exp(logvar)", DLOGVAR, DLOGVAR.replace("sigma / 2", "sigma**2")),
        ("the KL's gradient with respect to logvar lacks its 1/2", DLOGVAR, DLOGVAR.replace("- 1) / 2", "- 1)")),
        ("the gradient of z with respect to logvar lacks its 1/2", DLOGVAR, DLOGVAR.replace("sigma / 2", "sigma")),
        ("dlogvar lacks the KL's -1: it draws sigma to 0", DLOGVAR, DLOGVAR.replace(" - 1", "")),
        ("sigma is missing from the path of logvar through z", DLOGVAR, DLOGVAR.replace("* sigma ", "")),
        ("this is the gradient with respect to sigma, not to logvar", DLOGVAR, "dlogvar = dz * eps + dkl * (sigma - 1 / sigma)"),
        ("the path from logvar to the loss through z is missing", DLOGVAR, "dlogvar = dkl * (sigma**2 - 1) / 2"),
        ("the path from logvar to the loss through kl is missing", DLOGVAR, "dlogvar = dz * eps * sigma / 2"),
        ("the path from mu to the loss through kl is missing", DMU, "dmu = dz"),
        ("the path from mu to the loss through z is missing", DMU, "dmu = dkl * mu"),
        ("the sign of the KL's gradient is wrong", DMU, "dkl = -dkl\n    dmu = dz + dkl * mu"),
        ("dkl is missing: it multiplies what the KL adds, in both halves", DMU, "dkl = 1\n    dmu = dz + mu"),
        ("the sign of the KL's gradient with respect to logvar is wrong", DLOGVAR, DLOGVAR.replace("sigma**2 - 1", "1 - sigma**2")),
        ("the halves are exchanged: dh is [dmu | dlogvar], as h is", "[dmu, dlogvar]", "[dlogvar, dmu]"),
    ),
    "loss_and_gradient": (
        ("the loss is a sum over the batch, not a mean", LOSS, "return nll.sum() + kl.sum(), gradient"),
        ("the sign of the loss is wrong: this is the ELBO, which is maximized", LOSS, "return -(nll.sum() + kl.sum()) / B, gradient"),
        ("the loss lacks the KL", LOSS, "return nll.sum() / B, gradient"),
        ("the loss takes recon - kl", LOSS, "return (nll.sum() - kl.sum()) / B, gradient"),
        ("the KL is a mean over the latent dimensions, while recon is a sum", LOSS, "return (nll.sum() + kl.sum() / 2) / B, gradient"),
        ("recon is a mean over the pixels, while the KL is a sum", LOSS, "return (nll.sum() / 64 + kl.sum()) / B, gradient"),
        ("sigma = exp(logvar) was taken for z, while the KL takes logvar for log sigma^2", Z, "return mu + np.exp(logvar) * eps, "),
        ("the mean over the batch was taken twice", LOSS, "return (nll.sum() + kl.sum()) / B, gradient / B"),
        ("1/B is missing: the gradient is a sum over the batch, and the loss a mean", LOSS, "return (nll.sum() + kl.sum()) / B, gradient * B"),
        ("1/B is missing where dlogits begins", "    dlogits = dlogits / B\n", ""),
        ("1/B is missing where dkl begins", DKL, "dh = sample_backward(dz, 1, h, eps)"),
        ("the KL has no gradient", DKL, "dh = sample_backward(dz, 0, h, eps)"),
        ("the sign of the KL's gradient is wrong", DKL, "dh = sample_backward(dz, -1 / B, h, eps)"),
        ("the noise of the backward pass belongs to other examples of the batch", DKL, "dh = sample_backward(dz, 1 / B, h, np.roll(eps, 1, axis=0))"),
        ("the activation's derivative is missing in the hidden layers", "da = dy * (1 - y**2)", "da = dy"),
        ("the gradient is that for sigma = exp(logvar)", DLOGVAR, DLOGVAR.replace("sigma / 2", "sigma**2")),
    ),
    "adam": (
        ("m is as it was: change it in place, since m = ... only gives another array its name", M, "m = m + 0.1 * (g - m)"),
        ("v is as it was: change it in place, since v = ... only gives another array its name", V, "v = v + 0.001 * (g * g - v)"),
        ("beta and 1 - beta are exchanged", M, "m += 0.9 * (g - m)"),
        ("m has v's beta and v has m's", M, "m += 0.001 * (g - m)", V, "v += 0.1 * (g * g - v)", M_HAT, "m / (1 - 0.999**t)", V_HAT, "v / (1 - 0.9**t)"),
        ("v is the mean of g, not of its square", V, "v += 0.001 * (g - v)"),
        ("p is as it was: change it in place, since p = ... only gives another array its name", "p -= learning_rate", "p = p - learning_rate"),
        ("m has no bias correction", M_HAT, "m"),
        ("v has no bias correction", V_HAT, "v"),
        ("neither m nor v has its bias correction", M_HAT, "m", V_HAT, "v"),
        ("the bias correction is one step behind: t counts from 1", M_HAT, "m / (1 - 0.9 ** (t - 1))", V_HAT, "v / (1 - 0.999 ** (t - 1))"),
        ("the bias correction is one step ahead: t counts from 1 already", M_HAT, "m / (1 - 0.9 ** (t + 1))", V_HAT, "v / (1 - 0.999 ** (t + 1))"),
        ("epsilon stands under the root", STEP, "m_hat / np.sqrt(v_hat + 1e-8)"),
        ("the root of v is missing", STEP, "m_hat / (v_hat + 1e-8)"),
        ("p goes up the gradient", "p -= learning_rate", "p += learning_rate"),
    ),
    "train": (
        ("the parameters have not been trained", EPOCH, "for _ in range(0):\n"),
        ("every epoch has the same order: the rows are shuffled once, or never", ORDER, "np.arange(len(data))"),
        ("the noise is drawn before the order", ORDER, f"(noise := rng.normal(size=(len(data), 2)), {ORDER})[1]", "rng.normal(size=(len(x), 2))", "noise[start : start + 32]"),
        ("m and v begin at 0 again in every epoch", EPOCH, f"{EPOCH}        m, v = np.zeros_like(p), np.zeros_like(p)\n"),
        ("this is m, and p is asked for", "    return p\n", "    return m\n"),
    ),
    "poisson": (
        ("nll lacks log x!: the gradient does not see it, but the probabilities do not sum to 1", POISSON, POISSON.replace(" + log_factorial", "")),
        ("lgamma(x) is the logarithm of (x - 1)!", "math.lgamma(value + 1)", "math.lgamma(value)"),
        ("a is the logarithm of the rate, and was taken for the rate", POISSON, "return (a - x * np.log(a) + log_factorial).sum(axis=1), 1 - x / a"),
        ("da is the gradient with respect to the rate, not to its logarithm", POISSON, POISSON.replace(", np.exp(a) - x", ", 1 - x / np.exp(a)")),
    ),
    "log_weight": (
        ("log q(z|x) is forgotten", LOG_W, "return -0.5 * (z**2).sum(axis=2) - nll"),
        ("log p(z) is forgotten", LOG_W, LOG_W.replace(" - z**2", "")),
        ("both densities of z are forgotten: this is log p(x|z)", LOG_W, "return -nll"),
        ("logvar is missing from log q(z|x)", LOG_W, LOG_W.replace("logvar + ", "")),
        ("the sign of nll is wrong: log p(x|z) is -nll", LOG_W, LOG_W.replace("- nll", "+ nll")),
        ("the KL in closed form stands where the densities of the drawn z belong", LOG_W, f"mu = h[:, None, : z.shape[2]]\n    return -({KL}).sum(axis=2) - nll"),
        ("the densities lack their 1/2", LOG_W, LOG_W.replace("0.5 * ", "")),
        ("log p(z) and log q(z|x) have each other's sign", LOG_W, LOG_W.replace("0.5", "-0.5")),
    ),
    "bound": (
        ("the largest log w of all examples was taken out: the weights of the others are rounded to 0", BOUND, SHIFTED.format("log_w.max()", "")),
        ("less was taken out than the largest log w of the example: exp overflows", BOUND, SHIFTED.format("log_w.min(axis=1, keepdims=True)", "[:, 0]")),
        ("log K is forgotten: this is the logarithm of a sum, not of a mean", " - np.log(log_w.shape[1])", ""),
        ("this is the mean of the logarithms, the ELBO, not the logarithm of the mean", BOUND, "log_w.mean(axis=1)"),
        ("this is the mean over the batch; one number an example is asked for", BOUND, f"np.mean({BOUND})"),
        ("the weights were rounded to 0: use log-sum-exp", BOUND, "np.log(np.exp(log_w).mean(axis=1))"),
        ("the sign is wrong: this is the loss, and the bound is asked for", BOUND, f"-({BOUND})"),
    ),
    "bound_backward": (
        ("every sample counts the same: this is the ELBO's gradient of many samples", SUM, "    w = np.full(w.shape, 1 / w.shape[1])\n"),
        ("the weights do not add up to 1 over the samples of an example", SUM, "    w = np.exp(log_w)\n"),
        ("the weights add up to 1 over the whole batch", SUM, "    w = np.exp(log_w) / np.exp(log_w).sum()\n"),
        ("the weights are squared", SUM, f"{SUM}    w **= 2\n"),
        ("the sign of dnll is wrong", RETURN_W, "return -w, np.hstack"),
        ("exp(log w) is rounded to 0 or infinity: take the largest log w of the example out first", W, "np.exp(log_w)"),
        ("the largest log w of all examples was taken out: the weights of the others are rounded to 0", W, "np.exp(log_w - log_w.max())"),
        ("the sign of the prior's gradient is wrong", G, G.replace("+ z", "- z")),
        ("the prior has no gradient", G, "g = w[:, :, None] * dz\n"),
        ("dz is not weighed", G, "g = dz + w[:, :, None] * z\n"),
        ("q's density has no gradient with respect to logvar", ENTROPY, "dlogvar = 0.5 * (g * eps * sigma)"),
        ("dlogvar lacks its 1/2", ENTROPY, ENTROPY.replace("0.5 * ", "")),
    ),
    "dreg_backward": (
        ("w in place of w^2: this is STL's gradient", DREG, DREG.replace(" ** 2", "")),
        ("this is IWAE's gradient, the derivative of the bound itself", "return np.hstack([g.sum(axis=1), 0.5", "return bound_backward(dz, z, h, eps, log_w)[1]\n    ([g.sum(axis=1), 0.5"),
        ("the direct dependence of log q on z is missing", DREG, DREG.replace(" - eps / sigma", "")),
        ("dlogvar lacks its 1/2", "0.5 * (g * eps * sigma).sum(axis=1)]", "(g * eps * sigma).sum(axis=1)]"),
    ),
}  # fmt: skip
