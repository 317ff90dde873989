"""The compiled step: the reference's losses and parameters for any number of threads, and good manners."""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

pytest.importorskip("numba", reason="the numba backend needs Numba")

from minivae import VAE, NotFinite
from minivae.architecture import Architecture, initial_parameters
from minivae.data.batches import Examples
from minivae.kernels import CallByCall, availability, load
from minivae.network import Network
from minivae.optimizers import Optimizer
from minivae.training import Objective, Trainer

WORKS, REASON = availability("numba")
if not WORKS:
    pytest.skip(f"backend numba: {REASON}", allow_module_level=True)

import interrupts
from training_cases import CASES, suited

from minivae.kernels.numba import encode, tables
from minivae.kernels.numba.backend import CompiledProgram
from minivae.processors import thread_limit

DATA = np.random.default_rng(0).random((96, 12)) ** 3


def train(backend, case, dtype, epochs, threads=1, batch=13):
    arch, optimizer, objective, binarize = CASES[case]
    network = Network(arch, load(backend), dtype)
    network.set_parameters(initial_parameters(arch, 0))
    trainer = Trainer(network, optimizer, objective, batch, seed=5)
    trainer.fit(Examples(suited(DATA, case), np.arange(len(DATA)), 1.0, binarize), epochs)
    return trainer


@functools.cache
def numpys(case, dtype, epochs):
    return train("numpy", case, dtype, epochs)


@pytest.fixture
def threads(monkeypatch):
    """Set the number of threads, for models of any size."""

    def choose(n):
        monkeypatch.setattr(encode, "GRAIN", 1)
        monkeypatch.setenv("MINIVAE_NUM_THREADS", str(n))

    return choose


@pytest.mark.parametrize("n", [1, 2, 4])
@pytest.mark.parametrize("case", CASES)
def test_a_thousand_steps_equal_numpys_for_any_number_of_threads(case, n, threads):
    threads(n)
    epochs = 125  # of 8 batches, the last a short one
    expected, trainer = numpys(case, "float64", epochs), train("numba", case, "float64", epochs)
    assert trainer.step == 1000
    for name in ("loss", "recon", "kl", "grad_norm"):
        want, got = ([record[name] for record in t.history] for t in (expected, trainer))
        np.testing.assert_allclose(got, want, rtol=1e-7)
    np.testing.assert_allclose(
        trainer.network.get_parameters(), expected.network.get_parameters(), rtol=1e-6, atol=1e-8
    )


@pytest.mark.parametrize("case", ["bernoulli relu adam", "gaussian learned sgd"])
def test_float32_stays_within_its_rounding(case, threads):
    threads(2)
    expected, trainer = numpys(case, "float32", 40), train("numba", case, "float32", 40)
    want, got = ([record["loss"] for record in t.history] for t in (expected, trainer))
    np.testing.assert_allclose(got, want, rtol=1e-4)


def test_training_really_is_compiled_and_shared_out(threads):
    threads(4)
    network = Network(CASES["bernoulli relu adam"][0], load("numba"))
    trainer = Trainer(network, Optimizer(), Objective(), 13, seed=0)
    work = trainer._workspace(Examples(DATA, np.arange(96)), np.zeros((8, 5)))
    program = work.bound(13)[0]
    assert isinstance(program, CompiledProgram) and program.compiled and program.tables.threads == 4


def test_small_models_stay_in_one_thread_and_large_ones_do_not(monkeypatch):
    monkeypatch.setenv("MINIVAE_NUM_THREADS", "16")
    counts = []
    for widths, batch in (((8,), 8), ((16,), 32), ((400,), 128)):
        network = Network(Architecture(784, 20, widths), load("numba"))
        trainer = Trainer(network, Optimizer(), Objective(), batch, seed=0)
        work = trainer._workspace(Examples(np.zeros((batch, 784)), np.arange(batch)), np.zeros((1, 22)))
        counts.append(work.bound(batch)[0].tables.threads)
    assert counts == [1, 2, 16]


def test_a_wrong_number_of_threads_is_one_clear_sentence(monkeypatch):
    for wrong in ("0", "-1", "two", "1.5"):
        monkeypatch.setenv("MINIVAE_NUM_THREADS", wrong)
        with pytest.raises(
            ValueError, match=f"MINIVAE_NUM_THREADS must be a whole number of at least 1, not '{wrong}'"
        ):
            thread_limit()
    monkeypatch.delenv("MINIVAE_NUM_THREADS")
    assert 1 <= thread_limit() <= os.cpu_count()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity masks")
def test_a_process_held_to_one_processor_takes_one_thread(monkeypatch):
    monkeypatch.delenv("MINIVAE_NUM_THREADS", raising=False)
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert thread_limit() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert thread_limit() == len(allowed)


def test_the_shares_of_a_measured_step_are_the_whole_of_each_thread(threads):
    threads(2)
    arch, n = CASES["bernoulli relu adam"][0], np.arange(96)
    trainer = Trainer(Network(arch, load("numba")), Optimizer(), Objective(), 13, seed=0)
    work = trainer._workspace(Examples(DATA, n), np.zeros((8, 5)))
    tables = work.bound(13)[0].tables
    tables.measure()
    fixed = {"beta": np.ones(4), "learning_rate": np.full(4, 1e-3), "index": np.arange(4)}
    work.steps(n[:52].reshape(4, 13), step=1 + np.arange(4), update=1 + np.arange(4), **fixed)
    shares = tables.shares()
    assert shares.shape == (2, 3 * len(work.program) + 1) and (shares >= 0).all()
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    assert (shares[:, :-1] > 0).any()  # who came late may have found nothing left to do


@pytest.mark.parametrize("case", CASES)
def test_same_seed_same_bits_for_any_number_of_threads(case, threads):
    """Every sum is taken in one order, however the work is shared out: those over the batch, and the norm that clips."""
    found = []
    for n in (2, 2, 1, 3, 7):
        threads(n)
        found.append(train("numba", case, "float32", 10).network.get_parameters())
    for again in found[1:]:
        np.testing.assert_array_equal(again, found[0])


def test_a_nan_stops_at_its_step_and_names_the_array(digits):
    vae = VAE(hidden_dims=(8,), optimizer="sgd", learning_rate=1e6, epochs=5, random_state=0, backend="numba")
    with pytest.raises(NotFinite, match=r"step \d+ .*first array holding a NaN or an infinity is '[\w.]+'"):
        vae.fit(digits[0])
    assert np.isfinite(vae.network_.get_parameters()).all()


def packed(X):
    """X as a field of a packed record: its rows lie 4 D + 1 bytes apart, aligned to nothing."""
    table = np.zeros(len(X), [("x", X.dtype, X.shape[1:]), ("label", "u1")])
    table["x"] = X
    return table["x"]


LAYOUTS = {
    "packed records": packed,
    "every second column": lambda X: np.repeat(X, 2, axis=1)[:, ::2],
    "every second row, backwards": lambda X: np.repeat(X[::-1], 2, axis=0)[::-2],
    "column by column": np.asfortranarray,
    "a column of a wider table": lambda X: np.asfortranarray(np.concatenate([X, X]))[: len(X)],
    "one row for all": lambda X: np.broadcast_to(X[0], X.shape),
}


@pytest.mark.parametrize("kind", ["float32", "float64", "uint8", "bool"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_data_of_any_layout_are_read_where_they_lie_and_exactly(digits, layout, kind):
    X = LAYOUTS[layout]((digits[0][:200] * (255 if kind == "uint8" else 1)).astype(kind))
    fits = [VAE(hidden_dims=(8,), epochs=2, random_state=0, backend="numba").fit(data) for data in (X, X.copy("C"))]
    np.testing.assert_array_equal(*(fit.network_.get_parameters() for fit in fits))
    np.testing.assert_array_equal(fits[0].transform(X), fits[0].transform(X.copy("C")))
    work = fits[0].trainer_._workspace(fits[0].examples(X), np.zeros((8, 4)))
    assert work.bound(13)[0].compiled and not np.shares_memory(work.bound(13)[1]["x"], X)


def test_an_array_that_compiled_code_cannot_address_is_copied_and_copied_back():
    kernels, rng = load("numba"), np.random.default_rng(1)
    wide, x = rng.normal(size=(5, 8)), rng.normal(size=(5, 6))[:, ::2]
    W, b = rng.normal(size=(4, 3)).T, packed(rng.normal(size=(4, 1)))[:, 0]
    y, a = wide[:, ::2], np.full((4, 5), np.nan).T
    kernels.dense_forward(y, a, x, W, b, "tanh")
    np.testing.assert_allclose(a, x @ W + b, rtol=1e-13)
    np.testing.assert_allclose(y, np.tanh(x @ W + b), rtol=1e-13)


def test_what_would_be_written_elsewhere_is_refused():
    from minivae.kernels import Call, Var

    kernels, whole = load("numba"), np.zeros((6, 4))
    given = np.ones(3), np.ones(2), np.ones(1), np.ones(3)
    with pytest.raises(IndexError, match="index holds 4"):
        kernels.record(whole[:2], *given, 4)
    x = np.full((2, 3), 0.5)
    x.flags.writeable = False
    with pytest.raises(ValueError, match="writes to x, which is read-only"):
        kernels.binarize(x, np.zeros((2, 3)))
    arrays = {"x": np.zeros((3, 2)), "data": np.ones((9, 2)), "rows": np.zeros(3, np.int64)}
    program = kernels.compile_program(kernels, [Call("gather", ("x", "data", "rows"), (Var("by"),))], arrays)
    with pytest.raises(ValueError, match=r"rows have shape \(2, 2\); this program takes 3 at a time"):
        program.steps(np.zeros((2, 2), np.int64), by=np.ones(2))
    assert not whole.any() and not arrays["x"].any()


def test_two_views_of_one_strided_array_stay_one():
    y = np.zeros((2, 8))[:, ::2]
    load("numba").dense_forward(y, y, np.ones((2, 1)), np.array([[1.0, -2, 3, -4]]), np.zeros(4), "relu")
    np.testing.assert_array_equal(y, [[1, 0, 3, 0]] * 2)
    wide = np.zeros((2, 8))
    load("numba").dense_forward(
        wide[:, ::2], wide[:, ::2], np.ones((2, 1)), np.array([[1.0, -2, 3, -4]]), np.zeros(4), "relu"
    )
    np.testing.assert_array_equal(wide[:, ::2], [[1, 0, 3, 0]] * 2)


def test_numbers_of_another_machines_byte_order_are_refused_and_not_misread():
    foreign = np.dtype(np.float64).newbyteorder()
    x, u = np.full((2, 3), 0.5, foreign), np.full((2, 3), 0.25, foreign)
    with pytest.raises(TypeError, match="computes in float32 or float64"):
        load("numba").binarize(x, u)
    assert (x == 0.5).all()
    out = np.zeros((1, 3))
    load("numba").gather(out, x, np.array([1]), 2.0)  # data are read in any order
    np.testing.assert_array_equal(out, 0.25)


@pytest.mark.parametrize("bad", [[0, 1, 5], [-1, 0, 1], [2**40, 0, 0]])
def test_rows_that_are_not_there_are_an_error_before_anything_is_read(bad):
    from minivae.kernels import Call

    kernels, data, x = load("numba"), np.arange(20.0).reshape(5, 4), np.full((3, 4), 7.0)
    with pytest.raises(IndexError, match="rows holds"):
        kernels.gather(x, data, np.array(bad), 1.0)
    program = kernels.compile_program(
        kernels,
        [Call("gather", ("x", "data", "rows"), (1.0,))],
        {"x": x, "data": data, "rows": np.zeros(3, np.int64)},
    )
    with pytest.raises(IndexError, match="rows holds"):
        program.steps(np.array([[0, 1, 2], bad]))
    assert (x == 7).all()


def test_a_boolean_mask_is_no_list_of_rows():
    mask = np.array([True, False, True])
    with pytest.raises(TypeError, match=r"np\.flatnonzero"):
        load("numba").gather(np.zeros((3, 2)), np.zeros((3, 2)), mask, 1.0)
    with pytest.raises(TypeError, match=r"np\.flatnonzero"):
        Examples(np.zeros((3, 2)), mask)
    with pytest.raises(ValueError, match="row 3 is not among the 3 rows"):
        Examples(np.zeros((3, 2)), np.array([0, 3]))


@pytest.mark.parametrize("room_for", [0, 1])
def test_threads_that_cannot_be_started_are_fewer_threads(room_for, threads, monkeypatch):
    """The second of three threads, or every one, finds no room, as under a limit on processes."""
    import ctypes

    threads(3)
    expected = train("numba", "gaussian learned sgd", "float64", 3).network.get_parameters()
    start, *others = tables.system_functions()
    real = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_void_p] * 4)(start)
    asked = []

    def limited(handle, attributes, function, argument):
        asked.append(handle)
        return real(handle, attributes, function, argument) if len(asked) % 2 == 1 and room_for else 11  # EAGAIN

    instead = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_void_p] * 4)(limited)
    address = ctypes.cast(instead, ctypes.c_void_p).value
    monkeypatch.setattr(tables, "system_functions", lambda: (address, *others))
    found = train("numba", "gaussian learned sgd", "float64", 3).network.get_parameters()
    assert asked
    np.testing.assert_allclose(found, expected, rtol=1e-9)  # the norm that clips is summed by threads


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timer signals")
def test_interrupts_at_any_moment_leave_nothing_behind(threads):
    threads(3)
    assert interrupts.many(60, seed=1) >= 15  # so many of the sixty, at least, arrived in time to interrupt something


def test_settings_of_the_users_blas_and_environment_are_left_alone(digits, threads):
    threadpoolctl = pytest.importorskip("threadpoolctl", reason="counts BLAS threads")
    threads(2)

    def settings():
        return threadpoolctl.threadpool_info(), dict(os.environ)

    before = settings()
    VAE(hidden_dims=(32,), epochs=2, random_state=0, backend="numba").fit(digits[0])
    assert settings() == before


def test_two_threads_fit_two_models_at_once(digits, threads):
    threads(2)
    alone = [VAE(hidden_dims=(16,), epochs=3, random_state=i, backend="numba").fit(digits[0]) for i in (0, 1)]
    together = [VAE(hidden_dims=(16,), epochs=3, random_state=i, backend="numba") for i in (0, 1)]
    workers = [threading.Thread(target=vae.fit, args=(digits[0],)) for vae in together]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for a, b in zip(alone, together):
        np.testing.assert_array_equal(a.network_.get_parameters(), b.network_.get_parameters())


def _fit_in_child(X, queue):
    queue.put(VAE(hidden_dims=(8,), epochs=1, random_state=0, backend="numba").fit(X).score(X))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_can_fit(digits, threads):
    threads(2)
    X = digits[0][:200]
    expected = VAE(hidden_dims=(8,), epochs=1, random_state=0, backend="numba").fit(X).score(X)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_fit_in_child, args=(X, queue))
    child.start()
    assert queue.get(timeout=60) == expected
    child.join()
    assert child.exitcode == 0


def test_works_without_scipy_and_without_a_place_for_the_cache(tmp_path):
    """A package on a read-only tree, no home directory: it compiles for this process and goes on."""
    code = """
import sys
sys.modules["scipy"] = None
from numba.core import caching
for locator in caching.CacheImpl._locator_classes if hasattr(caching.CacheImpl, "_locator_classes") else []:
    locator.from_function = classmethod(lambda cls, *a: None)
import numpy as np
from minivae.kernels import load
x = np.full((3, 4), 0.5)
load("numba").binarize(x, np.full((3, 4), 0.2))
print(x.sum())
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) == 12
    assert "no folder for it can be written to" in result.stderr and result.stderr.count("cannot be kept") == 1


def test_a_second_process_compiles_nothing_and_another_shape_neither(tmp_path):
    """The cache is on, and finds what is in it; arrays of other sizes take the instructions that are there."""
    code = """
import numpy as np
from minivae.kernels import load
from minivae.kernels.numba import interpreter
made, by_address, kernels = [], interpreter.by_address, load("numba")
interpreter.by_address = lambda *given: made.append(by_address(*given)) or made[-1]
kernels.binarize(np.full((3, 4), 0.5), np.full((3, 4), 0.2))
first = len(made)
kernels.binarize(np.full((70, 5), 0.5), np.full((70, 5), 0.2))
print(first, len(made) - first, sum(f.cache_hits for f in made))
"""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    printed = []
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        printed.append([int(word) for word in done.stdout.split()])
    assert printed == [[3, 0, 0], [3, 0, 3]]  # binarize, and the two entry points


@pytest.mark.parametrize("case", ["bernoulli relu adam", "gaussian learned sgd"])
def test_a_model_of_another_shape_compiles_nothing(case):
    from minivae.kernels.numba import interpreter

    train("numba", case, "float32", 1)
    before = interpreter.instruction.cache_info().misses
    arch, optimizer, objective, _ = CASES[case]
    other = Architecture(12, 5, (17, 3, 8), "gelu", arch.likelihood, arch.sigma)
    network = Network(other, load("numba"), "float32")
    network.set_parameters(initial_parameters(other, 0))
    Trainer(network, optimizer, objective, 31, seed=5).fit(Examples(DATA, np.arange(len(DATA))), 1)
    assert interpreter.instruction.cache_info().misses == before


def test_programs_that_are_no_training_step_are_compiled_as_well():
    from minivae.kernels import Call, Var

    kernels = load("numba")
    arrays = {"p": np.ones(3), "m": np.zeros(3), "g": np.full(3, 2.0), "norm": np.zeros(1)}
    calls = [
        Call("clip_global_norm", ("norm", "g"), (1.0,)),
        Call("sgd_step", ("p", "m", "g"), (Var("rate"), 0.5, False)),
    ]
    program = kernels.compile_program(kernels, [*calls, *calls], arrays)
    assert program.compiled
    program(rate=0.25)
    again = {"p": np.ones(3), "m": np.zeros(3), "g": np.full(3, 2.0), "norm": np.zeros(1)}
    CallByCall(load("numpy"), calls, again)(rate=0.25)
    again["g"][...] = arrays["g"]  # NumPy's sgd_step consumes it
    CallByCall(load("numpy"), calls, again)(rate=0.25)
    for name in ("p", "m", "norm"):
        np.testing.assert_allclose(arrays[name], again[name], rtol=1e-14)


def test_what_no_table_can_hold_runs_call_by_call():
    from minivae.kernels import Call

    kernels, u = load("numba"), np.full((2, 8), 0.5)[:, ::2]
    arrays = {"x": np.full((2, 4), 0.75), "u": u}
    program = kernels.compile_program(kernels, [Call("binarize", ("x", "u"))], arrays)
    assert isinstance(program, CallByCall) and not program.compiled
    program()
    np.testing.assert_array_equal(arrays["x"], 1)
