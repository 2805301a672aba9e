"""A place in the notebook that can be shown and shown again; found, if there is one, without importing IPython."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any
from uuid import uuid4


class Display:
    """Nowhere: there is no notebook."""

    is_there = False

    def show(self, data: Mapping[str, str]) -> None:
        """Show representations of one thing, by MIME type, in place of those shown before."""

    def when_cells_end(self, call: Callable[[], None]) -> None:
        """Call a function whenever a cell has ended."""


class ShellDisplay(Display):
    """An output of the running IPython shell: a kernel's, or a worker's, from where it travels to the kernel.

    Args:
        shell: the shell.
    """

    is_there = True

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._place = uuid4().hex
        self._is_shown = False

    def show(self, data: Mapping[str, str]) -> None:
        self._shell.display_pub.publish(
            data=dict(data), metadata={}, transient={"display_id": self._place}, update=self._is_shown
        )
        self._is_shown = True

    def when_cells_end(self, call: Callable[[], None]) -> None:
        self._shell.events.register("post_run_cell", lambda *_: call())


def find_display() -> Display:
    """Where this process can show pictures; a terminal is no such place."""
    module = sys.modules.get("IPython.core.getipython")
    shell = None if module is None else module.get_ipython()
    if shell is None or type(shell).__name__ == "TerminalInteractiveShell":
        return Display()
    return ShellDisplay(shell)
