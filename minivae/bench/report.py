"""`minivae bench`: what it takes, what it prints, the JSON file, and the comparison with an earlier run."""

from __future__ import annotations

import argparse
import datetime
import importlib
import importlib.metadata
import json
import os
import platform
from pathlib import Path
from typing import Any

Row = dict[str, Any]
FORMAT = 1
SUITES = ("step", "profile", "kernels", "end-to-end")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `minivae bench`. Nothing is imported for them, so that `minivae --help` stays quick."""
    parser.add_argument("--quick", action="store_true", help="under a minute: two configurations, few rounds")
    parser.add_argument(
        "--suite", choices=(*SUITES, "all"), help="what to measure (default: all; with --quick all but end-to-end)"
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="turns of each contender (default: 7; with --quick 3)")
    parser.add_argument(
        "--configs",
        nargs="+",
        metavar="NAME",
        help="design, batches, quick, or widths-activation-batch as in 784-400-20-relu-128 (default: design)",
    )
    parser.add_argument(
        "--contenders",
        nargs="+",
        metavar="NAME",
        help="of the training step: numpy, numba, cupy, torch, torch-compile, jax-scan, jax-step (default: all), and "
        "on a GPU torch-cuda, torch-cuda-compile, torch-cuda-graph",
    )
    parser.add_argument("--epochs", type=int, default=3, metavar="N", help="end to end: epochs (default: 3)")
    parser.add_argument("--out", default="bench.json", metavar="FILE", help="results as JSON (default: bench.json)")
    parser.add_argument("--figure", metavar="FILE", help="figure of the training step (default: beside --out, .png)")
    parser.add_argument("--against", metavar="FILE", help="compare with the results of an earlier run")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")


def run(options: argparse.Namespace) -> int:
    """Measure, write, print. Everything that can be refused is refused before the first measurement."""
    from minivae.bench import configs, contenders, endtoend, figure, runner

    suites = list(SUITES) if options.suite in (None, "all") else [options.suite]
    if options.quick and options.suite is None:
        suites.remove("end-to-end")
    rounds = options.rounds if options.rounds is not None else 3 if options.quick else 7
    for name, value in (("--rounds", rounds), ("--epochs", options.epochs)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")
    chosen = configs.select(options.configs or ["quick" if options.quick else "design"])
    # compiling and calling once a step are left out of --quick: slow to start, and never ahead of their neighbours by much
    usual = [n for n in contenders.NAMES if not (options.quick and n in ("torch-compile", "jax-step"))]
    names = options.contenders or usual
    unknown = [name for name in names if name not in (*contenders.NAMES, *contenders.GPU_PEERS)]
    if unknown:
        raise ValueError(f"contender {unknown[0]!r} is not one of {', '.join(contenders.NAMES)}")
    out = Path(options.out)
    picture = Path(options.figure or out.with_suffix(".png"))
    for path in (out, picture):
        if not path.resolve().parent.is_dir():
            raise FileNotFoundError(f"{path.parent}, where {path.name} should go, is not a folder; create it first")
    earlier = load(options.against) if options.against else None

    result: Row = {"format": FORMAT, "date": datetime.date.today().isoformat(), "rounds": rounds, "machine": machine()}
    result["ceilings"] = runner.ceilings(3 if options.quick else 7)
    if "step" in suites:
        result["step"] = runner.step_suite(chosen, list(names), rounds, 0.1 if options.quick else 0.3)
    if "profile" in suites:
        result["profile"] = runner.profile_suite(chosen, 200 if options.quick else 1000)
    if "kernels" in suites:
        result["kernels"] = runner.kernel_suite(chosen[0], rounds)
        again = runner.ceilings(3 if options.quick else 7)  # machines drift: the best of before and after
        result["ceilings"] = {name: max(value, again[name]) for name, value in result["ceilings"].items()}
        add_shares(result["kernels"], result["ceilings"])
    if "end-to-end" in suites:
        result["training"] = endtoend.training(1 if options.quick else options.epochs)
        result["imports"] = endtoend.import_times(3 if options.quick else 7)
        result["installations"] = endtoend.installed_sizes()

    save(result, out)
    if options.json:
        print(json.dumps(result))
    else:
        print(text(result) + (f"\n\n{against(result, earlier)}" if earlier else "") + f"\n\nwrote {out}", flush=True)
    if "step" in result:
        try:
            figure.write(result, picture)
            runner.say(f"wrote {picture}")
        except ImportError as error:
            runner.say(f"no figure: {error}")
    return 0


# ---- What was measured, and where


def machine() -> Row:
    """The machine in words, without its name and without paths."""
    import numpy as np

    from minivae import __version__
    from minivae.bench.contenders import available_cores

    config: Any = np.show_config(mode="dicts")
    simd = config.get("SIMD Extensions", {})
    versions = {"minivae": __version__, "python": platform.python_version(), "numpy": np.__version__}
    for package in ("numba", "scipy", "torch", "jax", "jaxlib"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "cpu": cpu_model(),
        "cores": available_cores(),
        "simd": [*simd.get("baseline", []), *simd.get("found", [])][-1:],
        "system": f"{platform.system()} {platform.machine()}",
        "blas": blas(config),
        "versions": versions,
    }


def cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or "unknown"


def blas(config: Any) -> str:
    """NumPy's BLAS with the kind of core it chose, which only threadpoolctl knows."""
    built = config.get("Build Dependencies", {}).get("blas", {})
    try:
        pools = importlib.import_module("threadpoolctl").threadpool_info()
    except ImportError:
        return f"{built.get('name', 'unknown')} {built.get('version', '')}".strip()
    pools = [pool for pool in pools if pool["user_api"] == "blas"]
    return (
        ", ".join(f"{p['internal_api']} {p['version']} {p.get('architecture', '')}".strip() for p in pools) or "unknown"
    )


def add_shares(rows: list[Row], ceilings: dict[str, float]) -> None:
    """How much of the machine a kernel uses: of its best copy or its best matrix product, whichever is nearer."""
    best = {
        kind: max((v for k, v in ceilings.items() if k.startswith(kind)), default=0.0) for kind in ("copy", "matrix")
    }
    for row in rows:
        if row["status"] == "timed" and row["backend"] != "cupy" and all(best.values()):  # ceilings are the CPU's
            row["share"] = max(row["gb_per_s"] / best["copy"], row["gflop_per_s"] / best["matrix"])


# ---- Files


def save(result: Row, path: Path) -> None:
    from minivae.modelfile import write_atomically

    text = json.dumps(result, indent=1, allow_nan=False) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def load(path: str | os.PathLike[str]) -> Row:
    """The results of an earlier run. Raises ValueError for a file that holds none."""
    try:
        result = json.loads(Path(path).read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not a JSON file ({error}); name one that `minivae bench` wrote") from error
    if not isinstance(result, dict) or result.get("format") != FORMAT or not isinstance(result.get("machine"), dict):
        raise ValueError(f"{path} holds no results in format {FORMAT}; name one that this `minivae bench` wrote")
    return result


# ---- Text


def text(result: Row) -> str:
    from minivae.bench import profile

    about = result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    lines = [
        f"{about['cpu']}, {about['cores']} cores, {' '.join(about['simd'])}, {about['system']}; BLAS: {about['blas']}",
        f"{versions}; {result['date']}",
        "ceilings: " + ";  ".join(
            f"{name} {value:.1f} {'GB/s' if name.startswith('copy') else 'GFLOP/s'}"
            for name, value in result["ceilings"].items()
        ),
    ]  # fmt: skip
    parts = [step_text(result), profile.text(result.get("profile", [])), kernels_text(result), end_to_end_text(result)]
    return "\n\n".join(["\n".join(lines), *filter(None, parts)])


def step_text(result: Row) -> str:
    rows, lines = result.get("step", []), []
    for name in dict.fromkeys(row["config"] for row in rows):
        mine = [row for row in rows if row["config"] == name]
        for row in mine:
            if row["status"] == "timed" and row["contender"] != "floor":
                lines.append(
                    f"results match: {row['contender']:14} {row['steps_compared']} losses to {row['deviation']:.0e}"
                )
        lines.append(f"{name + ', ms per step':34}{'median':>9}{'least':>9}{'largest':>9}{'x floor':>9}")
        for row in mine:
            lines.append(f"  {row['contender']:32}{numbers(row, 1000)}")
        lines.append("")
    if rows:
        lines.append(
            "floor: all matrix products of the step alone, on NumPy's BLAS. Who makes products otherwise may be below it."
        )
    return "\n".join(lines)


def numbers(row: Row, scale: float) -> str:
    if row["status"] != "timed":
        return f"  {row['status']}: {row['note']}"
    times = "".join(f"{scale * row[key]:9.3f}" for key in ("seconds", "least", "largest"))
    return f"{times}{row['to_floor']:9.2f}  {row['note']}".rstrip() if "to_floor" in row else times


def kernels_text(result: Row) -> str:
    rows = result.get("kernels", [])
    lines = []
    for row in rows:
        if "kernel" not in row:
            lines.append(f"kernels, {row['backend']}: {row['status']}: {row['note']}")
    for backend in dict.fromkeys(row["backend"] for row in rows if "kernel" in row):
        mine = [row for row in rows if row["backend"] == backend and "kernel" in row]
        wrong = [row["kernel"] for row in mine if row["status"] != "timed"]
        worst = max((row["deviation"] for row in mine if row["status"] == "timed"), default=0.0)
        verdict = f"WRONG: {', '.join(wrong)}" if wrong else f"results match, largest deviation {worst:.0e}"
        lines += ["", f"kernels, {backend}, {mine[0]['config']}: {verdict}"]
        lines.append(f"  {'':26}{'us':>10}{'GB/s':>9}{'GFLOP/s':>9}{'of the ceiling':>16}")
        for row in mine:
            if row["status"] == "timed":
                flops = f"{row['gflop_per_s']:9.1f}" if row["gflop_per_s"] else f"{'':9}"
                share = f"{row['share']:16.0%}" if "share" in row else ""
                lines.append(f"  {row['kernel']:26}{1e6 * row['seconds']:10.1f}{row['gb_per_s']:9.1f}{flops}{share}")
            else:
                lines.append(f"  {row['kernel']:26}  differs from the reference: not timed")
    return "\n".join(lines).strip("\n")


def end_to_end_text(result: Row) -> str:
    columns = [("epochs", ".0f"), ("seconds", ".2f"), ("seconds_per_epoch", ".2f"), ("start_up", ".2f")]
    columns += [("peak_mb", ".0f"), ("test_loss", ".2f")]
    titles = ("epochs", "s", "s/epoch", "start-up", "MB peak", "test loss")
    lines = [f"{'whole processes':30}" + "".join(f"{title:>11}" for title in titles)] if "training" in result else []
    for row in result.get("training", []):
        shown = (format(row[key], form) if row.get(key) is not None else "-" for key, form in columns)
        cells = (
            "".join(f"{cell:>11}" for cell in shown)
            if row["status"] == "timed"
            else f"  {row['status']}: {row['note']}"
        )
        lines.append(f"  {row['program']:28}{cells}")
    for part, name, value, unit in (
        ("imports", "import", "seconds", "s"),
        ("installations", "installation", "mb", "MB"),
    ):
        for row in result.get(part, []):
            cell = f"{row[value]:9.2f} {unit}" if row["status"] == "timed" else f"  {row['status']}: {row['note']}"
            lines.append(f"{name} {row[name]:24}{cell}")
    return "\n".join(lines)


def against(result: Row, earlier: Row) -> str:
    """Every number that both runs have; of a step the ratio to the floor, which moves less than the machine."""
    lines = [f"{'against the run of ' + earlier['date']:62}{'then':>10}{'now':>10}{'change':>9}"]
    if earlier["machine"] != result["machine"]:
        lines.insert(0, f"not the same machine or versions: {differences(earlier['machine'], result['machine'])}")
    before, now = comparable(earlier), comparable(result)
    shared = [name for name in now if before.get(name)]
    lines += [f"{n:62}{before[n]:10.3f}{now[n]:10.3f}{now[n] / before[n] - 1:+9.0%}" for n in shared]
    return "\n".join(lines if shared else [*lines, "nothing was measured in both runs"])


def comparable(result: Row) -> dict[str, float]:
    """Name -> number, of everything that was timed; less is better."""
    found = {}
    for part, form, key, scale in (
        ("step", "{config}, {contender}, x floor", "to_floor", 1),
        ("kernels", "{config}, {kernel}, {backend}, us", "seconds", 1e6),
        ("training", "{program}, s per epoch", "seconds_per_epoch", 1),
        ("imports", "import {import}, s", "seconds", 1),
    ):
        for row in result.get(part, []):
            if row["status"] == "timed" and row.get(key) is not None and row.get("contender") != "floor":
                found[form.format_map(row)] = scale * row[key]
    return found


def differences(then: Row, now: Row) -> str:
    flat = [about | about.get("versions", {}) for about in (then, now)]
    changed = [key for key in flat[1] if key != "versions" and flat[0].get(key) != flat[1][key]]
    return ", ".join(f"{key} {flat[0].get(key, 'unknown')} -> {flat[1][key]}" for key in changed)
