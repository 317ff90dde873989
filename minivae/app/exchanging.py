"""`minivae export` and `minivae import`: a model to and from the formats of other programs."""

from __future__ import annotations

import argparse
from pathlib import Path

from minivae.app.runs import open_run
from minivae.app.writing import out_path
from minivae.data.files import DataError
from minivae.estimator import VAE
from minivae.fitted import quietly
from minivae.progress import say
from minivae.settings import checked_path


@quietly
def export(options: argparse.Namespace) -> int:
    from minivae.exchange import formats

    path = checked_path(options.out, "--out")
    formats.kind_of(path, options.format)
    files, used = formats.export(open_run(options.model).vae, path, options.format)
    print(used, end="")
    for file in files:
        say(f"wrote {file} ({file.stat().st_size / 1e6:.2f} MB)")
    return 0


@quietly
def import_(options: argparse.Namespace) -> int:
    path = out_path(options.out, ".npz")
    if path is None or path.resolve() == Path(options.weights).resolve():
        raise DataError(f"--out {options.out} is no file beside {options.weights}; name another .npz")
    table = [word.partition("=") for word in options.names or ()]
    for ours, _, theirs in table:
        if not theirs:
            raise DataError(f"--names {ours} names no layer of theirs; write encoder.0=fc1 encoder.1=fc21+fc22 ...")
    given = {name: value for name, value in vars(options).items() if name in VAE().get_params()}
    vae = VAE.from_weights(options.weights, names={ours: theirs for ours, _, theirs in table}, **given)
    vae.save(path)
    arch = vae.network_.arch
    sizes = " - ".join(map(str, (arch.data_dim, *arch.hidden_dims, arch.latent_dim)))
    print(f"wrote {path}: encoder {sizes}, {arch.activation}, {arch.likelihood}, {vae.dtype}")
    return 0
