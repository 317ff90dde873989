"""`minivae explore`: a run as one page, to open from disk and to send around."""

from __future__ import annotations

import argparse

import numpy as np

from minivae.app.drawing import columns_of
from minivae.app.runs import open_run, pick
from minivae.app.writing import out_path, write_text
from minivae.data.checks import require_count
from minivae.evaluation.measures import spaced
from minivae.explorer.contents import POINTS
from minivae.explorer.steps import MOST
from minivae.fitted import quietly
from minivae.progress import say


@quietly
def explore(options: argparse.Namespace) -> int:
    path = out_path(options.out, ".html")
    limit = POINTS if options.limit is None else options.limit
    require_count("limit", limit)
    run = open_run(options.model)
    dataset = run.dataset(options.data)
    part = pick(run, dataset, options.split, own=options.data is None)
    rows = part.rows[spaced(len(part.rows), limit)]
    table = run.schema if columns_of(run, part.data[rows]) else None
    vae, last = run.vae, run.training()
    if last and np.array_equal(last.network_.get_parameters(), vae.network_.get_parameters()):
        vae = last  # with the optimizer's moments: it has not gone on after the epoch that was kept
    if 300_000 < vae.n_parameters_ <= MOST:
        say("a training step is taken for every place of the page's sliders: some seconds")
    html = vae.to_html(
        part.data, part.told, rows=rows, image_shape=run.image_shape, schema=table,
        title=f"{dataset.name}, {part.split}", precision=options.precision,
    )  # fmt: skip
    write_text(path, iter([html]))
    if path is not None:
        print(f"wrote {path} ({len(html) / 1e6:.2f} MB; {len(rows):,} of {len(part.rows):,} {part.split} rows)")
    return 0
