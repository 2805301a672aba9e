"""`nbaccel`: the command line. A command's module is loaded when the command is asked for, so help comes at once."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module

import click

from nbaccel import __version__
from nbaccel.errors import NbaccelError

COMMANDS: Mapping[str, str] = {
    "env": "Show what exists on this machine, and the resolved configuration.",
    "launch": "Run a script on every device of this machine, or on several machines.",
}
"""Commands and what they do; each is the `command` of the module `nbaccel.cli.<name>`."""


class _LateGroup(click.Group):
    """A group that knows its commands by name and imports one only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"nbaccel.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_LateGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="nbaccel %(version)s")
def commands() -> None:
    """Train on every device of the machine."""


def main() -> None:
    """Entry of the `nbaccel` program; an error that nbaccel raises on purpose is one line and exit code 2."""
    try:
        commands(prog_name="nbaccel")
    except NbaccelError as error:
        click.echo(f"nbaccel: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
