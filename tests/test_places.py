"""How many places a likelihood is written in: adding one must stay easy, so the last one that was added is counted."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import minivae

PACKAGE, TESTS = Path(minivae.__file__).parent, Path(__file__).parent
WORD = "".join(("pois", "son"))  # in two parts, so that this file is no place
BOOK, TABLE, TWIN, CUDA, OFFER, DATA = (
    "minivae/kernels/reference.py: the function pair",
    "minivae/kernels/table.py: its row",
    "minivae/kernels/numba/rows.py: its compiled twin",
    "minivae/kernels/cuda/kernels.cu: its CUDA twin",
    "minivae/architecture.py: the line that offers it to users",
    "tests/kernels/test_contract.py: its test data",
)


def places(path: Path) -> list[int]:
    """The first lines of the statements (functions, in CUDA, with the comment above them) that hold the word."""
    text = path.read_text()
    hits = [n for n, line in enumerate(text.splitlines(), 1) if re.search(WORD, line, re.IGNORECASE)]
    if path.suffix == ".py":
        tops = [(node.lineno, node.end_lineno) for node in ast.parse(text).body]
    else:
        cuts = [n for n, line in enumerate(text.splitlines(), 1) if not line.strip()]
        tops = list(zip([0, *cuts], [*cuts, 10**9]))
    return sorted({first for first, last in tops for hit in hits if first <= hit <= last})


def test_a_likelihood_stands_in_six_places():
    files = [p for folder in (PACKAGE, TESTS / "kernels") for p in folder.rglob("*") if p.suffix in (".py", ".cu")]
    root = PACKAGE.parent
    found = {f"{p.relative_to(root)}:{n}" for p in files if p.is_relative_to(root) for n in places(p)}
    expected = {place.partition(":")[0] for place in (BOOK, TABLE, TWIN, CUDA, OFFER, DATA)}
    assert {place.partition(":")[0] for place in found} == expected
    assert len(found) == len(expected) == 6, sorted(found)
