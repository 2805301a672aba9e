"""`nbaccel launch`: a script on all devices, by torch's own launcher in a process of its own."""

from __future__ import annotations

import sys

import click

from nbaccel.cli.launch_flags import LAUNCH_OPTIONS, read_line
from nbaccel.cli.words import WordsCommand

PROGRAM = "nbaccel launch"

_USAGE = f"{PROGRAM} [FLAGS] [NAME=VALUE]... SCRIPT [ARGUMENTS]..."
_DESCRIPTION = """\
Run SCRIPT with its ARGUMENTS in one process per device.

Flags come before SCRIPT; - and _ are the same in them. A switch may have a value (--cpu false), or be switched off \
(--no-cpu). NAME=VALUE sets a key of the configuration (fsdp_config.fsdp_version=2) or a parameter of your own \
(trainer.epochs=5).

What no flag gives comes from the environment, then from files, then from the defaults; `nbaccel config show` says \
what is set, and where. ACCELERATE_LOG_LEVEL=INFO shows what a launch does, DEBUG also why."""


@click.command("launch", cls=WordsCommand)
def command(words: tuple[str, ...]) -> None:
    """Run a script on every device of this machine, or on several machines."""
    line = read_line(words, PROGRAM, LAUNCH_OPTIONS)
    if line.has("help"):
        from nbaccel.cli.launch_help import help_text

        click.echo(help_text(_USAGE, _DESCRIPTION, LAUNCH_OPTIONS), nl=False)
        return
    from nbaccel.cli.launching import launch  # what --help needs not load

    sys.exit(launch(line, PROGRAM))
