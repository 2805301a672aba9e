"""The flags of `%%accelerate`, made from the schema."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import NoReturn

from IPython.core.error import UsageError

from nbaccel.config.schema import KEYS, Key
from nbaccel.errors import nearest

PROGRAM = "%%accelerate"


@dataclass(frozen=True)
class Line:
    """A parsed line.

    Attributes:
        settings: configuration that was given, by key.
        outputs: names to bring back into the kernel.
        wants_help: whether only the help was asked for.
    """

    settings: Mapping[str, object]
    outputs: tuple[str, ...]
    wants_help: bool


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{PROGRAM}: {message}. {PROGRAM} --help lists the flags.")


@cache
def parser() -> argparse.ArgumentParser:
    """The parser of the line after `%%accelerate`."""
    made = _Parser(
        prog=PROGRAM,
        add_help=False,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Run this cell on several worker processes, one per device.\n\n"
        "Names of the notebook that the cell uses are sent along; its last expression is shown.",
    )
    made.add_argument("-h", "--help", action="store_true", help="Show this text.")
    made.add_argument("-o", "--outputs", metavar="NAME,NAME", help="Names to bring back from rank 0 into the notebook.")
    for key in KEYS.values():
        _add(made, key)
    return made


def _add(made: argparse.ArgumentParser, key: Key) -> None:
    text = f"{key.text} Possible: {key.possible}.".replace("%", "%%")
    if key.is_switch:
        long, *short = key.flags
        made.add_argument(*short, long, dest=key.name, action=argparse.BooleanOptionalAction, help=text)
    else:
        made.add_argument(*key.flags[::-1], dest=key.name, metavar=key.name.rpartition("_")[2].upper(), help=text)


def parse(line: str) -> Line:
    """Parse a line. Raises UsageError, with the nearest flag, for what is no flag."""
    given, unknown = parser().parse_known_args(_words(line))
    if unknown:
        possible = [option for action in parser()._actions for option in action.option_strings]
        meant = nearest(unknown[0], possible)
        hint = f" Did you mean {meant}?" if meant else ""
        raise UsageError(f"{PROGRAM}: {unknown[0]!r} is no flag.{hint} Possible: {', '.join(sorted(possible))}.")
    settings = vars(given)
    outputs = settings.pop("outputs", "")
    wants_help = settings.pop("help", False)
    return Line(settings, tuple(name.strip() for name in outputs.split(",") if name.strip()), wants_help)


def _words(line: str) -> list[str]:
    """The line's words; `--mixed_precision` is as good as `--mixed-precision`."""
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise UsageError(f"{PROGRAM}: {error} in {line!r}.") from None
    return [_dashed(word) if word.startswith("--") else word for word in words]


def _dashed(word: str) -> str:
    flag, equals, value = word.partition("=")
    return flag.replace("_", "-") + equals + value
