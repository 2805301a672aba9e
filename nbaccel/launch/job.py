"""A job: one running call. Its thread does the work; whoever waits for it sees what comes and gets what came out."""

from __future__ import annotations

import threading
from typing import Any

from nbaccel.config import Resolved
from nbaccel.errors import LaunchError
from nbaccel.launch.call import Call
from nbaccel.launch.events import Backlog, Event
from nbaccel.launch.output import Policy
from nbaccel.launch.starter import STARTERS
from nbaccel.launch.stopping import INTERRUPT, NOW
from nbaccel.launch.supervisor import Supervisor
from nbaccel.launch.team import Surroundings, start_team
from nbaccel.plan import Plan


class Job:
    """A call on fresh workers, from their start to their end."""

    def __init__(
        self, call: Call, plan: Plan, resolved: Resolved, policy: Policy, colors: str, attempt: int = 0
    ) -> None:
        self._call, self._plan, self._resolved, self._policy = call, plan, resolved, policy
        self._around = Surroundings.now(colors)
        self._attempt = attempt
        self._backlog = Backlog()
        self._supervisor: Supervisor | None = None
        self._problem: BaseException | None = None
        self._stops = 0
        self._ended = threading.Event()

    def start(self) -> None:
        """Start the thread that starts the workers."""
        threading.Thread(target=self._run, name="nbaccel-job", daemon=True).start()

    def _run(self) -> None:
        try:
            try:
                self._run_once()
            except LaunchError:  # the zygote died since the last launch: the next one is as good
                self._run_once()
        except BaseException as error:  # noqa: BLE001 - raised again by result(), in the thread that waits
            self._problem = error
        finally:
            self._ended.set()
            self._backlog.put(None)

    def _run_once(self) -> None:
        starter = STARTERS[self._plan.launcher]()
        workers = start_team(starter, self._plan, self._resolved, self._around, self._attempt)
        self._supervisor = Supervisor(workers, self._call, self._policy, self._resolved.config.timeout)
        if self._stops:
            self._supervisor.stop(INTERRUPT)
        self._supervisor.run(self._backlog.put, self._backlog.has_room)
        if self._supervisor.never_began() and not self._stops:
            raise starter.stillborn()

    def next_event(self) -> Event | None:
        """Waits for the next thing to be seen; None at the end."""
        return self._backlog.get(self._ended.is_set)

    def stop(self) -> None:
        """Interrupt the run; the second time, kill it."""
        self._stops += 1
        if self._supervisor is not None:
            self._supervisor.stop(INTERRUPT if self._stops == 1 else NOW)

    def done(self) -> bool:
        return self._ended.is_set()

    def result(self) -> dict[int, Any]:
        """What each rank gave back, once the job has ended; trained weights are copied home on the way.

        Raises:
            KeyboardInterrupt: the job was stopped.
            RunError: it did not end well.
        """
        self._ended.wait()
        if self._problem is not None:
            raise self._problem
        assert self._supervisor is not None, "a job that ended without a problem had a supervisor"
        if self._supervisor.interrupted:
            raise KeyboardInterrupt
        error = self._supervisor.error()
        if error is not None:
            raise error
        return {rank: self._call.receive(parcel) for rank, parcel in sorted(self._supervisor.parcels().items())}
