"""What a worker is born with: the descriptors that the kernel holds the other ends of."""

from __future__ import annotations

import signal
from typing import NamedTuple

STACKS_SIGNAL = signal.Signals(getattr(signal, "SIGRTMIN", signal.SIGUSR2))
"""Makes a worker write the stacks of its threads into its `stacks` file, even while C code holds the interpreter."""


class WorkerEnds(NamedTuple):
    """Descriptors of a worker.

    Attributes:
        channel: its end of the channel.
        stdout: where its standard output goes.
        stderr: where its standard error goes.
        monitor: its monitor thread's end of a second channel.
        stacks: a file for the stacks of its threads.
    """

    channel: int
    stdout: int
    stderr: int
    monitor: int
    stacks: int
