"""`nbaccel doctor`: what is there, what a launch would do and why, and what stands in its way."""

from __future__ import annotations

import sys

import click

from nbaccel.cli.launch_flags import COMMON_OPTIONS
from nbaccel.cli.words import WordsCommand, read_flags

PROGRAM = "nbaccel doctor"

_DESCRIPTION = """\
Show what there is (machine, versions, configuration files), what a launch with these flags would do and why, and \
what stands in its way, with what to do about it. Nothing is started. The exit code is 0 without problems, else 1."""


@click.command("doctor", cls=WordsCommand)
def command(words: tuple[str, ...]) -> None:
    """Look for what stands in the way of a launch."""
    line = read_flags(words, PROGRAM, _DESCRIPTION, COMMON_OPTIONS)
    if line is None:
        return
    from nbaccel.cli.launching import launch_layers  # what --help needs not load
    from nbaccel.launch.checkup import check_up

    layers = launch_layers(line, PROGRAM)
    found = check_up(*layers, config_file=line.options.get("config_file"), launcher="torchrun")
    click.echo(str(found))
    sys.exit(1 if found.problems else 0)
