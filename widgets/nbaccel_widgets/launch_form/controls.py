"""One control for each field, and beside it a note that says what is possible, or what is wrong."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import ipywidgets as widgets

from nbaccel.config import Key, Resolved
from nbaccel.config.check import checked
from nbaccel.config.secrets import MASK, is_secret, masked
from nbaccel.errors import ConfigError
from nbaccel.look import Html, bold, code, in_mood, joined, quiet, told
from nbaccel_widgets.launch_form.hidden import Hidden
from nbaccel_widgets.launch_form.parameters import NEEDED, Field
from nbaccel_widgets.launch_form.values import Named, WrittenError, code_of, fitting, looked_up

_LABEL = "15em"
_EXACT = 2**53
"""Larger whole numbers do not survive a number field: front ends count in doubles."""


def plain(content: str, style: str = "") -> Html:
    """A block in the style that the form's head has brought along."""
    return Html(f'<div class="nba" style="{style}">{told(content)}</div>')


# The height is fixed, so that nothing moves while a note comes and goes.
_NOTE_STYLE = "height:2.6em;line-height:1.3;overflow:auto;display:flex;align-items:center"


def small_button(label: str, tooltip: str) -> widgets.Button:
    """A button that is no wider than its label."""
    return widgets.Button(description=label, tooltip=tooltip, layout=widgets.Layout(width="auto"))


class Control:
    """A control with its note.

    Attributes:
        name: what it is about; its label.
        widget: the ipywidget.
        note: the HTML beside it.
    """

    def __init__(self, name: str, widget: widgets.ValueWidget) -> None:
        self.name, self.widget = name, widget
        self.note = widgets.HTML(layout=widgets.Layout(margin="0", width="auto"))
        self.untouched = self.written

    @property
    def written(self) -> Any:
        """What is written, as it is."""
        return self._meant(self.widget.value)

    def _meant(self, value: Any) -> Any:
        """What a content of the widget means; spaces around it mean nothing."""
        return value.strip() if isinstance(value, str) else value

    @property
    def is_touched(self) -> bool:
        """Whether it holds something else than in the beginning."""
        return bool(self.written != self.untouched)

    def write(self, written: Any) -> None:
        """Put something into it."""
        self.widget.value = written

    def tell(self, content: str) -> None:
        """Show a note; the same one again costs nothing."""
        self.note.value = plain(Html(f"<div>{told(content)}</div>"), _NOTE_STYLE)


def wrong(text: str) -> Html:
    """What is wrong, with a sign, so that it does not hang on the colour."""
    return in_mood(f"\N{BALLOT X} {text}", "bad")


class ParameterControl(Control):
    """The control of a field of a function's parameters.

    Args:
        field: the field.
        namespace: the notebook's variables.
        place: where the default comes from if not from the function.
    """

    def __init__(self, field: Field, namespace: Mapping[str, Any], place: str = "") -> None:
        self.field, self._namespace, self._place = field, namespace, place
        self._hidden = Hidden()
        super().__init__(field.name, _widget(field, self._text(field)))

    def _meant(self, value: Any) -> Any:
        return value if self.field.kind == "text" else super()._meant(value)

    def rest_on(self, field: Field, place: str) -> None:
        """The default is another one now; a control that nobody has touched shows it.

        Args:
            field: the field with that default.
            place: where it comes from if not from the function.
        """
        was_touched = self.is_touched
        self.field, self._place = field, place
        content = _content(field, self._text(field), self.widget)
        self.untouched = self._meant(content)
        if not was_touched and self.is_touched:
            self.write(content)

    def put(self, value: Any) -> None:
        """Write a value into it. Raises ConfigError if it is a number that the control cannot hold."""
        field = replace(self.field, default=value)
        if isinstance(self.widget, widgets.IntText | widgets.FloatText) and not _is_plain_number(field):
            written = f"{self.name}={masked(self.name, value)!r}"
            raise ConfigError(written, "from the argument params=", "what a number field can hold: up to 2**53, finite")
        self.write(_content(field, self._text(field), self.widget))

    def value(self) -> Any:
        """The value that is written.

        Raises:
            WrittenError: it is none; says what is possible.
        """
        written, field = self.written, self.field
        if field.default is not NEEDED and not self.is_touched:
            return field.default  # also one that its own annotation does not allow, or that no text stands for
        if field.kind == "choice":
            if written not in dict(field.choices):
                raise WrittenError(f"choose one. Possible: {field.possible}")
            return dict(field.choices)[written]
        if field.kind in ("whole", "number") and field.nullable and str(written).lower() == "none":
            return None
        if written == "" and field.kind != "text":
            if field.nullable:
                return None
            raise WrittenError(f"a value is needed. Possible: {field.possible}")
        if written == "" and field.nullable and field.default in (None, NEEDED):
            return None
        return self._object(written) if field.kind == "object" else self._fitting(written, _hint(field))

    def _text(self, field: Field) -> str:
        """The text that stands for a field's default."""
        if field.default is NEEDED:  # a parameter that is called as a variable of the notebook most likely means it
            return field.name if field.kind == "object" and field.name in self._namespace else ""
        if field.default is None:
            return ""
        is_object = field.kind not in ("text", "path", "whole", "number")
        return self._hidden.code_of(field.default) if is_object else str(field.default)

    def _fitting(self, value: Any, hint: Any) -> Any:
        return fitting(value, hint, self.field.possible, self.name)

    def _object(self, written: str) -> Any:
        try:
            found = looked_up(written, self._namespace)
        except WrittenError as problem:
            return self._as_text(written, problem)
        if isinstance(found, Named):
            self._fitting(found.value, self.field.hint)
            return found  # as it is, for so the line of code passes it
        return self._fitting(self._hidden.meant(found), self.field.hint)

    def _as_text(self, written: str, problem: WrittenError) -> Any:
        """What is no variable and no value may be wanted as a text."""
        if self.field.hint is Any:
            raise problem
        self._hidden.check(written)
        try:
            return self._fitting(written, self.field.hint)
        except WrittenError:
            raise problem from None

    def refresh(self) -> str:
        """Say what is possible, or what is wrong. Returns what is wrong, empty if all is well."""
        try:
            self.value()
        except WrittenError as error:
            self.tell(wrong(f"{error}."))
            return str(error)
        self.tell(joined(self._pieces(), " "))
        return ""

    def _pieces(self) -> Iterator[str]:
        if self.is_touched and self.field.default is not NEEDED:
            default = code(shown(self.name, self.field.default))
            yield joined([bold("changed"), quiet(joined([", else ", default, "."]))])
        elif self._place:
            yield quiet(f"From {self._place}.")
        if self.field.text:
            yield f"{self.field.text.rstrip('.')}."
        if self.field.kind not in ("switch", "choice"):
            yield quiet(f"{self.field.possible[:1].upper()}{self.field.possible[1:]}.")


def shown(name: str, value: Any) -> str:
    """A value as code, short; a secret's is hidden."""
    if is_secret(name):
        return MASK
    text = code_of(value, name)
    return text if len(text) <= 48 else f"{text[:45]}..."


def _hint(field: Field) -> Any:
    return type(field.default) if field.hint is Any and field.default not in (NEEDED, None) else field.hint


def _widget(field: Field, text: str) -> widgets.ValueWidget:
    looks = _looks(field.name)
    content = _content(field, text)
    if field.kind == "switch":
        return widgets.Checkbox(value=content, **looks)
    if field.kind == "choice":
        return widgets.Dropdown(options=[label for label, _ in field.choices], value=content, **looks)
    if _is_plain_number(field):
        step = field.range.step or (1 if field.kind == "whole" else None)
        make = widgets.IntText if field.kind == "whole" else widgets.FloatText
        return make(value=content, step=step, continuous_update=True, **looks)
    placeholder = "" if field.nullable else "needed"
    if is_secret(field.name):
        return widgets.Password(value=content, placeholder=placeholder, **looks)
    make_text = widgets.Textarea if field.kind == "text" and "\n" in content else widgets.Text
    return make_text(value=content, placeholder=placeholder, **looks)


def _content(field: Field, text: str, widget: widgets.ValueWidget | None = None) -> Any:
    """What the widget of a field holds when it holds the default; a number's keeps what it has if it cannot.

    Args:
        field: the field.
        text: what stands for the default where texts are written.
        widget: the field's own; None: it is still to be made.
    """
    if field.kind == "switch":
        return field.default is not NEEDED and bool(field.default)
    if field.kind == "choice":
        return next((label for label, value in field.choices if value == field.default), None)
    if isinstance(widget, widgets.IntText | widgets.FloatText):
        return field.default if _is_plain_number(field) else widget.value
    return field.default if widget is None and _is_plain_number(field) else text


def _is_plain_number(field: Field) -> bool:
    """Whether a number field can hold all that is possible."""
    default = field.default
    if field.kind not in ("whole", "number") or field.nullable or isinstance(default, bool):
        return False
    kinds = int if field.kind == "whole" else int | float
    return isinstance(default, kinds) and math.isfinite(default) and abs(default) < _EXACT


def _looks(name: str) -> dict[str, Any]:
    return {
        "description": name,
        "style": {"description_width": _LABEL},
        "layout": widgets.Layout(width="100%"),
    }


NULL = "none"
"""Null in a control or an argument; the argument None means that nothing is given."""


class KeyControl(Control):
    """The control of a key of the configuration. Empty, or at its first choice, it sets nothing; `none` sets null.

    Args:
        key: the key.
        inherited: what the lower layers say; None if they contradict themselves.
    """

    def __init__(self, key: Key, inherited: Resolved | None) -> None:
        self.key = key
        self._now = "not set" if inherited is None else told_value(inherited.value(key.name))
        super().__init__(key.name, self._made())

    def _made(self) -> widgets.ValueWidget:
        looks = _looks(self.key.name)
        if self.key.is_switch or self.key.choices:
            return widgets.Dropdown(options=self._options(), **looks)
        return widgets.Text(placeholder=self._now, **looks)

    def _options(self) -> list[tuple[str, str]]:
        choices = ("true", "false") if self.key.is_switch else self.key.choices
        null = (NULL,) if self.key.is_nullable else ()
        return [(f"{self._now} (as configured)", ""), *((one, one) for one in (*choices, *null))]

    def rest_on(self, base: Resolved) -> None:
        """Show what holds without this form."""
        now = told_value(base.value(self.name))
        if now == self._now:
            return
        self._now = now
        if isinstance(self.widget, widgets.Dropdown):
            chosen = self.widget.value
            self.widget.options = self._options()
            self.widget.value = chosen
        else:
            self.widget.placeholder = now

    def put(self, value: Any) -> None:
        """Write a value into it. Raises ConfigError if it is not valid."""
        found = checked(self.name, value, f"from the argument {self.name}=")
        self.write(NULL if found is None else told_value(found))

    def refresh(self, base: Resolved) -> str:
        """Say who sets it, or what is wrong. Returns what is wrong, empty if all is well."""
        try:
            if self.is_touched:
                base.with_setting(self.name, self.written, "this form")
        except ConfigError as error:
            self.tell(wrong(f"{error.written} is not valid. Possible: {error.possible}."))
            return str(error)
        origin = base.origin(self.name)
        value = code(told_value(base.value(self.name)))
        below = value if origin.layer == "default" else joined([value, f" from {origin.place}"])
        if self.is_touched:
            self.tell(joined([bold("changed"), quiet(joined([", else ", below, ". ", self.key.text]))]))
        else:
            said = [] if origin.layer == "default" else [below, ". "]
            self.tell(joined([*said, quiet(self.key.text)]))
        return ""


def told_value(value: Any) -> str:
    """A value of the configuration in a few characters."""
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "true" if value else "false"
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
