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
        """Ask for workers; returns before they exist. Raises LaunchError if there is nobody to ask."""
        source = zygote.shared()
        source.follow(sys.modules)
        started: list[ProcessHandle] = []
        try:
            for one in ends:
                started.append(source.fork(one, self.command()))  # noqa: PERF401 - what was started must be known
        except OSError:
            for process in started:
                process.close()
            raise stillborn() from None
        return started


def stillborn() -> LaunchError:
    """The error for workers that never came to life. The zygote that should have made them is not asked again."""
    source = zygote.shared()
    zygote.forget(source)
    return LaunchError(f"the workers could not be started.\n{source.log()}".rstrip())


class FreshStarter(Starter):
    """Workers that are fresh interpreters: slow, and free of anything that the zygote has imported."""

    def command(self) -> tuple[str, ...]:
        return tuple(fresh_interpreter("nbaccel.worker.fresh", ("{channel}", "{stdout}", "{stderr}")))


STARTERS: dict[str, type[Starter]] = {"zygote": Starter, "spawn": FreshStarter}
"""By the plan's name for them."""
