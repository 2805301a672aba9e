"""Which names a cell uses without defining them first. Pure: works on its syntax tree."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple

from IPython.utils.text import DollarFormatter

Transform = Callable[[str], str]
"""Makes Python of a cell with magics; `str` for one that has none."""

_RUN_HERE = frozenset({"time", "prun", "capture"})
"""Magics that run Python once, on the cell's own names."""
_OF_PYTHON = _RUN_HERE | {"timeit", "memit", "lprun", "mprun", "pinfo", "pinfo2", "pdef", "pdoc", "pfile", "psource"}
"""Magics that read Python as it is written; others find values in place of `{name}` and `$name` on their line."""


def used_names(tree: ast.Module, transform: Transform = str) -> list[str]:
    """Names that a cell may read before it has bound them, in the order of their first use.

    A name that a statement at the top of the cell surely binds is not asked for by the statements after it. What is
    bound only perhaps (in a branch, a loop, a function) is: too much is better than too little.

    Args:
        tree: the cell, its magics as calls of IPython.
        transform: for Python with magics of its own that such a call holds.
    """
    bound: set[str] = set()
    used: dict[str, None] = {}
    for statement in _statements(tree, transform):
        used.update(dict.fromkeys(name for name in _read(statement, transform) if name not in bound))
        bound |= set(_surely_bound(statement))
    return list(used)


def _statements(tree: ast.Module, transform: Transform) -> Iterator[ast.stmt]:
    """The statements at the top of a cell; those that a magic runs stand in its place."""
    for statement in tree.body:
        magic = _magic(statement.value) if isinstance(statement, ast.Expr) else None
        if magic is None or magic.name not in _RUN_HERE:
            yield statement
            continue
        for inner in _python_of(magic, transform):
            yield from _statements(inner, transform)


def _read(statement: ast.stmt, transform: Transform) -> Iterator[str]:
    for node in _walk(statement, transform):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load | ast.Del):
            yield node.id
        elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            yield node.target.id
        elif isinstance(node, ast.Global):
            yield from node.names


def _surely_bound(statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, ast.Assign):
        for target in statement.targets:
            yield from _targets(target)
    elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
        yield from _targets(statement.target)
    elif isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield statement.name
    elif isinstance(statement, ast.Import | ast.ImportFrom):
        for alias in statement.names:
            yield alias.asname or alias.name.partition(".")[0]


def _targets(target: ast.expr) -> Iterator[str]:
    for node in ast.walk(target):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def bound_names(tree: ast.Module, transform: Transform = str) -> set[str]:
    """Names that the cell binds anywhere, if only perhaps: targets of loops and `with`, parameters, imports.

    The arguments are those of `used_names`.
    """
    nodes = list(_walk(tree, transform))
    bound = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    bound |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    bound |= {name for node in nodes if isinstance(node, ast.stmt) for name in _surely_bound(node)}
    return bound | {node.name for node in nodes if isinstance(node, ast.ExceptHandler) and node.name}


# magics


class _Magic(NamedTuple):
    """A magic, what stands on its line, and the lines below if it is one of a cell."""

    name: str
    line: str = ""
    body: str = ""


_NAMED_BY = {"run_line_magic": (), "run_cell_magic": (), "system": ("system",), "getoutput": ("sx",)}
"""What IPython makes of magics and of `!`: methods, and which magic does the same where that is not the argument."""


def _magic(node: ast.AST) -> _Magic | None:
    """The magic that a node calls: `get_ipython().run_line_magic("time", "f()")` is `%time f()`."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or node.func.attr not in _NAMED_BY:
        return None
    owner = node.func.value
    if not (isinstance(owner, ast.Call) and isinstance(owner.func, ast.Name) and owner.func.id == "get_ipython"):
        return None
    given = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
    words = [*_NAMED_BY[node.func.attr], *(str(value) for value in given)]
    return _Magic(*words[:3]) if words and len(given) == len(node.args) else None


def _walk(node: ast.AST, transform: Transform) -> Iterator[ast.AST]:
    """A node and all below it, those of the Python that magics hold too."""
    for inner in ast.walk(node):
        yield inner
        magic = _magic(inner)
        for tree in _python_of(magic, transform) if magic is not None else ():
            yield from _walk(tree, transform)


def _python_of(magic: _Magic, transform: Transform) -> Iterator[ast.Module]:
    """The Python that a magic holds, in pieces."""
    if magic.name not in _OF_PYTHON:
        pieces = [_parsed(field, str) for field in _fields(magic.line)]
    else:
        of_line = (_parsed(text, transform) for text in _ends(magic.line))
        pieces = [] if magic.name == "capture" else [next((tree for tree in of_line if tree is not None), None)]
        pieces.append(_parsed(magic.body, transform))
    yield from (tree for tree in pieces if tree is not None)


def _fields(line: str) -> list[str]:
    """What stands in `{}` and behind `$`; in a line that is not filled in, nothing does."""
    try:
        return [field for _, field, _, _ in DollarFormatter().parse(line) if field]
    except ValueError:
        return []


def _ends(line: str) -> Iterator[str]:
    """The line, then what is left of it without its first words, which may be flags of the magic: `-n 1 f()`."""
    while line:
        yield line
        line = line.partition(" ")[2].lstrip()


def _parsed(text: str, transform: Transform) -> ast.Module | None:
    with suppress(SyntaxError, ValueError):
        return ast.parse(transform(text))
    return None
