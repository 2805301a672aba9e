"""`nbaccel config`: the configuration, asked, shown, explained, changed and checked.

What the commands do is in `nbaccel.config.commands`; here words are parsed and results printed.
"""

from __future__ import annotations

import click

from nbaccel.cli.late import Late, LateGroup

_HERE = "nbaccel.cli.config"
_LATE = {
    "show": Late("Show keys with value, layer and place.", f"{_HERE}.look", "show_command"),
    "why": Late("Explain a key: its value, who set it, and what that shadows.", f"{_HERE}.look", "why_command"),
    "set": Late("Set a key in a file.", f"{_HERE}.change", "set_command"),
    "unset": Late("Remove a key from a file.", f"{_HERE}.change", "unset_command"),
    "default": Late("Write a first file, without questions.", f"{_HERE}.change", "default_command"),
    "update": Late("Rewrite an old file in today's words.", f"{_HERE}.change", "update_command"),
    "validate": Late("List all problems of a file.", f"{_HERE}.look", "validate_command"),
    "diff": Late("Compare two files, or a file with what is in force.", f"{_HERE}.look", "diff_command"),
    "replay": Late("Run a run's snapshot again.", f"{_HERE}.replay", "replay_command"),
    "schema": Late("Print the JSON Schema of configuration files, for editors.", f"{_HERE}.look", "schema_command"),
}


@click.group(
    "config",
    cls=LateGroup,
    late=_LATE,
    invoke_without_command=True,
    context_settings={"token_normalize_func": lambda word: word.replace("_", "-")},  # Accelerate's --config_file
)
@click.option("--config-file", metavar="FILE", help="Ask about this file; left out: the last question says where.")
@click.pass_context
def command(ctx: click.Context, config_file: str | None) -> None:
    """Ask, show, explain, change and check the configuration.

    Without a command: ask questions, show the file that the answers make, and write it.
    """
    if ctx.invoked_subcommand is not None:
        if config_file is not None:
            raise click.UsageError("--config-file goes behind the command's name.", ctx)
        return
    from nbaccel.cli.config.asking import questionnaire  # what --help needs not load

    questionnaire(config_file)
