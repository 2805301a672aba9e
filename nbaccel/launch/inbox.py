"""An inbox: what other threads want of a thread that waits on descriptors."""

from __future__ import annotations

import os
import threading
from collections import deque
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Inbox(Generic[Item]):
    """A queue whose descriptor is readable when something is in it."""

    def __init__(self) -> None:
        self._items: deque[Item] = deque()
        self._read, self._write = os.pipe()
        self._ending = threading.Lock()
        self.closed = False

    def fileno(self) -> int:
        return self._read

    def put(self, item: Item) -> bool:
        """Append, from any thread. Returns false when nobody will take it any more."""
        with self._ending:
            if not self.closed:
                self._items.append(item)
                os.write(self._write, b"!")
            return not self.closed

    def clear_signal(self) -> None:
        """Called when the descriptor was readable, before `take`."""
        os.read(self._read, 64)

    def take(self) -> Item | None:
        """The next item; one at a time, since another thread may add one meanwhile."""
        return self._items.popleft() if self._items else None

    def close(self) -> list[Item]:
        """Take no more. Returns what nobody has taken."""
        with self._ending:
            self.closed = True
        os.close(self._write)
        os.close(self._read)
        return list(self._items)
