"""Which names a cell uses without defining them first. Pure: works on its syntax tree."""

from __future__ import annotations

import ast
from collections.abc import Iterator


def used_names(tree: ast.Module) -> list[str]:
    """Names that a cell may read before it has bound them, in the order of their first use.

    A name that a statement at the top of the cell surely binds is not asked for by the statements after it. What is
    bound only perhaps (in a branch, a loop, a function) is: too much is better than too little.
    """
    bound: set[str] = set()
    used: dict[str, None] = {}
    for statement in tree.body:
        used.update(dict.fromkeys(name for name in _read(statement) if name not in bound))
        bound |= set(_surely_bound(statement))
    return list(used)


def _read(statement: ast.stmt) -> Iterator[str]:
    for node in ast.walk(statement):
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


def bound_names(tree: ast.Module) -> set[str]:
    """Names that the cell binds anywhere, if only perhaps: targets of loops and `with`, parameters, imports."""
    bound = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    bound |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    bound |= {name for node in ast.walk(tree) if isinstance(node, ast.stmt) for name in _surely_bound(node)}
    return bound | {node.name for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler) and node.name}
