"""Commands that read their words themselves: their flags are too many, and a script's flags are not theirs."""

from __future__ import annotations

from collections.abc import Sequence

import click

from nbaccel.cli.launch_flags import Line, Option, read_line
from nbaccel.errors import ConfigError


class WordsCommand(click.Command):
    """Hands all words behind its name to its function, as they are."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.params["words"] = tuple(args)
        return []


def read_flags(words: Sequence[str], program: str, description: str, options: tuple[Option, ...]) -> Line | None:
    """Read the line of a command that takes flags and overrides alone; None if it asked for help, which is shown.

    Args:
        words: the command line behind the command's name.
        program: how the command is called.
        description: what it does, for its help.
        options: its own flags.

    Raises:
        ConfigError: as `read_line`, or there is another word.
    """
    line = read_line(words, program, options)
    if line.has("help"):
        from nbaccel.cli.launch_help import help_text  # only help needs it

        click.echo(help_text(f"{program} [FLAGS]", description, options), nl=False)
        return None
    if line.words:
        raise ConfigError(f"{line.words[0]!r}", f"given to {program}", "flags and NAME=VALUE only")
    return line
