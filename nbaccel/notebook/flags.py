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
        ranks: on which ranks of the session; None for all.
        fresh: run on fresh workers though there is a session.
        background: return at once; a name that the job's handle is bound to, empty for none, None for the foreground.
        words: what stands beside the flags: a command and what it is about.
        wants_help: whether only the help was asked for.
    """

    settings: Mapping[str, object]
    outputs: tuple[str, ...] = ()
    ranks: tuple[int, ...] | None = None
    fresh: bool = False
    background: str | None = None
    words: tuple[str, ...] = ()
    wants_help: bool = False


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
        "Names of the notebook that the cell uses are sent along; its last expression is shown.\n"
        "In a session (%accelerate start) the workers keep their variables from cell to cell.",
        epilog=COMMANDS_HELP,
    )
    made.add_argument("-h", "--help", action="store_true", help="Show this text.")
    made.add_argument("-o", "--outputs", metavar="NAME,NAME", help="Names to bring back from rank 0 into the notebook.")
    made.add_argument("--ranks", metavar="RANKS", help="Ranks of the session to run on, such as 0,2:4; left out: all.")
    made.add_argument("--new", dest="fresh", action="store_true", help="Fresh workers, though a session is running.")
    made.add_argument(
        "--background",
        metavar="NAME",
        nargs="?",
        const="",
        help="Go on at once; the output still comes to this cell. The job's handle is bound to NAME if that is given.",
    )
    for key in KEYS.values():
        _add(made, key)
    return made


COMMANDS = {
    "start": "start a session with these flags; %%accelerate cells then run in it",
    "stop": "end the session",
    "restart": "end its workers and start fresh ones, with new flags if some are given",
    "status": "what each rank is and does",
    "push": "NAME ... send names to the workers, also what changed inside an object",
    "pull": "NAME ... bring names back from rank 0, or from --ranks RANK",
    "stacks": "where each rank is just now, and who waits for whom",
    "debug": "[RANK] look at the frames of the error that a rank of the session has met last",
}
"""What `%accelerate WORD` can do."""

COMMANDS_HELP = "%accelerate WORD, on a line of its own:\n" + "\n".join(
    f"  {word:<9} {text}" for word, text in COMMANDS.items()
)


def _add(made: argparse.ArgumentParser, key: Key) -> None:
    text = f"{key.text} Possible: {key.possible}.".replace("%", "%%")
    if key.is_switch:
        long, *short = key.flags
        made.add_argument(*short, long, dest=key.name, action=argparse.BooleanOptionalAction, help=text)
    else:
        made.add_argument(*key.flags[::-1], dest=key.name, metavar=key.name.rpartition("_")[2].upper(), help=text)


def parse(line: str, *, commands: bool = False) -> Line:
    """Parse a line.

    Args:
        line: what stands after the magic.
        commands: whether it may begin with a command.

    Raises:
        UsageError: something is no flag or command; says which one was probably meant.
    """
    given, unknown = parser().parse_known_args(_words(line))
    flags = [word for word in unknown if word.startswith("-")]
    if flags or (unknown and not commands):
        _refuse((flags or unknown)[0])
    settings = vars(given)
    outputs = settings.pop("outputs", "")
    ranks = settings.pop("ranks", None)
    return Line(
        outputs=tuple(name.strip() for name in outputs.split(",") if name.strip()),
        ranks=None if ranks is None else parse_ranks(ranks),
        fresh=settings.pop("fresh", False),
        background=settings.pop("background", None),
        words=tuple(unknown),
        wants_help=settings.pop("help", False),
        settings=settings,
    )


def _refuse(word: str) -> NoReturn:
    possible = [option for action in parser()._actions for option in action.option_strings]
    meant = nearest(word, possible)
    hint = f" Did you mean {meant}?" if meant else ""
    raise UsageError(f"{PROGRAM}: {word!r} is no flag.{hint} Possible: {', '.join(sorted(possible))}.")


def parse_ranks(text: str) -> tuple[int, ...]:
    """Ranks out of numbers and half-open ranges: `0,2:4` is 0, 2 and 3. Raises UsageError for anything else."""
    ranks: set[int] = set()
    for part in text.split(","):
        first, colon, last = part.strip().partition(":")
        if not first.isdecimal() or (colon and not last.isdecimal()) or (colon and int(last) <= int(first)):
            raise UsageError(f"{PROGRAM}: --ranks {text}: {part!r} is no rank. Possible: numbers and ranges, as 0,2:4.")
        ranks.update(range(int(first), int(last)) if colon else (int(first),))
    return tuple(sorted(ranks))


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
