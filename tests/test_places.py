"""How many places a likelihood is written in: adding one must stay easy, so one that was added late is counted."""

from __future__ import annotations

import re
from pathlib import Path

import minivae

PACKAGE, TESTS = Path(minivae.__file__).parent, Path(__file__).parent
WORD = "_".join(("continuous", "bernoulli"))  # in two parts, so that this file is no place
PLACES = {
    "minivae/kernels/columns.py": "the loss of a cell and its gradient, in the book",
    "minivae/kernels/numba/columns.py": "its compiled twin",
    "minivae/kernels/cuda/kernels.cu": "its CUDA twin",
    "minivae/likelihoods.py": "the line that offers it to users",
    "minivae/evaluation/samples.py": "how its data are drawn",
    "tests/column_cases.py": "its test data",
}
# For those who have not got us: each says its mean in another language, and refuses a likelihood that it has no mean of.
MEANS = {"minivae/explorer/decoder.js", "minivae/exchange/onnx.py", "minivae/exchange/module.py"}


def test_a_likelihood_stands_in_six_places():
    files = [p for p in PACKAGE.rglob("*") if p.suffix in (".py", ".cu", ".js")] + [TESTS / "column_cases.py"]
    found = {p.relative_to(PACKAGE.parent).as_posix() for p in files if re.search(WORD, p.read_text(), re.IGNORECASE)}
    assert found == set(PLACES) | MEANS
