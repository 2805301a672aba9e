"""Pieces of HTML. Whatever is a plain `str` gets escaped; what is `Html` already is put in as it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Literal

from nbaccel.look.sheet import STYLE

Mood = Literal["quiet", "accent", "good", "warn", "bad"]

_SIGNS = {"good": "\N{CHECK MARK}", "warn": "!", "bad": "\N{BALLOT X}", "accent": "\N{BLACK RIGHT-POINTING TRIANGLE}"}


class Html(str):
    """Text that is HTML, with everything foreign in it escaped."""

    __slots__ = ()


def told(content: str) -> Html:
    """Text as HTML: escaped, unless it is HTML already."""
    return content if isinstance(content, Html) else Html(escape(content))


def joined(contents: Iterable[str], between: str = "") -> Html:
    """One after the other.

    Args:
        contents: text or HTML.
        between: what stands between two of them.
    """
    return Html(told(between).join(told(content) for content in contents))


def code(text: str) -> Html:
    """A name or value of code."""
    return Html(f"<code>{told(text)}</code>")


def bold(content: str) -> Html:
    """What is looked for first."""
    return Html(f"<b>{told(content)}</b>")


def struck(content: str) -> Html:
    """What does not hold any more."""
    return Html(f"<s>{told(content)}</s>")


def in_mood(content: str, mood: Mood) -> Html:
    """In a colour that means something; say it in words or by a sign, too."""
    return Html(f'<span class="nba-{mood}">{told(content)}</span>')


def quiet(content: str) -> Html:
    """What is read last."""
    return in_mood(content, "quiet")


def badge(word: str, mood: Mood = "quiet") -> Html:
    """A state in a word, with a sign, so that it does not hang on the colour."""
    sign = _SIGNS.get(mood, "")
    return Html(f'<span class="nba-badge nba-{mood}">{f"{sign} " if sign else ""}{told(word)}</span>')


def heading(content: str) -> Html:
    """The title of a region."""
    return Html(f"<h4>{told(content)}</h4>")


def div(content: str, style: str = "") -> Html:
    """A block.

    Args:
        content: text or HTML.
        style: CSS, of our own.
    """
    return Html(f'<div style="{style}">{told(content)}</div>' if style else f"<div>{told(content)}</div>")


def table(
    heads: Sequence[str], rows: Iterable[Sequence[str]], *, marked: Iterable[int] = (), numbers: Iterable[int] = ()
) -> Html:
    """A table.

    Args:
        heads: a title for each column; none: no line of titles.
        rows: text or HTML by row and column.
        marked: rows to be marked, from 0.
        numbers: columns of numbers, from 0: they stand on the right.
    """
    chosen, right = set(marked), set(numbers)
    head = "".join(f'<th scope="col">{told(title)}</th>' for title in heads)
    body = "".join(_row(row, number in chosen, right) for number, row in enumerate(rows))
    return Html(
        f'<table class="nba-table">{f"<thead><tr>{head}</tr></thead>" if head else ""}<tbody>{body}</tbody></table>'
    )


def _row(cells: Sequence[str], is_marked: bool, right: set[int]) -> str:
    inner = "".join(
        f'<td class="nba-number">{told(cell)}</td>' if column in right else f"<td>{told(cell)}</td>"
        for column, cell in enumerate(cells)
    )
    return f'<tr class="nba-marked">{inner}</tr>' if is_marked else f"<tr>{inner}</tr>"


def region(content: str, *, label: str = "", live: bool = False) -> Html:
    """The outermost block of an output; brings the style along.

    Args:
        content: text or HTML.
        label: what it is, for those who hear it.
        live: whether its changes are to be heard.
    """
    role = ' role="status" aria-live="polite"' if live else ' role="group"' if label else ""
    name = f' aria-label="{escape(label)}"' if label else ""
    return Html(f'{STYLE}<div class="nba"{role}{name}>{told(content)}</div>')
