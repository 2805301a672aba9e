"""Jobs in cells: in a script the function itself is called, so that a job's result stands where the job did. Pure."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterable, Iterator

from nbaccel.launch.job import Job
from nbaccel.notebook.export.cells import Cell, root_of

_METHODS = frozenset(name for name in dir(Job) if not name.startswith("_")) - {"values"}
"""What a job is asked for; dicts of jobs have `values` too."""


def job_names(cells: Iterable[Cell]) -> frozenset[str]:
    """Names that stand for jobs, or for what holds them."""
    statements = [(cell, statement) for cell in cells for statement in cell.tree.body]
    names: set[str] = set()
    grown = True
    while grown:
        found = {name for cell, one in statements for node in ast.walk(one) for name in _bound(node, cell, names)}
        grown = not found <= names
        names |= found
    return frozenset(names)


def _bound(node: ast.AST, cell: Cell, names: Collection[str]) -> Iterator[str]:
    if isinstance(node, ast.For | ast.comprehension) and _mentions(node.iter, names):
        yield from _names_in(node.target)
    elif isinstance(node, ast.Assign | ast.AnnAssign | ast.NamedExpr) and node.value is not None:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if _holds_job(node.value, cell) or _is_one_of(node.value, names):
            yield from (name for target in targets for name in _names_in(target))
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "append":
        yield from (name for argument in node.args if _holds_job(argument, cell) for name in root_of(node.func))


def _is_one_of(value: ast.expr, names: Collection[str]) -> bool:
    """Whether a value is what a name stands for, or an item of it."""
    return isinstance(value, ast.Name | ast.Subscript) and not {*root_of(value)}.isdisjoint(names)


def _mentions(node: ast.expr, names: Collection[str]) -> bool:
    return any(isinstance(inner, ast.Name) and inner.id in names for inner in ast.walk(node))


def _names_in(target: ast.expr) -> Iterator[str]:
    """Names that a target binds or changes."""
    if isinstance(target, ast.Tuple | ast.List):
        for inner in target.elts:
            yield from _names_in(inner)
    else:
        yield from root_of(target.value if isinstance(target, ast.Starred) else target)


def _holds_job(value: ast.expr, cell: Cell) -> bool:
    """Whether a value is a job, or has some in it; what one of them was asked for is none."""
    asked = {node.value for node in ast.walk(value) if isinstance(node, ast.Attribute)}
    return any(call in cell.submitted and call not in asked for call in ast.walk(value))


def results_in(statement: ast.stmt, cell: Cell, names: Collection[str]) -> Iterator[tuple[ast.Call, ast.expr]]:
    """Calls of a job's `result`, each with the job."""
    for node in ast.walk(statement):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "result":
            job = node.func.value
            if job in cell.submitted or not {*root_of(job)}.isdisjoint(names):
                yield node, job


def asked_of_jobs(statement: ast.stmt, cell: Cell, names: Collection[str]) -> list[ast.Attribute]:
    """What else a statement asks jobs for: a script has no answer to it."""
    return [
        node
        for node in ast.walk(statement)
        if isinstance(node, ast.Attribute)
        and node.attr in _METHODS - {"result"}
        and (node.value in cell.submitted or not {*root_of(node.value)}.isdisjoint(names))
    ]
