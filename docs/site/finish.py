"""`make docs`: pages.py, then the generator, then this: formulas become MathML, and nothing is left that asks another host.

Links must lead somewhere: exit status 1, and a line for each thing that is wrong.

A browser draws MathML itself, without a script, and the font comes along. The theme's script would fetch libraries from
a CDN for features that these pages do not use; those addresses go, and a content security policy forbids what might be left.
"""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pages import PAGES, ROOT, explorer, stage

SITE = ROOT / "build" / "site"
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
POLICY = "default-src 'self' file: data: blob: 'unsafe-inline'"
# What a browser may load by itself: in HTML see `Page`, in styles and scripts any address but the names of XML's languages.
ADDRESS = re.compile(r"https?:(?!//www\.w3\.org/)//[^\s\"'`)]+")
# A worker may not be loaded from a folder, but from memory; so search works there too.
WORKER = """if (location.protocol === "file:") {
  const Plain = Worker
  window.Worker = function () { return new Plain(URL.createObjectURL(new Blob([%s]))) }
}
"""


class Page(HTMLParser):
    """The anchors, links and loaded resources of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.resources: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a":
            self.links.append(values.get("href", ""))
        elif not (tag == "link" and values.get("rel") in ("canonical", "next", "prev")):
            self.resources += [values[name] for name in ("href", "src", "data", "poster") if name in values]


def finish(site: Path) -> list[str]:
    """Rewrites what the generator made; returns the formulas that could not be."""
    from math_core import LatexError, LatexToMathML

    (site / "404.html").unlink()  # its links begin at the host's root, where the site need not be
    font = resources.files("ziamath") / "fonts" / "STIXTwoMath-Regular.ttf"  # the one thing needed of that package
    (site / "assets" / "math.ttf").write_bytes(font.read_bytes())
    mathml, wrong = LatexToMathML(fancy_error=False), []
    for path in set(site.rglob("*.html")) - {site / "docs" / "explorer.html"}:  # which has a stricter policy of its own

        def formula(match: re.Match[str], path: Path = path) -> str:
            tex = html.unescape(match[2])
            try:
                return mathml.convert_with_local_state(tex, displaystyle=match[1] == "div")
            except LatexError as error:
                wrong.append(f"{path.relative_to(site)}: {error} in the formula {tex.strip()}")
                return match[0]

        text = FORMULA.sub(formula, path.read_text(encoding="utf-8"))
        text = text.replace("<head>", f'<head><meta http-equiv="Content-Security-Policy" content="{POLICY}">', 1)
        path.write_text(text, encoding="utf-8")
    for path in loaded(site):
        path.write_text(ADDRESS.sub("about:blank", path.read_text(encoding="utf-8")), encoding="utf-8")
    worker = next(site.rglob("workers/search*.js")).read_text(encoding="utf-8")
    (site / "assets" / "iframe-worker.js").write_text(WORKER % json.dumps(worker), encoding="utf-8")
    return wrong


def loaded(site: Path) -> list[Path]:
    """Styles and scripts, but for the index of the search, which is text."""
    return [path for path in site.rglob("*.*") if path.suffix in (".css", ".js") and path != site / "search.js"]


def mistakes(site: Path) -> list[str]:
    """Links to files and anchors that are not there; resources of other hosts."""
    pages = {path.resolve(): Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    found = []
    for path, page in pages.items():
        name = path.relative_to(site.resolve())
        found += [f"{name} loads {url} from another host" for url in page.resources if urlsplit(url).netloc]
        for link in page.links + page.resources:
            url = urlsplit(link)
            if url.scheme or url.netloc:
                continue
            target = (path.parent / unquote(url.path)).resolve() if url.path else path
            if not target.is_file():
                found.append(f"{name} links to {link}, which is not there")
            elif url.fragment and target in pages and unquote(url.fragment) not in pages[target].anchors:
                found.append(f"{name} links to {link}: {target.name} has no such heading")
    for path in loaded(site):
        found += [f"{path.relative_to(site)} names {url}" for url in ADDRESS.findall(path.read_text(encoding="utf-8"))]
    return found


if __name__ == "__main__":
    stage()
    explorer()
    config = Path(PAGES.parent / "zensical.toml")
    config.write_text(Path(__file__).with_name("zensical.toml").read_text(encoding="utf-8"), encoding="utf-8")
    build = [sys.executable, "-m", "zensical", "build", "--strict", "--clean", "-f", config]
    built = subprocess.run(build, stderr=subprocess.PIPE, text=True)
    print(built.stderr.partition("Traceback")[0], end="")  # what is wrong; its own traceback tells nothing of it
    if built.returncode:
        sys.exit(1)
    wrong = finish(SITE) + mistakes(SITE)
    print("\n".join(wrong) or f"wrote {(SITE / 'index.html').relative_to(ROOT)}")
    sys.exit(bool(wrong))
