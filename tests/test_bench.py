"""`minivae bench`: its arithmetic, its processes, and what it says about contenders that cannot be timed.

No test here looks at how long anything took.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import json
import math
import os
import platform
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import minivae
from minivae.bench import configs, contenders, kernels, report, runner, tables
from minivae.kernels import INTERFACE, MODULES, availability, load, reference
from minivae.kernels.table import MEMORY

TINY = "6-5-2-tanh-4"
PACKAGE = Path(minivae.__file__).parent


def options(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    report.add_arguments(parser)
    return parser.parse_args(arguments)


def row(contender: str, seconds: float, share: float, config: str = TINY, **more: object) -> dict:
    times = {"seconds": seconds, "least": 0.9 * seconds, "largest": 1.1 * seconds, "share": share}
    times["times"] = [times["least"], seconds, times["largest"]]
    return {"config": config, "contender": contender, "status": "timed", "note": "2 threads"} | times | more


def result() -> dict:
    checked = {"steps_compared": 20, "deviation": 2e-7}
    missing = {"config": TINY, "contender": "torch", "status": "unavailable", "note": "torch cannot be imported"}
    return {
        "format": report.FORMAT,
        "date": "2026-01-02",
        "machine": report.machine(),
        "step": [row("roofline", 0.001, 1.0), row("numpy", 0.004, 0.25, **checked), missing],
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
    # 6-5-4 (mu and logvar) and 2-5-6: each layer has a forward product and a dW, and all but the first a dx
    forward = 2 * 4 * (6 * 5 + 5 * 4 + 2 * 5 + 5 * 6)
    assert configs.parse(TINY).flops == 3 * forward - 2 * 4 * 6 * 5


def test_the_roofline_is_the_longer_of_multiply_adds_and_bytes_at_the_rates_it_reports(monkeypatch):
    """With a clock that ticks once per product and once per sweep of the state, all of it can be computed."""
    config = configs.parse(TINY)
    roofline = contenders.Roofline(config, side=8)
    assert config.parameters == (6 * 5 + 5) + (5 * 4 + 4) + (2 * 5 + 5) + (5 * 6 + 6)
    for per_product, per_pass in ((0.5, 1e-9), (1e-9, 0.5)):

        def clock(work, number, seconds=(per_product, per_pass)):
            products = work.__code__.co_names.count("matmul")
            work()
            return number * seconds[0] if products else 10 * seconds[1]

        monkeypatch.setattr(contenders, "timeit", clock)
        computing, moving = per_product * config.flops / (2 * 8**3), per_pass
        assert roofline.run(10) == pytest.approx(max(computing, moving), rel=1e-12)
    assert roofline.rates == (2 * 8**3 / 1e-9, pytest.approx(2 * 3 * 4 * config.parameters / 1e-9))
    assert "GFLOP/s" in roofline.note and "GB/s" in roofline.note


@pytest.mark.parametrize("likelihood", ["gaussian", "poisson"])
def test_a_likelihood_is_named_between_activation_and_batch(likelihood):
    config = configs.parse(f"6-5-2-leaky_relu-{likelihood}-4")
    assert config.arch.likelihood == likelihood and config.arch.activation == "leaky_relu" and config.batch == 4
    assert configs.parse("6-5-2-leaky_relu-4").arch.likelihood == "bernoulli"


def test_inputs_are_the_same_every_time_and_the_noise_is_minivaes_own():
    config = configs.parse(TINY)
    first, second = configs.inputs(config), configs.inputs(config)
    for array, again in zip(first, second, strict=True):
        np.testing.assert_array_equal(array, again)
    _, data, rows, noise = first
    assert data.dtype == noise.dtype == np.float32 and data.min() >= 0 and data.max() <= 1
    assert sorted(rows.ravel()) == list(range(len(data)))


# ---- Contenders and their processes


def process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, runner.SPAWN)


def test_a_contender_in_its_process():
    with process() as there:
        first = runner.ask(there, runner.prepare, "numpy", configs.parse(TINY), contenders.TABLE["numpy"])
        times = [runner.ask(there, runner.run, n) for n in (1, 60)]
        refused = runner.ask(there, runner.run, 0)
    assert first["status"] == "ready" and len(first["losses"]) == configs.CHECKED_STEPS
    assert len(times) == 2 and all(time > 0 for time in times)
    assert refused["status"] == "failed"


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
    (row,) = contenders.profile(configs.parse(TINY), 100)
    assert math.isclose(sum(p["seconds"] for p in row["parts"]) + row["waiting"], row["seconds"], rel_tol=1e-6)
    assert sum(p["flops"] for p in row["parts"]) == configs.parse(TINY).flops
    text = tables.step_text({"profile": [{"config": TINY} | row]})
    assert "bernoulli_loss" in text and "whole step, 1 thread;" in text
    missing = {"config": TINY, "status": "unavailable", "note": "no Numba"}
    assert tables.step_text({"profile": [missing]}).endswith("unavailable: no Numba")


@pytest.mark.parametrize("name", [n for n in contenders.NAMES if contenders.TABLE[n][1] in ("torch", "jax")])
def test_a_peer_has_the_losses_of_the_reference(name):
    package = name.split("-")[0]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    if name == "torch-compile":
        pytest.skip("compiling takes half a minute; `minivae bench` compares its losses before it times them")
    _, row = runner.step_suite([configs.parse(TINY)], [name], 1, 0.0)
    assert row["contender"] == name and row["status"] == "timed", row["note"]
    assert row["seconds"] > 0


def test_a_missing_peer_is_listed_with_its_reason(tmp_path, monkeypatch):
    for package in ("torch", "jax"):
        (tmp_path / f"{package}.py").write_text(f"raise ImportError('no {package} on this machine')\n")
    monkeypatch.syspath_prepend(tmp_path)
    rows = runner.step_suite([configs.parse(TINY)], ["torch", "jax-scan"], 1, 0.0)
    assert {r["contender"]: r["status"] for r in rows} == {
        "roofline": "timed",
        "torch": "unavailable",
        "jax-scan": "unavailable",
    }
    shown = tables.step_text({"step": rows})
    assert "no torch on this machine" in shown and "pip install jax" in shown


def test_a_process_that_fails_or_dies_is_listed_with_its_reason():
    config = configs.parse(TINY)
    with process() as there:
        failed = runner.ask(there, runner.prepare, "nonsense", config, contenders.Entry("os:nothing"))
        rows = {"numpy": runner.ask(there, runner.prepare, "numpy", config, contenders.TABLE["numpy"])}
        runner.ask(there, os._exit, 3)
        times = runner.take_turns({"numpy": there}, rows, 1, {"numpy": 1})
    assert failed["status"] == "failed" and "nothing" in failed["note"]
    assert times == {} and rows["numpy"]["status"] == "failed" and "process" in rows["numpy"]["note"]


def ready(**losses: list[float]) -> dict:
    return {name: {"status": "ready", "note": "", "losses": found} for name, found in losses.items()}


def test_wrong_losses_are_not_timed():
    good = [100.0, 90.0, 80.0]
    judged = ready(numpy=good, close=[100.001, 90.0, 80.0], wrong=[100.0, 90.0, 80.1], nan=[100.0, 90.0, math.nan])
    judged |= ready(short=good[:2])
    runner.judge(judged)
    assert {name: row["status"] for name, row in judged.items()} == {
        "numpy": "ready",
        "close": "ready",
        "wrong": "wrong",
        "nan": "wrong",
        "short": "wrong",
    }
    assert "1.2e-03" in judged["wrong"]["note"] and judged["nan"]["deviation"] == math.inf


def test_without_a_reference_nothing_is_timed():
    judged = ready(torch=[1.0]) | {"numpy": {"status": "failed", "note": "no memory"}}
    runner.judge(judged)
    assert judged["torch"]["note"] == "the reference failed: not timed"


def test_share_is_the_median_over_rounds_of_the_share_in_that_round():
    # the machine became ten times slower in the second round: the ratio of the medians would be 2 / 6
    row = contenders.summary([4.0, 60.0, 6.0], [2.0, 15.0, 1.0])
    times = {"seconds": 6.0, "least": 4.0, "largest": 60.0, "times": [4.0, 60.0, 6.0]}
    assert row == times | {"share": 0.25}
    assert contenders.summary([4.0, 60.0, 6.0]) == times


def test_a_step_that_queues_is_also_timed_with_each_awaited():
    waits = []
    queue = contenders.Contender(2, lambda: [queue.after_step() for _ in range(2)], wait=lambda: waits.append(1))
    queue.run(4)
    assert len(waits) == 2  # after the reset, and at the end
    queue.run(4, synchronised=True)
    assert len(waits) == 2 + 2 + 4


def test_the_first_block_is_timed_in_two_new_processes_that_share_what_was_compiled():
    (row,) = runner.start_suite(configs.parse(TINY), ["numpy"])
    assert row["status"] == "timed" and row["cold"] > 0 and row["seconds"] > 0 and row["steps"] == 50
    (missing,) = runner.start_suite(configs.parse(TINY), ["cupy"])
    assert availability("cupy")[0] or missing["status"] == "unavailable"


def test_a_process_gets_the_variables_that_it_is_given_and_ours_stay():
    (row,) = runner.alone({}, seen, "MINIVAE_TEST", MINIVAE_TEST="here")
    assert row == {"value": "here"} and "MINIVAE_TEST" not in os.environ


def seen(name: str) -> list[dict]:
    return [{"value": os.environ[name]}]


def mine(config, library, device, **switches):
    """A contender of one's own: what the reference does, a little wrong if asked."""
    made = contenders.ours(config, "numpy", device)
    if switches.get("wrong"):
        right = made.block
        made.block = lambda: 1.01 * right()
    return made


def test_a_contender_of_ones_own_is_held_to_the_reference_as_all_others_are(monkeypatch):
    monkeypatch.setattr(contenders, "TABLE", dict(contenders.TABLE))
    monkeypatch.setattr(runner, "TABLE", contenders.TABLE)
    contenders.register("mine", f"{__name__}:mine")
    contenders.register("wrong", f"{__name__}:mine", "", "cpu", "wrong")
    rows = runner.step_suite([configs.parse(TINY)], ["mine", "wrong"], 1, 0.0)
    found = {row["contender"]: row["status"] for row in rows}
    assert found == {"roofline": "timed", "mine": "timed", "wrong": "wrong"}


@pytest.mark.parametrize("maker", ["tensorflow", "no function:", ":make", "a.b:c d"])
def test_a_contender_must_be_named_by_its_module_and_function(maker):
    with pytest.raises(ValueError, match="module:function"):
        contenders.register(maker, maker)
    assert maker not in contenders.TABLE


# ---- Kernels


def test_the_ladder_has_every_kernel_and_bears_repeated_calls():
    cases = kernels.cases(configs.parse("16-8-4-relu-8"))
    assert [case.name.split()[0] for case in cases] == [name for name in INTERFACE if name not in MEMORY]
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


def test_the_table_of_kernels_says_which_are_right_which_wrong_and_why_a_backend_is_not_here():
    about = {"config": TINY, "backend": "numpy"}
    right = {"status": "timed", "deviation": 3e-7, "seconds": 2e-6, "gb_per_s": 5.0, "gflop_per_s": 0.0}
    wrong = about | {"kernel": "binarize", "status": "wrong", "deviation": 1.0}
    missing = {"config": TINY, "backend": "cupy", "status": "unavailable", "note": "no card"}
    lines = tables.step_text({"kernels": [about | {"kernel": "gather"} | right, wrong, missing]}).splitlines()
    shown = [line.split() for line in lines if line.startswith("  ")]
    assert shown[0] == ["gather", "2.0", "5.0", "-", "3e-07"] and shown[1][:2] == ["binarize", "wrong:"]
    assert " ".join(shown[2]) == "unavailable: no card"


# ---- Results


def test_results_survive_the_file(tmp_path):
    report.save(result() | {"training": [{"test_loss": math.nan}]}, tmp_path / "bench.json")  # of one that diverged
    assert report.read(tmp_path / "bench.json") == result() | {"training": [{"test_loss": None}]}


@pytest.mark.parametrize("content", ["no JSON", "[]", '{"format": 0}'])
def test_a_file_without_results_is_refused(tmp_path, content):
    (tmp_path / "other.json").write_text(content)
    with pytest.raises(ValueError, match="minivae bench"):
        report.read(tmp_path / "other.json")


def test_against_compares_the_share_of_the_roofline():
    now, then = result(), result()
    now["step"][1] |= {"share": 0.5, "seconds": 0.009}
    lines = tables.against(now, then).splitlines()
    assert len(lines) == 2 and "2026-01-02" in lines[0]
    assert lines[1].split() == [f"{TINY},", "numpy,", "%", "of", "roofline", "25.000", "50.000", "+100%"]


def test_against_says_when_the_machine_was_another():
    now, then = result(), result()
    then["machine"] = now["machine"] | {"cpu": "Abacus", "versions": now["machine"]["versions"] | {"numpy": "1.0"}}
    first = tables.against(now, then).splitlines()[0]
    assert "cpu Abacus ->" in first and "numpy 1.0 ->" in first
    then["step"] = []
    assert "nothing was measured in both runs" in tables.against(now, then)


def test_text_has_times_and_how_near_the_losses_are_and_why_a_contender_is_not_there():
    shown = tables.text(result())
    (line,) = [line for line in shown.splitlines() if line.startswith("  numpy ")]
    assert line.split() == ["numpy", "4.000", "3.600", "4.400", "-", "25%", "-", "2e-07", "2", "threads"]
    assert "torch cannot be imported" in shown


def timed(**times: list[float]) -> list[dict]:
    return [{"config": TINY, "contender": name, "status": "timed"} | contenders.summary(t) for name, t in times.items()]


def test_the_verdict_names_who_won_and_the_next_and_the_spread_of_their_ratio():
    rows = timed(roofline=[1.0] * 3, numba=[2.0, 4.0, 3.0], torch=[9.0] * 3, jax=[3.0, 5.0, 6.0])
    assert tables.verdicts(rows) == [f"{TINY}: numba wins; jax takes 1.50 times as long (1.25 to 2.00)"]
    rows = timed(roofline=[1.0] * 3, numba=[2.0, 4.0, 3.0], jax=[2.5, 3.0, 3.6])
    assert tables.verdicts(rows) == [f"{TINY}: numba and jax are level; jax takes 1.20 times as long (0.75 to 1.25)"]
    assert tables.verdicts(timed(roofline=[1.0], numpy=[2.0])) == []


def test_a_busy_machine_is_warned_of():
    quiet, busy = result(), result()
    assert tables.doubts(quiet) == ""
    busy["machine"] |= {"load": 1.0 + busy["machine"]["cores"], "stolen": 0.1}
    busy["step"][1]["largest"] = 99.0 * busy["step"][1]["least"]
    busy["step"][0]["largest"] = 99.0 * busy["step"][0]["least"]
    warning = tables.doubts(busy)
    assert "before the start" in warning and "10% of its time" in warning and "99.0 times" in warning
    stolen, all_ticks = runner.processor_time()
    assert 0 <= stolen <= all_ticks


def test_the_machine_is_described_without_its_name():
    described = json.dumps(report.machine())
    assert platform.node() not in described or len(platform.node()) < 3
    assert "/home" not in described and "numpy" in described


def test_figure(tmp_path):
    pytest.importorskip("matplotlib", reason="figures need matplotlib")
    tables.draw(result(), tmp_path / "bench.png")
    assert (tmp_path / "bench.png").stat().st_size > 5000


def test_command_from_start_to_end(tmp_path, capsys):
    """With everything shrunk: the tables on standard output, progress on standard error, both files written."""
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
    assert "ms per step" in shown.out and "of roof" in shown.out and "preparing numpy" in shown.err
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
        (["--out", "."], "is no regular file"),
        (["--against", "no-such-file.json"], "no-such-file"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_runs(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, OSError), match=message):
        report.run(options(*arguments))


# ---- End to end


def test_measure_reports_time_memory_and_output():
    seconds, peak, printed = runner.measure(["-c", "print('done')"])
    assert seconds > 0 and printed == "done\n" and (peak is None or 1 < peak < 10_000)
    with pytest.raises(RuntimeError, match="went wrong"):
        runner.measure(["-c", "raise SystemExit('it went wrong')"])


def test_without_mnist_the_training_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIVAE_DATA", str(tmp_path))
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (row,) = runner.training(1)
    assert row["status"] == "unavailable" and "mnist" in row["note"].lower()


def test_only_peers_imports_a_framework():
    for path in (PACKAGE / "bench").glob("*.py"):
        imported = set()
        for node in ast.walk(ast.parse(path.read_text())):
            imported |= {a.name.split(".")[0] for a in node.names} if isinstance(node, ast.Import) else set()
            imported |= {(node.module or "").split(".")[0]} if isinstance(node, ast.ImportFrom) else set()
        assert path.name == "peers.py" or not imported & {"torch", "jax"}, path.name
