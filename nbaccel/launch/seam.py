"""The launcher seam: how one worker process comes to life. Everything else about a launch is the same for all."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass

from nbaccel.launch.interpreter import fresh_interpreter

_NUMBER_BYTES = 8


@dataclass(frozen=True)
class WorkerEnds:
    """The descriptors that a worker is born with; the starter's copies are closed by its caller.

    Attributes:
        channel: its end of the channel.
        stdout: where its standard output goes.
        stderr: where its standard error goes.
    """

    channel: int
    stdout: int
    stderr: int


class ProcessHandle:
    """A process that somebody else watches over and reports on through a pipe: first its id, then how it ended.

    Attributes:
        log: tells what the one who watches over it has printed, for when it never came to life.
    """

    def __init__(self, status: int, log: Callable[[], str] = str) -> None:
        self._status = status
        self.log = log
        self._known: list[int] = []
        self._ended = False

    def fileno(self) -> int:
        """Readable when there is something new to learn."""
        return self._status

    @property
    def pid(self) -> int | None:
        """Its process id; waits for it if it is not known yet; None if it never started."""
        while not self._known and not self._ended:
            self.learn()
        return self._known[0] if self._known else None

    @property
    def status(self) -> int | None:
        """How it ended, as `Popen.returncode`; None while it runs or when nobody knows."""
        return self._known[1] if len(self._known) > 1 else None

    def learn(self) -> bool:
        """Read what is new. Returns whether the process has ended."""
        data = os.read(self._status, _NUMBER_BYTES)
        if data:
            self._known.append(int.from_bytes(data, "little", signed=True))
        self._ended = not data or len(self._known) > 1
        return self._ended

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process and all that it started in its group."""
        if self.pid is None:
            return
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):
            return  # gone already

    def close(self) -> None:
        os.close(self._status)


class Starter:
    """Starts worker processes. This base starts a fresh interpreter for each; it works everywhere and is slow."""

    def start(self, ends: WorkerEnds) -> ProcessHandle:
        """Start one worker. Raises LaunchError if that is impossible."""
        descriptors = (ends.channel, ends.stdout, ends.stderr)
        command = fresh_interpreter("nbaccel.worker.fresh", (*descriptors, os.getpid()))
        process = subprocess.Popen(
            command, pass_fds=descriptors, stdin=subprocess.DEVNULL, stdout=ends.stdout, stderr=ends.stderr
        )
        status, report = os.pipe()
        threading.Thread(target=_watch, args=(process, report), name="nbaccel-watch", daemon=True).start()
        return ProcessHandle(status)


def _watch(process: subprocess.Popen[bytes], report: int) -> None:
    with open(report, "wb", buffering=0) as pipe:
        for number in (process.pid, process.wait()):
            try:
                pipe.write(number.to_bytes(_NUMBER_BYTES, "little", signed=True))
            except BrokenPipeError:
                return


def starter_for(launcher: str) -> Starter:
    """The starter that a plan names: `zygote` or `spawn`."""
    from nbaccel.launch.zygote import ZygoteStarter

    starters: dict[str, type[Starter]] = {"spawn": Starter, "zygote": ZygoteStarter}
    return starters[launcher]()


