"""Why a key has its value, in words and as tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from nbaccel.config.layers import Setting
from nbaccel.config.schema import KEYS, Key
from nbaccel.config.secrets import masked
from nbaccel.look import Html, bold, code, heading, in_mood, joined, quiet, region, struck
from nbaccel.look import table as html_table


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
        shadowed = [
            ("shadowed", setting.layer, struck(code(repr(masked(self.key, setting.value)))), setting.place)
            for setting in self.shadowed
        ]
        winner = (in_mood("\N{CHECK MARK} in force", "good"), self.layer, bold(code(repr(self.value))), self.place)
        chain = html_table(("", "layer", "value", "where"), [winner, *shadowed], marked=[0])
        possible = f"Possible: {self.possible}." if self.possible else ""
        below = [quiet(line) for line in (self.text, possible, self.effect) if line]
        return region(joined([heading(code(self.key)), chain, joined(below, Html("<br>"))]), label=f"why {self.key}")


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
    if known is None or winner.layer == "default":
        return ""
    return unmet(known, value_of)


def unmet(known: Key, value_of: Callable[[str], Any]) -> str:
    """Why a key would have no effect if it was set; empty if it would have one.

    Args:
        known: the key.
        value_of: the value of any key.
    """
    if known.needs is None:
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
        rows = [(code(key), code(value), layer, place) for key, value, layer, place in self.rows]
        return region(html_table(("key", "value", "layer", "where"), rows), label="configuration")
