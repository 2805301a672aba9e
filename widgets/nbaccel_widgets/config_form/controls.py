"""A control for each kind of key. Every one can be empty: then its layer does not say anything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import ipywidgets as widgets

from nbaccel.config import KEYS
from nbaccel_widgets.config_form.words import is_mapping

_SWITCH = ("true", "false")
_NULL = "null"


class Looks:
    """Layouts and styles that all rows of a form share: each one costs a message to the front end."""

    def __init__(self) -> None:
        self.layout = widgets.Layout()
        self.field = widgets.Layout(width="auto")
        self.text = widgets.Text().style
        self.html = widgets.HTML().style
        self.button = widgets.Button().style


@dataclass(frozen=True)
class Content:
    """What a control shows.

    Attributes:
        label: its label.
        text: what the layer says, empty for nothing.
        inherited: what holds without that.
    """

    label: str
    text: str
    inherited: str


class Control:
    """The control of one key.

    Args:
        key: its dotted name.
        content: what it shows at first.
        looks: what all controls share.
        edited: called with the text whenever the user has changed it.

    Attributes:
        widget: the control; its value is text, and empty where nothing is set.
    """

    def __init__(self, key: str, content: Content, looks: Looks, edited: Callable[[str], None]) -> None:
        self._choices, self._edited, self._is_showing = choices_of(key), edited, False
        kind = _kind(key, self._choices)
        self.widget = kind(layout=looks.field, style=looks.text, **self._traits(content))
        self.widget.observe(self._changed, names="value")

    def _changed(self, change: Any) -> None:
        if not self._is_showing:
            self._edited(str(change["new"] or ""))

    def show(self, content: Content) -> None:
        """Show what the layer says, which is no edit."""
        self._is_showing = True
        try:
            for name, value in self._traits(content).items():
                if getattr(self.widget, name) != value:
                    setattr(self.widget, name, value)
        finally:
            self._is_showing = False

    def _traits(self, content: Content) -> dict[str, Any]:
        """In the order in which they can be set: a choice must be there before it is chosen."""
        if not self._choices:
            return {"description": content.label, "placeholder": content.inherited, "value": content.text}
        known = not content.text or content.text in self._choices
        words = self._choices if known else (*self._choices, content.text)
        options = ((f"({content.inherited})", ""), *((word, word) for word in words))
        return {"description": content.label, "options": options, "value": content.text}


def choices_of(key: str) -> Sequence[str]:
    """The words to choose from, none for a key that is written freely."""
    known = KEYS.get(key)
    if known is None or not (known.choices or known.is_switch):
        return ()
    words = known.choices or _SWITCH
    return (*words, _NULL) if known.is_nullable else words


def _kind(key: str, choices: Sequence[str]) -> Callable[..., widgets.ValueWidget]:
    if choices:
        return widgets.Dropdown
    if key in KEYS and KEYS[key].is_secret:
        return partial(widgets.Password, continuous_update=False)
    if is_mapping(key):
        return partial(widgets.Textarea, continuous_update=False, rows=3)
    return partial(widgets.Text, continuous_update=False)
