"""The channel: messages and descriptors over a private socket pair between two processes of one user."""

from __future__ import annotations

import os
import pickle
import socket
import threading
from collections.abc import Sequence

from multiprocess.connection import Connection


class Channel:
    """One end of a socket pair that carries messages, each with the descriptors that belong to it.

    Sending is safe from several threads; receiving belongs to one.
    """

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._connection = Connection(os.dup(end.fileno()))
        self._sending = threading.Lock()

    def fileno(self) -> int:
        return self._connection.fileno()

    def send(self, message: object, descriptors: Sequence[int] = ()) -> None:
        """Send a message. Raises OSError (BrokenPipeError) when the other end is gone."""
        payload = bytes([len(descriptors)]) + pickle.dumps(message, protocol=5)
        with self._sending:
            self._connection.send_bytes(payload)
            if descriptors:
                socket.send_fds(self._socket, [b"+"], list(descriptors))

    def receive(self) -> tuple[object, list[int]]:
        """The next message and its descriptors, which the caller must close.

        Raises EOFError at the end, and what unpickling the message raises; the channel can be read on after that.
        """
        payload = self._connection.recv_bytes()
        descriptors: list[int] = []
        if payload[0]:
            received, descriptors, _, _ = socket.recv_fds(self._socket, 1, payload[0])
            if not received:
                raise EOFError("the other end closed in the middle of a message")
        return pickle.loads(memoryview(payload)[1:]), list(descriptors)

    def ready(self) -> bool:
        """Whether `receive` would not wait."""
        return bool(self._connection.poll(0))

    def close(self) -> None:
        self._connection.close()
        self._socket.close()
