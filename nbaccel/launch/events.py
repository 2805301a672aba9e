"""What a running job lets be seen."""

from __future__ import annotations

from dataclasses import dataclass

from nbaccel.wire.messages import Shown


@dataclass(frozen=True)
class Text:
    """Text that was printed.

    Attributes:
        stream: 1 for standard output, 2 for standard error.
        text: what was printed.
    """

    stream: int
    text: str


@dataclass(frozen=True)
class Rich:
    """Rich output of a rank."""

    rank: int
    shown: Shown


Event = Text | Rich
