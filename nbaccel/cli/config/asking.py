"""`nbaccel config` without a command: the questionnaire in a terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from nbaccel.cli.config.paint import print_diff
from nbaccel.config.commands.asking import questionnaire as ask_all


def questionnaire(config_file: str | None) -> None:
    """Ask, show and write. Raises ConfigError if the file cannot be read or changed."""
    try:
        ask_all(input, click.echo, _show, config_file)
    except (EOFError, KeyboardInterrupt):
        click.echo("\nnothing was written", err=True)
        sys.exit(1)


def _show(lines: Sequence[str]) -> None:
    click.echo()
    print_diff(lines)
