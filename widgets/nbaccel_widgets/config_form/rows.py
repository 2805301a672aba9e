"""A row of the form: a key's control, its reset, and beside them what all layers say."""

from __future__ import annotations

from collections.abc import Callable

import ipywidgets as widgets

from nbaccel.config.secrets import is_secret
from nbaccel_widgets.config_form.controls import Content, Control, Looks
from nbaccel_widgets.config_form.preview import note
from nbaccel_widgets.config_form.reading import Picture, State
from nbaccel_widgets.config_form.sections import label_of
from nbaccel_widgets.config_form.words import shortened, shown, text_of


class Row:
    """One key.

    Args:
        key: its dotted name.
        state: what it shows at first.
        looks: what all rows share.
        edited: called with the key and the text of its field when the user has changed it; empty text resets the key.

    Attributes:
        box: the row.
        control: its control, whose `value` is text.
        reset: the button that takes the key out of the edited layer; only there while the layer says something.
        note: what the key is for, the table of its layers, and what is wrong.
    """

    def __init__(self, key: str, state: State, looks: Looks, edited: Callable[[str, str], None]) -> None:
        self.key = key
        self._seen = self._sight(state)
        self._control = Control(key, self._content(state), looks, lambda text: edited(key, text))
        self.control = self._control.widget
        tooltip = f"Take {key} out of the layer that is edited"
        self.reset = widgets.Button(description="Reset", tooltip=tooltip, layout=looks.layout, style=looks.button)
        self.reset.on_click(lambda _: edited(key, ""))
        self.note = widgets.HTML(self._note(state), layout=looks.layout, style=looks.html)
        self.box = widgets.Box([self.control, self.reset, self.note], layout=looks.layout)
        self.box._dom_classes = self._classes(state)

    def show(self, state: State) -> None:
        """Show what the layers say; nothing is done where that is what is shown already."""
        seen = self._sight(state)
        if seen == self._seen:
            return
        self._seen = seen
        self._control.show(self._content(state))
        self.note.value = self._note(state)
        self.box._dom_classes = self._classes(state)

    def _sight(self, state: State) -> str:
        """All that the row depends on; as a text, for 1 and true are equal."""
        key, picture = self.key, state.picture
        said = (picture.chain.get(key), picture.own(key), picture.below(key), picture.problems.get(key))
        return repr((*said, picture.obstacle(key), key in state.changed, state.wrong.get(key)))

    def _content(self, state: State) -> Content:
        own = state.picture.own(self.key)
        wrong = state.wrong.get(self.key)
        text = wrong[0] if wrong else text_of(self.key, own.value) if own else ""
        label = label_of(self.key)
        is_changed = self.key in state.changed
        return Content(f"{label} \N{BULLET} changed" if is_changed else label, text, self._inherited(state.picture))

    def _inherited(self, picture: Picture) -> str:
        """What holds if the edited layer says nothing; of a secret, only that there is one."""
        below = picture.below(self.key)
        if below is None:
            return "not set"
        if is_secret(self.key):
            return "set" if below.value else "not set"
        value = shortened(shown(below.value))
        return value if below.layer == "default" else f"{value}, {below.layer}"

    def _note(self, state: State) -> str:
        wrong = state.wrong.get(self.key)
        return note(self.key, state.picture, wrong[1] if wrong else "")

    def _classes(self, state: State) -> tuple[str, ...]:
        is_own = state.picture.own(self.key) is not None or self.key in state.wrong
        marks = (("nba-own", is_own), ("nba-changed", self.key in state.changed))
        return ("nba-row", *(name for name, holds in marks if holds))
