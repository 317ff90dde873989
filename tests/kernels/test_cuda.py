"""The CUDA code where there is no GPU: compiled for several cards, and run on the CPU against the reference.

tests/kernels/test_contract.py runs there too, kernel by kernel. What only a GPU can tell is in benchmarks/gpu_check.py.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import itertools
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cuda_on_cpu
import numpy as np
import pytest
from training_cases import CASES, suited

from minivae import VAE, NotFinite
from minivae.architecture import Architecture, initial_parameters
from minivae.data.batches import Examples
from minivae.data.inplace import InPlace
from minivae.kernels import AUTO, availability, bind, load
from minivae.kernels.cuda import backend, launches
from minivae.kernels.cuda import graph as recorded_step
from minivae.kernels.cuda.graph import RecordedProgram
from minivae.network import Network
from minivae.optimizers import Optimizer
from minivae.training import Objective, Trainer

SOURCE = launches.SOURCE.read_text()


# ---- Run on the CPU

DATA = (np.random.default_rng(0).random((60, 12)) ** 3 * 255).astype(np.uint8)


def train(kernels, case, dtype="float64", epochs=8):
    """epochs of 5 batches, the last a short one"""
    arch, optimizer, objective, binarize = CASES[case]
    network = Network(arch, kernels, dtype)
    network.set_parameters(initial_parameters(arch, 0))
    trainer = Trainer(network, optimizer, objective, 13, seed=5, chunk=100)
    data = suited(DATA, case)
    trainer.fit(Examples(data, np.arange(len(data)), 255.0 if data is DATA else 1.0, binarize), epochs)
    return trainer


def test_data_are_brought_to_the_card_once_for_all_epochs(cupy, monkeypatch):
    brought, to_device = [], cupy.to_device
    monkeypatch.setattr(cupy, "to_device", lambda array: brought.append(np.asarray(array).shape) or to_device(array))
    network = Network(CASES["bernoulli relu adam"][0], cupy, "float32")
    network.set_parameters(initial_parameters(network.arch, 0))
    trainer = Trainer(network, Optimizer(), Objective(), 13, seed=5)
    val = Examples(DATA, np.arange(40, 60), 255.0, "dynamic")
    trainer.fit(Examples(DATA, np.arange(40), 255.0), 4, val=val)
    assert brought.count(DATA.shape) == 2  # once to train on, once to measure on


def test_rows_that_are_brought_train_as_those_that_lie_on_the_card(cupy):
    sparse = pytest.importorskip("scipy.sparse", reason="SciPy makes sparse matrices")
    X, y = DATA / 255, np.arange(60) % 3
    staged = replace(Examples(InPlace(sparse.csr_array(X)), np.arange(60), side=np.eye(3)[y]), units=np.ones((2, 12)))
    losses = []
    for kernels, examples in ((load("numpy"), Examples(X - 1, np.arange(60), side=np.eye(3)[y])), (cupy, staged)):
        arch = Architecture(12, 2, (8,), "tanh", "gaussian", missing="ignore", conditions=3)
        network = Network(arch, kernels, "float32")
        network.set_parameters(initial_parameters(arch, 0))
        trainer = Trainer(network, Optimizer(), Objective(), 13, seed=5)
        trainer.fit(examples, 4, val=replace(examples, rows=np.arange(7)))
        losses.append([(record["loss"], record["val_loss"]) for record in trainer.history])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)


@pytest.mark.parametrize("products", ["cublas", "own"])
@pytest.mark.parametrize("case", CASES)
def test_the_recorded_step_trains_as_numpys(cupy, case, products, monkeypatch, capfd):
    monkeypatch.setattr(recorded_step, "STEPS_PER_GRAPH", 3)  # so that an epoch takes graphs of 3 steps and of 1
    monkeypatch.setenv("MINIVAE_CUDA_PRODUCTS", products)
    expected, trainer = train(load("numpy"), case), train(cupy, case)
    assert capfd.readouterr().err == ""  # recorded, or it would say why not
    for name in ("loss", "recon", "kl", "grad_norm"):
        want, got = ([record[name] for record in t.history] for t in (expected, trainer))
        np.testing.assert_allclose(got, want, rtol=1e-9)
    found, wanted = trainer.network.get_parameters(), expected.network.get_parameters()
    np.testing.assert_allclose(found, wanted, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("case", ["bernoulli tanh free bits", "gaussian learned sgd"])
def test_a_graph_has_the_bits_of_its_calls(cupy, case, monkeypatch):
    replayed = train(cupy, case, "float32", 3)
    monkeypatch.setenv("MINIVAE_CUDA_GRAPH", "0")
    by_calls = train(cupy, case, "float32", 3)
    np.testing.assert_array_equal(replayed.network.get_parameters(), by_calls.network.get_parameters())


@pytest.mark.parametrize("case", ["bernoulli tanh free bits", "gaussian learned sgd"])
def test_no_kernel_relies_on_the_order_of_threads_or_blocks(cupy, case, monkeypatch):
    monkeypatch.setenv("MINIVAE_CUDA_PRODUCTS", "own")
    ascending = train(cupy, case, "float32", 2)
    monkeypatch.setenv("MINIVAE_EMULATOR_ORDER", "descending")
    descending = train(cupy, case, "float32", 2)
    np.testing.assert_array_equal(ascending.network.get_parameters(), descending.network.get_parameters())


def test_the_estimator_trains_saves_and_goes_on(cupy, tmp_path):
    data = DATA / np.float32(255)
    fits = [
        VAE(hidden_dims=(8,), epochs=2, batch_size=16, random_state=0, backend=b).fit(data) for b in ("cupy", "numpy")
    ]
    for method in ("transform", "reconstruct", "score_samples"):
        found, expected = (getattr(vae, method)(data) for vae in fits)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(fits[0].sample(3), fits[1].sample(3), rtol=1e-4, atol=1e-5)
    fits[0].save(tmp_path / "model.npz")
    again = VAE.load(tmp_path / "model.npz")
    np.testing.assert_array_equal(again.network_.get_parameters(), fits[0].network_.get_parameters())
    steps = fits[0].history_[-1]["step"]
    assert fits[0].partial_fit(data).history_[-1]["step"] > steps


def test_an_array_that_would_be_written_in_a_copy_is_refused(cupy):
    narrow, wide = (cupy.to_device(np.full((3, n), 0.5, np.float32)) for n in (4, 8))
    with pytest.raises(ValueError, match="array 'x' must be a run of rows"):
        cupy.binarize(wide[:, ::2], narrow)
    wide[:, 1:2] = 0.25
    cupy.binarize(narrow, wide[:, ::2])  # what is only read may be copied
    np.testing.assert_array_equal(cupy.to_host(narrow), 0)


@pytest.mark.parametrize("kind", launches.GATHERS)
def test_batches_are_binarized_as_they_are_gathered(cupy, kind):
    data, rows = (DATA > 100).astype(kind) * 3, np.array([5, 0, 59, 5])
    program = Examples(data, rows, 4.0, "dynamic").batch_program(seed=2**40 + 7)
    found = {}
    for kernels in (cupy, load("numpy")):
        arrays = {n: kernels.to_device(np.full((4, 12), np.nan)) for n in ("x", "u")}
        arrays |= {"data": kernels.to_device(data), "rows": kernels.to_device(rows)}
        run = bind(kernels, program, arrays)
        found[kernels] = []
        for step in (3, 4, 5):  # the first run is call by call, the others are replayed
            run(step=step)
            found[kernels].append(np.array(kernels.to_host(arrays["x"])))
    np.testing.assert_array_equal(*found.values())
    assert len(launches.fused(program)) == 1 and 0 < np.mean(found[cupy]) < 1


def workspace(cupy, optimizer, n=60):
    arch = CASES["bernoulli relu adam"][0]
    network = Network(arch, cupy, "float64")
    network.set_parameters(initial_parameters(arch, 0))
    trainer = Trainer(network, optimizer, Objective(), 10, seed=5)
    trace = cupy.to_device(np.full((n, 2 + arch.latent_dim), 7.0))
    return trainer, trainer._workspace(Examples(DATA, np.arange(60), 255.0), trace), trace


def run_steps(work, count, rate):
    rows = np.arange(10 * count).reshape(count, 10) % 60
    numbers = 1 + np.arange(count)
    return work.steps(
        rows,
        step=numbers,
        update=numbers,
        index=numbers - 1,
        beta=np.ones(count),
        learning_rate=np.asarray(rate, float),
    )


def test_a_run_longer_than_its_tables_is_taken_in_pieces(cupy, monkeypatch):
    monkeypatch.setattr(recorded_step, "STEPS_PER_GRAPH", 2)
    monkeypatch.setattr(recorded_step, "TABLE_BYTES", 8 * 10 * 5)
    _, work, trace = workspace(cupy, Optimizer())
    assert run_steps(work, 17, [1e-3] * 17) == 17
    program = work.bound(10)[0]
    assert (
        isinstance(program, RecordedProgram) and program.capacity == 5 and set(program.graphs) == {(1, True), (2, True)}
    )
    host = cupy.to_host(trace)
    assert (host[:17] != 7).all() and (host[17:] == 7).all()  # each step has its row, and the rehearsal has none


def test_a_loss_that_is_no_number_stops_at_its_step_and_keeps_that_steps_arrays(cupy, monkeypatch):
    monkeypatch.setattr(recorded_step, "STEPS_PER_GRAPH", 4)
    trainer, work, trace = workspace(cupy, Optimizer("sgd"))
    before = trainer.network.get_parameters()
    assert run_steps(work, 11, [1e-3] * 4 + [1e200] + [1e-3] * 6) == 6  # the step after the huge one fails
    host = cupy.to_host(trace)
    assert np.isfinite(host[:5]).all() and not np.isfinite(host[5, :2]).all() and (host[6:] == 7).all()
    after = trainer.network.get_parameters()
    assert np.isfinite(after).all() and np.abs(after - before).max() > 1e100  # not one update after the failure
    np.testing.assert_array_equal(work.get("rows"), np.arange(50, 60))  # the batch that failed, in place


def test_training_says_where_the_first_nan_is(cupy):
    arch = CASES["bernoulli relu adam"][0]
    network = Network(arch, cupy, "float32")
    network.set_parameters(initial_parameters(arch, 0))
    trainer = Trainer(network, Optimizer("sgd", learning_rate=1e9), Objective(), 10, seed=5, chunk=100)
    with pytest.raises(NotFinite, match=r"step \d+ .*first array holding a NaN or an infinity is '[\w.]+'"):
        trainer.fit(Examples(DATA, np.arange(60), 255.0), 5)
    assert np.isfinite(network.get_parameters()).all()


def test_what_cannot_be_recorded_runs_call_by_call_and_says_so_once(cupy, monkeypatch, capfd):
    def refuse(self):
        raise RuntimeError("operation not permitted when stream is capturing\nsecond line")

    expected = train(cupy, "bernoulli relu adam", epochs=2).network.get_parameters()
    monkeypatch.setattr(cuda_on_cpu.Stream, "begin_capture", refuse)
    found = train(cupy, "bernoulli relu adam", epochs=2).network.get_parameters()
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 2 and all("call by call" in line and "capturing" in line for line in said)  # two batch sizes
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-13)


def test_cublas_rounds_to_tf32_on_request_only(cupy, monkeypatch):
    assert cupy.launcher("float32").blas.library.math_mode == 0 and "TF32" not in availability("cupy")[1]
    monkeypatch.setenv("MINIVAE_TF32", "1")
    with cuda_on_cpu.emulated():
        assert cupy.launcher("float32").blas.library.math_mode == 3 and "TF32" in availability("cupy")[1]


def test_a_gpu_that_computes_something_else_is_not_used(cupy, monkeypatch):
    monkeypatch.setattr(cuda_on_cpu.Gemm, "cublasSgemm_v2", lambda self, *arguments: 0)
    cupy.examine.cache_clear()
    works, reason = availability("cupy")
    assert not works and "where it is [[7.5, 0.0]]" in reason
    monkeypatch.setattr(cuda_on_cpu.Gemm, "cublasSgemm_v2", lambda self, *arguments: 14)
    cupy.examine.cache_clear()
    assert availability("cupy") == (
        False,
        "CuPy cannot use this GPU: cublasSgemm_v2 failed with status 14; "
        "set MINIVAE_CUDA_PRODUCTS=own to do without cuBLAS",
    )


def test_auto_takes_no_gpu_that_nobody_has_measured(cupy):
    assert "cupy" not in AUTO and load("auto") is not cupy


def test_without_cupy_the_reason_names_the_package():
    code = (
        "import sys; sys.modules['cupy'] = None\nfrom minivae.kernels import availability\nprint(*availability('cupy'))"
    )
    code = code.replace("sys.modules['cupy'] = None", "import importlib.util as u; u.find_spec = lambda name: None")
    if importlib.util.find_spec("cupy") is None:
        works, reason = backend.availability()
        assert not works and 'pip install "minivae[cuda13]"' in reason


# ---- Compiled for cards

# as CuPy compiles: the last two it adds to what launches.module asks for
OPTIONS = ("--std=c++17", "-ftz=true", "--device-as-default-execution-space")
ARCHITECTURES = ("75", "80", "90", "100")  # Turing, Ampere, Hopper, Blackwell


def nvrtc():
    """NVRTC from one of NVIDIA's wheels, which compiles CUDA sources on a machine without a GPU."""
    for name in ("nvidia.cu13", "nvidia.cuda_nvrtc"):
        try:
            spec = importlib.util.find_spec(name)
        except ImportError:
            continue
        for folder in spec.submodule_search_locations if spec else []:
            for path in sorted(Path(folder).glob("**/libnvrtc.so.*")) + sorted(Path(folder).glob("**/nvrtc64_*.dll")):
                if "alt" not in path.name and "builtins" not in path.name:
                    return ctypes.CDLL(str(path))
    pytest.skip("compiling CUDA needs NVRTC; run pip install nvidia-cuda-nvrtc")


def compile_cuda(library, *options):
    """(log, result) of kernels.cu: machine code for sm_.., PTX for compute_.."""
    program = ctypes.c_void_p()
    assert library.nvrtcCreateProgram(ctypes.byref(program), SOURCE.encode(), b"kernels.cu", 0, None, None) == 0
    given = (ctypes.c_char_p * len(options))(*[option.encode() for option in options])
    status = library.nvrtcCompileProgram(program, len(options), given)

    def text(name):
        size = ctypes.c_size_t()
        assert getattr(library, f"nvrtcGet{name}Size")(program, ctypes.byref(size)) == 0
        buffer = ctypes.create_string_buffer(size.value)
        assert getattr(library, f"nvrtcGet{name}")(program, buffer) == 0
        return buffer.raw[: size.value]

    log = text("ProgramLog").decode().rstrip("\0")
    assert status == 0, log
    result = text("PTX" if any("compute_" in option for option in options) else "CUBIN")
    library.nvrtcDestroyProgram(ctypes.byref(program))
    return log, result


@functools.cache
def for_all_cards():
    """(log, machine code) for each card and type, compiled side by side."""
    library, kinds = nvrtc(), list(itertools.product(ARCHITECTURES, ("float", "double")))

    def build(kind):
        return compile_cuda(library, f"-arch=sm_{kind[0]}", f"-DREAL={kind[1]}", *OPTIONS, "--ptxas-options=-v")

    with ThreadPoolExecutor() as pool:
        return dict(zip(kinds, pool.map(build, kinds)))


@pytest.mark.parametrize("real", ["float", "double"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_kernel_compiles_without_a_spill(architecture, real):
    log, machine_code = for_all_cards()[architecture, real]
    assert machine_code[:4] == b"\x7fELF"
    names = cuda_on_cpu.kernel_names(SOURCE)
    registers = dict(re.findall(r"Compiling entry function '(\w+)'.*?Used (\d+) registers", log, re.S))
    assert set(registers) == set(names)
    assert max(map(int, registers.values())) <= 255 // (1 if real == "double" else 2)
    spills = re.findall(r"(\d+) bytes spill (?:stores|loads)", log)
    assert len(spills) >= 2 * len(names) and not any(map(int, spills))
    frames = re.findall(r"(\d+) bytes stack frame", log)  # what does not fit a register lies in memory: far slower
    assert len(frames) >= len(names) and not any(map(int, frames))
    print(f"sm_{architecture} {real}:", ", ".join(f"{n} {registers[n]}" for n in names))


def test_float_kernels_do_no_arithmetic_in_double_precision():
    """On most cards that would be 32 or 64 times slower. Doubles are read from data and written to the trace; the norm of
    the gradient alone is summed in them, at the speed of memory."""
    ptx = compile_cuda(nvrtc(), "-arch=compute_75", "--std=c++17", "-DREAL=float")[1].decode()
    bodies = re.split(r"\.visible \.entry (\w+)", ptx)[1:]
    arithmetic = re.compile(r"\b(?:add|sub|mul|fma|div|sqrt|rcp|neg|abs|setp\.\w+|ex2|lg2)(?:\.\w+)*\.f64")
    assert len(bodies) // 2 == len(cuda_on_cpu.kernel_names(SOURCE))
    assert [name for name, body in zip(bodies[::2], bodies[1::2]) if arithmetic.search(body)] == [
        "squares",
        "norm_of_squares",
    ]
    double = compile_cuda(nvrtc(), "-arch=compute_75", "--std=c++17", "-DREAL=double")[1].decode()
    assert arithmetic.search(double)  # the pattern finds what it looks for


def test_the_source_includes_nothing_and_numbers_activations_as_the_reference_does():
    assert "#include" not in SOURCE
    from minivae.kernels.reference import ACTIVATIONS

    assert list(ACTIVATIONS) == ["identity", "relu", "leaky_relu", "tanh", "sigmoid", "softplus", "gelu"]
