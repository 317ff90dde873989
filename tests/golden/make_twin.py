"""The same models in PyTorch, with its autograd and its optimizers, and the golden file `twin.npz` that they fill.

    PYTHONPATH=. python tests/golden/make_twin.py       in the root of the repository; needs torch, takes ten seconds

The file holds inputs, weights, noise, losses and gradients, so that the comparison needs no PyTorch afterwards. All of
it follows from the seeds below; what differs from the file by the rounding of another processor stays as it was there.
Nothing of minivae is used but its noise and its order of the examples, which are functions of a seed with published known
answers (tests/test_randomness.py): so the noise of 1,000 steps need not be stored.

Entries: "form/x", "form/eps", "form/parameters" (one flat vector), "form/layout" (JSON list of [name, shape], the order
in that vector); "form/activation/objective" (the objective's threshold or number of samples, loss, then the flat gradient),
with "form/eps.k" for those of several samples; and
"training/...", see `training_entries`.
"""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).with_name("twin.npz")
FORMS = ("bernoulli", "gaussian-fixed", "gaussian-learned")
MIXED = "gaussian*2, poisson, negative_binomial, categorical*3"
COLUMN_FORMS = (  # likelihood-sigma-missing; sigma is learned and nothing missing where they are not said
    *("bernoulli-ignore", "poisson", "poisson-input", "continuous_bernoulli", "continuous_bernoulli-ignore"),
    *("negative_binomial", "negative_binomial-input", "categorical", "categorical-ignore"),
    *("gaussian-fixed-ignore", "gaussian-learned-ignore", "gaussian-learned-input", "gaussian-elementwise-input"),
    *("mixed", "mixed-ignore", "mixed-input", "mixed-elementwise", "mixed-elementwise-ignore"),
)
ACTIVATIONS = ("identity", "relu", "leaky_relu", "tanh", "sigmoid", "softplus", "gelu")
DATA_DIM, LATENT_DIM, HIDDEN_DIMS, BATCH = 6, 2, (5, 4), 7
SIGMA = 0.8  # of the form gaussian-fixed
BETA = 0.7  # not 1, so that a beta in the wrong place shows
UNITS = ((150.0, 12.0), (-3.0, 0.02))  # shift and scale of the first two columns, where these are gaussian
LEAST = math.log(1e-3)  # by columns, log sigma stays above it
OBJECTIVES = ("plain", "free_bits")  # the second with a threshold between the kl_mean of the two dimensions
SAMPLED = ("elbo", "iwae", "stl", "dreg")  # of SAMPLES z for each example
SAMPLES = 3
CASES = [(form, activation, OBJECTIVES) for form in FORMS for activation in ACTIVATIONS if activation != "tanh"]
CASES += [(form, "tanh", OBJECTIVES + SAMPLED) for form in FORMS]
CASES += [(form, "tanh", ("plain", *SAMPLED)) for form in ("poisson", "gaussian-elementwise-input", "mixed-ignore")]
CASES += [("mixed-input", "tanh", ("plain", "capacity"))]  # more than the KL, which is pushed up
CASES += [(form, "tanh", ("plain",)) for form in COLUMN_FORMS if form not in {case[0] for case in CASES}]

TRAINING = {"data_dim": 64, "hidden_dims": (32,), "latent_dim": 4, "examples": 256, "batch_size": 32}
STEPS, SEED = 1000, 12
OPTIMIZERS = {
    "adam": {"learning_rate": 1e-3},
    "sgd": {"learning_rate": 2e-3, "momentum": 0.9},
    "nesterov": {"learning_rate": 2e-3, "momentum": 0.9, "nesterov": True},
    "adamw": {"learning_rate": 1e-3, "weight_decay": 0.05},
}


# ---- Inputs: NumPy only, so that they can be drawn anew where PyTorch is missing


def options(form):
    """What minivae.Architecture is told of a form; likelihood, sigma and missing are never left out."""
    first, *words = form.split("-")
    sigma = next((word for word in words if word in ("fixed", "elementwise")), "learned")
    settings = {"likelihood": MIXED if first == "mixed" else first, "sigma": SIGMA if sigma == "fixed" else sigma}
    settings |= {"data_dim": 7 if first == "mixed" else DATA_DIM, "latent_dim": LATENT_DIM}
    settings["missing"] = next((word for word in words if word in ("ignore", "input")), "error")
    settings["hidden_dims"] = HIDDEN_DIMS if form in FORMS else (4,)
    if form in COLUMN_FORMS and first in ("gaussian", "mixed"):
        settings["units"] = UNITS + ((0.0, 1.0),) * (settings["data_dim"] - len(UNITS))
    return settings


def kinds(form):
    """The likelihood of each column; the columns of a category as one entry with their number."""
    words = (word.partition("*") for word in options(form)["likelihood"].split(", "))
    return [(name, int(count or (1 if form.startswith("mixed") else DATA_DIM))) for name, _, count in words]


def layout(form, data_dim=None, latent_dim=LATENT_DIM, hidden_dims=None):
    """[(name, shape)] of every parameter; the names are minivae's."""
    settings = options(form)
    data_dim, hidden_dims = (
        data_dim or settings["data_dim"],
        settings["hidden_dims"] if hidden_dims is None else hidden_dims,
    )
    gaussians = sum(count for name, count in kinds(form) if name == "gaussian")
    outputs = data_dim + (gaussians if settings["sigma"] == "elementwise" else 0)
    parts = {
        "encoder": (data_dim * (2 if settings["missing"] == "input" else 1), *hidden_dims, 2 * latent_dim),
        "decoder": (latent_dim, *reversed(hidden_dims), outputs),
    }
    result = []
    for part, widths in parts.items():
        for i, (inputs, units) in enumerate(itertools.pairwise(widths)):
            result += [(f"{part}.{i}.W", (inputs, units)), (f"{part}.{i}.b", (units,))]
    learned = {"negative_binomial"} | ({"gaussian"} if settings["sigma"] == "learned" else set())
    if form in COLUMN_FORMS and learned & {name for name, _ in kinds(form)}:
        result += [("dispersion", (data_dim,))]
    return result + ([("log_sigma", (1,))] if form == "gaussian-learned" else [])


def split(flat, names_and_shapes):
    """Name -> array, cut from the flat vector in this order."""
    arrays, start = {}, 0
    for name, shape in names_and_shapes:
        arrays[name] = flat[start : start + math.prod(shape)].reshape(shape)
        start += math.prod(shape)
    assert start == len(flat)
    return arrays


def inputs(form, seed=SEED):
    """x, eps and flat parameters: float64, the weights large enough to leave the linear part of the activations."""
    if form in COLUMN_FORMS:
        return column_inputs(form, np.random.default_rng([seed, 4 + COLUMN_FORMS.index(form)]))
    rng = np.random.default_rng([seed, FORMS.index(form)])
    x = rng.uniform(size=(BATCH, DATA_DIM)) if form == "bernoulli" else rng.normal(size=(BATCH, DATA_DIM))
    if form == "bernoulli":
        x[:2] = x[:2] > 0.5
    size = sum(math.prod(shape) for _, shape in layout(form))
    return x, rng.normal(size=(BATCH, LATENT_DIM)), 0.5 * rng.normal(size=size)


def column_inputs(form, rng):
    """The same where columns have kinds, units, and cells that were not observed: a category as a whole."""
    settings, x, names = options(form), [], layout(form)
    for name, count in kinds(form):
        cells = {
            "gaussian": rng.normal(size=(BATCH, count)),
            "poisson": rng.poisson(3.0, (BATCH, count)),
            "negative_binomial": rng.negative_binomial(1, 0.1, (BATCH, count)),  # up to 20 and more
            "categorical": np.eye(count)[rng.integers(count, size=BATCH)],
        }.get(name, rng.uniform(size=(BATCH, count)))
        holes = rng.random((BATCH, 1 if name == "categorical" else count)) < 0.3
        x.append(np.where(holes & (settings["missing"] != "error"), np.nan, cells))
    shift, scale = np.array(settings.get("units", ((0, 1),) * settings["data_dim"])).T
    parameters = 0.5 * rng.normal(size=sum(math.prod(shape) for _, shape in names))
    if names[-1][0] == "dispersion":
        split(parameters, names)["dispersion"][0] -= 3  # a sigma so small that its floor is felt, or an r
    return shift + scale * np.concatenate(x, axis=1), rng.normal(size=(BATCH, LATENT_DIM)), parameters


# ---- The model in PyTorch


def activation_function(name):
    import torch
    from torch.nn import functional as F

    functions = {
        "identity": lambda a: a,
        "relu": torch.relu,
        "leaky_relu": lambda a: F.leaky_relu(a, 0.01),
        "tanh": torch.tanh,
        "sigmoid": torch.sigmoid,
        "softplus": F.softplus,
        "gelu": lambda a: F.gelu(a, approximate="tanh"),
    }
    return functions[name]


def column_nll(form, w, out, x, observed):
    """-log p(x|z) [B] of the observed cells, in the table's own units: column by column, and a category as one."""
    import torch
    from torch import distributions as D
    from torch.nn import functional as F

    total, column, settings = 0, 0, options(form)
    out = out.T  # read from the first row on
    for name, count in kinds(form):
        groups = [count] if name == "categorical" else [1] * count
        wide = name == "gaussian" and settings["sigma"] == "elementwise"
        logvars = out[count : 2 * count] if wide else [None] * count
        for i, size in enumerate(groups):
            a, values, seen = out[i : i + size], x[:, column : column + size], observed[:, column]
            if name == "categorical":
                log_p = D.OneHotCategorical(logits=a.T, validate_args=False).log_prob(values)
            else:
                a, values = a[0], values[:, 0]
            if name == "bernoulli":
                log_p = D.Bernoulli(logits=a, validate_args=False).log_prob(values)
            elif (
                name == "continuous_bernoulli"
            ):  # C p^x (1 - p)^(1 - x),  C = 2 artanh(1 - 2p) / (1 - 2p) = a / tanh(a/2)
                p = torch.sigmoid(a)
                log_p = torch.log(a / torch.tanh(a / 2)) + values * torch.log(p) + (1 - values) * torch.log(1 - p)
            elif name == "poisson":
                log_p = D.Poisson(torch.exp(a)).log_prob(values)
            elif name == "negative_binomial":  # of mean r exp(logits) = exp(a)
                t = w["dispersion"][column]
                log_p = D.NegativeBinomial(torch.exp(t), logits=a - t).log_prob(values)
            elif name == "gaussian":
                shift, scale = settings["units"][column]
                sigma = torch.tensor(SIGMA, dtype=a.dtype)
                if settings["sigma"] != SIGMA:
                    t = 0.5 * logvars[i] if wide else w["dispersion"][column]
                    sigma = scale * torch.exp(LEAST + F.softplus(t - LEAST))
                log_p = D.Normal(shift + scale * a, sigma).log_prob(values)
            total = total - torch.where(seen, log_p, 0)
            column += size
        out = out[2 * count if wide else count :]
    return total


def forward(form, activation, w, x, eps, estimator=""):
    """nll [S], kl_mean [Z], log p(z) - log q(z|x) [S] and z, from tensors w by name: what a textbook would write down.

    With "stl" and "dreg" nothing is learned from q's own density.
    """
    import torch
    from torch.distributions import Bernoulli, Normal, kl_divergence

    if form in COLUMN_FORMS:
        settings, table, observed = options(form), x, torch.isfinite(x)
        shift, scale = torch.tensor(settings.get("units", ((0.0, 1.0),) * x.shape[1]), dtype=x.dtype).T
        x = torch.where(observed, (x - shift) / scale, 0)
        table = torch.where(
            observed, table, 0
        )  # a number, for the gradient of what a NaN gives is NaN whatever its weight
        x = torch.cat([x, observed], dim=1) if settings["missing"] == "input" else x
    f, K = activation_function(activation), len(eps) // len(x)

    def stack(part, h):
        last = sum(name.startswith(part) for name in w) // 2 - 1
        for i in range(last + 1):
            h = h @ w[f"{part}.{i}.W"] + w[f"{part}.{i}.b"]
            h = h if i == last else f(h)
        return h

    mu, logvar = stack("encoder", x).chunk(2, dim=1)
    prior = Normal(torch.zeros_like(mu), torch.ones_like(mu))
    q = Normal(mu, torch.exp(0.5 * logvar), validate_args=False)
    kl_mean = kl_divergence(q, prior).mean(dim=0)
    mu, sigma = (part.repeat_interleave(K, dim=0) for part in (q.mean, q.stddev))
    z = mu + sigma * eps
    held = (mu.detach(), sigma.detach()) if estimator in ("stl", "dreg") else (mu, sigma)
    ratio = (Normal(0.0, 1.0).log_prob(z) - Normal(*held).log_prob(z)).sum(dim=1)
    out = stack("decoder", z)
    if form in COLUMN_FORMS:
        table, observed = (part.repeat_interleave(K, dim=0) for part in (table, observed))
        return column_nll(form, w, out, table, observed), kl_mean, ratio, z
    if form == "bernoulli":
        p = Bernoulli(logits=out, validate_args=False)
    else:
        p = Normal(out, torch.exp(w["log_sigma"]) if form == "gaussian-learned" else torch.full_like(out, SIGMA))
    return -p.log_prob(x.repeat_interleave(K, dim=0)).sum(dim=1), kl_mean, ratio, z


def threshold_loss_gradient(form, activation, objective, x, eps, parameters, names=None, threshold=None, beta=BETA):
    """[threshold, loss, gradient ...] in float64; the threshold is the objective's free_bits, capacity or samples.

    names: the layout of the parameters, where it is not that of the form. Without a threshold there is one of use.
    """
    import torch

    torch.set_num_threads(1)
    flat = torch.tensor(parameters, dtype=torch.float64, requires_grad=True)
    w = split(flat, names or layout(form))
    nll, kl_mean, ratio, z = forward(form, activation, w, torch.tensor(x), torch.tensor(eps), objective)
    kl, usual = kl_mean.sum(), {"free_bits": kl_mean.detach().mean().item(), "capacity": 1.5 * kl_mean.sum().item()}
    threshold = usual.get(objective, 0.0) if threshold is None else threshold
    if objective == "free_bits":
        kl = torch.clamp(kl_mean, min=threshold).sum()
    elif objective == "capacity":
        kl = (kl - threshold).abs()
    elif objective in SAMPLED:
        threshold = SAMPLES
    loss = reached = nll.mean() + beta * kl
    if objective in ("iwae", "stl", "dreg"):
        log_w = (beta * ratio - nll).reshape(len(x), SAMPLES)
        loss = reached = -(torch.logsumexp(log_w, dim=1) - math.log(SAMPLES)).mean()
        if objective != "iwae":
            wt = torch.softmax(log_w, dim=1).detach()
            reached = -(wt * log_w).sum(dim=1).mean()
            if objective == "dreg":
                z.register_hook(lambda g: (1 - beta + beta * wt).reshape(-1, 1) * g)
    reached.backward()
    return np.concatenate([[threshold, loss.item()], flat.grad.numpy()])


# ---- 1,000 steps of training


def training_inputs():
    """pixels [examples, data_dim] uint8 with some structure to learn, and flat float32 parameters."""
    t = TRAINING
    rng = np.random.default_rng(SEED)
    where = np.linspace(0, 2 * np.pi, t["data_dim"], endpoint=False)
    waves = np.cos(rng.integers(1, 4, (t["examples"], 1)) * where + rng.uniform(0, 2 * np.pi, (t["examples"], 1)))
    pixels = np.clip(np.round(127.5 * (1 + 1.3 * waves)), 0, 255).astype(np.uint8)
    shapes = layout("bernoulli", t["data_dim"], t["latent_dim"], t["hidden_dims"])
    pieces = [rng.normal(size=s) / math.sqrt(s[0]) if len(s) == 2 else np.zeros(s) for _, s in shapes]
    return pixels, np.concatenate([piece.reshape(-1) for piece in pieces]).astype(np.float32)


def batch_rows(step):
    """The rows of the batch of this step, counted from 1: minivae shuffles every epoch anew."""
    from minivae import randomness

    per_epoch = TRAINING["examples"] // TRAINING["batch_size"]
    epoch, index = divmod(step - 1, per_epoch)
    order = randomness.permutation(TRAINING["examples"], SEED, randomness.SHUFFLE, epoch)
    return order[index * TRAINING["batch_size"] :][: TRAINING["batch_size"]]


def training_losses(optimizer, dtype, pixels, parameters):
    """The losses [STEPS] of the tanh network, as PyTorch's autograd and optimizer reach them from these parameters."""
    import torch
    from torch.nn import functional as F

    from minivae import randomness
    from minivae.kernels.philox import philox_normal

    torch.set_num_threads(1)
    t = TRAINING
    shapes = layout("bernoulli", t["data_dim"], t["latent_dim"], t["hidden_dims"])
    w = {n: torch.tensor(a.astype(dtype), requires_grad=True) for n, a in split(parameters, shapes).items()}
    options = dict(OPTIMIZERS[optimizer])
    options["lr"] = options.pop("learning_rate")
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}.get(optimizer, torch.optim.SGD)
    update = kind(w.values(), **options)
    data = torch.tensor(pixels.astype(dtype) / dtype(255))
    losses = np.empty(STEPS)
    for step in range(1, STEPS + 1):
        rows = batch_rows(step)
        eps = np.empty((len(rows), t["latent_dim"]), dtype)
        philox_normal(eps, rows, SEED, randomness.TRAIN_NOISE, step)  # in the dtype of the training
        x = data[torch.tensor(rows)]
        # `forward` in fewer operations, as torch.distributions would cost most of the time
        hidden = torch.tanh(x @ w["encoder.0.W"] + w["encoder.0.b"])
        mu, logvar = (hidden @ w["encoder.1.W"] + w["encoder.1.b"]).chunk(2, dim=1)
        z = mu + torch.exp(0.5 * logvar) * torch.from_numpy(eps)
        logits = torch.tanh(z @ w["decoder.0.W"] + w["decoder.0.b"]) @ w["decoder.1.W"] + w["decoder.1.b"]
        recon = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        kl = -0.5 * torch.sum(1 + logvar - mu**2 - logvar.exp())
        loss = (recon + kl) / len(rows)
        update.zero_grad()
        loss.backward()
        update.step()
        losses[step - 1] = loss.item()
    return losses


def training_entries():
    """training/pixels, training/parameters, and training/<optimizer>/<dtype>: the losses [STEPS]."""
    pixels, parameters = training_inputs()
    entries = {"training/pixels": pixels, "training/parameters": parameters}
    for optimizer in OPTIMIZERS:
        for dtype in (np.float32, np.float64):
            losses = training_losses(optimizer, dtype, pixels, parameters)
            entries[f"training/{optimizer}/{np.dtype(dtype)}"] = losses.astype(dtype)
    return entries


def gradient_entries(seed=SEED):
    entries = {}
    for form, activation, objectives in CASES:
        x, eps, parameters = inputs(form, seed)
        entries |= {f"{form}/x": x, f"{form}/eps": eps, f"{form}/parameters": parameters}
        entries[f"{form}/layout"] = np.array(json.dumps(layout(form)))
        more = np.random.default_rng([seed, *form.encode()]).normal(size=(SAMPLES * BATCH, LATENT_DIM))
        if set(objectives) & set(SAMPLED):
            entries[f"{form}/eps.k"] = more
        for objective in objectives:
            noise = more if objective in SAMPLED else eps
            result = threshold_loss_gradient(form, activation, objective, x, noise, parameters)
            entries[f"{form}/{activation}/{objective}"] = result
    return entries


def kept(entries):
    """The entries, each as the file has it where that is the same but for rounding."""
    with np.load(GOLDEN, allow_pickle=False) as file:
        before = {name: array for name, array in file.items() if array.dtype.kind == "f" and name in entries}
    for name, array in before.items():
        new, eps = entries[name], np.finfo(array.dtype).eps
        if array.shape == new.shape and np.nanmax(np.abs(array - new)) <= 100 * eps * np.nanmax(np.abs(new)):
            entries[name] = array
    return entries


if __name__ == "__main__":
    np.savez_compressed(GOLDEN, **kept(gradient_entries() | training_entries()))
    print(f"{GOLDEN.name}: {GOLDEN.stat().st_size:,} bytes")
