"""The figure of `minivae bench`: how long a training step takes, and how far that is from the floor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from minivae.figures.layout import COLOURS, FAINT, INK, LABEL, LINE, TICK, WIDTH, add_title, new_figure, style
from minivae.figures.plots import save
from minivae.kernels import MODULES

TOP, BAR, GAP = 70, 20, 60  # pixels: above the first panel, of a bar, from panel to panel


def write(result: dict[str, Any], path: Path) -> None:
    """One panel for each configuration: a bar for each contender, and the floor as a line through them."""
    rows = [row for row in result["step"] if "to_floor" in row]
    panels = [[row for row in rows if row["config"] == name] for name in dict.fromkeys(r["config"] for r in rows)]
    height = TOP + sum(GAP + BAR * len(panel) for panel in panels) - BAR
    figure = new_figure(WIDTH, height)
    above = TOP + 20
    for panel in panels:
        floor = next(1000 * row["seconds"] for row in panel if row["contender"] == "floor")
        bars = [row for row in panel if row["contender"] != "floor"]
        size = BAR * max(1, len(bars))
        axes = style(figure.add_axes((0.15, 1 - (above + size) / height, 0.62, size / height)))
        above += size + GAP
        for i, row in enumerate(bars):
            least, middle, largest = (1000 * row[key] for key in ("least", "seconds", "largest"))
            colour = COLOURS[0] if row["contender"] in MODULES else LINE
            spread = [[middle - least], [largest - middle]]
            axes.barh(i, middle, 0.7, color=colour, xerr=spread, error_kw={"ecolor": FAINT, "lw": 1})
            place: dict[str, Any] = {"xytext": (6, 0), "textcoords": "offset points", "va": "center"}
            label = f"{middle:.3g} ms, {row['to_floor']:.2f} x floor"
            axes.annotate(label, (max(largest, floor), i), fontsize=TICK, color=INK, annotation_clip=False, **place)
        axes.axvline(floor, color=COLOURS[1], lw=1.4)
        axes.set(ylim=(max(1, len(bars)) - 0.4, -0.6), xlim=(0, 1.05 * max(1000 * row["largest"] for row in panel)))
        axes.set_yticks(range(len(bars)), [row["contender"] for row in bars])
        axes.set_title(panel[0]["config"], loc="left", fontsize=LABEL, color=INK)
    about = result["machine"]
    note = "Milliseconds per training step: median, least, largest. Orange: its matrix products alone, the floor."
    add_title(figure, f"Training step on {about['cpu']}, {about['cores']} cores", 14, note)
    save(figure, path)
