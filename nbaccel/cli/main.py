"""`nbaccel`: the command line. A command's module is loaded when the command is asked for, so help comes at once."""

from __future__ import annotations

import sys
from collections.abc import Mapping

import click

from nbaccel import __version__
from nbaccel.cli.late import Late, LateGroup
from nbaccel.errors import NbaccelError

COMMANDS: Mapping[str, str] = {
    "config": "Ask, show, explain, change and check the configuration.",
    "env": "Show what exists on this machine, and the resolved configuration.",
    "doctor": "Say what was found on this machine and what a launch will do.",
    "test": "Check the set-up: devices, collectives, precision, a training step, a checkpoint.",
    "launch": "Run a script on every device of this machine, or on several machines.",
    "tpu-config": "Run commands on all machines of a TPU pod.",
    "merge-weights": "Join the weights that the ranks of a sharded training have each written.",
}
"""Commands and what they do; each is the `command` of the module of its name, with `_` for `-`."""


@click.group(
    cls=LateGroup,
    late={name: Late(text, f"nbaccel.cli.{name.replace('-', '_')}") for name, text in COMMANDS.items()},
    context_settings={"help_option_names": ["-h", "--help"]},
)
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
