"""`nbaccel config replay`: a snapshot is launched again."""

from __future__ import annotations

import sys

import click

from nbaccel.cli.launch_flags import LAUNCH_OPTIONS, read_line
from nbaccel.config.commands import read_snapshot

_PROGRAM = "nbaccel config replay"


@click.command(
    "replay",
    context_settings={"allow_interspersed_args": False, "ignore_unknown_options": True},  # the script's are its own
)
@click.option("--dry-run", is_flag=True, help="Show what would be run, and end.")
@click.argument("file")
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[--dry-run] [SCRIPT [ARGUMENTS]...]")
def replay_command(dry_run: bool, file: str, words: tuple[str, ...]) -> None:
    """Run the run of the snapshot FILE again, with its own script or with SCRIPT.

    Says what is not as it was then: packages, and keys that variables or other files set otherwise.
    """
    if words[:1] in (("--dry-run",), ("--dry_run",)):
        dry_run, words = True, words[1:]
    snapshot = read_snapshot(file)
    line = read_line(snapshot.launch_words(words, dry_run=dry_run), _PROGRAM, LAUNCH_OPTIONS)
    for note in snapshot.notes():
        click.echo(f"note: {note}", err=True)
    from nbaccel.cli.launching import launch

    sys.exit(launch(line, _PROGRAM))
