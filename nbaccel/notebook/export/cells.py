"""The cells that ran in this kernel, as Python, with the names that each one reads and binds. Pure."""

from __future__ import annotations

import ast
import builtins
import re
import symtable
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

from nbaccel.notebook.export.edits import Change, edited
from nbaccel.notebook.names import used_names

_LAUNCHERS = frozenset({"notebook_launcher", "debug_launcher"})
_AMBIGUOUS = ("submit", "Session")
"""Names of nbaccel's that others have too: executors, above all."""
_MAGIC = re.compile(r"\s*%%(\w+)[ \t]*(.*)")
_OF_PYTHON = frozenset({"accelerate", "time", "timeit", "capture", "prun"})
"""Cell magics whose cells are Python."""
_SESSION = re.compile(r"^\s*(?:\w+\s*=\s*)?%accelerate\s+(start|restart|stop)\b[ \t]*(.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Cell:
    """A cell that ran.

    Attributes:
        number: its number in the notebook.
        source: its Python, magics of lines as calls of IPython.
        raw: as it was written.
        line: what stands after `%%accelerate`, None for a cell of the kernel.
        session: the line of the session's start if it ran in one, else None.
        keeps: whether the names that it binds outlive it; those of `%%timeit` do not.
        ours: how this notebook writes names that others have too: `nb.submit` for `submit`.
    """

    number: int
    source: str
    raw: str
    line: str | None = None
    session: str | None = None
    keeps: bool = True
    ours: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.source)

    @cached_property
    def _table(self) -> symtable.SymbolTable:
        return symtable.symtable(self.source, f"cell [{self.number}]", "exec")

    @cached_property
    def reads(self) -> frozenset[str]:
        """Names that it reads at once, before it has bound them."""
        own = {symbol.get_name() for symbol in self._table.get_symbols() if symbol.is_referenced()}
        own |= {name for table in _of_classes(self._table) for name in _globals(table)}
        return frozenset(own & set(used_names(self.tree)))

    @cached_property
    def reads_later(self) -> frozenset[str]:
        """Names that its functions read when they are called."""
        return frozenset(name for table in _of_functions(self._table) for name in _globals(table))

    @cached_property
    def binds(self) -> frozenset[str]:
        """Names that it binds in the notebook, or in a session's workers."""
        if self.line is not None and self.session is None:
            return self.outputs
        if not self.keeps:
            return frozenset()
        own = (symbol for symbol in self._table.get_symbols() if symbol.is_assigned() or symbol.is_imported())
        return frozenset(symbol.get_name() for symbol in own)

    @property
    def outputs(self) -> frozenset[str]:
        """Names that a cell on workers brings back."""
        found = re.search(r"(?:^|\s)(?:-o|--outputs)[\s=]+([\w,]+)", self.line or "")
        return frozenset(found[1].split(",")) if found else frozenset()

    @cached_property
    def has_star(self) -> bool:
        """Whether it imports names that it does not name."""
        imports = (node for node in ast.walk(self.tree) if isinstance(node, ast.ImportFrom))
        return any(alias.name == "*" for node in imports for alias in node.names)

    @cached_property
    def modules(self) -> frozenset[str]:
        """Names that it binds by an import."""
        return frozenset(symbol.get_name() for symbol in self._table.get_symbols() if symbol.is_imported())

    @cached_property
    def changes(self) -> frozenset[str]:
        """Names whose objects it most likely changes without binding them: `config["lr"] = 3`, `prepare(model)`."""
        return frozenset(_changed(self.tree))

    @cached_property
    def asks(self) -> frozenset[str]:
        """Names whose objects it asks to do something, which most likely changes them: `model.eval()`."""
        return frozenset(_asked(self.tree))

    @cached_property
    def launches(self) -> tuple[ast.Call, ...]:
        """Calls of a launcher that run with the cell."""
        return tuple(call for statement in self.tree.body for call in self.launches_of(statement))

    @cached_property
    def submitted(self) -> tuple[ast.Call, ...]:
        """Those of its launches that give back a job."""
        return tuple(call for call in self.launches if self._called(call) == "submit")

    @cached_property
    def starts_session(self) -> bool:
        """Whether it makes a `Session`."""
        return any(isinstance(node, ast.Call) and self._called(node) == "Session" for node in ast.walk(self.tree))

    def launches_of(self, statement: ast.stmt) -> Iterator[ast.Call]:
        """Calls of a launcher in a statement, those in functions that it defines left out."""
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            return
        for node in ast.walk(statement):
            if isinstance(node, ast.Call) and node.args and self._called(node) in {*_LAUNCHERS, "submit"}:
                yield node

    def _called(self, call: ast.Call) -> str:
        """What of nbaccel's a call calls, empty for something else."""
        written = ast.unparse(call.func)
        name = written.rpartition(".")[2]
        return name if name in _LAUNCHERS else self.ours.get(written, "")


def _of_functions(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    for child in table.get_children():
        if child.get_type() == "function":
            yield child
        yield from _of_functions(child)


def _of_classes(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    for child in table.get_children():
        if child.get_type() == "class":
            yield child
            yield from _of_classes(child)


def _globals(table: symtable.SymbolTable) -> Iterator[str]:
    return (symbol.get_name() for symbol in table.get_symbols() if symbol.is_global() and symbol.is_referenced())


_HARMLESS = frozenset(dir(builtins)) | {"display", "submit"} | _LAUNCHERS
_SETTING = re.compile(
    r"seed|manual_seed|set_|insert|append|extend|update|setdefault|filter|simplefilter|basicConfig|use_"
)
"""Methods of modules that change more than what they return."""


def _changed(tree: ast.Module) -> Iterator[str]:
    for node in _run_at_once(tree):
        if isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del):
            yield from root_of(node)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            yield from _changed_by(node.value)


def _run_at_once(tree: ast.AST) -> Iterator[ast.AST]:
    """Nodes outside of functions."""
    for child in ast.iter_child_nodes(tree):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from _run_at_once(child)


def _changed_by(call: ast.Call) -> Iterator[str]:
    if isinstance(call.func, ast.Attribute):
        yield from root_of(call.func) if _SETTING.match(call.func.attr) else ()
    elif isinstance(call.func, ast.Name) and call.func.id in _HARMLESS:
        return
    for argument in (*call.args, *(keyword.value for keyword in call.keywords)):
        yield from root_of(argument)


def _asked(tree: ast.Module) -> Iterator[str]:
    for node in _run_at_once(tree):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Call)
            and isinstance(node.value.func, ast.Attribute)
        ):
            yield from root_of(node.value.func)


def root_of(node: ast.expr) -> Iterator[str]:
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    if isinstance(node, ast.Name):
        yield node.id


def read_cells(written: Sequence[str], failed: Collection[int], transform: Callable[[str], str]) -> list[Cell]:
    """The cells that ran, in their order; those that failed, or are no Python, are left out.

    Args:
        written: the cells by their numbers, as the history has them.
        failed: numbers of cells that ended with an error.
        transform: makes Python of a cell with magics.
    """
    cells = []
    session: str | None = None
    for number, raw in enumerate(written):
        if not raw.strip() or number in failed:
            continue
        cell = _read(number, raw, transform, session)
        if cell is not None:
            cells.append(cell)
        for word, line in _SESSION.findall(raw):
            session = None if word == "stop" else f"{session or ''} {line}".strip()  # a restart keeps what was given
    ours = {spelt: name for cell in cells for spelt, name in _imported(cell.tree)}
    return [replace(cell, ours={f"nbaccel.{name}": name for name in _AMBIGUOUS} | ours) for cell in cells]


def _imported(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """How imports of nbaccel let its ambiguous names be written."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules = [alias.asname or alias.name for alias in node.names if alias.name == "nbaccel"]
            yield from ((f"{module}.{name}", name) for module in modules for name in _AMBIGUOUS)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "nbaccel":
            for alias in node.names:
                names = _AMBIGUOUS if alias.name == "*" else (alias.name,)
                yield from ((alias.asname or name, name) for name in names if name in _AMBIGUOUS)


def _read(number: int, raw: str, transform: Callable[[str], str], session: str | None) -> Cell | None:
    magics: dict[str, str] = {}
    body = raw
    while magic := _MAGIC.match(body):
        if magic[1] not in _OF_PYTHON:
            return None
        magics.setdefault(magic[1], magic[2].strip())
        body = body[magic.end() :].lstrip("\n")
    line = magics.get("accelerate")
    held = session if line is not None and "--new" not in line.split() else None
    try:
        cell = Cell(number, _untimed(transform(body)), raw, line, held, keeps="timeit" not in magics)
        assert cell.tree
        assert cell.reads is not None
    except (SyntaxError, ValueError):
        return None
    return cell


def _untimed(source: str) -> str:
    """Python without the magics of lines that only time what stands behind them."""
    return edited(source, [change for node in ast.walk(ast.parse(source)) for change in _timed(node)])


def _timed(node: ast.AST) -> Iterator[Change]:
    if not isinstance(node, ast.Expr | ast.Assign) or not isinstance(node.value, ast.Call):
        return
    words = [one.value for one in node.value.args if isinstance(one, ast.Constant)]
    if ast.unparse(node.value.func) != "get_ipython().run_line_magic" or len(words) != 2:
        return
    magic, text = words[0], str(words[1])
    if magic == "timeit":
        text = _OF_TIMEIT.sub("", text)
    binds = magic in ("time", "prun") and isinstance(node, ast.Expr)
    shown = (magic == "time") if isinstance(node, ast.Assign) else (magic == "timeit")
    if (binds and _is_python(text, "exec")) or (shown and _is_python(text, "eval")):
        yield node.value, text


_OF_TIMEIT = re.compile(r"^(-([nrp]\s*\d+|[tcqov]+)\s+)*")


def _is_python(text: str, mode: Literal["exec", "eval"]) -> bool:
    try:
        ast.parse(text, mode=mode)
    except SyntaxError:
        return False
    return True
