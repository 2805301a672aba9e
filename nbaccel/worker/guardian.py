"""Nothing is left behind: how processes end when the one above them is gone, however it went.

The kernel's death reaches the zygote (parent-death signal of its keeper thread, and end of a pipe); the zygote's death
reaches its workers (parent-death signal); and a zygote that ends kills everything below it, also what was orphaned.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_LIBC = ctypes.CDLL(None, use_errno=True)


def end_with_parent(number: signal.Signals, parent: int) -> None:
    """Ask the system for a signal when the thread that started this process ends; at once if it has ended already."""
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


def adopt_orphans() -> None:
    """Become the parent of all descendants whose own parent ends."""
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def children() -> list[int]:
    """Process ids of this process's direct children, adopted ones included."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            return [int(word) for word in file.read().split()]
    except OSError:
        import psutil

        return [child.pid for child in psutil.Process().children()]


def kill_descendants() -> None:
    """Kill and reap children, and what they leave behind, until there is nothing below this process."""
    while pids := children():
        for pid in pids:
            _kill(pid)
        for pid in pids:
            _reap(pid)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _reap(pid: int) -> None:
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        return
