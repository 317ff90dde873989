"""The list of mutations stays alive: each edit finds its place exactly once, and changes the code."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

import mutate
import pytest

PACKAGE = Path(mutate.ROOT) / "minivae"


@pytest.mark.parametrize("mutated", mutate.MUTATIONS, ids=lambda m: m.name)
def test_mutation_applies_and_parses(mutated, tmp_path):
    target = tmp_path / mutated.file
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(PACKAGE / mutated.file, target)
    mutate.apply(mutated, tmp_path)
    before, after = (PACKAGE / mutated.file).read_text(), target.read_text()
    if target.suffix == ".py":
        before, after = ast.dump(ast.parse(before)), ast.dump(ast.parse(after))
    assert before != after


def test_there_are_enough_of_them_and_every_test_file_exists():
    assert len({m.name for m in mutate.MUTATIONS}) == len(mutate.MUTATIONS) >= 25
    assert all((Path(mutate.ROOT) / "tests" / f"{name}.py").is_file() for name in mutate.TESTS)
