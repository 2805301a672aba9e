"""Puts one worker's text and messages into the order in which they were made. Pure."""

from __future__ import annotations

import codecs
from collections import deque
from typing import Protocol

from nbaccel.launch.events import Text
from nbaccel.wire.marks import MarkSplitter
from nbaccel.wire.messages import LAST

PATIENCE_S = 0.25
"""How long a message waits for its mark: code that redirects its descriptors swallows marks."""


class Marked(Protocol):
    """A message with a place among the text."""

    @property
    def mark(self) -> int: ...


Item = Text | Marked


class _Stream:
    def __init__(self, number: int, token: str) -> None:
        self.number = number
        self._splitter = MarkSplitter(token)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.queue: deque[Text | int] = deque()

    def feed(self, data: bytes) -> None:
        for item in self._splitter.feed(data):
            self.queue.append(item if isinstance(item, int) else Text(self.number, self._decoder.decode(item)))

    def finish(self) -> None:
        rest = self._decoder.decode(self._splitter.flush(), final=True)
        if rest:
            self.queue.append(Text(self.number, rest))

    def texts_before_mark(self) -> list[Item]:
        texts: list[Item] = []
        while self.queue and isinstance(self.queue[0], Text):
            texts.append(self.queue.popleft())  # type: ignore[arg-type]
        return texts

    def has_passed(self, mark: int) -> bool:
        return bool(self.queue) and isinstance(self.queue[0], int) and self.queue[0] >= mark

    def drop_marks(self, upto: int) -> None:
        while self.queue and isinstance(self.queue[0], int) and self.queue[0] <= upto:
            self.queue.popleft()


class Order:
    """Merges the two text streams and the messages of one worker."""

    def __init__(self, token: str) -> None:
        self._streams = {number: _Stream(number, token) for number in (1, 2)}
        self._messages: deque[tuple[float, Marked]] = deque()

    def text(self, stream: int, data: bytes) -> list[Item]:
        """Bytes from a pipe. Returns what may be shown now."""
        self._streams[stream].feed(data)
        return self._release(None)

    def message(self, message: Marked, now: float) -> list[Item]:
        """A message from the channel. Returns what may be shown now."""
        self._messages.append((now, message))
        return self._release(None)

    def expire(self, now: float) -> list[Item]:
        """Lets messages go whose marks never came."""
        return self._release(now) if self._messages else []

    def finish(self) -> list[Item]:
        """The worker is gone: everything that is left."""
        for stream in self._streams.values():
            stream.finish()
        return self._release(float("inf"))

    def waits(self) -> bool:
        return bool(self._messages)

    def _release(self, now: float | None) -> list[Item]:
        items: list[Item] = []
        while True:
            for stream in self._streams.values():
                items += stream.texts_before_mark()
            if not self._messages:
                return self._without_message(items, now)
            since, message = self._messages[0]
            in_place = message.mark == LAST or all(stream.has_passed(message.mark) for stream in self._streams.values())
            if not in_place and (now is None or now - since < PATIENCE_S):
                return items
            self._messages.popleft()
            items.append(message)
            for stream in self._streams.values():
                stream.drop_marks(message.mark)

    def _without_message(self, items: list[Item], now: float | None) -> list[Item]:
        """At the very end there may be marks whose messages were never sent."""
        if now == float("inf"):
            for stream in self._streams.values():
                items += [item for item in stream.queue if isinstance(item, Text)]
                stream.queue.clear()
        return items
