"""Beside each key: what every layer says, which one wins, and where it says so."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from nbaccel.config import KEYS, Setting
from nbaccel.config.secrets import masked
from nbaccel.look import Html, code, in_mood, joined, quiet, struck, told
from nbaccel_widgets.config_form.reading import COLUMNS, Picture
from nbaccel_widgets.config_form.words import shortened, shown

_NOTHING = '<span class="nba-none">\N{MIDDLE DOT}</span>'
_SIGN = "\N{CHECK MARK}"
_WIDTHS = (12, 9, 13, 16, 10, 14, 11, 15)
"""Of the columns, in hundredths: long names and long values get more."""
_COLUMNS = "<colgroup>" + "".join(f'<col style="width:{width}%">' for width in _WIDTHS) + "</colgroup>"
_HEADS = "".join(f'<th scope="col">{name}</th>' for name in COLUMNS.values())
HEADER = Html(
    '<div class="nba-heads" aria-hidden="true"><span>key</span><span>value here</span>'
    f'<table class="nba-layers">{_COLUMNS}<tr>{_HEADS}</tr></table></div>'
)
"""Stays on top while rows are scrolled; the rows' own tables carry the same titles for those who hear them."""


def note(key: str, picture: Picture, wrong: str = "") -> Html:
    """The text of a key and the table of its layers.

    Args:
        key: its dotted name.
        picture: what the layers say.
        wrong: why what is in the field is not valid.
    """
    problem = wrong or picture.problems.get(key, "")
    text = KEYS[key].text if key in KEYS else "A parameter of the training function or cell."
    below = in_mood(f"\N{BALLOT X} {problem}", "bad") if problem else quiet(text)
    role = ' role="alert"' if problem else ""
    chain = picture.chain.get(key, ())
    layers = joined([_table(key, chain), _places(key, chain, picture)])
    return Html(f'<div class="nba-help"{role}>{below}</div><div class="nba-chain">{layers}</div>')


def _table(key: str, chain: Sequence[Setting]) -> Html:
    cells = joined(_cell(key, chain, layer) for layer in COLUMNS)
    return Html(
        f'<table class="nba-layers" aria-label="layers of {escape(key)}">{_COLUMNS}<thead><tr>{_HEADS}</tr></thead>'
        f"<tbody><tr>{cells}</tr></tbody></table>"
    )


def _cell(key: str, chain: Sequence[Setting], layer: str) -> Html:
    """What one layer says; two may have its name, as a profile and its project's file."""
    said = [_said(key, setting, wins=number == 0) for number, setting in enumerate(chain) if setting.layer == layer]
    if not said:
        return Html(f"<td>{_NOTHING}</td>")
    css = ' class="nba-winning"' if chain[0].layer == layer != "default" else ""
    return Html(f"<td{css}>{joined(said, between=' ')}</td>")


def _said(key: str, setting: Setting, *, wins: bool) -> Html:
    whole = _value(key, setting)
    words = told(f"{_SIGN} {shortened(whole)}") if wins else struck(shortened(whole))
    css = "nba-loses" if not wins else "nba-wins" if setting.layer != "default" else "nba-holds"
    return Html(f'<span class="{css}" title="{escape(whole)}">{words}</span>')


def _value(key: str, setting: Setting) -> str:
    return shown(masked(key, setting.value), "not set" if setting.layer == "default" else "null")


def _places(key: str, chain: Sequence[Setting], picture: Picture) -> Html:
    """Where the winner and those that it shadows stand, as far as somebody has said something."""
    places = [
        _place(key, setting, wins=number == 0) for number, setting in enumerate(chain) if setting.layer != "default"
    ]
    obstacle = picture.obstacle(key) if places else ""
    if obstacle:
        places.append(in_mood(f"! {obstacle}", "warn"))
    return Html(f'<div class="nba-places">{joined(places, between=" ")}</div>')


def _place(key: str, setting: Setting, *, wins: bool) -> Html:
    value = code(shortened(_value(key, setting)))
    where = quiet(setting.place)
    return Html(f"<span>{joined([f'{_SIGN} ', value, ' ', where] if wins else [struck(value), ' ', where])}</span>")
