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

    def show(self, job: Job, screen: OutputScreen) -> None:
        """A run has started: its monitor; when it is over, the summary in its place."""
        monitor = RunMonitor(job)
        self.children = (monitor, screen.area)

        def replace(data: Mapping[str, Any], _is_update: bool) -> None:
            if "text/html" in data and screen.area in self.children:
                self.children = (widgets.HTML(data["text/html"]), screen.area)

        monitor.show(replace)
