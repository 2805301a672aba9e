"""Colour, where people look at it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

import click

_COLOURS = {"+": "green", "-": "red", "@": "cyan"}


def is_colourful() -> bool:
    """Whether stdout is a terminal that is to have colour (https://no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def print_diff(lines: Iterable[str]) -> None:
    """Print the lines of a unified diff."""
    colourful = is_colourful()
    for line in lines:
        click.echo(click.style(line, fg=_COLOURS.get(line[:1])) if colourful else line, color=colourful)
