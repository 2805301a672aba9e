"""The monitor of one run, of plain ipywidgets: drawn by a thread of its own, a few times a second at most."""

from __future__ import annotations

import logging
import secrets
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets as widgets

from nbaccel.launch.doctor import Report
from nbaccel.launch.job import Job
from nbaccel.launch.lookout import Lookout
from nbaccel.look import Html, div, quiet, region
from nbaccel.look.svg import draw
from nbaccel_widgets.monitor.outputs import Outputs
from nbaccel_widgets.monitor.summary import figures, ranks, summary, title

DRAW_EVERY_S = 0.2
SLOWLY_EVERY_S = 1.0
"""Curves and text, which cost more, are drawn only so often."""
_DEAF_AFTER_S = 3.0

Publish = Callable[[Mapping[str, Any], bool], object]
"""Shows a MIME bundle: the first time, or in place of what was shown."""

_HINT = "To stop the run use the notebook's Interrupt button; this front end brings clicks only when the cell is over."


class RunMonitor(widgets.VBox):
    """Shows what a job is at, and stops it; when the job is over, a summary of pure HTML takes its place.

    A notebook shows one by itself for every run that takes longer than two seconds (see the key `monitor`). One of a
    job in the background can be had again, in another cell: `RunMonitor(job)`.

    Args:
        job: the job, running or over.
        stop: what Interrupt does; left out: cancels the job.
        hears: whether clicks arrive while the cell runs; asked again and again.
    """

    def __init__(
        self, job: Job, *, stop: Callable[[], object] | None = None, hears: Callable[[], bool] = lambda: True
    ) -> None:
        self._job, self._stop, self._hears = job, stop or job.cancel, hears
        self._lookout = Lookout(job)
        self._title, self._figures, self._bars, self._curves, self._ranks = (_html() for _ in range(5))
        self._title.layout.flex = "1 1 auto"
        self._outputs = Outputs(job)
        self._buttons = widgets.HBox(
            [
                _button("Interrupt", "Interrupt all ranks, as the notebook's Interrupt button does", self._interrupt),
                _button("Stop now", "Kill the workers, if they do not come to an end", self._kill),
                _button("Stacks", "Show where the code of each rank is just now", self._examine),
            ]
        )
        self._folded = widgets.Accordion([self._outputs], selected_index=None)
        self._folded.set_title(0, "Output of each rank, stacks")
        head = widgets.HBox([self._title, self._buttons], layout=widgets.Layout(align_items="center", flex_flow="wrap"))
        super().__init__([head, self._figures, self._bars, self._curves, self._ranks, self._folded])
        self._began_s = time.monotonic()
        self._drawn_changes, self._slowly_drawn_s = -1, 0.0
        self._report: Report | None = None
        self._places: list[Publish] = []
        self._final: dict[str, str] | None = None
        self._ending, self._over = threading.RLock(), threading.Event()
        self._draw()
        _let_clicks_through(self)
        self._thread = threading.Thread(target=self._keep_drawing, name="nbaccel-monitor", daemon=True)
        self._thread.start()
        job.add_done_callback(lambda _: self.finish())

    # showing

    def show(self, publish: Publish) -> None:
        """Show it somewhere, live, and at its end the summary in its place.

        Args:
            publish: shows it there.
        """
        with self._ending:
            publish(self._final or self._live(), False)
            self._places.append(publish)

    def _ipython_display_(self, **_: object) -> None:
        shell = sys.modules["IPython"].get_ipython()
        place = {"display_id": secrets.token_hex(8)}
        self.show(
            lambda data, update: shell.display_pub.publish(data=dict(data), metadata={}, transient=place, update=update)
        )

    def _live(self) -> dict[str, Any]:
        view = {"version_major": 2, "version_minor": 0, "model_id": self.model_id}
        return {"application/vnd.jupyter.widget-view+json": view, "text/plain": self._lookout.standing().text()}

    def finish(self) -> None:
        """The run is over: its summary stands where the monitor was. Calling it again does nothing."""
        with self._ending:
            if self._final is not None:
                return
            self._over.set()
            if threading.current_thread() is not self._thread:
                self._thread.join()
            standing, board = self._lookout.standing(), self._job.feed.board
            html = summary(standing, Html(board.bars_html()), board.panels())
            self._final = {"text/html": html, "text/plain": standing.text()}
            for publish in self._places:
                publish(self._final, True)
            self._lookout.close()
            _close(self)

    # drawing, in a thread

    def _keep_drawing(self) -> None:
        try:
            while not self._over.wait(DRAW_EVERY_S):
                self._draw()
        except Exception:  # the run goes on all the same, and so does its summary
            logging.getLogger(__name__).exception("the monitor of job %d is not drawn any more", self._job.number)

    def _draw(self) -> None:
        standing, board = self._lookout.standing(), self._job.feed.board
        _put(self._title, region(title(standing), label=f"monitor of job {standing.number}"))
        _put(self._figures, figures(standing))
        if board.changes != self._drawn_changes:
            self._drawn_changes = board.changes
            _put(self._bars, Html(board.bars_html()))
        now = time.monotonic()
        if now - self._slowly_drawn_s >= SLOWLY_EVERY_S:
            self._slowly_drawn_s = now
            panels = board.panels()
            _put(self._curves, div(Html(draw(panels)), "display:flex") if panels else Html(""))
            _put(self._ranks, ranks(standing))
            self._outputs.refresh()
        if self._report is not None:
            self._outputs.show_stacks(self._report)
            self._report, self._folded.selected_index = None, 0
            _let_clicks_through(self)
        if now - self._began_s > _DEAF_AFTER_S and not self._hears():
            self._buttons.children = [widgets.HTML(_framed(quiet(_HINT)))]
            self._hears = lambda: True

    # clicks, which come in any thread

    def _interrupt(self, _: object) -> None:
        self._stop()

    def _kill(self, _: object) -> None:
        if not self._job.was_stopped:
            self._stop()
        self._job.kill()

    def _examine(self, _: object) -> None:
        self._job.examine(self._take_report)

    def _take_report(self, report: Report) -> None:
        self._report = report


def _html() -> widgets.HTML:
    return widgets.HTML(layout=widgets.Layout(width="auto", margin="0"))


def _framed(content: Html) -> Html:
    return Html(f'<div class="nba">{content}</div>')


def _put(place: widgets.HTML, content: Html) -> None:
    value = _framed(content) if content and not content.startswith("<style") else content
    if place.value != value:
        place.value = value


def _button(label: str, tooltip: str, on_click: Callable[[object], None]) -> widgets.Button:
    button = widgets.Button(description=label, tooltip=tooltip, layout=widgets.Layout(width="auto"))
    button.on_click(on_click)
    return button


def _let_clicks_through(widget: widgets.Widget) -> None:
    """Let what the front end sends reach the thread that it has asked for, while the cell runs.

    ipykernel 7.4 sends answers to a widget to where the widget last spoke, which is the cell, and so after its end.
    Without this note on the widget's comm, they go where the front end sends them.
    """
    for child in getattr(widget, "children", ()):
        _let_clicks_through(child)
    vars(widget.comm or widget).pop("_reply_subshell_id", None)


def _close(widget: widgets.Widget) -> None:
    """Close a widget and all that belongs to it; the front end would keep their models."""
    for child in getattr(widget, "children", ()):
        _close(child)
    for part in ("layout", "style"):
        if isinstance(getattr(widget, part, None), widgets.Widget):
            getattr(widget, part).close()
    widget.close()
