"""What the kernel reads of a worker's output at once: never more than there was, however fast somebody writes."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from nbaccel.launch.events import Text
from nbaccel.launch.process import ProcessHandle
from nbaccel.launch.worker import Worker
from nbaccel.wire.channel import Channel
from nbaccel.wire.parcel import MemoryFile

CAPACITY_BYTES = 1 << 16
"""Of a pipe, on Linux and macOS."""


@pytest.fixture
def worker_and_stdout() -> Iterator[tuple[Worker, int]]:
    """A worker whose other ends nobody has yet, and where its standard output goes in."""
    with ExitStack() as theirs:
        pipes = [os.pipe() for _ in range(3)]
        for _, write in pipes:
            theirs.callback(os.close, write)
        pairs = [socket.socketpair() for _ in range(2)]
        for _, there in pairs:
            theirs.callback(there.close)
        out, err, status = (read for read, _ in pipes)
        channel, monitor = (Channel(here) for here, _ in pairs)
        worker = Worker(0, ProcessHandle(status), channel, {1: out, 2: err}, monitor, MemoryFile(), "token")
        theirs.callback(worker.close)
        yield worker, pipes[0][1]


def drained(worker: Worker) -> int:
    return sum(len(item.text) for item in worker.drain() if isinstance(item, Text))


def test_all_that_was_printed_is_read_at_the_end_of_a_run(worker_and_stdout: tuple[Worker, int]) -> None:
    worker, stdout = worker_and_stdout
    os.write(stdout, b"y" * CAPACITY_BYTES)
    assert drained(worker) == CAPACITY_BYTES
    assert drained(worker) == 0


def test_a_flood_does_not_hold_the_end_of_a_run(worker_and_stdout: tuple[Worker, int]) -> None:
    worker, stdout = worker_and_stdout
    with subprocess.Popen(["yes"], stdout=stdout) as flood, ExitStack() as ends:
        ends.callback(flood.kill)
        left = 64 * CAPACITY_BYTES
        while left > 0:
            read = drained(worker)
            assert read <= CAPACITY_BYTES
            left -= read
