"""`minivae export` and `minivae import`: a model to and from the formats of other programs."""

from __future__ import annotations

import argparse
import json
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
        raise DataError(f"--out {options.out} would not be a file beside {options.weights}; name another .npz")
    names = None if options.names is None else _table(options.names)
    given = {name: value for name, value in vars(options).items() if name in VAE().get_params()}
    vae = VAE.from_weights(options.weights, names=names, **given)
    vae.save(path)
    arch = vae.network_.arch
    sizes = " - ".join(map(str, (arch.data_dim, *arch.hidden_dims, arch.latent_dim)))
    print(f"wrote {path}: encoder {sizes}, {arch.activation}, {arch.likelihood}, {vae.dtype}")
    return 0


def _table(words: list[str]) -> dict[str, str]:
    """OURS=THEIRS, several of them, or the one name of a JSON file."""
    if len(words) == 1 and words[0].endswith(".json"):
        try:
            table = json.loads(Path(words[0]).read_bytes())
        except (ValueError, RecursionError) as error:
            raise DataError(f"{words[0]} is no JSON ({error})") from error
    else:
        table = dict(word.partition("=")[::2] for word in words)
    if not isinstance(table, dict) or not all(isinstance(name, str) and name for name in table.values()):
        raise DataError(
            f"--names {words[0]} is no table; write encoder.0=fc1 encoder.1=fc21+fc22, or that as a JSON object"
        )
    return table
