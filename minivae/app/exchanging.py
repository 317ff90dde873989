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
from minivae.storage.folders import CONFIG, FILES
from minivae.storage.modelfile import json_text
from minivae.storage.persistence import save


@quietly
def export(options: argparse.Namespace) -> int:
    from minivae.exchange import formats

    path = checked_path(options.out, "--out")
    before = {file: _replaced(file, options.model) for file in formats.files_of(path, options.format)}
    used = formats.export(open_run(options.model).vae, path, options.format)
    if options.json:
        files = [{"file": str(file), "bytes": file.stat().st_size, "replaced": old} for file, old in before.items()]
        print(json_text({"files": files, "python": used}))
        return 0
    print(used, end="")
    for file, old in before.items():
        say(f"{'replaced' if old else 'wrote'} {file} ({file.stat().st_size / 1e6:.2f} MB)")
    return 0


@quietly
def import_(options: argparse.Namespace) -> int:
    path = out_path(options.out, ".npz")
    if path is None:
        raise DataError("--out - is no file; name a .npz")
    old = _replaced(path, options.weights)
    table = [word.partition("=") for word in options.names or ()]
    for ours, _, theirs in table:
        if not theirs:
            raise DataError(f"--names {ours} names no layer of theirs; write encoder.0=fc1 encoder.1=fc21+fc22 ...")
    names = {ours: theirs for ours, _, theirs in table}
    if len(names) < len(table):
        raise DataError(f"--names has {len(table) - len(names)} of our layers twice; name each once")
    given = {name: value for name, value in vars(options).items() if name in VAE().get_params()}
    vae = VAE.from_weights(options.weights, names=names, **given)
    save(vae, path, run=vae.run_)
    arch = vae.network_.arch
    told = {"activation": arch.activation, "likelihood": arch.likelihood, "dtype": vae.dtype}
    sizes = [arch.data_dim, *arch.hidden_dims, arch.latent_dim]
    line = f"{'replaced' if old else 'wrote'} {path}: encoder {' - '.join(map(str, sizes))}, {', '.join(told.values())}"
    print(json_text({"out": str(path), "replaced": old, "encoder": sizes} | told) if options.json else line)
    return 0


def _replaced(path: Path, source: str) -> bool:
    """Whether it is there already. Raises DataError where that is what is read, or a file of a run."""
    if path.exists() and Path(source).exists() and path.samefile(source):
        raise DataError(f"--out {path} is {source} itself, which stays as it is; name another file")
    if path.name in FILES and (path.parent / CONFIG).exists():
        raise DataError(f"--out {path} is a file of the run in {path.parent}, which stays as it is; name another")
    return path.exists()
