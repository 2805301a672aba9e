"""How a run looks: in a notebook's cell through IPython's display system, elsewhere as plain text."""

from __future__ import annotations

import sys
from typing import Any

from nbaccel.wire.messages import Shown


class PlainScreen:
    """A terminal or a script: text goes to the process's own streams, rich output as its plain form."""

    colors = ""

    def text(self, stream: int, text: str) -> None:
        target = sys.stdout if stream == 1 else sys.stderr
        target.write(text)
        target.flush()

    def rich(self, rank: int, shown: Shown) -> None:
        plain = shown.data.get("text/plain")
        if plain is not None:
            self.text(1, f"{plain}\n")

    def note(self, text: str) -> None:
        self.text(2, f"nbaccel: {text}\n")

    def end(self) -> None:
        pass


class CellScreen(PlainScreen):
    """A cell of IPython: displays, updates and pictures appear where they were made."""

    def text(self, stream: int, text: str) -> None:
        # not flushed: the kernel does that a few times a second, and before each display
        (sys.stdout if stream == 1 else sys.stderr).write(text)

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self.colors = str(shell.colors)
        self._results: dict[int, Shown] = {}

    def rich(self, rank: int, shown: Shown) -> None:
        if shown.kind == "result":
            self._results[rank] = shown
        elif shown.kind == "clear":
            self._shell.display_pub.clear_output(wait=shown.wait)
        else:
            self._publish(shown, update=shown.kind == "update")

    def end(self) -> None:
        """The values of the cell's last expression: rank 0's, and those of other ranks that differ."""
        main = self._results.pop(0, None)
        if main is not None:
            self._publish(main, update=False)
        for rank, shown in sorted(self._results.items()):
            if main is None or shown.data.get("text/plain") != main.data.get("text/plain"):
                self.text(1, f"[{rank}] {shown.data.get('text/plain')}\n")
        self._results.clear()

    def _publish(self, shown: Shown, *, update: bool) -> None:
        self._shell.display_pub.publish(
            data=dict(shown.data), metadata=dict(shown.metadata), transient=dict(shown.transient), update=update
        )


def current_shell() -> Any:
    """The running IPython shell, None outside IPython; never imports it."""
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython is not None and hasattr(ipython, "get_ipython") else None


def screen_for(shell: Any) -> PlainScreen:
    return PlainScreen() if shell is None else CellScreen(shell)
