"""The starter seam: how worker processes come to life. Everything else about a launch is the same for all."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from nbaccel.errors import LaunchError
from nbaccel.launch import zygote
from nbaccel.launch.interpreter import fresh_interpreter
from nbaccel.launch.process import ProcessHandle, WorkerEnds


class Starter:
    """Workers forked from the warm zygote: milliseconds each, and safe whatever the kernel did before."""

    def command(self) -> tuple[str, ...]:
        """What the worker executes first; nothing for one that is ready as it is forked."""
        return ()

    def start(self, ends: Sequence[WorkerEnds]) -> list[ProcessHandle]:
        """Start workers and wait until they exist. Raises LaunchError if that is impossible."""
        try:
            return self._start_from(zygote.shared(), ends)
        except LaunchError:  # it died since the last launch: the next one is as good
            return self._start_from(zygote.shared(), ends)

    def _start_from(self, source: zygote.Zygote, ends: Sequence[WorkerEnds]) -> list[ProcessHandle]:
        started: list[ProcessHandle] = []
        try:
            source.follow(sys.modules)
            started += [source.fork(one, self.command()) for one in ends]
        except OSError:
            pass  # told below, with what it printed
        if len(started) == len(ends) and all(process.pid is not None for process in started):
            return started
        for process in started:
            process.close()
        zygote.forget(source)
        raise LaunchError(f"the workers could not be started.\n{source.log()}".rstrip())


class FreshStarter(Starter):
    """Workers that are fresh interpreters: slow, and free of anything that the zygote has imported."""

    def command(self) -> tuple[str, ...]:
        return tuple(fresh_interpreter("nbaccel.worker.fresh", ("{channel}", "{stdout}", "{stderr}")))


STARTERS: dict[str, type[Starter]] = {"zygote": Starter, "spawn": FreshStarter}
"""By the plan's name for them."""
