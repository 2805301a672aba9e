"""The help of commands that take a launch's flags: in groups, the most needed first, for 80 columns."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence

import click

from nbaccel.cli.launch_flags import Option, keys_with_flags
from nbaccel.config import COMMON, SHORTHANDS, Key

_WIDTH = 80
_GROUPS = (
    "Machines", "Start", "Output", "Training", "Data", "Project", "DDP", "FSDP", "Parallelism", "Compilation", "FP8",
    "DeepSpeed", "Megatron-LM", "TPU", "MPI", "SageMaker",
)  # fmt: skip
"""Headings in this order; one that is not named here comes last."""


def help_text(usage: str, description: str, options: Sequence[Option]) -> str:
    """The whole help of a command.

    Args:
        usage: how it is called, without its name's flags.
        description: what it does, paragraphs with empty lines between.
        options: its own flags, which take the place of keys of the same spelling.
    """
    formatter = click.HelpFormatter(width=_WIDTH, max_width=_WIDTH)
    formatter.write_usage(*usage.split(" ", 1))
    formatter.write_paragraph()
    with formatter.indentation():
        formatter.write_text(description)
    _write(formatter, "This command's own", [(_spelled(one.flags, one.metavar), one.text) for one in options])
    taken = {flag for option in options for flag in option.flags}
    keys = [key for key in keys_with_flags() if key.flags[0] not in taken]
    by_name = {key.name: key for key in keys}
    most = [by_name[name] for name in COMMON if name in by_name]
    _write(formatter, "Most needed", [*map(_row, most), *_shorthands()])
    for group in _in_order({key.group for key in keys}):
        _write_group(formatter, group, [key for key in keys if key.group == group and key not in most])
    return formatter.getvalue()


def _in_order(groups: set[str]) -> list[str]:
    return [*(group for group in _GROUPS if group in groups), *sorted(groups - set(_GROUPS))]


def _write(formatter: click.HelpFormatter, heading: str, rows: Sequence[tuple[str, str]]) -> None:
    if rows:
        with formatter.section(heading):
            formatter.write_dl(rows)


def _write_group(formatter: click.HelpFormatter, heading: str, keys: Sequence[Key]) -> None:
    """One row per key; keys that share their text are listed below it."""
    shared = [text for text, count in Counter(key.text for key in keys).items() if count > 1]
    _write(formatter, heading, [_row(key) for key in keys if key.text not in shared])
    for text in shared:
        names = ", ".join(key.flags[0] for key in keys if key.text == text)
        indent = "  "
        block = textwrap.wrap(names, _WIDTH - 4, break_on_hyphens=False)
        formatter.write(textwrap.indent("\n".join(["", text, *(indent + line for line in block), ""]), indent))


def _row(key: Key) -> tuple[str, str]:
    if key.is_switch:
        return _spelled((f"--[no-]{key.flags[0][2:]}", *key.flags[1:])), _text(key)
    return _spelled(key.flags, _metavar(key)), _text(key)


_METAVARS = {
    "a whole number": "N", "a port": "N", "a number": "X", "seconds": "X", "a file": "FILE", "a folder": "FOLDER",
    "a mapping": "MAPPING",
}  # fmt: skip
"""What stands for a value, by how its legal values are described."""


def _metavar(key: Key) -> str:
    fitting = (word for begin, word in _METAVARS.items() if key.possible.startswith(begin))
    return next(fitting, "WORD" if key.choices else key.short_name.rpartition("_")[2].upper())


def _spelled(flags: Sequence[str], metavar: str = "") -> str:
    """Short spellings first, as everywhere."""
    return f"{', '.join(sorted(flags, key=len))}{f' {metavar}' if metavar else ''}"


def _text(key: Key) -> str:
    parts = [key.text]
    if any(choice not in key.text for choice in key.choices):
        parts.append(f"One of {', '.join(key.choices)}.")
    if key.default not in (None, False, {}, "") and not isinstance(key.default, tuple):
        default = str(key.default).lower() if isinstance(key.default, bool) else key.default
        parts.append(f"[default: {default}]")
    return " ".join(parts)


def _shorthands() -> list[tuple[str, str]]:
    return [(flag, f"The same as --distributed-type {value}.") for flag, (_, _, value) in SHORTHANDS.items()]
