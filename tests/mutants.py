"""Every small edit of a source file that a test should notice, each at one place: operators, constants, lines left out.

`mutants` lists them for a Python file (found in its syntax tree, written into its text) or for CUDA (by regular
expressions); `sample` takes the same few whenever it is asked. Docstrings, messages, annotations and imports stay.
equivalent_mutants.txt names those that no test can notice: key, place, what changes, and why the result is the same.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

EXCHANGED = {
    "arithmetic": {"+": "-", "-": "+", "*": "/", "/": "*", "//": "*", "%": "*", "**": "*", "@": "*"}
    | {"&": "|", "|": "&", "^": "|", "<<": ">>", ">>": "<<"},
    "comparison": {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "=="}
    | {"is": "is not", "is not": "is", "in": "not in", "not in": "in"},
    "boolean": {"and": "or", "or": "and", "&&": "||", "||": "&&"},
}
SIGN = re.compile(
    r"#.*|\bis\s+not\b|\bnot\s+in\b|\bis\b|\bin\b|\band\b|\bor\b|&&|\|\||\*\*|//|<<|>>|[<>=!]=|[-+*/%@&|^<>]"
)
SYMMETRIC = {"max", "min", "maximum", "minimum", "multiply", "logaddexp", "array_equal"}
SYMMETRIC |= {"isinstance", "hasattr", "getattr", "setattr"}  # not symmetric, but whatever calls them notices
SILENT = {"njit", "cfunc", "field"}  # their options change no value

Edit = tuple[int, int, str, str]


@dataclass(frozen=True)
class Mutant:
    """source[start:end] becomes `text`; old and new are the lines around it; line counts from 1.

    The key is a word for (file, kind, old line, how often this kind came on such a line before): edits elsewhere keep it.
    """

    file: str
    kind: str
    start: int
    end: int
    text: str
    line: int
    old: str
    new: str
    key: str

    def apply(self, source: str) -> str:
        return source[: self.start] + self.text + source[self.end :]


def mutants(file: str, source: str) -> list[Mutant]:
    """All mutants of a file, from top to bottom."""
    seen: Counter[tuple[str, str]] = Counter()
    found = []
    for start, end, kind, text in sorted(set(Finder(source).found if file.endswith(".py") else cuda_edits(source))):
        first, last = source.rfind("\n", 0, start) + 1, source.find("\n", end)
        old, new = source[first:last], source[first:start] + text + source[end:last]
        place = (kind, old.splitlines()[0].strip())
        key = hashlib.sha256("\n".join((file, *place, str(seen[place]))).encode()).hexdigest()[:12]
        line, old, new = source.count("\n", 0, start) + 1, " ".join(old.split()), " ".join(new.split())
        found.append(Mutant(file, kind, start, end, text, line, old, new, key))
        seen[place] += 1
    return found


def sample(mutants: Iterable[Mutant], count: int) -> list[Mutant]:
    """So many of them, the same ones every time, from top to bottom."""
    return sorted(sorted(mutants, key=lambda m: m.key)[:count], key=lambda m: m.start)


def equivalent() -> dict[str, str]:
    """Key -> the rest of its line, for the mutants that are known to compute what the original computes."""
    lines = Path(__file__).with_name("equivalent_mutants.txt").read_text().splitlines()
    entries = (line.partition(" ") for line in lines if line.strip() and not line.startswith("#"))
    return {key: rest.strip() for key, _, rest in entries}


def other(value: object) -> str:
    """Another constant in place of this one."""
    if isinstance(value, (bool, str)):
        return repr(not value if isinstance(value, bool) else f"{value}?")
    return str(value + 1) if isinstance(value, int) else repr(2 * value or 1.0)


def exchanged(sign: str) -> tuple[str, str]:
    """What kind of operator this is, and the one in its place."""
    sign = " ".join(sign.split())
    return next((kind, table[sign]) for kind, table in EXCHANGED.items() if sign in table)


class Finder:
    """The edits (start, end, kind, text) of a Python file."""

    def __init__(self, source: str) -> None:
        self.source, self.lines = source, source.splitlines(keepends=True)
        self.found = list(self.edits(ast.parse(source), Counter(), ""))

    def span(self, node: ast.AST) -> tuple[int, int]:
        """Where a node begins and ends in the text; ast counts lines and bytes."""
        places = ((node.lineno - 1, node.col_offset), (node.end_lineno - 1, node.end_col_offset))
        start, end = (len("".join(self.lines[:i])) + len(self.lines[i].encode()[:at].decode()) for i, at in places)
        return start, end

    def text(self, node: ast.AST) -> str:
        return self.source[slice(*self.span(node))]

    def edits(self, node: ast.AST, stored: Counter[str], returned: str) -> Iterator[Edit]:
        """Those of a node and of all below it, in a function that assigns so often to each name and returns such a type."""
        below = list(ast.iter_child_nodes(node))
        match node:
            case ast.JoinedStr() | ast.Assert():  # messages
                below = []
            case ast.Raise():
                below = []
                if node.exc is None:
                    yield *self.span(node), "statement", "pass"
            case ast.FunctionDef(args=ast.arguments(defaults=defaults, kw_defaults=named)):
                names = [n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
                stored = Counter([*names, *(n.arg for n in ast.walk(node.args) if isinstance(n, ast.arg))])
                returned = self.text(node.returns) if node.returns else ""
                yield from self.defaults([*defaults, *named])
                below = node.body
            case ast.Lambda():
                below = [node.body]
            case ast.ClassDef():
                yield from self.defaults([line.value for line in node.body if isinstance(line, ast.AnnAssign)])
                below = [line for line in node.body if not isinstance(line, ast.AnnAssign)]
            case ast.Break() | ast.Continue() | ast.Return(value=None):
                yield *self.span(node), "statement", "pass"
            case ast.Return(value=value):  # None instead, where it is only asked whether it is true, or not looked at
                if self.text(value) != "None" and re.search(
                    r"\b(bool|None|Any)\b|^self$", returned or self.text(value)
                ):
                    yield *self.span(value), "return", "None"
            case ast.Assign() | ast.AnnAssign():
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                kept = not node.value or self.text(targets[0]) == "__all__"
                below = [] if kept else [*targets, node.value]
                names = [n for t in targets for n in (t.elts if isinstance(t, ast.Tuple) else [t])]
                if not kept and all(stored[n.id] > 1 for n in names if isinstance(n, ast.Name)):  # else it is unbound
                    yield *self.span(node), "statement", "pass"
            case ast.AugAssign():
                yield self.operator(node.target, node.value)
                yield *self.span(node), "statement", "pass"
            case ast.Expr(value=value):
                if not isinstance(value, (ast.Constant, ast.Yield)):
                    yield *self.span(node), "statement", "pass"
            case ast.If() | ast.IfExp() | ast.comprehension():
                tests = node.ifs if isinstance(node, ast.comprehension) else [node.test]
                below = [] if "TYPE_CHECKING" in map(self.text, tests) else below
                for test in tests if below else []:
                    for text in ("True", "False", f"not ({self.text(test)})"):
                        yield *self.span(test), "condition", text
            case ast.BinOp(left=left, right=right):
                words = (ast.JoinedStr, ast.List, ast.Dict)  # these know no other operator
                if not any(isinstance(n, words) or isinstance(getattr(n, "value", 0), str) for n in (left, right)):
                    yield self.operator(left, right)
            case ast.Compare():
                yield from map(self.operator, (node.left, *node.comparators), node.comparators)
            case ast.BoolOp(values=values):
                yield from map(self.operator, values, values[1:])
            case ast.UnaryOp():
                if not isinstance(node.operand, ast.Constant):
                    start, sign = self.span(node)[0], re.match(r"not\s*|.", self.text(node))[0]
                    yield start, start + len(sign), "unary", ""
            case ast.Constant(value=int() | float() as value):
                yield *self.span(node), "constant", other(value)
            case ast.Call(func=function, args=args):
                name = getattr(function, "attr", getattr(function, "id", ""))
                below = [] if name in SILENT else below
                for left, right in pairwise(args) if name not in SILENT | SYMMETRIC else ():
                    (start, a), (b, end) = self.span(left), self.span(right)
                    if self.text(left) != self.text(right) and ast.Starred not in (type(left), type(right)):
                        yield start, end, "arguments", self.text(right) + self.source[a:b] + self.text(left)
                if name == "range":
                    yield from self.bounds(args[0] if args[1:] else None, args[bool(args[1:])])
            case ast.Slice(lower=lower, upper=upper):
                start = self.span(node)[0]
                colon = self.source.index(":", self.span(lower)[1] if lower else start) + 1
                yield from self.bounds(lower, upper)
                yield from [(start, start, "bound", "1")] if lower is None else []
                yield from [(colon, colon, "bound", "-1")] if upper is None else []
        for child in below:
            yield from self.edits(child, stored, returned)

    def operator(self, left: ast.AST, right: ast.AST) -> Edit:
        """Another sign between two nodes, where there may be parentheses and comments as well."""
        signs = SIGN.finditer(self.source, self.span(left)[1], self.span(right)[0])
        sign = next(m for m in signs if not m[0].startswith("#"))
        return sign.start(), sign.end(), *exchanged(sign[0])

    def defaults(self, values: Iterable[ast.expr | None]) -> Iterator[Edit]:
        for node in values:
            if isinstance(node, ast.Constant) and isinstance(node.value, (int, float, str)):
                yield *self.span(node), "default", other(node.value)
            elif node is not None:
                yield from self.edits(node, Counter(), "")

    def bounds(self, first: ast.expr | None, last: ast.expr | None) -> Iterator[Edit]:
        """The first one more, the last one less; one more than a constant is another kind already."""
        for node, sign in ((first, "+"), (last, "-")):
            if isinstance(node, ast.Constant) and sign == "-" and isinstance(node.value, int):
                yield *self.span(node), "bound", str(node.value - 1)
            elif node is not None and not isinstance(node, ast.Constant):
                simple = isinstance(node, (ast.Name, ast.Attribute, ast.Call))
                yield *self.span(node), "bound", f"{self.text(node) if simple else f'({self.text(node)})'} {sign} 1"


def cuda_edits(source: str) -> Iterator[Edit]:
    """The edits (start, end, kind, text) of CUDA: signs between blanks, numbers, and statements on a line of their own."""
    code = re.sub(r"//.*|^#(?:.*\\\n)*.*", lambda m: re.sub(r"[^\n]", " ", m[0]), source, flags=re.M)
    for m in re.finditer(rf"(?<= )(?:{SIGN.pattern})(?==? )", code):
        yield m.start(), m.end(), *exchanged(m[0])
    for m in re.finditer(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.])", code):
        yield m.start(), m.end(), "constant", other(float(m[0]) if "." in m[0] else int(m[0]))
    declared = r"(?:const|return|real|whole|int|unsigned|bool|__shared__)\b"
    for m in re.finditer(rf"^ +(?!{declared})([^\s;{{}}][^;{{}}\n]*;) *$", code, re.M):
        yield m.start(1), m.end(1), "statement", ";"
