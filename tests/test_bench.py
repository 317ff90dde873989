"""`minivae bench`: its arithmetic, the protocol of its workers, and what it says about contenders that cannot be timed.

No test here looks at how long anything took.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import io
import json
import math
import platform
from pathlib import Path

import numpy as np
import pytest

import minivae
from minivae.bench import configs, contenders, endtoend, kernels, profile, report, runner, worker
from minivae.kernels import MODULES, availability, load, reference

TINY = "6-5-2-tanh-4"
PACKAGE = Path(minivae.__file__).parent


def options(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    report.add_arguments(parser)
    return parser.parse_args(arguments)


def row(contender: str, seconds: float, to_floor: float, config: str = TINY, **more: object) -> dict:
    times = {"seconds": seconds, "least": 0.9 * seconds, "largest": 1.2 * seconds, "to_floor": to_floor}
    return {"config": config, "contender": contender, "status": "timed", "note": "2 threads"} | times | more


def result() -> dict:
    checked = {"steps_compared": 20, "deviation": 2e-7}
    missing = {"config": TINY, "contender": "torch", "status": "unavailable", "note": "torch cannot be imported"}
    return {
        "format": report.FORMAT,
        "date": "2026-01-02",
        "machine": report.machine(),
        "ceilings": {"copy, 1 thread": 20.0, "matrix product, 1 thread": 100.0},
        "step": [row("floor", 0.001, 1.0), row("numpy", 0.004, 4.0, **checked), missing],
    }


# ---- Configurations


def test_the_name_of_a_configuration_says_all():
    config = configs.parse("784-200-100-50-tanh-20")
    assert config.arch.data_dim == 784 and config.arch.hidden_dims == (200, 100) and config.arch.latent_dim == 50
    assert config.arch.activation == "tanh" and config.batch == 20
    assert [c.name for c in configs.select(["design", TINY, configs.DESIGN[0]])] == [*configs.DESIGN, TINY]


@pytest.mark.parametrize("name", ["mnist", "784-relu", "784-20-relu-0", "784-20-soft-3", "784-x-20-relu-3"])
def test_a_wrong_configuration_is_refused_with_the_form_of_a_name(name):
    with pytest.raises(ValueError, match="784-400-20-relu-128"):
        configs.parse(name)


def test_flops_of_the_matrix_products_equal_a_count_by_hand():
    products = configs.matrix_products(configs.parse(TINY).arch, 4)
    # 6-5-4 (mu and logvar) and 2-5-6: each layer has a forward product and a dW, and all but the first a dx
    forward = 2 * 4 * (6 * 5 + 5 * 4 + 2 * 5 + 5 * 6)
    assert sum(p.flops for p in products) == 3 * forward - 2 * 4 * 6 * 5
    assert sorted(p.transposed for p in products) == [""] * 4 + ["A"] * 4 + ["B"] * 3


def test_inputs_are_the_same_every_time_and_the_noise_is_minivaes_own():
    config = configs.parse(TINY)
    first, second = configs.inputs(config), configs.inputs(config)
    for name, array in vars(first).items():
        np.testing.assert_array_equal(array, getattr(second, name))
    assert first.x.dtype == first.eps.dtype == np.float32 and first.x.min() >= 0 and first.x.max() <= 1
    np.testing.assert_array_equal(first.x[3], first.data[first.rows[3]])
    assert sorted(first.rows.ravel()) == list(range(len(first.data)))


# ---- Contenders and workers


def talk(*lines: str, name: str = "numpy", config: str = TINY) -> list:
    answers = io.StringIO()
    worker.work(name, config, io.StringIO("".join(f"{line}\n" for line in lines)), answers)
    return [json.loads(line) for line in answers.getvalue().splitlines()]


def test_worker_protocol():
    first, *times = talk("run 1", "run 60")
    assert first["status"] == "ready" and len(first["losses"]) == configs.CHECKED_STEPS
    assert len(times) == 2 and all(time > 0 for time in times)


def test_worker_refuses_what_is_no_command():
    with pytest.raises(ValueError, match="write run N"):
        talk("run 0")


@pytest.mark.parametrize("backend", MODULES)
def test_a_backend_has_the_losses_of_the_reference(backend):
    if not availability(backend)[0]:
        pytest.skip(f"backend {backend}: {availability(backend)[1]}")
    expected = contenders.create("numpy", configs.parse(TINY)).losses()
    contender = contenders.create(backend, configs.parse(TINY))
    contender.run(75)  # the losses are those from the initial weights, whatever ran before
    assert configs.deviation(contender.losses(), expected) < configs.TOLERANCE


def test_the_profile_accounts_for_the_whole_step_and_all_its_products():
    if not availability("numba")[0]:
        pytest.skip(f"backend numba: {availability('numba')[1]}")
    first, row = talk("run 100", name="profile")
    assert first["status"] == "ready"
    assert math.isclose(sum(p["seconds"] for p in row["parts"]) + row["waiting"], row["seconds"], rel_tol=1e-6)
    flops = sum(p.flops for p in configs.matrix_products(configs.parse(TINY).arch, 4))
    assert sum(p["flops"] for p in row["parts"]) == flops
    text = profile.text([{"config": TINY, "status": "timed"} | row])
    assert "bernoulli_loss" in text and "whole step, 1 thread;" in text
    assert profile.text([{"config": TINY, "status": "unavailable", "note": "no Numba"}]).endswith(
        "unavailable: no Numba"
    )


@pytest.mark.parametrize("name", contenders.PEERS)
def test_a_peer_has_the_losses_of_the_reference(name):
    package = name.split("-")[0]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    if name == "torch-compile":
        pytest.skip("compiling takes half a minute; `minivae bench` compares its losses before it times them")
    with runner.working(["numpy", name], TINY) as workers:
        judged = runner.judge(workers)
        assert judged[name]["status"] == "ready", judged[name]["note"]
        assert runner.take_turns(workers, 1, 0.0)[0][name][0] > 0


def test_a_missing_peer_is_listed_with_its_reason(tmp_path, monkeypatch):
    for package in ("torch", "jax"):
        (tmp_path / f"{package}.py").write_text(f"raise ImportError('no {package} on this machine')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    rows = runner.step_suite([configs.parse(TINY)], ["torch", "jax-scan"], 1, 0.0)
    assert {r["contender"]: r["status"] for r in rows} == {
        "floor": "timed",
        "torch": "unavailable",
        "jax-scan": "unavailable",
    }
    shown = report.step_text({"step": rows})
    assert "no torch on this machine" in shown and "pip install jax" in shown


def test_a_worker_that_dies_is_listed_with_its_last_words():
    with runner.working(["numpy", "nonsense"], TINY) as workers:
        judged = runner.judge(workers)
        workers[0].process.kill()
        times, failed = runner.take_turns(workers[:1], 1, 0.0)
    assert judged["nonsense"]["status"] == "failed" and "not one of" in judged["nonsense"]["note"]
    assert times == {} and "status" in failed["numpy"]


class Said:
    """A worker that has said its first line."""

    def __init__(self, name: str, losses: list[float]) -> None:
        self.name, self.ready, self.first = name, True, {"status": "ready", "note": "", "losses": losses}


def test_wrong_losses_are_not_timed():
    good = [100.0, 90.0, 80.0]
    said = {"numpy": good, "close": [100.001, 90.0, 80.0], "wrong": [100.0, 90.0, 80.1], "nan": [100.0, 90.0, math.nan]}
    judged = runner.judge([Said(name, losses) for name, losses in {**said, "short": good[:2]}.items()])
    assert {name: row["status"] for name, row in judged.items()} == {
        "numpy": "ready",
        "close": "ready",
        "wrong": "wrong",
        "nan": "wrong",
        "short": "wrong",
    }
    assert "1.2e-03" in judged["wrong"]["note"] and judged["nan"]["deviation"] is None


def test_without_a_reference_nothing_is_timed():
    assert runner.judge([Said("torch", [1.0])])["torch"]["note"] == "the reference failed: not timed"


def test_ratio_is_the_median_over_rounds_of_the_ratio_in_that_round():
    # the machine became ten times slower in the second round: the ratio of the medians would be 6 / 2 = 3
    row = runner.summary([4.0, 60.0, 6.0], [2.0, 20.0, 1.0])
    assert row == {"seconds": 6.0, "least": 4.0, "largest": 60.0, "to_floor": 3.0}
    assert "to_floor" not in runner.summary([4.0], None)


# ---- Kernels and ceilings


def test_the_ladder_has_every_kernel_and_bears_repeated_calls():
    cases = kernels.cases(configs.parse("16-8-4-relu-8"))
    assert {case.kernel for case in cases} == set(kernels.TIMED)
    for case in cases:
        assert kernels.case_deviation(reference, case) == 0
        call, arrays = kernels.bind_case(reference, case)
        for _ in range(3000):
            call()
        smallest = min(np.abs(a[a != 0]).min() for a in arrays if a.dtype == np.float32 and a.any())
        assert smallest > 1e-30, f"{case.name} drifts into denormal numbers, which are slow"


def test_a_wrong_kernel_is_found_and_not_timed(monkeypatch):
    wrong = load("numpy")
    config = configs.parse("16-8-4-relu-8")
    case = next(case for case in kernels.cases(config) if case.name == "sample_forward")

    class Wrong:
        to_device, to_host = staticmethod(wrong.to_device), staticmethod(wrong.to_host)

        @staticmethod
        def sample_forward(z, kl, h, eps):
            wrong.sample_forward(z, kl, h, eps)
            z *= 1.001

    assert kernels.case_deviation(Wrong, case) > configs.TOLERANCE


def test_ceilings_of_a_small_copy_and_product():
    measured = kernels.Ceilings(elements=1000, side=16).run(2)
    assert "copy, 1 thread" in measured and all(value > 0 for value in measured.values())


def test_share_is_of_the_nearer_ceiling():
    rows = [{"status": "timed", "backend": "numpy", "gb_per_s": 5.0, "gflop_per_s": 60.0}]
    report.add_shares(rows, {"copy, 1 thread": 10.0, "copy, 2 threads": 20.0, "matrix product, 1 thread": 100.0})
    assert rows[0]["share"] == pytest.approx(0.6)


# ---- Results


def test_results_survive_the_file(tmp_path):
    report.save(result(), tmp_path / "bench.json")
    assert report.load(tmp_path / "bench.json") == result()


@pytest.mark.parametrize("content", ["no JSON", "[]", '{"format": 0}'])
def test_a_file_without_results_is_refused(tmp_path, content):
    (tmp_path / "other.json").write_text(content)
    with pytest.raises(ValueError, match="minivae bench"):
        report.load(tmp_path / "other.json")


def test_against_compares_the_ratio_to_the_floor():
    now, then = result(), result()
    now["step"][1] |= {"to_floor": 3.0, "seconds": 0.009}
    lines = report.against(now, then).splitlines()
    assert len(lines) == 2 and "2026-01-02" in lines[0]
    assert lines[1].split() == [f"{TINY},", "numpy,", "x", "floor", "4.000", "3.000", "-25%"]


def test_against_says_when_the_machine_was_another():
    now, then = result(), result()
    then["machine"] = now["machine"] | {"cpu": "Abacus", "versions": now["machine"]["versions"] | {"numpy": "1.0"}}
    first = report.against(now, then).splitlines()[0]
    assert "cpu Abacus ->" in first and "numpy 1.0 ->" in first
    then["step"] = []
    assert "nothing was measured in both runs" in report.against(now, then)


def test_text_says_that_results_match_before_any_time():
    shown = report.text(result())
    assert shown.index("results match: numpy") < shown.index("ms per step")
    assert "4.000" in shown and "torch cannot be imported" in shown


def test_the_machine_is_described_without_its_name():
    described = json.dumps(report.machine())
    assert platform.node() not in described or len(platform.node()) < 3
    assert "/home" not in described and "numpy" in described


def test_figure(tmp_path):
    pytest.importorskip("matplotlib", reason="figures need matplotlib")
    from minivae.bench import figure

    figure.write(result(), tmp_path / "bench.png")
    assert (tmp_path / "bench.png").stat().st_size > 5000


def test_command_from_start_to_end(tmp_path, monkeypatch, capsys):
    """With everything shrunk: the tables on standard output, progress on standard error, both files written."""
    monkeypatch.setattr(runner, "ceilings", lambda repeats: {"copy, 1 thread": 20.0, "matrix product, 1 thread": 99.0})
    out = tmp_path / "bench.json"
    asked = [
        "--quick",
        "--suite",
        "step",
        "--rounds",
        "1",
        "--configs",
        TINY,
        "--contenders",
        "numpy",
        "--out",
        str(out),
    ]
    assert report.run(options(*asked)) == 0
    shown = capsys.readouterr()
    assert "results match: numpy" in shown.out and "preparing numpy" in shown.err
    assert report.run(options(*asked, "--against", str(out))) == 0
    assert "against the run of" in capsys.readouterr().out
    assert report.run(options(*asked, "--json")) == 0
    assert json.loads(capsys.readouterr().out)["rounds"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rounds", "0"], "--rounds must be at least 1"),
        (["--configs", "mnist"], "not a configuration"),
        (["--contenders", "tensorflow"], "not one of"),
        (["--out", "no/such/folder/b.json"], "is not a folder"),
        (["--against", "no-such-file.json"], "no-such-file"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_runs(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, OSError), match=message):
        report.run(options(*arguments))


# ---- End to end


def test_measure_reports_time_memory_and_output():
    seconds, peak, printed = endtoend.measure(["-c", "print('done')"])
    assert seconds > 0 and printed == "done\n" and (peak is None or 1 < peak < 10_000)
    with pytest.raises(RuntimeError, match="went wrong"):
        endtoend.measure(["-c", "raise SystemExit('it went wrong')"])


def test_installed_sizes_and_import_times():
    sizes = {row["installation"]: row for row in endtoend.installed_sizes()}
    assert sizes["minivae"]["status"] == "unavailable" or 1 < sizes["minivae"]["mb"] < 1000
    assert endtoend.requirements(("numpy", "not-installed-anywhere")) == {"numpy"}


def test_without_mnist_the_training_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIVAE_DATA", str(tmp_path))
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (row,) = endtoend.training(1)
    assert row["status"] == "unavailable" and "mnist" in row["note"].lower()


def test_only_peers_imports_a_framework():
    for path in (PACKAGE / "bench").glob("*.py"):
        imported = set()
        for node in ast.walk(ast.parse(path.read_text())):
            imported |= {a.name.split(".")[0] for a in node.names} if isinstance(node, ast.Import) else set()
            imported |= {(node.module or "").split(".")[0]} if isinstance(node, ast.ImportFrom) else set()
        assert path.name == "peers.py" or not imported & {"torch", "jax"}, path.name
