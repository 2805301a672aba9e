"""What each rank prints, on tabs: the end of it; and what each rank does, when that was asked for."""

from __future__ import annotations

import ipywidgets as widgets

from nbaccel.launch.doctor import Report
from nbaccel.launch.job import Job
from nbaccel.look import Html, div, quiet, told

MOST_TABS = 8
"""With more ranks than this, one tab shows the rank that is chosen."""
_TAIL_CHARACTERS = 4000
_HEIGHT = "height:12em;overflow:auto"
# the end of a long text is what is read: a box that is laid out upwards shows it without being scrolled
_AT_ITS_END = f"{_HEIGHT};display:flex;flex-direction:column-reverse"
_FROM_THE_TOP = "margin-bottom:auto"  # a short text begins where one looks first


class Outputs(widgets.Tab):
    """The tabs of one job."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._panes = {rank: widgets.HTML(_pane("")) for rank in job.ranks[:MOST_TABS]}
        self._choice: widgets.Dropdown | None = None
        self._stacks = widgets.HTML(_stacks("Press Stacks to see where the code of each rank is just now."))
        children: list[widgets.Widget] = list(self._panes.values())
        titles = [f"rank {rank}" for rank in self._panes]
        if len(job.ranks) > MOST_TABS:
            pane = widgets.HTML(_pane(""))
            self._panes = {job.ranks[0]: pane}
            self._choice = widgets.Dropdown(description="rank", options=[str(rank) for rank in job.ranks])
            self._choice.observe(self._choose, names="value")
            children, titles = [widgets.VBox([self._choice, pane])], ["output"]
        super().__init__([*children, self._stacks])
        for number, title in enumerate([*titles, "stacks"]):
            self.set_title(number, title)  # titles= is not known to ipywidgets 7

    def _choose(self, _: object) -> None:
        assert self._choice is not None
        (pane,) = self._panes.values()
        self._panes = {int(self._choice.value): pane}
        self.refresh()

    def refresh(self) -> None:
        """Show what was printed meanwhile."""
        for rank, pane in dict(self._panes).items():
            value = _pane(_last_states(self._job.feed.tail(rank, _TAIL_CHARACTERS)))
            if pane.value != value:
                pane.value = value

    def show_stacks(self, report: Report) -> None:
        """Show what each rank does, on a tab of its own."""
        self._stacks.value = _stacks(report.text())
        self.selected_index = len(self.children) - 1


def _pane(text: str) -> str:
    said = Html(f'<pre style="margin:0">{told(text)}</pre>') if text.strip() else quiet("nothing printed yet")
    return _framed(div(div(said, _FROM_THE_TOP), _AT_ITS_END))


def _stacks(text: str) -> str:
    return _framed(div(Html(f'<pre style="margin:0">{told(text)}</pre>'), _HEIGHT))


def _framed(content: Html) -> str:
    return Html(f'<div class="nba">{content}</div>')


def _last_states(text: str) -> str:
    """The text without what was overwritten by carriage returns, as a terminal shows it."""
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))
