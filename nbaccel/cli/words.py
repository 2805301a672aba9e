"""A command that reads its words itself: its flags are too many, and its script's flags are not its own."""

from __future__ import annotations

import click


class WordsCommand(click.Command):
    """Hands all words behind its name to its function, as they are."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.params["words"] = tuple(args)
        return []
