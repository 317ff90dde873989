"""benchmarks/gpu_check.py, rehearsed without a GPU: every part runs, and no failure of one costs what the others found."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import cuda_on_cpu
import pytest

from minivae.kernels import availability

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
pytestmark = pytest.mark.skipif(not cuda_on_cpu.COMPILER, reason="running CUDA kernels on the CPU needs g++ or clang++")


@pytest.fixture
def gpu_check(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    path = os.pathsep.join(str(folder) for folder in (BENCHMARKS.parent, BENCHMARKS, BENCHMARKS.parent / "tests"))
    monkeypatch.setenv("PYTHONPATH", path)
    import gpu_check

    return gpu_check


def rehearse(out: Path, *arguments: str, **environment: str) -> tuple[int, str, dict]:
    command = [sys.executable, str(BENCHMARKS / "gpu_check.py"), "--emulate", "--out", str(out), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)
    (report,) = out.glob("20*.json")
    return done.returncode, done.stdout + done.stderr, json.loads(report.read_text())["parts"]


def test_every_part_runs_in_its_order_and_is_in_the_report(tmp_path, gpu_check):
    import gpu_parts

    status, said, parts = rehearse(tmp_path)
    assert status == 0, said
    assert list(parts) == [name for _, name, _ in gpu_parts.ordered()]
    assert all(part["passed"] for part in parts.values())
    main = parts[f"step, {gpu_parts.CONFIGS[0]}"]
    assert {row["contender"]: row["status"] for row in main["step"]} == {"roofline": "timed", "cupy": "timed"}
    launches = parts["microseconds per launch"]["table"]
    for kernel in ("gather", "philox_normal", "dense_backward", "adam_step", "record"):
        assert any(f" {kernel} " in line for line in launches), kernel
    assert f"{len(parts)} passed, 0 failed" in said


def test_a_part_that_hangs_or_fails_says_so_and_keeps_what_it_said(tmp_path, gpu_check):
    options = argparse.Namespace(emulate=True)
    slow = gpu_check.attempt("gradcheck in float64", 0.5, options, tmp_path)
    assert slow["passed"] is False and "longer than" in slow["error"]
    wrong = gpu_check.attempt("no such part", 60, options, tmp_path)
    assert wrong["passed"] is False and "KeyError" in wrong["error"] and "Traceback" in "".join(wrong["said"])


def test_what_a_part_kept_before_it_hung_is_not_lost(tmp_path, gpu_check, monkeypatch):
    (tmp_path / "gpu_parts.py").write_text(
        "import json, sys, time\nopen(sys.argv[2], 'w').write(json.dumps({'first': 1}))\ntime.sleep(60)\n"
    )
    monkeypatch.setattr(gpu_check, "__file__", str(tmp_path / "gpu_check.py"))
    found = gpu_check.attempt("any", 2, argparse.Namespace(emulate=False), tmp_path)
    assert found["first"] == 1 and not found["passed"] and "longer than 2 s" in found["error"]


def test_wrong_products_of_cublas_cost_their_check_and_no_other(tmp_path, gpu_check):
    status, said, parts = rehearse(tmp_path, "--only", "checks", MINIVAE_EMULATOR_CUBLAS="wrong")
    failed = [name for name, part in parts.items() if not part["passed"]]
    assert status == 1 and "make their products themselves" in said
    assert failed == ["backend contract, products by cublas"]


def test_wrong_products_of_cublas_are_timed_once_more_with_our_own(tmp_path, gpu_check, monkeypatch):
    monkeypatch.setenv("MINIVAE_EMULATOR_CUBLAS", "wrong")
    import gpu_parts

    found = gpu_check.attempt(f"step, {gpu_parts.CONFIGS[0]}", 120, argparse.Namespace(emulate=True), tmp_path)
    ours = [row for row in found["step"] if row["contender"] == "cupy"]
    assert [row["status"] for row in ours] == ["wrong", "timed"] and "own products" in ours[1]["note"]


def test_without_a_gpu_the_check_says_what_is_missing(tmp_path):
    works, reason = availability("cupy")
    if works:
        pytest.skip("this machine has a GPU: run benchmarks/gpu_check.py itself")
    result = subprocess.run([sys.executable, str(BENCHMARKS / "gpu_check.py"), "--out", str(tmp_path)],
                            capture_output=True, text=True)  # fmt: skip
    assert result.returncode == 1 and reason[:20] in result.stdout + result.stderr
