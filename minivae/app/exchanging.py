"""`minivae export` and `minivae import`: a model to and from the formats of other programs."""

from __future__ import annotations

import argparse

from minivae.app.runs import open_run
from minivae.exchange import formats
from minivae.fitted import quietly
from minivae.progress import say
from minivae.settings import checked_path


@quietly
def export(options: argparse.Namespace) -> int:
    path = checked_path(options.out, "--out")
    formats.kind_of(path, options.format)
    files, used = formats.export(open_run(options.model).vae, path, options.format)
    print(used, end="")
    for file in files:
        say(f"wrote {file} ({file.stat().st_size / 1e6:.2f} MB)")
    return 0
