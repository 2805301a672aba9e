"""What a run prints and draws, in an output area of the form: from any thread, and also when the click is long over."""

from __future__ import annotations

import base64
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets as widgets

from nbaccel.launch.clip import collapse
from nbaccel.launch.events import Flood
from nbaccel.launch.job import Job
from nbaccel.wire.messages import Shown

_EVERY_S = 0.3
_MOST_CHARACTERS = 20_000
_HIGHEST = "24em"


class OutputScreen:
    """A screen (see `nbaccel.launch.Screen`) that is an output area.

    Front ends bring what a kernel prints to the cell that it runs; a click belongs to none. So what comes of the run is
    put into the area here. All of it is sent again with each change: that is why changes are collected, and long text
    is cut at its beginning.

    Attributes:
        area: the widget.
    """

    colors = ""

    def __init__(self) -> None:
        self.area = widgets.Output(layout=widgets.Layout(max_height=_HIGHEST, overflow="auto"))
        self._outputs: list[dict[str, Any]] = []
        self._places: dict[str, int] = {}
        self._results: dict[int, Shown] = {}
        self._main = 0
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._timer: threading.Timer | None = None

    def begin(self, ranks: Sequence[int]) -> None:
        self._main = ranks[0]

    def watch(self, job: Job, *, lasts: bool) -> None:
        """The form has a monitor."""

    def bar(self, rank: int, fields: Any) -> None:
        """The monitor draws it."""

    def handle(self, job: Job) -> None:
        """The form shows it."""

    def text(self, stream: int, text: str) -> None:
        name = "stdout" if stream == 1 else "stderr"
        with self._lock:
            last = self._outputs[-1] if self._outputs else {}
            if last.get("name") == name:
                self._outputs[-1] = {**last, "text": _tail(last["text"] + text)}
            else:
                self._outputs.append({"output_type": "stream", "name": name, "text": _tail(text)})
        self._soon()

    def rich(self, rank: int, shown: Shown) -> None:
        if shown.kind == "result":
            self._results[rank] = shown
        elif shown.kind == "clear":
            with self._lock:
                self._outputs.clear()
                self._places.clear()
        else:
            self._draw(shown)

    def note(self, text: str) -> None:
        self.text(2, f"nbaccel: {text}\n")

    def flood(self, news: Flood) -> None:
        if news.over:
            self.note(f"{news.lines:,} lines are left out here; all that the ranks printed is in {news.path}")

    def ask(self, rank: int, prompt: str, *, password: bool) -> str:
        raise EOFError("a run of the form cannot ask; launch it in a cell")

    def end(self) -> None:
        if self._main in self._results:
            self._draw(self._results[self._main])
        self._flush()

    def _draw(self, shown: Shown) -> None:
        made = {"output_type": "display_data", "data": _sendable(shown.data), "metadata": dict(shown.metadata)}
        name = str(shown.transient.get("display_id", ""))
        with self._lock:
            if name in self._places:
                self._outputs[self._places[name]] = made
            else:
                self._outputs.append(made)
                if name:
                    self._places[name] = len(self._outputs) - 1
        self._soon()

    def _soon(self) -> None:
        with self._lock:
            if self._timer is None:
                self._timer = threading.Timer(_EVERY_S, self._flush)
                self._timer.daemon = True
                self._timer.start()

    def _flush(self) -> None:
        with self._sending:  # else what is older may be put in place of what is newer
            with self._lock:
                self._timer = None
                outputs = tuple(self._outputs)
            self.area.outputs = outputs


def _tail(text: str) -> str:
    """The end of a text, in whole lines unless the first of them is most of it."""
    text = collapse(text, fresh=True)
    if len(text) <= _MOST_CHARACTERS:
        return text
    kept = text[-_MOST_CHARACTERS:]
    first, _, rest = kept.partition("\n")
    return f"...\n{rest if len(first) < _MOST_CHARACTERS // 2 else kept}"


def _sendable(data: Mapping[str, Any]) -> dict[str, Any]:
    """A MIME bundle as JSON can hold it."""
    return {
        kind: base64.b64encode(value).decode() if isinstance(value, bytes) else value for kind, value in data.items()
    }
