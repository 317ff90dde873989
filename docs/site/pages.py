"""What the site is made of, into build/pages: README.md, docs/ and every file of the repository that they link to.

A source becomes a page with a heading for each function; api.md comes from docstrings, benchmarks.md from
benchmarks/results. What is wrong with a page, the strict build and finish.py say.
"""

from __future__ import annotations

import ast
import html
import inspect
import json
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import minivae
from minivae.bench.tables import step_text

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "build" / "pages"
LINK = re.compile(r"(?<=\]\()([^)\s#:]+)(?=[)#])")
SHOWN = ("README.md", "docs/*.md", "examples/*.py", "minivae/kernels/columns.py", "minivae/kernels/bounds.py")
NUMBERS = "Median milliseconds per training step. **Bold**: the fastest; roofline and floor are bounds, no libraries."


def stage() -> None:
    shutil.rmtree(PAGES, ignore_errors=True)
    (PAGES / "assets").mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("site.css"), PAGES / "assets")
    waiting = write("api.md", api_page()) + write("benchmarks.md", benchmarks_page())
    waiting += [path for pattern in SHOWN for path in sorted(ROOT.glob(pattern))]
    done: set[Path] = set()
    while waiting:
        path = waiting.pop()
        if path in done:
            continue
        done.add(path)
        name = str(path.relative_to(ROOT))
        if path.suffix == ".md":
            waiting += write(name, path.read_text(encoding="utf-8"))
        elif path.suffix == ".py":
            write(f"{name}.md", source_page(path))
        else:
            (PAGES / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, PAGES / name)


def write(name: str, text: str) -> list[Path]:
    """A page as the generator reads it; returns the files that it links to."""
    target = PAGES / name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(as_python_markdown(text), encoding="utf-8")
    return [file for link in LINK.findall(text) if (file := (ROOT / name).parent.joinpath(link).resolve()).is_file()]


def as_python_markdown(text: str) -> str:
    """GitHub's Markdown as the generator reads it: links to sources lead to their pages, folded parts hold Markdown."""
    text = LINK.sub(lambda link: link[0] + ".md" * link[0].endswith(".py"), text)
    text = re.sub(r"`[^`\n]*`", lambda code: code[0].replace("\\|", "|"), text)  # a table's bar within code
    return text.replace("<details>", '<details markdown="1">')


def source_page(path: Path) -> str:
    """The docstring of a file, then its functions and classes under headings, each with the lines that lead to it."""
    text = path.read_text(encoding="utf-8")
    lines, tree = text.splitlines(), ast.parse(text)
    first = 0
    unsearched = "---\nsearch:\n  exclude: true\n---\n\n" if path.is_relative_to(ROOT / "tests") else ""
    page = [f"{unsearched}# {path.relative_to(ROOT)}"]
    documentation = ast.get_docstring(tree)
    if documentation:
        first = tree.body[0].end_lineno or 0
        page.append(block(documentation, "text"))
    parts = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    for node in parts:
        if (
            node is parts[0]
        ):  # imports and constants stand before the first heading, the comment above a function under it
            start = min(line.lineno for line in [node, *node.decorator_list]) - 1
            while start > first and lines[start - 1].strip()[:1] in ("", "#"):
                start -= 1
            page.append(block("\n".join(lines[first:start])))
            first = start
        last = node.end_lineno or 0
        page += [f"## `{node.name}` {{ #{node.name} }}", block("\n".join(lines[first:last]))]
        first = last
    return "\n\n".join([*page, block("\n".join(lines[first:]))]) + "\n"


def block(text: str, language: str = "python") -> str:
    return f"````{language}\n{text.strip()}\n````" if text.strip() else ""


def api_page() -> str:
    """The public names with their signatures and docstrings; of VAE its methods too, from where they are defined."""
    page = ["# In Python", "What `from minivae import ...` has. Losses and scores are nats per example."]
    for name in minivae.__all__:
        public = getattr(minivae, name)
        if not callable(public):
            continue
        page += entry(name, public, 2)
        families = [family for family in getattr(public, "__mro__", ()) if family.__module__.startswith("minivae.")]
        for family in families if name == "VAE" else ():
            methods = {key: value for key, value in vars(family).items() if inspect.isfunction(value) and value.__doc__}
            for key, method in methods.items():
                if not key.startswith("_"):
                    page += entry(f"{name}.{key}", method, 3)
    return "\n\n".join(page) + "\n"


class Annotation(str):
    """Shown as it stands in the source, without quotes."""

    __repr__ = str.__str__


def entry(name: str, public: object, level: int) -> list[str]:
    file = Path(inspect.getfile(inspect.unwrap(public))).relative_to(ROOT)  # type: ignore[arg-type]
    return [
        f"{'#' * level} `{name}` {{ #{name} }}",
        block("\n".join(textwrap.wrap(name + call(public), 100, subsequent_indent="    ", break_long_words=False))),
        prose(inspect.getdoc(public) or ""),
        f"[{file}]({file})",
    ]


def prose(documentation: str) -> str:
    """A docstring as paragraphs, one for each parameter; what it is written with is text, not Markdown."""
    text = re.sub(r"^(\w+)\n-+$", r"\n<\1>\n", documentation, flags=re.MULTILINE)
    text = re.sub(r"\n(?=\w[\w, ]*(?:\n {4}[\w, ]+)? : )", "\n\n", text)
    paragraphs = [html.escape(" ".join(part.split())) for part in re.split(r"\n\s*\n", text) if part.strip()]
    named = [re.sub(r"^(\w[\w, ]*)(?= : )|^&lt;(\w+)&gt;$", r"<b>\1\2</b>", part) for part in paragraphs]
    return "\n".join("<p>" + re.sub(r"`([^`]+)`", r"<code>\1</code>", part) + "</p>" for part in named)


def call(public: object) -> str:
    """The parameters with their defaults; a class says in its docstring what kinds of values they are, so not here."""
    if isinstance(public, type) and issubclass(public, Exception):
        return f"({public.__base__.__name__})"
    signature = inspect.signature(public)  # type: ignore[arg-type]
    parts = [part for part in signature.parameters.values() if part.name != "self"]
    bare = [p.annotation is p.empty or isinstance(public, type) for p in parts]
    parts = [p.replace(annotation=p.empty if b else Annotation(p.annotation)) for p, b in zip(parts, bare, strict=True)]
    return str(signature.replace(parameters=parts, return_annotation=inspect.Signature.empty))


def benchmarks_page() -> str:
    """benchmarks/results, the newest first: the machine, a table of the training step, and the whole report folded away."""
    page = ["# Benchmarks", f"{NUMBERS} `minivae bench` measures the same here, and `--against FILE` compares."]
    for file in sorted((ROOT / "benchmarks" / "results").glob("*.json"), reverse=True):
        result = json.loads(file.read_text(encoding="utf-8"))
        about = result["machine"]
        versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
        machine = f"{about['cpu']}, {about['cores']} cores, {' '.join(about['simd'])}; {about['system']}"
        page += [
            f"## {file.stem}",
            f"{machine}; BLAS {about['blas']}. {versions}. [All numbers]({file.relative_to(ROOT)}).",
        ]
        if "step" in result:
            page += [steps(result["step"]), '<details markdown="1"><summary>The whole report</summary>']
            page += [block(step_text(result), "text"), "</details>"]
        if "products" in result:
            page += ['<details markdown="1"><summary>Matrix products, beside those of the BLAS</summary>']
            page += [
                table(list(result["products"][0]), [list(row.values()) for row in result["products"]]),
                "</details>",
            ]
    return "\n\n".join(page) + "\n"


def steps(rows: list[dict[str, object]]) -> str:
    names = list(dict.fromkeys(row["contender"] for row in rows if "seconds" in row))
    lines = []
    for config in dict.fromkeys(row["config"] for row in rows):
        times = {row["contender"]: row["seconds"] for row in rows if row["config"] == config and "seconds" in row}
        least = min(time for name, time in times.items() if name not in ("roofline", "floor"))
        cells = [f"{1e3 * times[name]:.3g}" if name in times else "" for name in names]
        lines.append([config, *(f"**{c}**" if times.get(n) == least else c for n, c in zip(names, cells, strict=True))])
    return table(["model, batch", *names], lines)


def table(head: list[str], rows: list[list[object]]) -> str:
    cells = [head, ["---"] * len(head), *([f"{c:.3g}" if isinstance(c, float) else c for c in row] for row in rows)]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in cells)


def explorer() -> None:
    """A page of `minivae explore` beside the gallery, where this version has that command."""
    command = [sys.executable, "-m", "minivae"]
    if subprocess.run([*command, "explore", "--help"], capture_output=True).returncode:
        print("no explorer page in the gallery: this version has no `minivae explore`")
        return
    run = ROOT / "build" / "explorer-run"
    subprocess.run([*command, "train", "digits", "--out", run, "--overwrite", "--quiet"], check=True)
    subprocess.run([*command, "explore", run, "-o", PAGES / "docs" / "explorer.html"], check=True)
    with (PAGES / "docs" / "gallery.md").open("a", encoding="utf-8") as gallery:
        gallery.write(
            "\n## Explorer\n\n[The digits' latent plane, to drag in](explorer.html): `minivae explore runs/demo`.\n"
        )
