"""The site of `make docs`: every page has its place, what is made from sources is complete, and what is broken is named."""

from __future__ import annotations

import ast
import inspect
import json
import re
import tomllib
from pathlib import Path

import pytest

import minivae

ROOT = Path(__file__).resolve().parent.parent
MADE = {"api.md", "benchmarks.md"}


@pytest.fixture
def site(monkeypatch, tmp_path):
    """The modules of docs/site, with the pages made in a folder of the test."""
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "site"))
    import finish
    import pages

    monkeypatch.setattr(pages, "PAGES", tmp_path / "pages")
    return pages, finish, tmp_path


def places(nav):
    """The files of a navigation, in order."""
    return [nav] if isinstance(nav, str) else [p for part in nav for value in part.values() for p in places(value)]


def test_the_navigation_names_every_page_once_and_nothing_else():
    config = tomllib.loads((ROOT / "docs/site/zensical.toml").read_text(encoding="utf-8"))
    named = places(config["project"]["nav"])
    assert len(named) == len(set(named)) and named[0] == "README.md"
    assert {name for name in named if name.startswith("docs/")} == {f"docs/{p.name}" for p in ROOT.glob("docs/*.md")}
    assert all((ROOT / name.removesuffix(".md" * name.endswith(".py.md"))).is_file() for name in set(named) - MADE)


def test_the_gallery_shows_every_figure_with_its_command():
    parts = (ROOT / "docs/gallery.md").read_text(encoding="utf-8").split("\n## ")[1:]
    shown = {figure: part for part in parts for figure in re.findall(r"\]\(figures/([\w-]+\.png)\)", part)}
    assert set(shown) == {path.name for path in ROOT.glob("docs/figures/*.png")}
    assert all(re.search(r"by\s`(minivae|python) [^`]+`", part) for part in shown.values())


def test_pages_and_what_they_link_to_are_there(site):
    pages, _, folder = site
    pages.stage()
    made = {path.relative_to(folder / "pages").as_posix() for path in (folder / "pages").rglob("*.*")}
    config = tomllib.loads((ROOT / "docs/site/zensical.toml").read_text(encoding="utf-8"))
    assert set(places(config["project"]["nav"])) <= made
    for name in made:
        if name.endswith(".md") and not name.endswith(".py.md"):
            text = re.sub(r"^```.*?^```", "", (folder / "pages" / name).read_text(encoding="utf-8"), flags=re.M | re.S)
            for link in re.findall(r"\]\(([^)\s#:]+)[)#]", text):
                target = (folder / "pages" / name).parent / link
                assert target.is_file(), f"{name} links to {link}"
                assert target.suffix != ".py", f"{name} links to {link}, not to its page"


@pytest.mark.parametrize("name", ["reference", "bounds"])
def test_a_source_page_has_every_line_in_order_and_a_heading_for_each_function(site, name):
    path = ROOT / "minivae" / "kernels" / f"{name}.py"
    page, source = site[0].source_page(path), path.read_text(encoding="utf-8")
    functions = [node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    assert re.findall(r"^## `(\w+)`", page, re.MULTILINE) == functions
    assert "import numpy" in page.partition("\n## ")[0]  # before the first function
    code = [line for line in re.sub(r"^(#|## `\w+`|````).*$", "", page, flags=re.M).splitlines() if line.strip()]
    comments = [line for line in source.splitlines() if line.startswith("#")]
    assert [line for line in page.splitlines() if line.startswith("# ")][1:] == comments
    bare = source.replace('"""', "", 2)  # the docstring of the file is shown as text
    assert code == [line for line in bare.splitlines() if line.strip() and not line.startswith("#")]


def test_the_page_of_public_names_has_each_with_its_docstring(site):
    page = site[0].api_page()
    for name in set(minivae.__all__) - {"__version__"}:
        assert f"## `{name}`" in page
    for name, method in inspect.getmembers(minivae.VAE, inspect.isfunction):
        if method.__doc__ and not name.startswith("_"):
            assert f"### `VAE.{name}`" in page
    assert "<b>kl_cycles</b> : with more than 1, <code>epochs</code> are divided" in page
    assert "VAE(latent_dim=2, *, hidden_dims=(256, 128)" in page


def test_the_benchmark_page_shows_what_was_measured_where_and_when(site):
    page = site[0].benchmarks_page()
    for path in ROOT.glob("benchmarks/results/*.json"):
        result = json.loads(path.read_text(encoding="utf-8"))
        part = page.partition(f"## {path.stem}\n")[2].partition("\n## ")[0]
        assert result["machine"]["cpu"] in part and f"numpy {result['machine']['versions']['numpy']}" in part
        for row in result.get("step", []):
            if row["status"] == "timed":
                cells = {line.split(" | ")[0]: line.strip("| ").split(" | ") for line in part.splitlines()}
                column = cells["| model, batch"].index(row["contender"])
                assert cells[f"| {row['config']}"][column].strip("*") == f"{1e3 * row['seconds']:.3g}"


def test_what_is_broken_on_the_site_is_named(site):
    _, finish, folder = site
    (folder / "a.html").write_text(
        '<a href="b.html#there"></a><a href="https://example.org">text may lead anywhere</a><img src="a.png">'
    )
    (folder / "a.png").touch()
    (folder / "b.html").write_text('<h2 id="there"></h2><a href="a.html"></a>')
    (folder / "a.css").write_text("svg { background: url(data:image/svg+xml,http://www.w3.org/2000/svg) }")
    assert finish.mistakes(folder) == []
    (folder / "b.html").write_text('<a href="c.html"></a><script src="//cdn.example.org/x.js"></script>')
    (folder / "a.css").write_text("@import 'https://fonts.example.org/css';")
    assert sorted(finish.mistakes(folder)) == [
        "a.css names https://fonts.example.org/css",
        "a.html links to b.html#there: b.html has no such heading",
        "b.html links to c.html, which is not there",
        "b.html loads //cdn.example.org/x.js from another host",
    ]
