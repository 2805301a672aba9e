"""Cells as a script: magics as comments, launches as plain calls, the chosen cells below `__main__`. Pure."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nbaccel.config.params import WHOLE
from nbaccel.config.secrets import masked_line
from nbaccel.notebook.export.cells import Cell
from nbaccel.notebook.export.jobs import job_names
from nbaccel.notebook.export.rewriting import DEFINITIONS, ON_MAIN, Rewritten, joined

_INDENT = "    "


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
        extra: names of the arguments that the configuration fills in, by the launch.
    """

    title: str
    command: str
    needed: Sequence[Cell]
    chosen: Sequence[Cell]
    params: Mapping[str, Any] | None = None
    config: str | None = None
    seed: int | None = None
    extra: Mapping[ast.Call, Sequence[str]] = field(default_factory=dict)

    def text(self) -> str:
        """The script."""
        top, main = [], []
        jobs = job_names(self.chosen)
        extra = {call: ", ".join(map(self._argument, names)) for call, names in self.extra.items()}
        for cell in self.chosen:
            definitions, rest = _split(Rewritten(cell, extra, jobs, launches=True))
            if definitions.strip():
                top.append(_titled(cell, definitions))
            main.append(_titled(cell, rest))
        needed = [_titled(cell, Rewritten(cell, {}, launches=False).text) for cell in self.needed]
        told = f"{self.title}\n\n    {self.command}\n".replace("\\", "\\\\").replace('"""', '\\"""')
        uses_os = self.config is not None or any(ON_MAIN in part for part in main)
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
        names = " = ".join(dict.fromkeys(["params", self._holder]))
        return [f"{names} = as_params({{{below}{known}**resolve_in_worker().config.params}})"]

    @property
    def _holder(self) -> str:
        """What the parameters are called; cells may bind `params` to something else."""
        return "launched_params" if any("params" in cell.binds for cell in self.chosen) else "params"

    def _argument(self, name: str) -> str:
        """An argument that the configuration fills in."""
        is_whole = name == WHOLE and WHOLE not in (self.params or {})
        return f"{name}={self._holder}" if is_whole else f"{name}={self._holder}[{name!r}]"


def _apart(parts: Iterable[str]) -> str:
    return "\n\n".join(parts)


def _titled(cell: Cell, text: str) -> str:
    line = "" if cell.line is None else masked_line(f": %%accelerate {cell.line}").rstrip()
    return f"# %% cell [{cell.number}]{line}\n{text.strip(chr(10))}"


def _split(cell: Rewritten) -> tuple[str, str]:
    """The definitions and imports that a cell begins with, and the rest of it."""
    rest = [place for place, one in enumerate(cell.statements) if not isinstance(one, DEFINITIONS)]
    if not rest:
        return joined(cell.lines), "pass"
    cut = cell.starts[rest[0]]
    ends = [statement.end_lineno or 0 for statement in cell.statements[: rest[0]]]
    if ends and max(ends) > cut:
        return "", joined(cell.lines)
    while cut > max(ends, default=0) and cell.lines[cut - 1].lstrip().startswith("#"):
        cut -= 1
    return joined(cell.lines[:cut]), joined(cell.lines[cut:])


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
