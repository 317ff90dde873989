"""`minivae bench`: what it takes, what it prints, the JSON file, the figure, and the comparison with an earlier run."""

import argparse
import datetime
import importlib.metadata
import json
import math
import platform
import sys
from collections import defaultdict
from contextlib import suppress
from itertools import chain, groupby
from pathlib import Path
from typing import Any

Row = dict[str, Any]
FORMAT = 1
SUITES = ("step", "profile", "kernels", "end-to-end")
# Of each part of the results: the factor of its seconds; of a table the width of names, title, heads, names, numbers.
PARTS = {
    "step": (1e3, 34, "{config}, ms per step", "   median    least  largest  x floor", "{contender}",
             "{seconds:9.3f}{least:9.3f}{largest:9.3f}{to_floor:9.2f}  {note}"),
    "profile": (1e6, 54, "profile, {config}", "       us    share  GFLOP/s", "{kernel:18} {array:20} {purpose}",
                "{seconds:9.1f}{share:9.1%}{gflop_per_s:9.0f}"),
    "kernels": (1e6, 28, "kernels, {backend}", "       us     GB/s  GFLOP/s  of the ceiling", "{kernel}",
                "{seconds:9.1f}{gb_per_s:9.1f}{gflop_per_s:9.1f}{share:16.0%}"),
    "training": (1, 30, "whole processes", "   epochs        s  s/epoch  start-up  MB peak  test loss", "{program}",
                 "{epochs:9}{seconds:9.2f}{seconds_per_epoch:9.2f}{start_up:10.2f}{peak_mb:9.0f}{test_loss:11.2f}"),
}  # fmt: skip
# What two runs are compared by, less is better: of a step the ratio to the floor, which moves less than the machine.
COMPARED = {
    "step": ("{config}, {contender}, x floor", "to_floor", 1), "training": ("{program}, s/epoch", "seconds_per_epoch", 1),
    "kernels": ("{config}, {kernel}, {backend}, us", "seconds", 1e6),
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `minivae bench`. Nothing is imported for them, so that `minivae --help` stays quick."""
    add = parser.add_argument
    add("--quick", action="store_true", help="under a minute: two configurations, few rounds")
    add("--suite", choices=(*SUITES, "all"), help="what to measure (default: all; with --quick all but end-to-end)")
    add("--rounds", type=int, metavar="N", help="turns of each contender (default: 7; with --quick 3)")
    form = "design, batches, quick, or widths-activation-batch as in 784-400-20-relu-128 (default: design)"
    add("--configs", nargs="+", metavar="NAME", help=form)
    known = (
        "of the training step: numpy, numba, cupy, torch, torch-compile, jax-scan, jax-step (default: all), and on a "
    )
    add("--contenders", nargs="+", metavar="NAME", help=known + "GPU torch-cuda, torch-cuda-compile, torch-cuda-graph")
    add("--epochs", type=int, default=3, metavar="N", help="end to end: epochs (default: 3)")
    add("--out", default="bench.json", metavar="FILE", help="results as JSON (default: bench.json)")
    add("--figure", metavar="FILE", help="figure of the training step (default: beside --out, .png)")
    add("--against", metavar="FILE", help="compare with the results of an earlier run")
    add("--json", action="store_true", help="print the results as JSON")


def run(options: argparse.Namespace) -> int:
    """Measure, write, print. Everything that can be refused is refused before the first measurement."""
    from minivae.bench import configs, contenders, kernels, runner
    from minivae.kernels import MODULES

    quick, asked = options.quick, options.suite
    suites = SUITES if asked == "all" else [asked] if asked else SUITES[:3] if quick else SUITES
    rounds = options.rounds if options.rounds is not None else 3 if quick else 7
    for name, value in (("--rounds", rounds), ("--epochs", options.epochs)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")
    chosen = configs.select(options.configs or ["quick" if quick else "design"])
    # compiling and calling once a step are left out of --quick: slow to start, and never ahead of their neighbours by much
    names = options.contenders or [n for n in contenders.NAMES if not (quick and n in ("torch-compile", "jax-step"))]
    for name in names:
        if name not in contenders.TABLE:
            raise ValueError(f"contender {name!r} is not one of {', '.join(contenders.NAMES)}")
    out = Path(options.out)
    picture = Path(options.figure or out.with_suffix(".png"))
    for path in (out, picture):
        if not path.resolve().parent.is_dir():
            raise FileNotFoundError(f"{path.parent}, where {path.name} should go, is not a folder; create it first")
    earlier = load(options.against) if options.against else None

    turn, steps, repeats, epochs = (0.1, 200, 3, 1) if quick else (0.3, 1000, 7, options.epochs)
    result: Row = {"format": FORMAT, "date": datetime.date.today().isoformat(), "rounds": rounds, "machine": machine()}
    (result["ceilings"],) = runner.alone({}, kernels.ceilings, repeats)
    if "step" in suites:
        result["step"] = runner.step_suite(chosen, names, rounds, turn)
    if "profile" in suites:
        rows = (runner.alone({"config": config.name}, contenders.profile, config, steps) for config in chosen)
        result["profile"] = list(chain(*rows))
    if "kernels" in suites:
        abouts = [{"backend": backend, "config": chosen[0].name} for backend in MODULES]
        rows = (runner.alone(about, kernels.ladder, chosen[0], about["backend"], rounds) for about in abouts)
        result["kernels"] = list(chain(*rows))
        (again,) = runner.alone({}, kernels.ceilings, repeats)  # machines drift: the best of before and after
        result["ceilings"] = {name: max(value, again[name]) for name, value in result["ceilings"].items()}
        add_shares(result["kernels"], result["ceilings"])
    if "end-to-end" in suites:
        result["training"] = runner.training(epochs)
    save(result, out)
    shown = [text(result), *([against(result, earlier)] if earlier else []), f"wrote {out}"]
    print(json.dumps(result) if options.json else "\n\n".join(shown), flush=True)
    if "step" in result:
        try:
            draw(result, picture)
            print(f"wrote {picture}", file=sys.stderr)
        except ImportError as error:
            print(f"no figure: {error}", file=sys.stderr)
    return 0


def machine() -> Row:
    """The machine in words, without its name and without paths."""
    import numpy as np

    from minivae import __version__
    from minivae.bench.contenders import CORES

    config: Any = np.show_config(mode="dicts")
    simd, blas = config.get("SIMD Extensions", {}), config.get("Build Dependencies", {}).get("blas", {})
    cpu, linked = platform.processor() or "unknown", f"{blas.get('name', 'unknown')} {blas.get('version', '')}"
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line for line in lines if line.startswith("model name")).partition(":")[2].strip()
    with suppress(ImportError):  # only threadpoolctl knows for which kind of core
        pools = [p for p in importlib.import_module("threadpoolctl").threadpool_info() if p["user_api"] == "blas"]
        linked = ", ".join(f"{p['internal_api']} {p['version']} {p.get('architecture', '')}".strip() for p in pools)
    versions = {"minivae": __version__, "python": platform.python_version(), "numpy": np.__version__}
    for package in ("numba", "scipy", "torch", "jax", "jaxlib"):
        versions[package] = "not installed"
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    about = {"cpu": cpu, "cores": CORES, "simd": [*simd.get("baseline", []), *simd.get("found", [])][-1:]}
    return about | {"system": f"{platform.system()} {platform.machine()}", "blas": linked, "versions": versions}


def add_shares(rows: list[Row], ceilings: dict[str, float]) -> None:
    """How much of the machine a kernel uses: of its best copy or its best matrix product, whichever is nearer."""
    copy, product = (max(v for k, v in ceilings.items() if k.startswith(kind)) for kind in ("copy", "matrix product"))
    for row in rows:
        if row["status"] == "timed" and row["backend"] != "cupy":  # the ceilings are those of the CPU
            row["share"] = max(row["gb_per_s"] / copy, row["gflop_per_s"] / product)


def save(result: Row, path: Path) -> None:
    from minivae.modelfile import write_atomically

    write_atomically(path, lambda file: file.write(json.dumps(result, indent=1, allow_nan=False).encode() + b"\n"))


def load(path: str | Path) -> Row:
    """The results of an earlier run. Raises ValueError for a file that holds none."""
    with suppress(ValueError, TypeError, KeyError):
        result: Row = json.loads(Path(path).read_text())
        if result["format"] == FORMAT and isinstance(result["machine"], dict):
            return result
    raise ValueError(f"{path} holds no results in format {FORMAT}; name a file that this `minivae bench` wrote")


def text(result: Row) -> str:
    about, ceilings = result["machine"], result["ceilings"].items()
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    best = (f"{name} {value:.1f} {'GB/s' if name.startswith('copy') else 'GFLOP/s'}" for name, value in ceilings)
    return f"""{about["cpu"]}, {about["cores"]} cores, {" ".join(about["simd"])}, {about["system"]}; BLAS: {about["blas"]}
{versions}; {result["date"]}
ceilings: {";  ".join(best)}

{step_text(result)}"""


def step_text(result: Row) -> str:
    """How near the results are to those of the reference; then a table for each configuration or backend."""
    near: dict[str, float] = {}
    blocks: dict[str, list[str]] = {}
    for part, (factor, width, title, heads, name, numbers) in PARTS.items():
        for row in profile_rows(result) if part == "profile" else result.get(part, []):
            shown = defaultdict(lambda: math.nan, {"note": "differs from the reference", "kernel": ""} | row)
            shown |= {key: factor * row[key] for key in ("seconds", "least", "largest") if key in row}
            shown["gflop_per_s"] = shown["gflop_per_s"] or math.nan
            timed = row["status"] == "timed"
            cells = numbers.format_map(shown).replace("nan", "  -") if timed else "  {status}: {note}".format_map(shown)
            line = f"  {name}".format_map(shown).rstrip().ljust(width) + cells.rstrip()
            blocks.setdefault(title.format_map(shown).ljust(width) + heads, []).append(line)
            if timed and "deviation" in row:
                who = f"results match: {row.get('contender') or 'kernels of ' + row['backend']}, {row['config']}"
                near[who] = max(near.get(who, 0.0), row["deviation"])
    matches = "\n".join(f"{who}, to {worst:.0e}" for who, worst in near.items())
    end = "floor: all matrix products of the step alone, on NumPy's BLAS. Who makes products otherwise may be below it."
    tables = ["\n".join([title, *lines]) for title, lines in blocks.items()]
    return "\n\n".join(filter(None, [matches, *tables, end if result.get("step") else ""]))


def profile_rows(result: Row) -> list[Row]:
    """For each configuration the parts of the step, the waiting, and the whole with the share and rate of its products."""
    shown = []
    for row in result.get("profile", []):
        blank = {"kernel": "", "array": "", "purpose": ""} | row
        if row["status"] != "timed":
            shown.append(blank)
            continue
        products = [part for part in row.get("parts", []) if part["flops"]]
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
    changed = [f"{key} {then.get(key, 'unknown')} -> {now[key]}" for key in now if then.get(key) != now[key]]
    lines = [f"not the same machine or versions: {', '.join(changed)}"] if changed else []
    lines.append(f"{'against the run of ' + earlier['date']:62}      then       now   change")
    before, after = (
        {
            name.format_map(row): factor * row[key]
            for part, (name, key, factor) in COMPARED.items()
            for row in run.get(part, [])
            if key in row and row.get("contender") != "floor"
        }
        for run in (earlier, result)
    )
    shared = [name for name in after if before.get(name)]
    lines += [f"{n:62}{before[n]:10.3f}{after[n]:10.3f}{after[n] / before[n] - 1:+9.0%}" for n in shared]
    return "\n".join(lines if shared else [*lines, "nothing was measured in both runs"])


def draw(result: Row, path: Path) -> None:
    """The figure of the training step: a panel for each configuration, a bar for each contender, the floor as a line."""
    from minivae.figures.layout import COLOURS, FAINT, INK, LABEL, LINE, TICK, WIDTH, add_title, new_figure, style
    from minivae.figures.plots import save
    from minivae.kernels import MODULES

    panels = [[*panel] for _, panel in groupby((r for r in result["step"] if "to_floor" in r), lambda r: r["config"])]
    height, above = 70 + sum(40 + 20 * max(2, len(panel)) for panel in panels), 90  # pixels
    figure = new_figure(WIDTH, height)
    for floor, *bars in panels:
        size, line = 20 * max(1, len(bars)), 1e3 * floor["seconds"]
        axes = style(figure.add_axes((0.15, 1 - (above + size) / height, 0.62, size / height)))
        above += size + 60
        for i, row in enumerate(bars):
            least, middle, largest = (1e3 * row[key] for key in ("least", "seconds", "largest"))
            spread, colour = [[middle - least], [largest - middle]], COLOURS[0] if row["contender"] in MODULES else LINE
            axes.barh(i, middle, 0.7, color=colour, xerr=spread, error_kw={"ecolor": FAINT, "lw": 1})
            label, place = f"{middle:.3g} ms, {row['to_floor']:.2f} x floor", (max(largest, line), i)
            look: Row = {"textcoords": "offset points", "va": "center", "fontsize": TICK, "color": INK}
            axes.annotate(label, place, (6, 0), annotation_clip=False, **look)
        axes.axvline(line, color=COLOURS[1], lw=1.4)
        axes.set(ylim=(max(1, len(bars)) - 0.4, -0.6), xlim=(0, 1050 * max(row["largest"] for row in (floor, *bars))))
        axes.set_yticks(range(len(bars)), [row["contender"] for row in bars])
        axes.set_title(floor["config"], loc="left", fontsize=LABEL, color=INK)
    title = f"Training step on {result['machine']['cpu']}, {result['machine']['cores']} cores"
    note = "Milliseconds per training step: median, least, largest. Orange: its matrix products alone, the floor."
    save(add_title(figure, title, 14, note), path)
