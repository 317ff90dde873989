"""One page that needs nothing beside it: its texts, with contents and arrays put in, and a policy that lets nothing else in.

The browser runs scripts and style of these hashes alone, and loads nothing. All that comes from a user (labels, names) is
text: JSON in a block that is not run, from which no < can lead out.
"""

from __future__ import annotations

import base64
import hashlib
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from minivae.explorer.contents import Arrays
from minivae.storage.modelfile import json_text

HERE = Path(__file__).parent
SCRIPTS = ("decoder.js", "drawing.js", "plane.js", "charts.js", "points.js", "steps.js", "page.js")  # in this order


def page(told: dict[str, Any], arrays: Arrays) -> str:
    scripts, style = [text(name) for name in SCRIPTS], text("page.css")
    directory, packed = pack(arrays)
    policy = (
        f"default-src 'none'; script-src {' '.join(map(digest, scripts))}; style-src {digest(style)}; "
        "base-uri 'none'; form-action 'none'"
    )
    parts = {"policy": policy, "style": style, "scripts": "".join(f"<script>{script}</script>\n" for script in scripts)}
    parts["contents"] = json_text(told | {"arrays": directory, "packed": packed}).replace("<", "\\u003c")
    return re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], text("page.html"))


def pack(arrays: Arrays) -> tuple[list[tuple[str, str, list[int]]], str]:
    """(name, dtype, shape) of each array, and the bytes of all, one behind the other, deflated, in base64."""
    little = {name: np.ascontiguousarray(a, a.dtype.newbyteorder("<")) for name, a in arrays.items()}
    packed = zlib.compress(b"".join(a.tobytes() for a in little.values()), 9)
    return [(name, a.dtype.name, list(a.shape)) for name, a in little.items()], base64.b64encode(packed).decode()


def digest(script: str) -> str:
    """As a policy names a script, or a style, that it lets run."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def text(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")
