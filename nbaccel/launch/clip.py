"""Bounds what a cell shows of a flood: its beginning, its end, and how much was left out between them. Pure."""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from itertools import groupby

HEAD_LINES = 500
HEAD_CHARACTERS = 512 << 10
TAIL_LINES = 100
TAIL_CHARACTERS = 64 << 10

Pieces = list[tuple[int, str]]
"""Stream (1 or 2) and text."""


class Clip:
    """Passes the beginning of a cell's text on and keeps its end.

    Args:
        head_lines: so many lines are passed on,
        head_characters: and so many characters at most. States that a progress bar overwrites do not count, so that a
            bar may go on for hours.
        tail_lines: so many of the last lines are kept from then on,
        tail_characters: and so many characters at most.

    Attributes:
        overflowing: whether the beginning is full, so that text is kept instead of passed on.
    """

    def __init__(
        self,
        head_lines: int = HEAD_LINES,
        head_characters: int = HEAD_CHARACTERS,
        tail_lines: int = TAIL_LINES,
        tail_characters: int = TAIL_CHARACTERS,
    ) -> None:
        self.overflowing = False
        self._lines_left, self._characters_left = head_lines, head_characters
        self._cursors = {1: _Cursor(), 2: _Cursor()}
        self._has_passed = False
        self._tail = _Tail(tail_lines, tail_characters)

    @property
    def left_out_lines(self) -> int:
        """Lines that have gone by and will not be shown."""
        return self._tail.left_out_lines

    @property
    def left_out_characters(self) -> int:
        """Characters that have gone by and will not be shown."""
        return self._tail.left_out_characters

    @property
    def last_line(self) -> str:
        """The last line that was kept and is not blank, as a terminal would show it, without colours."""
        return self._tail.last_line()

    def feed(self, stream: int, text: str) -> Pieces:
        """Text that was printed. Returns what is to be shown now."""
        if self.overflowing:
            self._tail.add(stream, text)
            return []
        text = collapse(text, fresh=self._cursors[stream].is_fresh())
        cut = self._room(stream, text)
        shown, rest = text[:cut], text[cut:]
        self._pass(stream, shown)
        if rest:
            self.overflowing = True
            self._tail.add(stream, rest)
        return [(stream, shown)] if shown else []

    def finish(self) -> Pieces:
        """No more text will come. Returns the end of what was not shown."""
        return self._tail.take()

    def _room(self, stream: int, text: str) -> int:
        """How much of this text still fits: whole lines if possible, part of a line that alone is too long."""
        cursor = self._cursors[stream]
        end = _end_of_lines(text, self._lines_left)
        if cursor.cost(text[:end]) <= self._characters_left:
            return end
        cut = text.rfind("\n", 0, self._characters_left) + 1
        can_wait = cursor.is_fresh() and self._has_passed
        return cut if cut or can_wait else self._characters_left

    def _pass(self, stream: int, text: str) -> None:
        cursor = self._cursors[stream]
        self._lines_left -= text.count("\n")
        self._characters_left -= cursor.cost(text)
        cursor.move(text)
        self._has_passed = self._has_passed or bool(text)


@dataclass
class _Cursor:
    """Where the next character goes in a stream's last line, and how wide that line is already."""

    column: int = 0
    width: int = 0

    def is_fresh(self) -> bool:
        return not self.width

    def cost(self, text: str) -> int:
        """How many characters there will be more to see. What only overwrites costs nothing."""
        first = text.partition("\n")[0]
        return len(text) - len(first) + self._width_after(first) - self.width

    def move(self, text: str) -> None:
        _, newline, line = text.rpartition("\n")
        if newline:
            self.column = self.width = 0
        self.width = self._width_after(line)
        self.column = len(line.rpartition("\r")[2]) + (0 if "\r" in line else self.column)

    def _width_after(self, line: str) -> int:
        leading, *states = line.split("\r")
        return max(self.width, self.column + len(leading), *map(len, states))


class _Tail:
    """The last lines of both streams, in their order."""

    def __init__(self, most_lines: int, most_characters: int) -> None:
        self.left_out_lines = self.left_out_characters = 0
        self._most_lines, self._most_characters = most_lines, most_characters
        self._pieces: deque[tuple[int, str]] = deque()
        self._num_lines = self._num_characters = 0

    def add(self, stream: int, text: str) -> None:
        last_lines = self._end(text, self._most_lines, len(text))
        if len(last_lines) < len(text):  # only these are looked at more closely, which keeps a flood quick
            self._leave_all_out()
            self._append(stream, collapse(last_lines, fresh=True))
        else:
            self._append(stream, self._with_open_line(stream, text))
        while self._num_lines > self._most_lines or self._num_characters > self._most_characters:
            self._shorten()

    def take(self) -> Pieces:
        pieces = [
            (stream, "".join(text for _, text in group))
            for stream, group in groupby(self._pieces, key=lambda piece: piece[0])
        ]
        self._forget()
        return pieces

    def last_line(self) -> str:
        text = "".join(text for stream, text in self._pieces if stream == self._pieces[-1][0])
        line = _HARMLESS.sub("", text).rstrip().rpartition("\n")[2]
        return _overlay(line.split("\r")).rstrip()

    def _with_open_line(self, stream: int, text: str) -> str:
        """A progress bar's new state is put to the one that is kept and takes its place."""
        if not self._pieces or self._pieces[-1][0] != stream:
            return collapse(text)
        kept = self._pieces[-1][1]
        start = kept.rfind("\n") + 1
        if "\r" not in text and "\r" not in kept[start:]:
            return text
        self._pieces.pop()
        self._count(kept, -1)
        self._append(stream, kept[:start])
        return collapse(kept[start:] + text, fresh=start > 0)

    def _append(self, stream: int, text: str) -> None:
        if text:
            self._pieces.append((stream, text))
            self._count(text, 1)

    def _shorten(self) -> None:
        """Drop the oldest piece, or as much of it as must go."""
        stream, text = self._pieces.popleft()
        self._count(text, -1)
        text = self._end(text, self._most_lines - self._num_lines, self._most_characters - self._num_characters)
        if text:
            self._pieces.appendleft((stream, text))
            self._count(text, 1)

    def _end(self, text: str, most_lines: int, most_characters: int) -> str:
        """The end of a text that fits; the rest is left out."""
        start = _start_of_end(text, most_lines, most_characters)
        self.left_out_lines += text.count("\n", 0, start)
        self.left_out_characters += start
        return text[start:]

    def _leave_all_out(self) -> None:
        """The newest piece alone is more than fits."""
        self.left_out_lines += self._num_lines
        self.left_out_characters += self._num_characters
        self._forget()

    def _forget(self) -> None:
        self._pieces.clear()
        self._num_lines = self._num_characters = 0

    def _count(self, text: str, sign: int) -> None:
        self._num_lines += sign * text.count("\n")
        self._num_characters += sign * len(text)


def _end_of_lines(text: str, num_lines: int) -> int:
    """Where a text's first so many lines end."""
    parts = text.split("\n", num_lines)
    return len(text) if len(parts) <= num_lines else len(text) - len(parts[-1])


def _start_of_end(text: str, num_lines: int, num_characters: int) -> int:
    """Where a text's last so many lines and characters begin: at the beginning of a line, unless that is too long."""
    if num_lines < 0 or num_characters <= 0:
        return len(text)
    start = max(len(text) - num_characters, 0)
    if start:
        line = text.find("\n", start - 1) + 1
        start = line if 0 < line < len(text) else start
    newline = len(text)
    for _ in range(num_lines + 1):
        newline = text.rfind("\n", start, newline)
        if newline < 0:
            return start
    return newline + 1


_HARMLESS = re.compile(r"\x1b\[[0-9;]*m|\x1b\[[02]?K")
"""Escape sequences that take no room and leave the cursor where it is: colours, and erasing the line."""
_ERASE = re.compile(r"\x1b\[[02]?K")
_BACKSPACES = re.compile("\b+\r")
"""How Keras returns to the beginning of a line."""


def collapse(text: str, *, fresh: bool = False) -> str:
    """Drop the states of progress bars that later ones overwrite; a terminal shows the same of what is left.

    Args:
        text: what was printed.
        fresh: whether it begins a line. Otherwise its first line goes on one that is shown already, so that it must
            return to the beginning of that as before.
    """
    if "\r" not in text:
        return text
    first, *others = _BACKSPACES.sub("\r", text.replace("\r\n", "\n")).split("\n")
    leading, returns, states = first.partition("\r")
    if leading and fresh:
        first = _last_states(first, is_open=not others)
    else:
        first = leading + returns + _last_states(states, is_open=not others)
    lines = [_last_states(line, is_open=False) if "\r" in line else line for line in others[:-1]]
    return "\n".join([first, *lines, *(_last_states(line, is_open=True) for line in others[-1:])])


def _last_states(line: str, *, is_open: bool) -> str:
    """What can still be seen of a line's states. An open line keeps its cursor's place, so one or more may remain."""
    if "\x1b" in line or "\b" in line:
        return _last_styled_states(line)
    states = line.split("\r")
    if len(states[-1]) == max(map(len, states)):
        return states[-1]
    seen = _seen(states, [len(state) for state in states])
    return "\r".join(seen) if is_open else _overlay(seen)


def _last_styled_states(line: str) -> str:
    """The same for a line with escape sequences, unless they move the cursor in ways that are not followed here."""
    plain = _HARMLESS.sub("", line)
    if "\x1b" in plain or "\b" in plain:
        return line
    states = line.split("\r")
    widths = [len(state) for state in plain.split("\r")]
    later = max((number for number, state in enumerate(states, 1) if _ERASE.search(state)), default=0)
    erasing = states[later - 1 : later] if later else []
    return "\r".join(erasing + _seen(states[later:], widths[later:]))


def _seen(states: list[str], widths: list[int]) -> list[str]:
    """The states that stick out under those that follow."""
    seen: list[str] = []
    widest = -1
    for state, width in zip(reversed(states), reversed(widths), strict=True):
        if width > widest:
            seen.append(state)
            widest = width
    return seen[::-1]


def _overlay(states: list[str]) -> str:
    shown = ""
    for state in states:
        shown = state + shown[len(state) :]
    return shown
