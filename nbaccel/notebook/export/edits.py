"""Source with some of its nodes written anew. Pure."""

from __future__ import annotations

import ast
from collections.abc import Iterable

Change = tuple[ast.expr | ast.stmt, str]
"""A node, and what is to stand in its place."""


def edited(source: str, changes: Iterable[Change], within: ast.stmt | None = None) -> str:
    """The source, or one statement of it, with changes; one inside another is left out.

    Args:
        source: the whole source, whose syntax tree holds the nodes.
        changes: what is written anew.
        within: the statement; left out: all of the source.
    """
    lines = source.split("\n")
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line) + 1)

    def place(line: int, column: int) -> int:
        return starts[line - 1] + len(lines[line - 1].encode()[:column].decode())

    def span(node: ast.expr | ast.stmt) -> tuple[int, int]:
        end, last_column = node.end_lineno or 0, node.end_col_offset or 0
        return place(node.lineno, node.col_offset), place(end, last_column)

    done, end = (0, len(source)) if within is None else span(within)
    pieces = []
    in_order = sorted(((*span(node), text) for node, text in changes), key=lambda change: (change[0], -change[1]))
    for first, last, text in in_order:
        if first >= done:
            pieces += [source[done:first], text]
            done = last
    return "".join([*pieces, source[done:end]])
