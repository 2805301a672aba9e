"""The top of the form: which layer is edited, the search, and what a launch would do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as widgets

from nbaccel_widgets.config_form.outlook import Model
from nbaccel_widgets.config_form.words import number_in

ANOTHER = "file"
"""The choice of a file that is named beside it."""


class Head:
    """The top of the form.

    Args:
        targets: names and layers that can be edited.
        path: the path of another file at first.
        choose: called with the layer and the path that stands beside it.
        changed: called when what is known of the model has changed.

    Attributes:
        target: the layer that is edited.
        path: the path of another file.
        search: words to search for.
        only_given: whether only keys are shown that somebody has set.
        parameters, batch: what is known of the model and its data.
        outlook: what a launch would do.
    """

    def __init__(
        self,
        targets: Sequence[tuple[str, str]],
        path: str,
        choose: Callable[[str, str], None],
        changed: Callable[[], None],
    ) -> None:
        self.target = widgets.Dropdown(options=targets, value="notebook", description="Edit")
        self.path = widgets.Text(
            path, description="File", placeholder="path of a YAML file", continuous_update=False, layout=_hidden()
        )
        self.search = widgets.Text(description="Search", placeholder="name, text or variable")
        self.only_given = widgets.Checkbox(description="only what is set", indent=False)
        self.parameters = widgets.Text(description="Model parameters", placeholder="125M", continuous_update=False)
        self.batch = widgets.Text(description="Batch per loader", placeholder="32", continuous_update=False)
        self.outlook = widgets.HTML()
        self.outlook.add_class("nba-outlook")
        for control, css in ((self.target, "nba-grow"), (self.path, "nba-grow"), (self.search, "nba-grow")):
            control.add_class(css)
        self.box = widgets.VBox(
            [
                _bar(self.target, self.path, self.search, self.only_given),
                _bar(self.parameters, self.batch),
                self.outlook,
            ]
        )
        self.box.add_class("nba-stack")
        self.target.observe(lambda change: self._chosen(choose), names="value")
        self.path.observe(lambda change: self._chosen(choose), names="value")
        for control in (self.parameters, self.batch):
            control.add_class("nba-short")
            control.observe(lambda change: changed(), names="value")

    def _chosen(self, choose: Callable[[str, str], None]) -> None:
        self.path.layout.display = "" if self.target.value == ANOTHER else "none"
        choose(self.target.value, self.path.value)

    def model(self) -> Model:
        """What is known of the model and its data."""
        return Model(number_in(self.parameters.value), number_in(self.batch.value))

    def show(self, outlook: str) -> None:
        """Show what a launch would do."""
        self.outlook.value = f'<div role="status" aria-live="polite">{outlook}</div>'


def _hidden() -> widgets.Layout:
    return widgets.Layout(display="none")


def _bar(*controls: Any) -> widgets.Box:
    box = widgets.Box(controls)
    box.add_class("nba-bar")
    return box
