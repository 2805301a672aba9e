"""Which cells a user means: those with a tag, of a number, that launch a function; else the last that launched."""

from __future__ import annotations

import ast
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nbaccel.errors import CallError, nearest
from nbaccel.notebook.export.cells import Cell

TAG = "export"
"""Cells of the notebook's file that have this tag are exported."""


def find_notebook(namespace: Mapping[str, Any], environ: Mapping[str, str]) -> Path | None:
    """The file of the notebook that this kernel belongs to, if the front end tells it and it exists.

    Args:
        namespace: the notebook's variables.
        environ: the kernel's environment.
    """
    for told in (namespace.get("__vsc_ipynb_file__"), environ.get("JPY_SESSION_NAME")):
        if isinstance(told, str) and told.endswith(".ipynb") and os.path.isfile(told):
            return Path(told)
    return None


def tagged_sources(file: Path) -> dict[str, list[str]]:
    """The code of a notebook's cells by their tags, as it was saved.

    Raises:
        CallError: the file is no notebook.
    """
    try:
        cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
        found: dict[str, list[str]] = {}
        for cell in cells:
            source = cell["source"] if isinstance(cell["source"], str) else "".join(cell["source"])
            for tag in cell.get("metadata", {}).get("tags", ()) if cell["cell_type"] == "code" else ():
                found.setdefault(tag, []).append(source)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CallError(f"{file} cannot be read as a notebook ({type(error).__name__}: {error}).") from None
    return found


def launched_names(cell: Cell) -> list[str]:
    """Names of the functions that a cell launches."""
    return [call.args[0].id for call in cell.launches if isinstance(call.args[0], ast.Name)]


def choose(words: Sequence[str], cells: Sequence[Cell], tagged: Mapping[str, Sequence[str]]) -> list[Cell]:
    """The cells to be exported, in their order.

    Args:
        words: numbers, names of launched functions, and tags; none: what has the tag `export`, else the last launch.
        cells: all cells that ran.
        tagged: sources of the notebook's file by tag.

    Raises:
        CallError: a word means no cell that ran; says what is possible.
    """
    if not words and TAG in tagged:
        words = [TAG]
    if not words:
        launched = [cell for cell in cells if cell.line is not None or cell.launches]
        if not launched:
            raise CallError(
                "no cell has launched anything yet: run one with %%accelerate or notebook_launcher, or name cells: "
                "--cells 3 7."
            )
        return launched[-1:]
    found = {cell.number: cell for word in words for cell in _meant(word, cells, tagged)}
    return [found[number] for number in sorted(found)]


def _meant(word: str, cells: Sequence[Cell], tagged: Mapping[str, Sequence[str]]) -> list[Cell]:
    if word.isdecimal():
        same = [cell for cell in cells if cell.number == int(word)]
        if not same:
            numbers = ", ".join(str(cell.number) for cell in cells) or "none"
            raise CallError(f"there is no cell [{word}] that ran well and is Python. Possible: {numbers}.")
        return same
    launching = [cell for cell in cells if word in launched_names(cell)]
    if launching:
        return launching[-1:]
    if word in tagged:
        return [_as_it_ran(word, source, cells) for source in tagged[word]]
    possible = list(dict.fromkeys([*(name for cell in cells for name in launched_names(cell)), *tagged]))
    meant = nearest(word, possible)
    hint = f" Did you mean {meant!r}?" if meant else ""
    raise CallError(
        f"no cell launches a function {word!r}, and none has this tag.{hint} "
        f"Possible: {', '.join(possible) or 'no name'}, or a cell's number."
    )


def _as_it_ran(tag: str, source: str, cells: Sequence[Cell]) -> Cell:
    same = [cell for cell in cells if cell.raw.strip() == source.strip()]
    if not same:
        first = source.strip().partition("\n")[0]
        raise CallError(
            f"the cell with the tag {tag!r} that begins with {first!r} has not run well in this kernel, as the saved "
            "notebook has it: run it, or save the notebook."
        )
    return same[-1]
