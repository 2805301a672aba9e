"""Groups of commands whose modules are loaded when a command is asked for, so that help comes at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import click


@dataclass(frozen=True)
class Late:
    """A command that is not there yet.

    Attributes:
        text: what it does, for the group's help.
        module: where it is.
        name: what it is called there.
    """

    text: str
    module: str
    name: str = "command"


class LateGroup(click.Group):
    """A group that knows its commands by name and imports one only to run it."""

    def __init__(self, *args: Any, late: Mapping[str, Late], **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self._late = late

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._late)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        late = self._late.get(cmd_name)
        if late is None:
            return None
        command: click.Command = getattr(import_module(late.module), late.name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, late.text) for name, late in self._late.items()])
