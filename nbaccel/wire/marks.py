"""Marks: how messages on the channel keep their place among the text in the pipes.

Text and messages travel on two ways. Beside each message that must keep its place the worker writes a mark into its
pipes; the kernel side shows text up to the mark, then the message, then what follows.
"""

from __future__ import annotations

import re

_OPEN, _CLOSE = b"\x1b_nbaccel:", b"\x1b\\"


def mark_bytes(token: str, number: int) -> bytes:
    """What the worker writes. The token is random, so that no output looks like a mark by accident."""
    return b"%s%s:%d%s" % (_OPEN, token.encode(), number, _CLOSE)


class MarkSplitter:
    """Splits a stream of bytes into text and mark numbers, however the bytes are cut."""

    def __init__(self, token: str) -> None:
        self._pattern = re.compile(re.escape(_OPEN + token.encode() + b":") + rb"(\d+)" + re.escape(_CLOSE))
        self._longest = len(mark_bytes(token, 0)) + 20
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes | int]:
        """Text and marks that are complete; the beginning of what may become a mark is kept back."""
        data = self._rest + data
        items: list[bytes | int] = []
        position = 0
        for match in self._pattern.finditer(data):
            if match.start() > position:
                items.append(data[position : match.start()])
            items.append(int(match[1]))
            position = match.end()
        keep = self._possible_mark(data, position)
        if keep > position:
            items.append(data[position:keep])
        self._rest = data[keep:]
        return items

    def _possible_mark(self, data: bytes, position: int) -> int:
        start = data.rfind(b"\x1b", max(position, len(data) - self._longest))
        if start < 0:
            return len(data)
        tail = data[start:]
        could_be = tail.startswith(_OPEN) or _OPEN.startswith(tail)
        if tail == b"\x1b" and data.rfind(_OPEN, position, start) >= max(position, start - self._longest):
            return data.rfind(_OPEN, position, start)  # the closing sequence itself was cut in two
        return start if could_be else len(data)

    def flush(self) -> bytes:
        """What was kept back, once no more can come."""
        rest, self._rest = self._rest, b""
        return rest
