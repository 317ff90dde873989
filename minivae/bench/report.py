"""`minivae bench`: what it takes, which parts it measures, the machine in words, the file of the results."""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import sys
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

Row = dict[str, Any]
FORMAT = 2
SUITES = ("step", "start", "profile", "kernels", "end-to-end")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `minivae bench`. Nothing is imported for them, so that `minivae --help` stays quick."""
    add = parser.add_argument
    add("--quick", action="store_true", help="under a minute: two configurations, few rounds")
    add("--suite", choices=(*SUITES, "all"), help="what to measure (default: all; with --quick step, profile, kernels)")
    add("--rounds", type=int, metavar="N", help="turns of each contender (default: 7; with --quick 3)")
    form = "design, batches, gaussian, iwae, quick, or widths-activation[-likelihood][-iwaeK]-batch (default: design)"
    add("--configs", nargs="+", metavar="NAME", help=form)
    known = "numpy, numba, cupy, torch, torch-compile, jax-scan, jax-step (default: all); on a GPU torch-cuda,"
    known += " torch-cuda-compile, torch-cuda-graph; one of your own as module:function"
    add("--contenders", nargs="+", metavar="NAME", help=known)
    add("--epochs", type=int, default=3, metavar="N", help="end to end: epochs (default: 3)")
    add("--out", default="bench.json", metavar="FILE", help="results as JSON (default: bench.json)")
    add("--figure", metavar="FILE", help="figure of the training step (default: beside --out, .png)")
    add("--against", metavar="FILE", help="compare with the results of an earlier run")
    add("--json", action="store_true", help="print the results as JSON")


def run(options: argparse.Namespace) -> int:
    """Measure, write, print. Everything that can be refused is refused before the first measurement."""
    from minivae.bench import configs, contenders, kernels, runner, tables
    from minivae.kernels import MODULES
    from minivae.storage.durable import place_of
    from minivae.storage.modelfile import json_text

    quick, asked = options.quick, options.suite
    usual = ["step", "profile", "kernels"] if quick else SUITES
    suites = SUITES if asked == "all" else [asked] if asked else usual
    rounds = options.rounds if options.rounds is not None else 3 if quick else 7
    for name, value in (("--rounds", rounds), ("--epochs", options.epochs)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")
    chosen = configs.select(options.configs or ["quick" if quick else "design"])
    # compiling and calling once a step are left out of --quick: slow to start, and never ahead of their neighbours by much
    names = options.contenders or [n for n in contenders.NAMES if not (quick and n in ("torch-compile", "jax-step"))]
    for name in names:
        if name not in contenders.TABLE:
            contenders.register(name, name)
    place_of(out := Path(options.out))
    place_of(picture := Path(options.figure or out.with_suffix(".png")))
    earlier = read(options.against) if options.against else None

    turn, steps, epochs = (0.1, 200, 1) if quick else (0.3, 1000, options.epochs)
    load, (stolen, spent) = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0, runner.processor_time()
    result: Row = {"format": FORMAT, "date": datetime.date.today().isoformat(), "rounds": rounds, "machine": machine()}
    if "step" in suites:
        result["step"] = runner.step_suite(chosen, names, rounds, turn)
    if "start" in suites:
        result["start"] = runner.start_suite(chosen[0], names)
    if "profile" in suites:
        rows = (runner.alone({"config": config.name}, contenders.profile, config, steps) for config in chosen)
        result["profile"] = list(chain(*rows))
    if "kernels" in suites:
        abouts = [{"backend": backend, "config": chosen[0].name} for backend in MODULES]
        rows = (runner.alone(about, kernels.ladder, chosen[0], about["backend"], rounds) for about in abouts)
        result["kernels"] = list(chain(*rows))
    if "end-to-end" in suites:
        result["training"] = runner.training(epochs)
    stolen, spent = (now - then for now, then in zip(runner.processor_time(), (stolen, spent)))
    result["machine"] |= {"load": load, "stolen": stolen / max(1, spent)}
    save(result, out)
    shown = [tables.text(result), *([tables.against(result, earlier)] if earlier else []), f"wrote {out}"]
    print(json_text(result) if options.json else "\n\n".join(shown), flush=True)
    if "step" in result:
        try:
            tables.draw(result, picture)
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


def save(result: Row, path: Path) -> None:
    from minivae.storage.durable import write_atomically
    from minivae.storage.modelfile import json_text

    write_atomically(path, lambda file: file.write(json_text(result, indent=1).encode() + b"\n"))


def read(path: str | Path) -> Row:
    """The results of an earlier run. Raises ValueError for a file that holds none."""
    with suppress(ValueError, TypeError, KeyError):
        result: Row = json.loads(Path(path).read_text())
        if result["format"] == FORMAT and isinstance(result["machine"], dict):
            return result
    raise ValueError(f"{path} holds no results in format {FORMAT}; name a file that this `minivae bench` wrote")
