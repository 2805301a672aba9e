"""`nbaccel config show|why|validate|diff|schema`: nothing is changed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import click

from nbaccel.config.commands import as_json, differences, in_force, keys_to_show, show, validate, why


def _with_sources(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say which configuration is meant."""
    file = click.option("--config-file", metavar="FILE", help="Read this file, too.")
    profile = click.option("--profile", metavar="NAME", help="Use the overlay .accelerate/NAME.yaml.")
    return file(profile(function))


@click.command("show")
@click.argument("keys", nargs=-1, metavar="[KEY]...")
@click.option("--all", "every", is_flag=True, help="All keys; left out: the common ones, and what is set.")
@click.option("--json", "wants_json", is_flag=True, help="As JSON.")
@_with_sources
def show_command(
    keys: tuple[str, ...], every: bool, wants_json: bool, config_file: str | None, profile: str | None
) -> None:
    """Show keys, or whole sections, with value, layer and place."""
    if not wants_json:
        click.echo(show(keys, every=every, config_file=config_file, profile=profile))
        return
    resolved = in_force(config_file, profile)
    found = as_json(resolved, keys_to_show(resolved, keys, every=every))
    click.echo(json.dumps(found, indent=2, default=str))


@click.command("why")
@click.argument("key")
@_with_sources
def why_command(key: str, config_file: str | None, profile: str | None) -> None:
    """Explain KEY: its value, who set it and where, what that shadows, and whether it has an effect."""
    click.echo(why(key, config_file=config_file, profile=profile))


@click.command("validate")
@click.argument("file", required=False)
@_with_sources
def validate_command(file: str | None, config_file: str | None, profile: str | None) -> None:
    """List all problems of FILE, and what has no effect in it; without FILE: of the files that are in force.

    The exit code is 1 if there are problems.
    """
    report = validate(file or config_file, profile=profile)
    click.echo(report)
    sys.exit(0 if report.is_valid else 1)


@click.command("diff")
@click.argument("one", metavar="FILE")
@click.argument("other", metavar="[FILE]", required=False)
def diff_command(one: str, other: str | None) -> None:
    """Compare two files key by key, or one with what is in force here."""
    click.echo(differences(one, other))


@click.command("schema")
def schema_command() -> None:
    """Print the JSON Schema of configuration files; x-env and x-flag name each key's variable and flag."""
    from nbaccel.config.reference import json_schema

    click.echo(json.dumps(json_schema(), indent=2))
