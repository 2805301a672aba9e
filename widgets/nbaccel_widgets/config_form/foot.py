"""The bottom of the form: what is done with changes, their diff, and what can be copied."""

from __future__ import annotations

from collections.abc import Callable

import ipywidgets as widgets

from nbaccel.config import Layer
from nbaccel.errors import ConfigError
from nbaccel.look import Html, Mood, in_mood, joined, quiet, told
from nbaccel_widgets.config_form.copying import FORMS, left_out
from nbaccel_widgets.config_form.editing import Edits

_SIGNS = {"good": "\N{CHECK MARK} ", "bad": "\N{BALLOT X} "}


class Foot:
    """The bottom of the form.

    Args:
        actions: what the buttons do, by the names that they have as attributes.

    Attributes:
        save, revert, undo, take_over, refresh: the buttons.
        said: what has just happened.
        diff: the changes, as a diff of YAML.
        form: what is to be copied.
        copied: the text to copy.
        remark: what it does not hold.
    """

    def __init__(self, **actions: Callable[[], None]) -> None:
        self.save = _button("Save", "Write the changes into the file", actions["save"], style="primary")
        self.revert = _button("Revert", "Take all changes back", actions["revert"])
        self.undo = _button("Undo", "Take the last change back", actions["undo"])
        self.take_over = _button(
            "Take over from notebook", "Add what is set for this notebook to the changes", actions["take_over"]
        )
        self.refresh = _button("Refresh", "Read environment and files anew", actions["refresh"])
        self.said = widgets.HTML()
        self.diff = widgets.HTML()
        self.form = widgets.Dropdown(options=list(FORMS), description="Copy as")
        self.copied = widgets.Textarea(description="Text")
        self.remark = widgets.HTML()
        self._layer: Layer = {}
        bar = widgets.Box([self.save, self.revert, self.undo, self.take_over, self.refresh, self.said])
        bar.add_class("nba-bar")
        choosing = widgets.Box([self.form, self.remark])
        choosing.add_class("nba-bar")
        copying = widgets.VBox([choosing, self.copied])
        copying.add_class("nba-copy")
        self.tabs = widgets.Tab(children=[self.diff, copying])
        self.tabs.selected_index = 0
        self.tabs.set_title(0, "Changes")
        self.tabs.set_title(1, "Copy")
        self.box = widgets.VBox([bar, self.tabs])
        self.box.add_class("nba-stack")
        self.form.observe(lambda _: self._show_copy(), names="value")

    def say(self, text: str, mood: Mood = "quiet") -> None:
        """Say what has just happened."""
        self.said.value = f'<span role="status">{in_mood(_SIGNS.get(mood, "") + text, mood) if text else ""}</span>'

    def show(self, edits: Edits, layer: Layer) -> None:
        """Show the changes of a layer, and what it says with them."""
        self._layer = layer
        count = len(edits.changed())
        self.save.disabled = not edits.is_pending
        self.revert.disabled = not count
        self.take_over.disabled = edits.path is None
        title = f"Changes ({count})" if count else "Changes"
        if self.tabs.get_title(0) != title:
            self.tabs.set_title(0, title)
        self.diff.value = _pre(_diff(edits))
        self._show_copy()

    def _show_copy(self) -> None:
        try:
            self.copied.value = FORMS[self.form.value](self._layer)
            self.remark.value = quiet(left_out(self._layer, self.form.value))
        except ConfigError as error:
            self.copied.value = ""
            self.remark.value = in_mood(f"{_SIGNS['bad']}{error}", "bad")


def _button(name: str, tooltip: str, pressed: Callable[[], None], style: str = "") -> widgets.Button:
    button = widgets.Button(description=name, tooltip=tooltip, button_style=style)
    button.on_click(lambda _: pressed())
    return button


def _pre(content: str) -> Html:
    return Html(f'<div class="nba-pre" role="region" aria-label="changes" tabindex="0">{told(content)}</div>')


def _diff(edits: Edits) -> Html:
    try:
        lines = edits.diff()
    except ConfigError as error:
        return in_mood(f"\N{BALLOT X} {error}", "bad")
    if not lines:
        return quiet(f"No changes of {edits.name}.")
    return joined((_line(line) for line in lines), between="\n")


def _line(line: str) -> str:
    if line.startswith(("+++", "---", "@@")):
        return quiet(line)
    if line.startswith("+"):
        return in_mood(line, "good")
    return in_mood(line, "bad") if line.startswith("-") else told(line)
