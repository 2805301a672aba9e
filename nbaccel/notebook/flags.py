"""The flags of `%%accelerate`, made from the schema."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from keyword import iskeyword
from typing import NoReturn

from IPython.core.error import UsageError

from nbaccel.config import COMMON, KEYS, SHORTHANDS, Key
from nbaccel.config.params import overrides
from nbaccel.errors import nearest
from nbaccel.notebook.guide import COMMANDS_HELP

PROGRAM = "%%accelerate"


@dataclass(frozen=True)
class Line:
    """A parsed line.

    Attributes:
        settings: configuration that was given, by key (dotted); parameters as `params.<name>`.
        config_file: the file of the configuration that was named.
        outputs: names to bring back into the kernel.
        ranks: on which ranks of the session; None for all.
        fresh: run on fresh workers though there is a session.
        background: return at once; a name that the job's handle is bound to, empty for none, None for the foreground.
        words: what stands beside the flags: a command and what it is about.
        wants_help: whether only the help was asked for.
    """

    settings: Mapping[str, object]
    config_file: str | None = None
    outputs: tuple[str, ...] = ()
    ranks: tuple[int, ...] | None = None
    fresh: bool = False
    background: str | None = None
    words: tuple[str, ...] = ()
    wants_help: bool = False

    def joined(self, later: Line) -> Line:
        """The configuration that this line gives, with what a later one says on top."""
        return Line({**self.settings, **later.settings}, later.config_file or self.config_file)


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
        "NAME=VALUE sets a parameter: the cell reads it as params.NAME; any key may be written so, too.\n"
        "In a session (%accelerate start) the workers keep their variables from cell to cell.",
        epilog=f"{COMMANDS_HELP}\n\n{_more()}",
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
    made.add_argument("--config-file", metavar="FILE", help="A file of the configuration, over the project's.")
    most_needed = made.add_argument_group("configuration")
    for name in COMMON:
        _add(most_needed, KEYS[name])
    for key in KEYS.values():
        if key.name not in COMMON:
            _add(made, key, hidden=True)
    for flag, (_, name, value) in SHORTHANDS.items():
        made.add_argument(flag, dest=name, action="store_const", const=value, help=argparse.SUPPRESS)
    return made


def help_text(words: Sequence[str] = ()) -> str:
    """What the flags do: those that most people need, or those of a section, a heading or a name.

    Args:
        words: what to tell about, such as `fsdp` or `timeout`; empty: the most needed.
    """
    if not words:
        return parser().format_help()
    wanted = " ".join(words).lower().replace("-", "_").lstrip("_")
    groups = [key for key in KEYS.values() if wanted in (key.group.lower().replace("-", "_"), key.section)]
    found = groups or [key for key in KEYS.values() if wanted in key.name.lower() and key.name != "params"]
    if not found:
        return f"There is no flag or section {' '.join(words)!r}. {_more()}"
    return "\n".join(_described(key) for key in found)


def _described(key: Key) -> str:
    flags = ", ".join(key.flags) + (f", --no-{key.flags[0][2:]}" if key.is_switch else "")
    default = "" if key.default is None else f" Default: {key.default}."
    return f"{flags}\n    {key.text} Possible: {key.possible}.{default}\n    key {key.name}, variable {key.env}"


def _more() -> str:
    groups = dict.fromkeys(key.group for key in KEYS.values() if key.name not in COMMON)
    return f"More flags by section: {', '.join(groups)}. {PROGRAM} --help SECTION lists them."


_SWITCHES = {flag: f"--no-{flag[2:]}" for key in KEYS.values() if key.is_switch for flag in key.flags}
_YES, _NO = ("true", "yes", "1", "on"), ("false", "no", "0", "off")


def _add(made: argparse._ActionsContainer, key: Key, *, hidden: bool = False) -> None:
    text = argparse.SUPPRESS if hidden else f"{key.text} Possible: {key.possible}.".replace("%", "%%")
    if key.is_switch:
        long, *short = key.flags
        made.add_argument(*short, long, dest=key.name, action=argparse.BooleanOptionalAction, help=text)
    else:
        metavar = key.short_name.rpartition("_")[2].upper()
        made.add_argument(*key.flags[::-1], dest=key.name, metavar=metavar, help=text)


def parse(line: str, *, commands: bool = False) -> Line:
    """Parse a line.

    Args:
        line: what stands after the magic.
        commands: whether it may begin with a command.

    Raises:
        UsageError: something is no flag or command; says which one was probably meant.
    """
    return _parsed(line, commands) if "=" in line else _remembered(line, commands)  # a parameter's list may be changed


def _parsed(line: str, commands: bool) -> Line:
    given, unknown = parser().parse_known_args(_switches_settled(_words(line)))
    settings = vars(given)
    wants_help = settings.pop("help", False)
    background, word = _handle(settings.pop("background", None))
    by_word, others = overrides([*word, *unknown])
    flags = [word for word in others if word.startswith("-")]
    if flags or (others and not commands and not wants_help):
        _refuse((flags or others)[0])
    outputs = settings.pop("outputs", "")
    ranks = settings.pop("ranks", None)
    return Line(
        config_file=settings.pop("config_file", None),
        outputs=tuple(name.strip() for name in outputs.split(",") if name.strip()),
        ranks=None if ranks is None else parse_ranks(ranks),
        fresh=settings.pop("fresh", False),
        background=background,
        words=tuple(others),
        wants_help=wants_help,
        settings={**settings, **by_word},
    )


_remembered = lru_cache(maxsize=64)(_parsed)
"""argparse takes a fifth of an empty cell's time, and cells are run again and again."""


def _handle(name: str | None) -> tuple[str | None, list[str]]:
    """The name behind `--background`, or the `NAME=VALUE` that stood in its place. Raises UsageError for others."""
    if not name or (name.isidentifier() and not iskeyword(name)):
        return name, []
    if overrides([name])[1]:
        raise UsageError(f"{PROGRAM}: --background {name}: possible is a name for the job's handle, such as job.")
    return "", [name]


def _switches_settled(words: list[str]) -> list[str]:
    """`--use-cpu false` and `--use-cpu=false` mean `--no-use-cpu`, as in Accelerate's launcher."""
    settled: list[str] = []
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        flag, equals, value = word.partition("=")
        if flag in _SWITCHES and not equals and waiting and waiting[0].lower() in (*_YES, *_NO):
            equals, value = "=", waiting.pop(0)
        if flag not in _SWITCHES or not equals:
            settled.append(word)
        elif value.lower() in (*_YES, *_NO):
            settled.append(flag if value.lower() in _YES else _SWITCHES[flag])
        else:
            raise UsageError(f"{PROGRAM}: {flag}={value}: possible are true and false.")
    return settled


def _refuse(word: str) -> NoReturn:
    possible = [option for action in parser()._actions for option in action.option_strings]
    meant = nearest(word, possible)
    hint = f" Did you mean {meant}?" if meant else ""
    common = ", ".join(KEYS[name].flags[-1] for name in COMMON)
    raise UsageError(f"{PROGRAM}: {word!r} is no flag.{hint} The most needed: {common}. {_more()}")


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
