"""Where a form's run is seen: its monitor, and below it what the run prints and draws."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ipywidgets as widgets

from nbaccel.launch.job import Job
from nbaccel_widgets.launch_form.output import OutputScreen
from nbaccel_widgets.monitor import RunMonitor


class Stage(widgets.VBox):
    """Shows one run at a time."""

    children: tuple[widgets.Widget, ...]

    def show(self, job: Job, screen: OutputScreen) -> None:
        """A run has started: its monitor; when it is over, the summary in its place."""
        monitor = RunMonitor(job)

        def place(data: Mapping[str, Any], is_update: bool) -> None:
            # the monitor is open while it calls this without a summary; a short run may have ended before
            if not is_update or screen.area in self.children:
                summary = data.get("text/html")
                self.children = (monitor if summary is None else widgets.HTML(summary), screen.area)

        monitor.show(place)
