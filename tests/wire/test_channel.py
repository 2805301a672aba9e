from __future__ import annotations

import os
import pickle
import socket

import pytest

from nbaccel.wire.channel import Channel
from nbaccel.wire.messages import Exit, Preload


def test_messages_and_their_descriptors_arrive_in_order() -> None:
    left, right = map(Channel, socket.socketpair())
    read, write = os.pipe()
    left.send(Preload(("a",), {"A": "1"}), (write,))
    left.send(Exit())
    message, descriptors = right.receive()
    assert message == Preload(("a",), {"A": "1"})
    os.write(descriptors[0], b"hello")
    assert os.read(read, 5) == b"hello"
    assert right.ready()
    assert right.receive() == (Exit(), [])
    assert not right.ready()
    left.close()
    with pytest.raises(EOFError):
        right.receive()
    right.close()
    for descriptor in (read, write, *descriptors):
        os.close(descriptor)


def test_sending_to_nobody_raises() -> None:
    left, right = map(Channel, socket.socketpair())
    right.close()
    with pytest.raises(BrokenPipeError):
        left.send(Exit())
    left.close()


def test_an_end_in_the_middle_of_a_message_is_an_end() -> None:
    mine, theirs = socket.socketpair()
    left, right = Channel(mine), Channel(theirs)
    left._connection.send_bytes(b"\x01" + pickle.dumps(Exit()))
    left.close()
    with pytest.raises(EOFError, match="middle of a message"):
        right.receive()
    right.close()
