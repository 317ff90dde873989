"""What the results say: who won, a table for each part, the comparison with an earlier run, the figure."""

import math
import statistics
from collections import defaultdict
from itertools import groupby
from pathlib import Path
from typing import Any

Row = dict[str, Any]
# Of each part of the results: the factor of its seconds; of a table the width of names, title, heads, names, numbers.
PARTS = {
    "step": (1e3, 44, "{config}, ms per step", "   median    least  largest   synced  of roof  peak MB     loss",
             "{contender}", "{seconds:9.3f}{least:9.3f}{largest:9.3f}{synchronised:9.3f}{share:9.0%}{peak_mb:9.0f}"
             "{deviation:9.0e}  {note}"),
    "start": (1, 44, "the first steps, {config}, s", "  nothing compiled    all compiled", "{contender}",
              "{cold:18.2f}{seconds:16.2f}"),
    "profile": (1e6, 54, "profile, {config}", "       us    share  GFLOP/s", "{kernel:18} {array:20} {purpose}",
                "{seconds:9.1f}{share:9.1%}{gflop_per_s:9.0f}"),
    "kernels": (1e6, 28, "kernels, {backend}", "       us     GB/s  GFLOP/s     loss", "{kernel}",
                "{seconds:9.1f}{gb_per_s:9.1f}{gflop_per_s:9.1f}{deviation:9.0e}"),
    "training": (1, 30, "whole processes", "   epochs        s  s/epoch  start-up  MB peak  test loss", "{program}",
                 "{epochs:9}{seconds:9.2f}{seconds_per_epoch:9.2f}{start_up:10.2f}{peak_mb:9.0f}{test_loss:11.2f}"),
}  # fmt: skip
# What two runs are compared by: of a step its share of the roofline, which another machine has as well.
COMPARED = {
    "step": ("{config}, {contender}, % of roofline", "share", 100),
    "start": ("{config}, {contender}, s to the first steps", "cold", 1),
    "kernels": ("{config}, {kernel}, {backend}, us", "seconds", 1e6),
    "training": ("{program}, s/epoch", "seconds_per_epoch", 1),
}  # fmt: skip
END = """of roof: the least time that the step's multiply-adds, or its parameters and moments read and written once, could
take here, as a share of the time taken. synced: each step awaited, where a library queues them. loss: how far the first
losses are from those of the NumPy reference, relatively."""


def text(result: Row) -> str:
    about = result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return f"""{about["cpu"]}, {about["cores"]} cores, {" ".join(about["simd"])}, {about["system"]}; BLAS: {about["blas"]}
{versions}; {result["date"]}

{step_text(result)}"""


def step_text(result: Row) -> str:
    """A table for each configuration or backend; then who won; then what makes the numbers doubtful."""
    blocks: dict[str, list[str]] = {}
    for part, (factor, width, title, heads, name, numbers) in PARTS.items():
        for row in profile_rows(result) if part == "profile" else result.get(part, []):
            shown = defaultdict(lambda: math.nan, {"note": "differs from the reference", "kernel": ""} | row)
            shown |= {key: factor * row[key] for key in ("seconds", "least", "largest", "synchronised") if key in row}
            shown["gflop_per_s"] = shown["gflop_per_s"] or math.nan
            cells = numbers if row["status"] == "timed" else "  {status}: {note}"
            line = f"  {name}".format_map(shown).rstrip().ljust(width)
            line += cells.format_map(shown).replace("nan%", "  - ").replace("nan", "  -").rstrip()
            blocks.setdefault(title.format_map(shown).ljust(width) + heads, []).append(line)
    tables = ["\n".join([title, *lines]) for title, lines in blocks.items()]
    steps = result.get("step", [])
    return "\n\n".join(filter(None, [*tables, END if steps else "", "\n".join(verdicts(steps)), doubts(result)]))


def verdicts(rows: list[Row]) -> list[str]:
    """For each configuration who was fastest, and how many times as long the next took: median, least, largest."""
    lines = []
    for config, group in groupby((row for row in rows if "times" in row), lambda row: row["config"]):
        ranked = sorted((row for row in group if row["contender"] != "roofline"), key=lambda row: row["seconds"])
        if len(ranked) > 1:
            ratios = sorted(b / a for a, b in zip(ranked[0]["times"], ranked[1]["times"], strict=True))
            names = [row["contender"] for row in ranked]
            every_round = ratios[0] > 1
            won = f"{names[0]} wins" if every_round else f"{names[0]} and {names[1]} are level"
            span = f"{statistics.median(ratios):.2f} times as long ({ratios[0]:.2f} to {ratios[-1]:.2f})"
            lines.append(f"{config}: {won}; {names[1]} takes {span}")
    return lines


def doubts(result: Row) -> str:
    """A warning where the machine was busy: its load, time stolen by others, contenders that varied."""
    about = result.get("machine", {})
    spreads = [row["largest"] / row["least"] for row in result.get("step", []) if "times" in row]
    load = about.get("load", 0.0)
    found = [f"the load was {load:.1f} before the start"] if load > about.get("cores", 1) / 2 else []
    found += [f"{about['stolen']:.0%} of its time went to others"] if about.get("stolen", 0) > 0.02 else []
    spread = statistics.median(spreads) if spreads else 1.0
    found += [f"the slowest turn took {spread:.1f} times the fastest"] if spread > 1.3 else []
    return f"warning: a busy machine ({', '.join(found)}): trust the ratios of one run, no times" if found else ""


def profile_rows(result: Row) -> list[Row]:
    """For each configuration the parts of the step, the waiting, and the whole with the share and rate of its products."""
    shown = []
    for row in result.get("profile", []):
        blank = {"kernel": "", "array": "", "purpose": ""} | row
        if row["status"] != "timed":
            shown.append(blank)
            continue
        products = [part for part in row["parts"] if part["flops"]]
        product = {key: sum(part[key] for part in products) for key in ("seconds", "flops")}
        name = f"whole step, {row['threads']} thread{'s' if row['threads'] > 1 else ''}; parts with a product:"
        for part in [*row["parts"], {"kernel": "waiting", "seconds": row["waiting"]}, {"kernel": name} | product]:
            rate = 1e-9 * part.get("flops", 0) / part["seconds"]
            shown.append(blank | part | {"share": part["seconds"] / row["seconds"], "gflop_per_s": rate})
        shown[-1]["seconds"] = row["seconds"]
    return shown


def against(result: Row, earlier: Row) -> str:
    """Every number that both runs have, and what is different about the machine."""
    then, now = (run["machine"] | run["machine"].get("versions", {}) | {"versions": 0} for run in (earlier, result))
    keys = [key for key in now if key not in ("load", "stolen") and then.get(key) != now[key]]
    changed = [f"{key} {then.get(key, 'unknown')} -> {now[key]}" for key in keys]
    lines = [f"not the same machine or versions: {', '.join(changed)}"] if changed else []
    lines.append(f"{'against the run of ' + earlier['date']:62}      then       now   change")
    before, after = (
        {
            name.format_map(row): factor * row[key]
            for part, (name, key, factor) in COMPARED.items()
            for row in run.get(part, [])
            if key in row and row.get("contender") != "roofline"
        }
        for run in (earlier, result)
    )
    shared = [name for name in after if before.get(name)]
    lines += [f"{n:62}{before[n]:10.3f}{after[n]:10.3f}{after[n] / before[n] - 1:+9.0%}" for n in shared]
    return "\n".join(lines if shared else [*lines, "nothing was measured in both runs"])


def draw(result: Row, path: Path) -> None:
    """The figure of the training step: a panel for each configuration, a bar for each contender, the roofline as a line."""
    from minivae.figures.layout import COLOURS, FAINT, INK, LABEL, LINE, TICK, WIDTH, add_title, new_figure, style
    from minivae.figures.plots import save
    from minivae.kernels import MODULES

    panels = [[*panel] for _, panel in groupby((r for r in result["step"] if "times" in r), lambda r: r["config"])]
    height, above = 70 + sum(40 + 20 * max(2, len(panel)) for panel in panels), 90  # pixels
    figure = new_figure(WIDTH, height)
    for limit, *bars in panels:
        size, line = 20 * max(1, len(bars)), 1e3 * limit["seconds"]
        axes = style(figure.add_axes((0.15, 1 - (above + size) / height, 0.62, size / height)))
        above += size + 60
        for i, row in enumerate(bars):
            least, middle, largest = (1e3 * row[key] for key in ("least", "seconds", "largest"))
            spread, colour = [[middle - least], [largest - middle]], COLOURS[0] if row["contender"] in MODULES else LINE
            axes.barh(i, middle, 0.7, color=colour, xerr=spread, error_kw={"ecolor": FAINT, "lw": 1})
            share = f", {row['share']:.0%}" if "share" in row else ""
            label, place = f"{middle:.3g} ms{share}", (max(largest, line), i)
            look: Row = {"textcoords": "offset points", "va": "center", "fontsize": TICK, "color": INK}
            axes.annotate(label, place, (6, 0), annotation_clip=False, **look)
        axes.axvline(line, color=COLOURS[1], lw=1.4)
        axes.set(ylim=(max(1, len(bars)) - 0.4, -0.6), xlim=(0, 1050 * max(row["largest"] for row in (limit, *bars))))
        axes.set_yticks(range(len(bars)), [row["contender"] for row in bars])
        axes.set_title(limit["config"], loc="left", fontsize=LABEL, color=INK)
    title = f"Training step on {result['machine']['cpu']}, {result['machine']['cores']} cores"
    note = "Milliseconds per training step: median, least, largest. Orange: the roofline, of which a share was reached."
    save(add_title(figure, title, 14, note), path)
