"""Cells as a script: magics as comments, launches as plain calls, the chosen cells below `__main__`. Pure."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nbaccel.config.secrets import masked_line
from nbaccel.notebook.export.cells import Cell, launches_of

_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)
_TIMED = frozenset({"time", "timeit", "prun"})
_INDENT = "    "
_ON_MAIN = 'if os.environ.get("RANK", "0") == "0"'
"""As in a notebook, the first rank shows what came out."""


@dataclass(frozen=True)
class Script:
    """What a script is made of.

    Attributes:
        title: its first line.
        command: how it is launched.
        needed: cells that define what the chosen ones use.
        chosen: cells that it runs.
        params: parameters that cells read as `params`; None if they read none.
        config: name of the configuration's file, None if there is none.
        seed: of all generators, None to leave them alone.
        extra: arguments of a function that the configuration fills in, as code, by the function's name.
    """

    title: str
    command: str
    needed: Sequence[Cell]
    chosen: Sequence[Cell]
    params: Mapping[str, Any] | None = None
    config: str | None = None
    seed: int | None = None
    extra: Mapping[str, str] | None = None

    def text(self) -> str:
        """The script."""
        top, main = [], []
        for cell in self.chosen:
            definitions, rest = _split(_Rewritten(cell, self.extra or {}, launches=True))
            if definitions.strip():
                top.append(_titled(cell, definitions))
            main.append(_titled(cell, rest))
        needed = [_titled(cell, _Rewritten(cell, {}, launches=False).text) for cell in self.needed]
        told = f"{self.title}\n\n    {self.command}\n".replace("\\", "\\\\").replace('"""', '\\"""')
        uses_os = self.config is not None or any(_ON_MAIN in part for part in main)
        seeded = [] if self.seed is None else [f"set_seed({self.seed})"]
        guarded = [*seeded, *self._params(), *main]
        parts = [
            f'"""{told}"""',
            "\n".join(["import os"] * uses_os + self._head()),
            *needed,
            *top,
            f'if __name__ == "__main__":\n{indented(_apart(guarded))}',
        ]
        return _apart(part for part in parts if part) + "\n"

    def _head(self) -> list[str]:
        """What the script imports for itself."""
        cells = (*self.needed, *self.chosen)
        uses = {name for cell in cells for name in cell.reads | cell.reads_later}
        lines = []
        if "display" in uses - {name for cell in cells for name in cell.binds}:
            lines += ["", "from IPython.display import display"]
        if self.params is not None:
            lines += [
                "",
                "from nbaccel.config.launched import resolve_in_worker",
                "from nbaccel.config.params import as_params",
            ]
        if self.seed is not None:
            lines += ["", "from nbaccel.utils import set_seed"]
        if self.config:  # for a start without `nbaccel launch`
            file = f"os.path.join(os.path.dirname(os.path.abspath(__file__)), {self.config!r})"
            lines += ["", f'os.environ.setdefault("ACCELERATE_CONFIG_FILE", {file})']
        return lines

    def _params(self) -> list[str]:
        """The parameters as the notebook had them, below those that the script is launched with."""
        if self.params is None:
            return []
        held = any("params" in cell.binds for cell in self.needed)
        below = "**params, " if held else ""
        known = "".join(f"{name!r}: {value!r}, " for name, value in self.params.items())
        return [f"params = as_params({{{below}{known}**resolve_in_worker().config.params}})"]


def _apart(parts: Iterable[str]) -> str:
    return "\n\n".join(parts)


def _titled(cell: Cell, text: str) -> str:
    line = "" if cell.line is None else masked_line(f": %%accelerate {cell.line}").rstrip()
    return f"# %% cell [{cell.number}]{line}\n{text.strip(chr(10))}"


class _Rewritten:
    """A cell's source with some of its statements written anew.

    Attributes:
        lines: the lines; one may hold several, or none.
        starts: the first line of each statement at the top, counted from 0.
        statements: these statements.
    """

    def __init__(self, cell: Cell, extra: Mapping[str, str], *, launches: bool) -> None:
        self._source, self._extra, self._launches = cell.source, extra, launches
        self.lines = cell.source.split("\n")
        self.statements = cell.tree.body
        self.starts = [_first_line(statement) for statement in self.statements]
        for number, statement in reversed(list(enumerate(self.statements))):
            self._rewrite(statement, is_last=number == len(self.statements) - 1)

    @property
    def text(self) -> str:
        return _joined(self.lines)

    def _rewrite(self, statement: ast.stmt, *, is_last: bool) -> None:
        if isinstance(statement, _DEFINITIONS) or not self._stands_alone(statement):
            return
        for inner in _with_shell(statement):
            self._put(inner, _without_shell(inner, self._segment(inner), inside=inner is not statement))
        calls = list(launches_of(statement))
        if calls and not self._launches:
            self._put(statement, _commented(f"(not exported) {self._segment(statement)}"))
        elif calls:
            self._put(statement, self._launched(statement, calls))
        elif is_last and self._launches and isinstance(statement, ast.Expr) and _is_shown(statement.value):
            text = self._segment(statement)
            is_bare = isinstance(statement.value, ast.Tuple) and not text.startswith("(")
            self._put(statement, f"{_ON_MAIN}:\n    print({f'({text})' if is_bare else text})")

    def _stands_alone(self, statement: ast.stmt) -> bool:
        """Whether no other statement shares its lines."""
        spans = [(_first_line(one), one.end_lineno or 0) for one in self.statements if one is not statement]
        first, end = _first_line(statement), statement.end_lineno or 0
        return all(last <= first or begin >= end for begin, last in spans)

    def _segment(self, node: ast.AST) -> str:
        return ast.get_source_segment(self._source, node) or ""

    def _put(self, statement: ast.stmt, text: str) -> None:
        start, end = _first_line(statement), statement.end_lineno or 0
        margin = " " * statement.col_offset
        self.lines[start:end] = ["\n".join(f"{margin}{line}" for line in text.split("\n"))] + [_GONE] * (
            end - start - 1
        )

    def _launched(self, statement: ast.stmt, calls: Sequence[ast.Call]) -> str:
        """A statement whose launches call the function itself: the ranks are there already."""
        text = self._segment(statement)
        for call in calls:
            text = text.replace(self._segment(call), self._direct(call), 1)
        if isinstance(statement, ast.Expr) and statement.value is calls[0]:
            return f"result = {text}\n{_ON_MAIN} and result is not None:\n    print(result)"
        return text

    def _direct(self, call: ast.Call) -> str:
        function, *rest = call.args
        given = {keyword.arg: keyword.value for keyword in call.keywords}
        arguments = rest[0] if rest else given.get("args")
        parts: list[str] = []
        if isinstance(arguments, ast.Tuple | ast.List):
            parts += [self._segment(one) for one in arguments.elts]
        elif arguments is not None:
            parts.append(f"*{self._segment(arguments)}")
        named = given.get("kwargs")
        if named is not None:
            parts.append(f"**{self._segment(named)}")
        name = self._segment(function)
        parts += [self._extra[name]] if self._extra.get(name) else []
        return f"{name}({', '.join(parts)})"


_GONE = "\0"


def _first_line(statement: ast.stmt) -> int:
    decorators = getattr(statement, "decorator_list", [])
    return min([statement.lineno, *(one.lineno for one in decorators)]) - 1


def _is_shown(value: ast.expr) -> bool:
    """Whether a notebook shows an expression for its value, not for what it does."""
    return not isinstance(value, ast.Call | ast.Await | ast.Yield | ast.YieldFrom | ast.Constant)


def _with_shell(statement: ast.stmt) -> list[ast.stmt]:
    """The innermost statements that ask IPython for something."""
    inner = [
        one
        for child in ast.iter_child_nodes(statement)
        for one in (_with_shell(child) if isinstance(child, ast.stmt) else [])
    ]
    if inner:
        return inner
    return [statement] if any(_is_of_notebooks(node) for node in ast.walk(statement)) else []


def _is_of_notebooks(node: ast.AST) -> bool:
    """Whether this calls what is there in a notebook only: IPython, or the export itself."""
    return isinstance(node, ast.Call) and ast.unparse(node.func) in ("get_ipython", "nbaccel.export")


def _without_shell(statement: ast.stmt, text: str, *, inside: bool) -> str:
    """A statement that needs IPython as a comment; one that IPython was only to time, as it is."""
    value = getattr(statement, "value", None)
    method = value.func.attr if isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) else ""
    given = value.args if isinstance(value, ast.Call) else []
    words = [str(one.value) for one in given if isinstance(one, ast.Constant)]
    if method == "run_line_magic" and len(words) >= 2:
        if words[0] in _TIMED and _is_python(words[1]):
            return words[1]
        text = f"%{words[0]} {words[1]}".rstrip()
    elif method in ("system", "getoutput") and words:
        text = f"!{words[0]}"
    if isinstance(statement, ast.Assign) and text[:1] in "%!":
        text = f"{', '.join(ast.unparse(target) for target in statement.targets)} = {text}"
    commented = _commented(text)
    return f"pass  {commented}" if inside else commented


def _is_python(text: str) -> bool:
    try:
        ast.parse(text)
    except SyntaxError:
        return False
    return True


def _commented(text: str) -> str:
    return "\n".join(f"# {line}" for line in text.split("\n"))


def _split(cell: _Rewritten) -> tuple[str, str]:
    """The definitions and imports that a cell begins with, and the rest of it."""
    rest = [place for place, one in enumerate(cell.statements) if not isinstance(one, _DEFINITIONS)]
    if not rest:
        return _joined(cell.lines), "pass"
    cut = cell.starts[rest[0]]
    ends = [statement.end_lineno or 0 for statement in cell.statements[: rest[0]]]
    if ends and max(ends) > cut:
        return "", _joined(cell.lines)
    while cut > max(ends, default=0) and cell.lines[cut - 1].lstrip().startswith("#"):
        cut -= 1
    return _joined(cell.lines[:cut]), _joined(cell.lines[cut:])


def _joined(lines: Sequence[str]) -> str:
    return "\n".join(line for line in lines if line != _GONE)


def indented(text: str) -> str:
    """Code, indented; the inside of texts of several lines stays as it is."""
    inside = _inside_texts(text)
    lines = text.split("\n")
    moved = [f"{_INDENT}{line}" if line.strip() and place not in inside else line for place, line in enumerate(lines)]
    is_empty = not any(line.strip() and not line.lstrip().startswith("#") for line in lines)
    return "\n".join([*moved, *([f"{_INDENT}pass"] if is_empty else [])])


def _inside_texts(text: str) -> set[int]:
    """Lines, counted from 0, that begin inside of a text."""
    inside: set[int] = set()
    opened: list[int] = []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        kind = tokenize.tok_name[token.type]
        if kind in ("FSTRING_START", "TSTRING_START"):
            opened.append(token.start[0])
        elif kind in ("FSTRING_END", "TSTRING_END"):
            inside |= set(range(opened.pop(), token.end[0]))
        elif kind == "STRING":
            inside |= set(range(token.start[0], token.end[0]))
    return inside
