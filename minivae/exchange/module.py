"""The PyTorch module of an exported state-dict, as a few lines of Python to paste: no file of ours needs PyTorch."""

from __future__ import annotations

from typing import Any

from minivae.architecture import Layer, decoder_layers, encoder_layers
from minivae.likelihoods import Run

ACTIVATIONS = {
    "identity": "nn.Identity()",
    "relu": "nn.ReLU()",
    "leaky_relu": "nn.LeakyReLU(0.01)",
    "tanh": "nn.Tanh()",
    "sigmoid": "nn.Sigmoid()",
    "softplus": "nn.Softplus(threshold=40)",
    "gelu": 'nn.GELU(approximate="tanh")',
}
MEANS = {
    "bernoulli": "torch.sigmoid({})",
    "continuous_bernoulli": "continuous_bernoulli_mean({})",
    "gaussian": "{}",
    "poisson": "torch.exp({})",
    "negative_binomial": "torch.exp({})",
    "categorical": "torch.softmax({}, 1)",
}
CONTINUOUS = """
def continuous_bernoulli_mean(a):  # 1 / (1 - e^-a) - 1/a, near 0 its series
    u, s = a.abs().clamp(min=0.3), a * a
    far = torch.where(a < 0, -torch.exp(-u), 1.0) / -torch.expm1(-u) - torch.sign(a) / u
    near = 0.5 + a * (1 / 12 + s * (-1 / 720 + s * (1 / 30240 + s * (-1 / 1209600 + s / 47900160))))
    return torch.where(a.abs() < 0.3, near, far)

"""


def source(vae: Any, path: str) -> str:
    """A class VAE, and the lines that load `path` into it. encode takes x as transform does, decode gives its units."""
    arch, known = vae.network_.arch, vae.condition_
    side, double = ", c" if known else "", ".double()" if vae.network_.dtype == "float64" else ""
    lines = ["import torch", "from torch import nn", ""]
    lines += CONTINUOUS.splitlines() if any(run.likelihood == "continuous_bernoulli" for run in arch.runs) else []
    lines += ["", "class VAE(nn.Module):", "    def __init__(self):", "        super().__init__()"]
    for part, stack in (("encoder", encoder_layers(arch)), ("decoder", decoder_layers(arch))):
        lines.append(f"        self.{part} = nn.Sequential({_modules(stack)})")
    for name, shape in vae.network_.layout:
        if "." not in name:
            lines.append(f"        self.{name} = nn.Parameter(torch.zeros{shape})")
    if arch.by_columns:
        for name in ("shift", "scale"):
            lines.append(f'        self.register_buffer("{name}", torch.ones({arch.data_dim}, dtype=torch.float64))')
    x, over = "x.to(self.encoder[0].weight)", "" if vae.divide_by_ == 1 else f" / {vae.divide_by_!r}"
    x = f"((x.double(){over} - self.shift) / self.scale){x[1:]}" if arch.by_columns else x + over
    about = f"  # x [n, {arch.data_dim}]" + (f", c [n, {known.width}]: {_told(known)}" if known else "")
    lines += ["", f"    def encode(self, x{side}):{about}", f"        x = {x}"]
    if arch.missing != "error":
        lines += ["        seen = ~x.isnan()", "        x = torch.where(seen, x, torch.zeros_like(x))"]
    if arch.missing == "input":
        lines.append("        x = torch.cat([x, seen.to(x)], 1)")
    told = "torch.cat([{}, c.to({})], 1)" if known else "{}"
    lines.append(f"        return self.encoder({told.format('x', 'x')}).chunk(2, 1)  # mu, logvar")
    means = [_mean(run, arch.outputs) for run in arch.runs]
    lines += ["", f"    def decode(self, z{side}):", f"        out = self.decoder({told.format('z', 'z')})"]
    lines.append(f"        mean = {means[0] if len(means) == 1 else 'torch.cat([' + ', '.join(means) + '], 1)'}")
    lines.append("        return " + ("self.shift + self.scale * mean" if arch.by_columns else "mean"))
    load = f"vae.load_state_dict(torch.load({path!r}, weights_only=True))"
    return "\n".join([*lines, "", "", f"vae = VAE(){double}", load, ""])


def _modules(stack: list[Layer]) -> str:
    found = []
    for layer in stack:
        found += [f"nn.Linear({layer.inputs}, {layer.outputs})", ACTIVATIONS[layer.activation]]
    return ", ".join(found[:-1])


def _mean(run: Run, outputs: int) -> str:
    a = "out" if run.count == outputs else f"out[:, {run.output}:{run.output + run.count}]"
    return MEANS[run.likelihood].format(a)


def _told(known: Any) -> str:
    return f"one-hot of {[*known.classes]}" if known.classes else f"(y - {[*known.shift]}) / {[*known.scale]}"
