"""One child process, from its start to its end: signals reach it once, and a timeout ends it."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from nbaccel.errors import LaunchError, RunError, RunTimeoutError

if TYPE_CHECKING:
    import psutil

STOP_GRACE_S = 35.0
"""torch's launcher kills workers that ignore SIGTERM after 30 s; this is a little more."""

_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def run_to_end(command: Sequence[str], environ: Mapping[str, str], timeout_s: float | None) -> int:
    """Run a launcher and wait for it.

    Args:
        command: program and arguments.
        environ: its environment.
        timeout_s: seconds until it is stopped, None for never.

    Returns:
        Its exit code; 128 and the signal's number when a signal ended it, as shells say it.

    Raises:
        RunTimeoutError: it did not end in time; names the ranks that were still at work.
        LaunchError: the time was over while no worker ran.
    """
    with _signals_passed_on() as adopt:
        # In a session of its own, so that Ctrl-C reaches it once, from here: torch's launcher takes a second as "now".
        child = subprocess.Popen(command, env=environ, start_new_session=True)
        adopt(child)
        try:
            status = child.wait(timeout_s)
        except subprocess.TimeoutExpired as expired:
            unfinished = _ranks_below(child.pid)
            _stop(child)
            raise _too_late(expired.timeout, unfinished) from None
    return status if status >= 0 else 128 - status


def _too_late(timeout_s: float, unfinished: Sequence[int]) -> RunError:
    if unfinished:
        return RunTimeoutError(timeout_s, unfinished)
    return LaunchError(f"timeout={timeout_s:g} s was over while no worker ran. Raise `timeout`, or leave it out.")


@contextmanager
def _signals_passed_on() -> Iterator[Callable[[subprocess.Popen[bytes]], None]]:
    """Yields a function that takes the child; signals that came before it did are kept for it.

    What this process was started to ignore it ignores still.
    """
    early: list[int] = []
    children: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, _: FrameType | None) -> None:
        if not children:
            early.append(number)
        for child in children:
            child.send_signal(number)

    def adopt(child: subprocess.Popen[bytes]) -> None:
        children.append(child)
        for number in early:
            child.send_signal(number)

    heard = [number for number in _PASSED_ON if signal.getsignal(number) is not signal.SIG_IGN]  # not under `nohup`
    before = {number: signal.signal(number, pass_on) for number in heard}
    try:
        yield adopt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ranks_below(pid: int) -> list[int]:
    """Ranks of the workers that are children of a process."""
    import psutil

    ranks = (_rank_of(worker) for worker in psutil.Process(pid).children())
    return [rank for rank in ranks if rank is not None]


def _rank_of(worker: psutil.Process) -> int | None:
    import psutil

    try:
        return int(worker.environ()["RANK"])
    except (psutil.Error, KeyError):  # it ended meanwhile, or is none of the workers
        return None


def _stop(child: subprocess.Popen[bytes]) -> None:
    import psutil

    family = [psutil.Process(child.pid), *psutil.Process(child.pid).children(recursive=True)]
    child.terminate()
    _, alive = psutil.wait_procs(family, STOP_GRACE_S)
    for process in alive:
        process.kill()
    child.wait()
