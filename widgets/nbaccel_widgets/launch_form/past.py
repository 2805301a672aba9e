"""The history below a form: the table of runs, and what can be done with them."""

from __future__ import annotations

import threading
from collections.abc import Callable

import ipywidgets as widgets

from nbaccel.launch.job import Job
from nbaccel.look import Html, code, heading, joined, quiet
from nbaccel_widgets.launch_form.compare import compared
from nbaccel_widgets.launch_form.controls import plain, small_button
from nbaccel_widgets.launch_form.history import Run, table


class Past(widgets.VBox):
    """Runs as a table; below it one can be chosen to be used again, shown as code or removed, and two be compared.

    Args:
        use: fills the form in with what a run was launched with.

    Attributes:
        runs: the runs so far, the newest last.
    """

    def __init__(self, use: Callable[[Run], None]) -> None:
        self.runs: list[Run] = []
        self._use = use
        self._lock = threading.RLock()
        self.chosen, self.other = _list("run"), _list("compare with")
        self.use_button = small_button("Use again", "Fill in what this run was launched with")
        self.remove_button = small_button("Remove", "Take this run out of the table")
        self.shown, self.comparison = widgets.HTML(), widgets.HTML()
        buttons = [self.chosen, self.use_button, self.remove_button, self.other]
        self._tools = widgets.HBox(buttons, layout=widgets.Layout(flex_flow="row wrap", align_items="center"))
        super().__init__(children=())
        self.use_button.on_click(lambda _: self._on_chosen(self._use))
        self.remove_button.on_click(lambda _: self._on_chosen(self.remove))
        for one in (self.chosen, self.other):
            one.observe(self._show_chosen, names="value")

    def add(self, run: Run) -> None:
        """A run has begun."""
        with self._lock:
            self.runs.append(run)
            self._show()
            self.chosen.value = run.number

    def finish(self, job: Job) -> None:
        """A job is over; called from its thread."""
        with self._lock:
            for run in self.runs:
                if run.job is job:
                    run.finish()
            self._show()

    def remove(self, run: Run) -> None:
        """Take a run out of the table; one that goes on stays."""
        with self._lock:
            if run.is_over:
                self.runs.remove(run)
            self._show()

    def _find(self, number: int | None) -> Run | None:
        return next((run for run in self.runs if run.number == number), None)

    def _on_chosen(self, act: Callable[[Run], None]) -> None:
        run = self._find(self.chosen.value)
        if run is not None:
            act(run)

    def _show(self) -> None:
        self.shown.value = plain(joined([heading("Runs"), table(self.runs)]), "margin-top:12px")
        labels = [(run.label, run.number) for run in reversed(self.runs)]
        _offer(self.chosen, labels)
        _offer(self.other, [("none", 0), *labels])
        self.children = (self.shown, self._tools, self.comparison) if self.runs else ()
        self._show_chosen()

    def _show_chosen(self, _: object = None) -> None:
        run, other = self._find(self.chosen.value), self._find(self.other.value)
        if run is None:
            self.comparison.value = ""
            return
        self.remove_button.disabled = not run.is_over
        again = joined([quiet("The same by code: "), Html(f'<span style="user-select:all">{code(run.call)}</span>')])
        beside = compared(*sorted((run, other), key=_number)) if other is not None and other is not run else ""
        self.comparison.value = plain(joined([Html(f"<div>{again}</div>"), beside]))


def _number(run: Run) -> int:
    return run.number


def _list(label: str) -> widgets.Dropdown:
    return widgets.Dropdown(
        options=[], description=label, style={"description_width": "initial"}, layout=widgets.Layout(width="22em")
    )


def _offer(chooser: widgets.Dropdown, labels: list[tuple[str, int]]) -> None:
    """New choices; what was chosen stays so if it is still there."""
    before = chooser.value
    if list(chooser.options) == labels:
        return
    chooser.options = labels
    numbers = [number for _, number in labels]
    chooser.value = before if before in numbers else next(iter(numbers), None)
