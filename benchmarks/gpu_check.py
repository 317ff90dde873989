"""Everything that needs a GPU, in one call: is the CuPy backend right, does it stay right, and how fast is it?

    PYTHONPATH=. python3 benchmarks/gpu_check.py --data FOLDER_WITH_MNIST --out benchmarks/results

Needs CuPy, NumPy, tqdm, pytest and scipy; PyTorch and JAX are measured where they are. No network. Each part (gpu_parts.py)
runs in a process of its own with a time limit, and is in the report, a JSON file in the folder of --out, before the next
begins; what it printed lies beside that. Where cuBLAS makes a wrong product, the rest goes on with the own one. The exit
status is 1 if a check failed. --only takes some of checks, profile, peers; without it they run in the order of what a
short stay on a card should not miss. --emulate rehearses all of it, with small sizes, on a CPU that plays a GPU.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
GROUPS = ("checks", "profile", "peers")


def slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def attempt(name: str, seconds: float, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """What a part says of itself; where it fails, hangs or dies, that, with the end of what it printed."""
    result, log = folder / f"{slug(name)}.json", folder / f"{slug(name)}.log"
    result.unlink(missing_ok=True)
    command = [sys.executable, str(Path(__file__).with_name("gpu_parts.py")), name, str(result)]
    found: dict[str, Any]
    with log.open("w") as output:
        command += ["emulate"] * options.emulate
        program = subprocess.Popen(command, stdout=output, stderr=output, cwd=ROOT, start_new_session=True)
        try:
            status = program.wait(seconds)
            found = {"error": f"it ended with status {status}"}
        except BaseException as error:
            os.killpg(program.pid, signal.SIGKILL)  # its own children too
            program.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            found = {"error": f"it took longer than {seconds:.0f} s"}
    if result.exists():  # a part that is stopped leaves what it had measured
        found = json.loads(result.read_text()) | (found if "longer" in found["error"] else {})
    if "error" in found:
        found["said"] = log.read_text(errors="replace").splitlines()[-30:]
    return {"passed": False} | found


def shown(name: str, found: dict[str, Any]) -> str:
    facts = {k: v for k, v in found.items() if k not in ("passed", "seconds") and not isinstance(v, (list, dict))}
    words = "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in facts.items())
    lines = found.get("said", []) if "error" in found else found.get("table", [])
    mark = "ok    " if found["passed"] else "FAILED"
    return "\n    ".join([f"{mark} {name} ({found['seconds']:.0f} s): {words}", *lines])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="a folder with MNIST (default: MINIVAE_DATA)")
    parser.add_argument("--out", default="benchmarks/results", help="folder for the report and what each part printed")
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=GROUPS, help="which parts (default: all)")
    parser.add_argument("--emulate", action="store_true", help="on a CPU, through the emulator of the tests")
    options = parser.parse_args()
    if options.data:
        os.environ["MINIVAE_DATA"] = str(Path(options.data).resolve())
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # the contenders share the card
    path = [str(ROOT), str(ROOT / "benchmarks"), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, path))
    sys.path[:0] = path[:3]
    import gpu_parts

    out = Path(options.out).resolve()
    out.mkdir(parents=True, exist_ok=True)
    today = datetime.date.today().isoformat()
    card = attempt("device", 120, options, out)
    if not card["passed"] and os.environ.get("MINIVAE_CUDA_PRODUCTS") != "own":  # is it cuBLAS alone?
        os.environ["MINIVAE_CUDA_PRODUCTS"] = "own"
        card = {"with cuBLAS": card.get("reason", card.get("error"))} | attempt("device", 120, options, out)
    if not card.get("passed"):
        print("\n".join([f"cupy: {card.get('reason', card.get('error'))}", *card.get("said", [])]))
        return 1
    print(f"cupy: {card['reason']}", flush=True)
    file = out / f"{today}-{slug(card['device'])}.json"
    parts: dict[str, Any] = {"device": card}
    for group, name, seconds in gpu_parts.ordered():
        if group not in options.only or name == "device":
            continue
        begun = time.perf_counter()
        found = parts[name] = attempt(name, seconds, options, out)
        found["seconds"] = round(time.perf_counter() - begun, 1)
        if not found["passed"] and name == gpu_parts.CUBLAS and os.environ.get("MINIVAE_CUDA_PRODUCTS") != "own":
            os.environ["MINIVAE_CUDA_PRODUCTS"] = "own"
            found["then"] = "the parts after this one make their products themselves"
        file.write_text(json.dumps({"date": today, "parts": parts}, indent=1) + "\n")
        print(shown(name, found), flush=True)
    failed = [name for name, found in parts.items() if not found["passed"]]
    print(f"wrote {file.name}\n{len(parts) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
