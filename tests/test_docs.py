"""The pages tell the truth: their Python runs, their links lead somewhere, and the files and tests they name exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from urllib.parse import unquote

import pytest

from minivae.grading import mistakes
from minivae.grading.steps import STEPS
from minivae.kernels import INTERFACE, reference

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md")) + [page for page in [ROOT / "README.md"] if page.is_file()]
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)

FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```\s*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^)\s]+)[^)]*\)|<(?:img|a)\b[^>]*?\b(?:src|href)=\"([^\"]+)\"")
FOLDERS = ("benchmarks", "docs", "examples", "kernels", "minivae", "tests")
NAMED_FILE = re.compile(rf"(?<![\w./-])(?:{'|'.join(FOLDERS)})/[\w./-]*\w\.\w+")
BARE_FILE = re.compile(r"`(\w+\.(?:py|cu|md))`")
NAMED_TEST = re.compile(r"(tests/[\w/]+\.py)::(\w+)|`(test_\w+)`")
IN_CODE = re.compile(r"^In code: (.*?)(?=\n\n|\Z)", re.MULTILINE | re.DOTALL)


def python_blocks(text):
    """(first line, source) of each ```python block."""
    return [(text.count("\n", 0, m.start(2)) + 1, m.group(2)) for m in FENCE.finditer(text) if m.group(1) == "python"]


def prose(text):
    """The page without its fenced blocks, in which brackets are no links."""
    return FENCE.sub("", text)


def anchors(text):
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ +(.*?)\s*$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def defined_names(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}


def test_there_are_pages_and_they_hold_python():
    assert {"derivations.md", "exercises.md"} <= {page.name for page in PAGES}
    assert all(python_blocks(page.read_text(encoding="utf-8")) for page in PAGES if page.parent.name == "docs")


@every_page
def test_python_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": f"docs_{page.stem}"}
    for line, source in python_blocks(page.read_text(encoding="utf-8")):
        # the line numbers of an error are those of the page
        exec(compile("\n" * (line - 1) + source, str(page), "exec"), namespace)


@every_page
def test_links_of_a_page_lead_to_files_and_headings_that_exist(page):
    for markdown, html in LINK.findall(prose(page.read_text(encoding="utf-8"))):
        link = markdown or html
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = unquote(link).partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), f"{page.name} links to {link}"
        assert target.is_relative_to(ROOT), f"{page.name} links out of the repository: {link}"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target.read_text(encoding="utf-8")), f"{page.name} links to {link}"


@every_page
def test_files_named_on_a_page_exist(page):
    text = page.read_text(encoding="utf-8")
    for name in NAMED_FILE.findall(text):
        assert (ROOT / name).exists() or (ROOT / "minivae" / name).exists(), f"{page.name} names {name}"
    present = {path.name for path in ROOT.iterdir()}
    present |= {path.name for folder in FOLDERS for path in (ROOT / folder).rglob("*")}
    for name in BARE_FILE.findall(text):
        assert name in present, f"{page.name} names {name}"


@every_page
def test_tests_named_on_a_page_exist(page):
    everywhere = set().union(*(defined_names(path) for path in (ROOT / "tests").rglob("test_*.py")))
    for file, name, bare in NAMED_TEST.findall(page.read_text(encoding="utf-8")):
        names = defined_names(ROOT / file) if file else everywhere
        assert (name or bare) in names, f"{page.name} names the test {name or bare}"


def test_the_exercises_fold_away_the_answers_that_the_grader_knows_and_name_its_steps():
    text = (ROOT / "docs" / "exercises.md").read_text(encoding="utf-8")
    answers = re.findall(r"<summary>Answer</summary>\n\n```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert "\n\n".join(answers) == mistakes.text("answers.txt")
    assert re.findall(r"minivae grade answers.py --step ([\w-]+)`", text) == list(STEPS)


def test_functions_behind_each_derivation_exist():
    package = set().union(*(defined_names(path) for path in (ROOT / "minivae").rglob("*.py")))
    pointers = [(page.name, pointer) for page in PAGES for pointer in IN_CODE.findall(page.read_text(encoding="utf-8"))]
    assert sum(page == "derivations.md" for page, _ in pointers) >= 11
    for page, pointer in pointers:
        for name in re.findall(r"`([A-Za-z_]+)[`.]", pointer.partition("Proved by:")[0]):
            assert name in package or hasattr(reference, name) or name in ("log_sigma", "LIKELIHOODS"), (page, name)


@pytest.mark.parametrize("name", ["likelihoods", "missing", "conditional", "kl", "scores"])
def test_a_page_of_an_idea_is_short_and_ends_with_its_kernel_its_proof_and_its_command(name):
    text = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    idea = text.partition("## What evaluate prints")[0]
    assert len(idea.splitlines()) <= 80 and "$$" in text and re.search(r"^1\. \*\*", text, re.MULTILINE)
    end = text[text.rindex("In code: ") :]
    assert re.search(r"^Proved by: `test_", end, re.MULTILINE)
    assert re.search(r"^Shown by: `(python|minivae) ", end, re.MULTILINE)
    assert f"(docs/{name}.md)" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_kernel_that_has_a_gradient_is_derived():
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES if page.parent.name == "docs")
    for name in INTERFACE:
        if name.endswith(("_forward", "_backward", "_loss")):
            assert f"`{name}`" in text, f"no page of docs mentions {name}"
