"""The starter seam: how worker processes come to life. Everything else about a launch is the same for all."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from nbaccel.errors import LaunchError
from nbaccel.launch import zygote
from nbaccel.launch.forking import ForkedZygote, check_fork
from nbaccel.launch.interpreter import fresh_interpreter
from nbaccel.launch.process import ProcessHandle
from nbaccel.wire.ends import WorkerEnds


class Starter:
    """Workers forked from the warm zygote: milliseconds each, and safe whatever the kernel did before."""

    def command(self) -> tuple[str, ...]:
        """What the worker executes first; nothing for one that is ready as it is forked."""
        return ()

    def __init__(self) -> None:
        self._source: zygote.Zygote = zygote.shared()
        self._started: list[ProcessHandle] = []

    def start(self, ends: Sequence[WorkerEnds]) -> list[ProcessHandle]:
        """Ask for workers; returns before they exist. Raises LaunchError if there is nobody to ask."""
        started: list[ProcessHandle] = []
        self._started = started
        try:
            self._source.follow(sys.modules)
            for one in ends:
                started.append(self._source.fork(one, self.command()))  # noqa: PERF401 - what was started must be known
        except OSError as error:
            for process in started:
                process.close()
            raise self.stillborn(str(error)) from error
        return started

    def import_ahead(self, modules: Sequence[str]) -> None:
        """Import these while idle, so that the workers of the next launch find them."""
        self._source.import_ahead(modules)

    def close(self) -> None:
        """The team is gone: let go of what was made for it alone."""

    def stillborn(self, reason: str = "") -> LaunchError:
        """The error for workers that never came to life. The zygote that should have made them is not asked again.

        Unless the system has refused: the zygote is well then, and the workers of other launches live by it.
        """
        refusal = next((one.refusal for one in self._started if one.refusal), "")
        if refusal:
            return LaunchError(f"the workers could not be started.\n{refusal}")
        zygote.forget(self._source)
        return LaunchError("\n".join(filter(None, ["the workers could not be started.", reason, self._source.log()])))


class ForkStarter(Starter):
    """Workers that are copies of the kernel, with its modules and its memory; not safe after everything it may do."""

    def __init__(self) -> None:
        check_fork()
        self._source = ForkedZygote()
        self._started = []

    def import_ahead(self, modules: Sequence[str]) -> None:
        """There is no next launch from this copy of the kernel."""

    def close(self) -> None:
        self._source.stop()

    def stillborn(self, reason: str = "") -> LaunchError:
        """The error for workers that never came to life."""
        return LaunchError("\n".join(filter(None, ["the workers could not be forked.", reason, self._source.log()])))


class FreshStarter(Starter):
    """Workers that are fresh interpreters: slow, and free of anything that the zygote has imported."""

    def command(self) -> tuple[str, ...]:
        return tuple(fresh_interpreter("nbaccel.worker.fresh", ("{ends}",)))


STARTERS: dict[str, type[Starter]] = {"zygote": Starter, "spawn": FreshStarter, "fork": ForkStarter}
"""By the plan's name for them."""
