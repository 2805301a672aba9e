"""`nbaccel config set|unset|default|update`: files are changed, and the changes shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from nbaccel.cli.config.paint import print_diff
from nbaccel.config.commands import Changed, set_value, unset_value, update_file, write_default
from nbaccel.config.files.find import shown
from nbaccel.machine import Machine, probe


def _with_target(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say which file is meant."""
    layer = click.option("--layer", metavar="LAYER", help="Whose file: project (if left out), user or file.")
    file = click.option("--config-file", metavar="FILE", help="The file of the layer `file`.")
    return layer(file(function))


@click.command("set")
@click.argument("key")
@click.argument("value")
@_with_target
def set_command(key: str, value: str, layer: str | None, config_file: str | None) -> None:
    """Set KEY to VALUE in a file, and say what is in force if that is something else."""
    _print(set_value(key, value, layer=layer, config_file=config_file), f"already says {key} = {value}")


@click.command("unset")
@click.argument("key")
@_with_target
def unset_command(key: str, layer: str | None, config_file: str | None) -> None:
    """Remove KEY, or a whole section, from a file."""
    _print(unset_value(key, layer=layer, config_file=config_file))


@click.command("default")
@click.option("--mixed-precision", default="no", metavar="WORD", help="no, bf16, fp16 or fp8; left out: no.")
@click.option("--config-file", metavar="FILE", help="The file; left out: yours, for all projects.")
def default_command(mixed_precision: str, config_file: str | None) -> None:
    """Write a first file that suits this machine; one that exists is never overwritten."""
    changed = write_default(mixed_precision, config_file, kind_of_run(probe()))
    _print(changed)
    click.echo(f"written: {shown(changed.path)}")


@click.command("update")
@click.option("--config-file", metavar="FILE", help="The file; left out: the project's, else yours.")
@click.option("--dry-run", is_flag=True, help="Show what would change, and leave the file alone.")
def update_command(config_file: str | None, dry_run: bool) -> None:
    """Rewrite an old file in today's words; comments and order stay."""
    _print(update_file(config_file, dry_run=dry_run), "is in today's words")


def kind_of_run(machine: Machine) -> str:
    """The word of Accelerate's that means what nbaccel does on a machine where nobody says anything."""
    if machine.tpu_chips:
        return "XLA"
    if machine.gpus:
        return "MULTI_GPU" if len(machine.gpus) > 1 else "NO"
    return "NO" if machine.has_mps else "MULTI_CPU"


def _print(changed: Changed, nothing: str = "") -> None:
    print_diff(changed.diff)
    if not changed and nothing:
        click.echo(f"{shown(changed.path)} {nothing}")
    for note in changed.notes:
        click.echo(note)
