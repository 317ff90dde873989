"""The house rules: what may import what, how long files may be, and that the interface is complete."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import numpy as np
import pytest

import minivae
from minivae import kernels
from minivae.architecture import Architecture
from minivae.data.batches import Examples
from minivae.kernels import INTERFACE, reference
from minivae.network import Network
from minivae.optimizers import Optimizer
from minivae.training import Objective, step_program

PACKAGE = Path(minivae.__file__).parent

# Bottom to top: a file imports only from files above it in this list.
ORDER = [
    "__init__",
    *("forks", "processors", "progress", "storage", "storage.durable", "storage.archives", "storage.folders"),
    *("kernels.philox", "kernels.columns", "kernels.bounds", "kernels.reference", "kernels.table", "kernels"),
    *(
        "kernels.numba",
        "kernels.numba.vector_math",
        "kernels.numba.tile",
        "kernels.numba.gemm",
        "kernels.numba.threads",
        "kernels.numba.cache",
    ),
    *(
        "kernels.numba.columns",
        "kernels.numba.bounds",
        "kernels.numba.rows",
        "kernels.numba.interpreter",
        "kernels.numba.encode",
        "kernels.numba.tables",
    ),
    "kernels.numba.backend",
    *("kernels.cuda", "kernels.cuda.cublas", "kernels.cuda.launches", "kernels.cuda.graph", "kernels.cuda.backend"),
    *("randomness", "parameters", "likelihoods", "architecture", "network", "optimizers", "gradcheck"),
    *("data", "data.opening", "data.schema", "data.dialects", "data.text", "data.tables", "data.series"),
    *("data.pictures", "data.arrays", "data.files", "data.frames", "data.inplace", "data.checks", "data.batches"),
    *("data.datasets", "conditions", "evaluation", "evaluation.inference", "evaluation.scores", "evaluation.measures"),
    *("evaluation.samples", "evaluation.annealed", "evaluation.calibration", "evaluation.imputation"),
    *("parallel", "trouble", "training", "verdict", "kernel_proof", "proof", "settings"),
    *(
        "storage.modelfile",
        "storage.persistence",
        "storage.checkpoints",
        "conventions",
        "figures",
        "figures.checks",
        "figures.layout",
        "exchange",
        "exchange.onnx",
        "exchange.safetensors",
        "exchange.pickles",
        "exchange.torch",
        "exchange.module",
        "exchange.foreign",
        "exchange.formats",
        "watching",
        "explorer",
        "explorer.steps",
        "explorer.contents",
        "explorer.page",
        "fitted",
        "estimator",
    ),
    *("grading", "grading.steps", "grading.mistakes", "grading.grade"),
    *("figures.grids", "figures.panels", "figures.plots", "figures.comparison"),
    *("app", "app.recorder", "app.runs", "app.drawing", "app.writing", "app.results", "app.train", "app.options"),
    *("app.compare", "app.evaluate", "app.exchanging", "app.exploring", "app.inspecting"),
    *("bench", "bench.configs", "bench.contenders", "bench.peers", "bench.kernels", "bench.runner", "bench.tables"),
    "bench.report",
    *("app.commands", "app.cli", "__main__"),
]
# What a reader reads from the book to the training loop; file formats and where the user meets the program come after.
READING_PATH = [
    *(
        "kernels.reference",
        "kernels.columns",
        "kernels.bounds",
        "kernels.philox",
        "kernels.table",
        "kernels",
        "randomness",
        "parameters",
        "likelihoods",
        "architecture",
        "network",
    ),
    *("optimizers", "gradcheck", "data.batches", "training"),
]


def module_name(path: Path) -> str:
    name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    return name.removesuffix(".__init__") if name != "__init__" else name


FILES = {module_name(path): path for path in PACKAGE.rglob("*.py")}


def lines(name: str) -> int:
    return len(FILES[name].read_text().splitlines())


def test_the_list_names_every_file():
    assert set(FILES) == set(ORDER)


@pytest.mark.parametrize("name", ORDER)
def test_imports_only_downwards(name):
    """Functions may import lazily, but still only what stands above; only __init__ names what it loads on demand."""
    if name == "__init__":
        return
    imported = set()
    for node in ast.walk(ast.parse(FILES[name].read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "minivae":
            inner = node.module.removeprefix("minivae").lstrip(".")
            imported |= {inner} if inner else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            imported |= {a.name.removeprefix("minivae.") for a in node.names if a.name.startswith("minivae.")}
    for other in imported - {"__version__"}:
        assert ORDER.index(other) < ORDER.index(name), f"{name} imports {other}, which stands below it"


def room(name: str) -> int:
    """The lines of a folder, CUDA and the explorer's page included."""
    folder = PACKAGE / name
    kinds = (".py", ".cu", ".js", ".css", ".html")
    return sum(len(p.read_text().splitlines()) for p in folder.rglob("*") if p.suffix in kinds)


# Lines that a room may have. Rooms behind doors of their own count alone; the rest is what stands beside the reading path.
BUDGETS = {"kernels/numba": 2400, "kernels/cuda": 1330, "bench": 1200, "storage": 1042, "data": 2545, "app": 2482}
BUDGETS |= {"evaluation": 1126, "explorer": 1750, "grading": 705, "figures": 955, "exchange": 920}
READING, REST = 2450, 2630


def test_line_budget():
    path, everything = sum(map(lines, READING_PATH)), room(".")
    assert path <= READING, f"the reading path has {path} lines"
    rooms = {name: room(name) for name in BUDGETS}
    assert not {name: count for name, count in rooms.items() if count > BUDGETS[name]}
    rest = everything - sum(rooms.values()) - path + lines("data.batches")
    assert rest <= REST, f"everything else has {rest} lines"


def test_the_program_that_a_reader_meets_first_is_the_one_that_runs():
    network = Network(Architecture(data_dim=6, latent_dim=2, hidden_dims=()), reference, "float32")
    examples = Examples(np.zeros((10, 6), np.float32), np.arange(10))
    program = [str(call) for call in step_program(network, examples, Objective(), Optimizer(), 0)]
    shown = [line.strip() for line in kernels.__doc__.splitlines() if "  <-  " in line]
    assert shown == program[2:-1] and len(shown) == 10


@pytest.mark.parametrize("name", INTERFACE)
def test_the_book_defines_the_interface_and_explains_it(name):
    function = getattr(reference, name)
    if name not in ("empty", "to_device", "to_host"):
        documentation = inspect.getdoc(function)
        assert documentation and len(documentation.splitlines()) <= 9  # the first line and at most eight


def test_nothing_runs_a_framework():
    for path in PACKAGE.rglob("*.py"):
        if path == FILES["bench.peers"]:  # the one file that measures ourselves against them
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {n.split(".")[0] for n in names} & {"torch", "jax", "tensorflow", "autograd"}, path
