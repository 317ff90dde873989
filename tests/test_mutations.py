"""The mutations stay alive: each picked edit finds its place, and each generated one changes the code at one place."""

from __future__ import annotations

import ast
import random
import shutil
from collections import defaultdict
from pathlib import Path

import mutants
import mutate
import pytest

PACKAGE = Path(mutate.ROOT) / "minivae"
GENERATED = [file for file in mutate.TESTS if file not in mutate.PICKED_ONLY]


def code(file: str, text: str) -> str:
    """What a compiler reads of it."""
    return ast.dump(ast.parse(text)) if file.endswith(".py") else text


@pytest.mark.parametrize("mutated", mutate.MUTATIONS, ids=lambda m: m.name)
def test_a_picked_mutation_applies_and_parses(mutated, tmp_path):
    target = tmp_path / mutated.file
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(PACKAGE / mutated.file, target)
    mutate.apply(mutated, tmp_path)
    before, after = (PACKAGE / mutated.file).read_text(), target.read_text()
    assert code(mutated.file, before) != code(mutated.file, after)


def test_there_are_enough_picked_ones_and_each_has_tests():
    assert len({m.name for m in mutate.MUTATIONS}) == len(mutate.MUTATIONS) >= 25
    assert {m.file for m in mutate.MUTATIONS} <= set(mutate.TESTS)


@pytest.mark.parametrize("file", mutate.TESTS)
def test_the_table_names_files_and_tests_that_exist(file):
    assert (PACKAGE / file).is_file()
    assert mutate.TESTS[file]
    for name in mutate.TESTS[file].split():
        assert (Path(mutate.ROOT) / "tests" / f"{name}.py").is_file()


@pytest.mark.parametrize("file", GENERATED)
def test_generated_mutants_differ_and_are_sampled_the_same_way_every_time(file):
    source = (PACKAGE / file).read_text()
    found, again = mutants.mutants(file, source), mutants.mutants(file, source)
    assert len(found) >= 15
    assert len({m.key for m in found}) == len({m.apply(source) for m in found} | {source}) - 1 == len(found)
    random.Random(0).shuffle(again)
    assert mutants.sample(found, 20) == mutants.sample(again, 20)
    # a line put in before all others changes places, and neither keys nor choice
    moved = mutants.mutants(file, source.replace("\n\n", "\n\n\n", 1))
    assert [m.key for m in mutants.sample(moved, 20)] == [m.key for m in mutants.sample(found, 20)]


@pytest.mark.parametrize("file", GENERATED)
def test_a_generated_mutant_changes_the_code_at_one_place(file):
    source = (PACKAGE / file).read_text()
    before = code(file, source)
    for m in mutants.sample(mutants.mutants(file, source), 20):
        after = m.apply(source)
        assert code(file, after) != before, m
        (old, new), more = (source.splitlines(), after.splitlines()), source.count("\n", m.start, m.end)
        rest = len(old) - m.line - more
        assert old[: m.line - 1] == new[: m.line - 1] and old[len(old) - rest :] == new[len(new) - rest :]
        assert m.old == " ".join(" ".join(old[m.line - 1 : m.line + more]).split()) != m.new


SMALL = '''
"""Not 1 + 1."""
from __future__ import annotations
import os
__all__ = ["f", 1 - 1]
Kind = int

if TYPE_CHECKING:
    N = 5

class C:
    """Not 2 < 3."""
    width: int = 8
    kind: str | None = None

    @deco(4)
    def f(self, x: A | B, y=0.5, *, flag=False) -> bool:
        if x and not y:
            raise ValueError(f"{x + 1} is not" " 7")
        z = x @ y  # + y
        assert z > 0
        self.z[1:] = g(x, *y, z)
        z += (
            x  # - 1
            is
            not y)
        for i in range(x): pass
        return h(f"{x - 1}", max(x, y), key=x, é="é", z=-z)
'''
EXPECTED = {
    "default": [("8", "9"), ("0.5", "1.0"), ("False", "True")],
    "condition": [("x and not y", text) for text in ("False", "True", "not (x and not y)")],
    "boolean": [("and", "or")],
    "unary": [("not ", ""), ("-", "")],
    "arithmetic": [("@", "*"), ("+", "-")],
    "comparison": [("is\n            not", "is")],
    "constant": [("1", "2")],
    "bound": [("", "-1"), ("x", "x - 1")],
    "arguments": [('f"{x - 1}", max(x, y)', 'max(x, y), f"{x - 1}"')],
    "statement": [
        *[("z = x @ y", "pass"), ("self.z[1:] = g(x, *y, z)", "pass")],
        ("z += (\n            x  # - 1\n            is\n            not y)", "pass"),
    ],
    "return": [('h(f"{x - 1}", max(x, y), key=x, é="é", z=-z)', "None")],
}


def test_what_is_mutated_in_a_small_file_and_what_is_left_alone():
    found = defaultdict(list)
    for m in mutants.mutants("small.py", SMALL):
        found[m.kind].append((SMALL[m.start : m.end], m.text))
    assert found == EXPECTED


def test_what_is_mutated_in_cuda():
    text = "#define N 3\n// 1 + 1\nvoid f(real* x, int n) {\n"
    text += "    real y = x[0] * 0.5;\n    y += n >> 1;  // 2\n    sync();\n}\n"
    found = {(text[m.start : m.end], m.text) for m in mutants.mutants("small.cu", text)}
    numbers = {("0", "1"), ("0.5", "1.0"), ("1", "2")}
    assert found == numbers | {("*", "/"), ("+", "-"), (">>", "<<"), ("y += n >> 1;", ";"), ("sync();", ";")}


def test_equivalent_mutants_exist_and_say_why():
    existing = {m.key for file in GENERATED for m in mutants.mutants(file, (PACKAGE / file).read_text())}
    for key, entry in mutants.equivalent().items():
        assert key in existing, f"no such mutant: {key} {entry}"
        assert len(entry.split(" # ")[-1].split()) >= 3, f"{key} needs a sentence: why is it equivalent?"
