"""Which cells a cell needs: those that define the names that it uses, and those that change these. Pure."""

from __future__ import annotations

import builtins
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from nbaccel.notebook.export.cells import Cell

_KNOWN = frozenset(dir(builtins)) | {"__name__", "__file__", "__doc__", "get_ipython", "display", "params"}


@dataclass(frozen=True)
class Needs:
    """What cells need.

    Attributes:
        cells: the needed cells, without those that need them, in their order.
        names: for the number of each of these: the names that it is needed for.
        missing: names that no cell defines.
    """

    cells: tuple[Cell, ...]
    names: dict[int, tuple[str, ...]]
    missing: tuple[str, ...]


def needs_of(chosen: Sequence[Cell], cells: Sequence[Cell]) -> Needs:
    """The cells that some cells need.

    A name that is read at once is that of the last cell before which binds it. What functions read when they are
    called is as it was when the last of the chosen cells ran.

    Args:
        chosen: the cells to be run.
        cells: all cells that ran, in their order.
    """
    last = max(cell.number for cell in chosen)
    found: dict[int, dict[str, None]] = {}
    missing: dict[str, None] = {}
    waiting = list(chosen)
    seen = {cell.number for cell in chosen}
    while waiting:
        cell = waiting.pop()
        for name, until in _wanted(cell, last):
            needed = list(_defining(name, until, cells))
            if not needed and name not in _KNOWN and name not in cell.binds:
                missing[name] = None
            for one in needed:
                if one.number not in {other.number for other in chosen}:
                    found.setdefault(one.number, {})[name] = None
                if one.number not in seen:
                    seen.add(one.number)
                    waiting.append(one)
    by_number = {cell.number: cell for cell in cells}
    order = sorted(found)
    return Needs(
        tuple(by_number[number] for number in order), {number: tuple(found[number]) for number in order}, tuple(missing)
    )


def _wanted(cell: Cell, last: int) -> Iterator[tuple[str, int]]:
    """Names that a cell uses, and the number of the first cell that is too late to define them."""
    yield from ((name, cell.number) for name in sorted(cell.reads))
    yield from ((name, last) for name in sorted(cell.reads_later - cell.reads))


def _defining(name: str, until: int, cells: Iterable[Cell]) -> Iterator[Cell]:
    """The last cell that binds a name, and those after it that change its object."""
    before = [cell for cell in cells if cell.number < until]
    binding = [cell for cell in before if name in cell.binds]
    if not binding:
        if name not in _KNOWN:
            yield from (cell for cell in before if cell.has_star)
        return
    home = binding[-1]
    yield home
    yield from (
        cell
        for cell in before
        if cell.number > home.number and not _is_launch(cell) and _touches(cell, name, is_module=name in home.modules)
    )


def _touches(cell: Cell, name: str, *, is_module: bool) -> bool:
    """Whether a cell most likely changes what a name stands for; a module is only changed by what looks like it."""
    return name in cell.changes or (name in cell.asks and not is_module)


def _is_launch(cell: Cell) -> bool:
    return cell.line is not None and cell.session is None
