"""How everything of nbaccel looks in a notebook: one sheet of style, HTML that is escaped, curves as pictures."""

from __future__ import annotations

from nbaccel.look.html import (
    Html,
    Mood,
    badge,
    bold,
    code,
    div,
    heading,
    in_mood,
    joined,
    quiet,
    region,
    struck,
    table,
    told,
)

__all__ = [
    "Html",
    "Mood",
    "badge",
    "bold",
    "code",
    "div",
    "heading",
    "in_mood",
    "joined",
    "quiet",
    "region",
    "struck",
    "table",
    "told",
]
