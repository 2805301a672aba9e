"""Why a key has its value, in words and as tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from nbaccel.config.layers import PARAMS, Setting
from nbaccel.config.schema import KEYS
from nbaccel.config.secrets import masked


@dataclass(frozen=True)
class Explanation:
    """Which value a key has, and why.

    Attributes:
        key: its dotted name.
        value: the value in force; secrets are masked.
        layer: the layer that set it.
        place: where exactly: file:line:column, variable, flag, argument.
        shadowed: what lower layers say, the highest first.
        effect: whether it changes anything, and if not, why.
        possible: the legal values, in words.
        text: what the key is for.
    """

    key: str
    value: Any
    layer: str
    place: str
    shadowed: tuple[Setting, ...]
    effect: str
    possible: str
    text: str

    def __str__(self) -> str:
        lines = [f"{self.key} = {self.value!r} from {self.place} ({self.layer})"]
        lines += [
            f"  shadows {masked(self.key, setting.value)!r} from {setting.place} ({setting.layer})"
            for setting in self.shadowed
            if setting.layer != "default" or setting.value is not None  # a default of None says nothing
        ]
        if self.effect:
            lines.append(f"  {self.effect}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        rows = [_row("\N{CHECK MARK} in force", self.layer, repr(self.value), self.place, bold=True)]
        rows += [
            _row("shadowed", setting.layer, repr(masked(self.key, setting.value)), setting.place, struck=True)
            for setting in self.shadowed
        ]
        below = "<br>".join(
            filter(None, [self.text, f"Possible: {self.possible}." if self.possible else "", self.effect])
        )
        return (
            f"<b><code>{escape(self.key)}</code></b>"
            f'<table style="text-align:left"><tr>{"".join(_HEADS)}</tr>{"".join(rows)}</table>'
            f'<div style="color:var(--jp-ui-font-color2,inherit)">{below}</div>'
        )


_LEFT = 'style="text-align:left"'
_HEADS = [f"<th {_LEFT}>{head}</th>" for head in ("", "layer", "value", "where")]


def _row(mark: str, layer: str, value: str, place: str, *, bold: bool = False, struck: bool = False) -> str:
    shown = f"<code>{escape(value)}</code>"
    if struck:
        shown = f"<s>{shown}</s>"
    if bold:
        shown = f"<b>{shown}</b>"
    cells = (escape(mark), escape(layer), shown, escape(place))
    return f"<tr>{''.join(f'<td {_LEFT}>{cell}</td>' for cell in cells)}</tr>"


def explanation(key: str, value: Any, settings: Sequence[Setting], value_of: Callable[[str], Any]) -> Explanation:
    """Explain one key.

    Args:
        key: its dotted name.
        value: its value in force, masked.
        settings: what the layers say, the winner first.
        value_of: the value of any key.
    """
    winner, *shadowed = settings
    known = KEYS.get(key)
    return Explanation(
        key=key,
        value=value,
        layer=winner.layer,
        place=winner.place,
        shadowed=tuple(shadowed),
        effect=_effect(key, winner, value_of),
        possible=known.possible if known else "",
        text=known.text if known else "A parameter of the training function or cell.",
    )


def _effect(key: str, winner: Setting, value_of: Callable[[str], Any]) -> str:
    """Empty where the key acts; else why it does not."""
    known = KEYS.get(key)
    if known is None or known.needs is None or winner.layer == "default" or key.startswith(f"{PARAMS}."):
        return ""
    other, words = known.needs
    now = value_of(other)
    if words == ("2 or more",):
        return "" if now > 1 else f"has no effect: {other} is {now}"
    if str(now) in words:
        return ""
    return f"has no effect: {other} is {_word(now)}, not {' or '.join(words)}"


def _word(value: Any) -> str:
    return "not set" if value is None else str(value)


def table(resolved: Any, keys: Sequence[str]) -> Table:
    """A table of keys with value, layer and place. Prints as text and as HTML."""
    return Table(
        tuple(
            (key, repr(masked(key, resolved.value(key))), resolved.origin(key).layer, resolved.origin(key).place)
            for key in keys
        )
    )


@dataclass(frozen=True)
class Table:
    """Keys, their values and where these came from."""

    rows: tuple[tuple[str, str, str, str], ...]

    def __str__(self) -> str:
        if not self.rows:
            return "nothing is set: every value is the default"
        widths = [min(max(len(row[column]) for row in self.rows), 60) for column in range(3)]
        return "\n".join(
            f"{key:<{widths[0]}} = {value:<{widths[1]}}  {layer:<{widths[2]}}  {place}".rstrip()
            for key, value, layer, place in self.rows
        )

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        heads = "".join(f"<th {_LEFT}>{head}</th>" for head in ("key", "value", "layer", "where"))
        body = "".join(
            "<tr>" + "".join(f"<td {_LEFT}>{cell}</td>" for cell in (
                f"<code>{escape(key)}</code>", f"<code>{escape(value)}</code>", escape(layer), escape(place)
            )) + "</tr>"
            for key, value, layer, place in self.rows
        )  # fmt: skip
        return f'<table style="text-align:left"><tr>{heads}</tr>{body}</table>'
