"""How a run looks: in a notebook's cell through IPython's display system, elsewhere as plain text."""

from __future__ import annotations

import getpass
import html
import re
import secrets
import sys
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from nbaccel.launch.events import Flood
from nbaccel.launch.job import Job
from nbaccel.notebook import monitoring
from nbaccel.wire.messages import Shown

if TYPE_CHECKING:
    from nbaccel.look.bars import Bars
    from nbaccel_widgets import RunMonitor

_BARS_EVERY_S = 0.1


class PlainScreen:
    """A script: text goes to the process's own streams, rich output as its plain form."""

    colors = ""

    def __init__(self, monitor: str = "auto") -> None:
        self._main, self._ranks = 0, 1
        self._mode = monitor
        self._watched: Job | None = None
        self._live_width = 0

    @cached_property
    def _bars(self) -> Bars:
        from nbaccel.look.bars import Bars  # tqdm, which it formats with, takes 50 ms: only where there are bars

        return Bars(self._ranks)

    def begin(self, ranks: Sequence[int]) -> None:
        self._main, self._ranks = ranks[0], len(ranks)

    def watch(self, job: Job, *, lasts: bool) -> None:
        """A monitor that is always wanted is text here, at the end."""
        if self._mode == "always" and job.number:
            self._watched = job

    def text(self, stream: int, text: str) -> None:
        target = sys.stdout if stream == 1 else sys.stderr
        target.write(text)
        target.flush()

    def rich(self, rank: int, shown: Shown) -> None:
        plain = shown.data.get("text/plain")
        if plain is not None:
            self.text(1, f"{plain}\n")

    def bar(self, rank: int, fields: Mapping[str, object]) -> None:
        """The innermost bar of the first rank, overwritten in place; all bars when the run has come to its end."""
        self._bars.update(rank, fields)
        if rank == self._main:
            self._overwrite(self._bars.line(rank))

    def _overwrite(self, line: str) -> None:
        """Write a line in place of the last one that was written so; nothing of that one stays behind a shorter one."""
        self.text(2, f"\r{line:<{self._live_width}}" if line else f"\r{' ' * self._live_width}\r")
        self._live_width = len(line)

    def note(self, text: str) -> None:
        self.text(2, f"nbaccel: {text}\n")

    def flood(self, news: Flood) -> None:
        if news.over:
            self.text(2, f"\n{_left_out(news)}\n")

    def ask(self, rank: int, prompt: str, *, password: bool) -> str:
        return getpass.getpass(prompt) if password else input(prompt)

    def handle(self, job: Job) -> None:
        """Whoever has it prints it."""

    def end(self) -> None:
        if self._watched is not None:
            from nbaccel.launch.lookout import Lookout

            self._overwrite("")
            self.text(2, f"{Lookout(self._watched).standing().text()}\n")
        elif "_bars" in vars(self):
            self._bars.finish()
            self._overwrite("")
            if not self._bars.empty:
                self.text(2, f"{self._bars.text()}\n")


def _left_out(news: Flood) -> str:
    return f"... {news.lines:,} lines are left out here; all that the ranks printed is in {news.path}"


def _comparable(shown: Shown) -> str:
    """What a value says, without where it lies in memory."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(shown.data.get("text/plain")))


def _note_html(text: str) -> str:
    return (
        '<pre style="margin: 0 0 4px; padding-left: 8px; opacity: 0.8; white-space: pre-wrap; '
        "font-size: var(--jp-code-font-size, 13px); "
        f'border-left: 3px solid var(--jp-warn-color1, #f57c00)">{html.escape(text)}</pre>'
    )


class TerminalScreen(PlainScreen):
    """IPython in a terminal: what is displayed goes through its display system, which cannot change it any more."""

    def __init__(self, shell: Any, monitor: str = "auto") -> None:
        super().__init__(monitor)
        self._shell = shell
        self.colors = str(shell.colors)
        self._results: dict[int, Shown] = {}

    def rich(self, rank: int, shown: Shown) -> None:
        if shown.kind == "result":
            self._results[rank] = shown
        elif shown.kind == "clear":
            self._clear(wait=shown.wait)
        else:
            self._publish(shown.data, shown.metadata, shown.transient, update=shown.kind == "update")

    def ask(self, rank: int, prompt: str, *, password: bool) -> str:
        return super().ask(rank, prompt if rank == self._main else f"[{rank}] {prompt}", password=password)

    def end(self) -> None:
        """The last state of bars; values of the cell's last expression: the main rank's, and those that differ."""
        self._end_bars()
        main = self._results.pop(self._main, None)
        if main is not None:
            self._publish(main.data, main.metadata, main.transient, update=False)
        for rank, shown in sorted(self._results.items()):
            if main is None or _comparable(shown) != _comparable(main):
                self._publish_of(rank, shown)
        self._results.clear()

    def _end_bars(self) -> None:
        super().end()

    def _publish_of(self, rank: int, shown: Shown) -> None:
        """The value of another rank: beside its label where it is only text, below it where it is more."""
        plain = str(shown.data.get("text/plain"))
        if shown.data.keys() == {"text/plain"}:
            self.text(1, f"[{rank}] {plain}\n")
        else:
            self.text(1, f"[{rank}]\n")
            self._publish(shown.data, shown.metadata, shown.transient, update=False)

    def _clear(self, *, wait: bool) -> None:
        self._shell.display_pub.clear_output(wait=wait)

    def _publish(self, data: Any, metadata: Any, transient: Any, *, update: bool) -> None:
        self._shell.display_pub.publish(
            data=dict(data), metadata=dict(metadata), transient=dict(transient), update=update
        )


class CellScreen(TerminalScreen):
    """A cell of a notebook: displays, updates and pictures appear where they were made."""

    _in_background = False

    def __init__(self, shell: Any, monitor: str = "auto") -> None:
        super().__init__(shell, monitor)
        monitoring.check(monitor, shell)
        self._monitor: RunMonitor | None = None
        self._live: dict[str, str] = {}
        self._drawn_s = 0.0

    def watch(self, job: Job, *, lasts: bool) -> None:
        if self._monitor is None and monitoring.wants_monitor(self._mode, job, lasts=lasts):
            self._monitor = monitoring.monitor_of(job, self._shell, in_background=self._in_background)
            self._monitor.show(self._publish_monitor)

    def _publish_monitor(self, data: Mapping[str, Any], is_update: bool) -> None:
        """In the place of the bars, if there were some already."""
        is_update |= "bars" in self._live
        place = self._live.setdefault("bars", secrets.token_hex(8))
        self._publish(data, {}, {"display_id": place}, update=is_update)

    def text(self, stream: int, text: str) -> None:
        # not flushed: the kernel does that a few times a second, and before each display
        (sys.stdout if stream == 1 else sys.stderr).write(text)

    def bar(self, rank: int, fields: Mapping[str, object]) -> None:
        if self._monitor is not None:
            return
        self._bars.update(rank, fields)
        if self._bars.is_finished or time.monotonic() - self._drawn_s > _BARS_EVERY_S:
            self._draw_bars()

    def _draw_bars(self) -> None:
        self._drawn_s = time.monotonic()
        self._show_live("bars", self._bars.html(), self._bars.text())

    def flood(self, news: Flood) -> None:
        said = _left_out(news) if news.over else f"{_left_out(news)}\n{news.last_line[:200]}"
        self._show_live("flood", _note_html(said), said)

    def note(self, text: str) -> None:
        # a display, not text: it keeps its place among the text, and is no error
        self._publish({"text/html": _note_html(text), "text/plain": f"nbaccel: {text}"}, {}, {}, update=False)

    def handle(self, job: Job) -> None:
        self._show_live("handle", job._repr_html_(), repr(job))

    def _show_live(self, what: str, markup: str, plain: str) -> None:
        """Show something that changes while the run goes on, in its place."""
        update = what in self._live
        display_id = self._live.setdefault(what, secrets.token_hex(8))
        self._publish({"text/html": markup, "text/plain": plain}, {}, {"display_id": display_id}, update=update)

    def _end_bars(self) -> None:
        if self._monitor is not None:
            self._monitor.finish()
        elif "bars" in self._live:
            self._bars.finish()
            self._draw_bars()


class OriginScreen(CellScreen):
    """The cell that started a job, from any thread and while other cells run.

    What a kernel prints lands in whatever cell is running. Here each message names its own cell.
    """

    _in_background = True

    def __init__(self, shell: Any, monitor: str = "auto") -> None:
        super().__init__(shell, monitor)
        self._kernel = shell.kernel
        self._cell = self._kernel.get_parent()

    def text(self, stream: int, text: str) -> None:
        self._send("stream", {"name": "stdout" if stream == 1 else "stderr", "text": text})

    def ask(self, rank: int, prompt: str, *, password: bool) -> str:
        raise EOFError("a job in the background cannot ask; run it in the foreground")

    def _clear(self, *, wait: bool) -> None:
        self._send("clear_output", {"wait": wait})

    def _publish(self, data: Any, metadata: Any, transient: Any, *, update: bool) -> None:
        from ipykernel.jsonutil import encode_images, json_clean

        content = {"data": encode_images(dict(data)), "metadata": dict(metadata), "transient": dict(transient)}
        self._send("update_display_data" if update else "display_data", json_clean(content))

    def _send(self, kind: str, content: Mapping[str, Any]) -> None:
        self._kernel.session.send(
            self._kernel.iopub_socket, kind, dict(content), parent=self._cell, ident=kind.encode()
        )


def current_shell() -> Any:
    """The running IPython shell, None outside IPython; never imports it."""
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython is not None and hasattr(ipython, "get_ipython") else None


def cell_number(shell: Any) -> int:
    """The number that the running cell has in the notebook; IPython's own count is one ahead in some versions."""
    return max(0, len(shell.user_ns.get("In", ())) - 1) if shell is not None else 0


def screen_for(shell: Any, monitor: str = "auto") -> PlainScreen:
    """Where a run is shown.

    Args:
        shell: the IPython shell, None outside IPython.
        monitor: which runs get a monitor: `auto`, `always` or `never`.
    """
    if shell is None:
        return PlainScreen(monitor)
    return CellScreen(shell, monitor) if monitoring.is_notebook(shell) else TerminalScreen(shell, monitor)


def origin_screen_for(shell: Any, monitor: str = "auto") -> PlainScreen:
    """A screen for other threads, and for what comes when the cell is over; the arguments as for `screen_for`."""
    return OriginScreen(shell, monitor) if monitoring.is_notebook(shell) else PlainScreen(monitor)
