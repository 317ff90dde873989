"""`minivae explore`: a run as one page, to open from disk and to send around."""

from __future__ import annotations

import argparse

from minivae.app.drawing import columns_of
from minivae.app.runs import open_run, pick
from minivae.app.writing import out_path, write_text
from minivae.data.checks import require_count
from minivae.evaluation.measures import spaced
from minivae.explorer.contents import POINTS
from minivae.fitted import quietly


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
    html = run.vae.to_html(
        part.data, part.told, rows=rows, image_shape=run.image_shape, schema=table,
        title=f"{dataset.name}, {part.split}", precision=options.precision,
    )  # fmt: skip
    write_text(path, iter([html]))
    if path is not None:
        print(f"wrote {path} ({len(html) / 1e6:.2f} MB; {len(rows):,} of {len(part.rows):,} {part.split} rows)")
    return 0
