"""A one-shot launch: fresh workers for one call, again if they fail and that is wanted, and nothing left afterwards."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from nbaccel.config import Resolved
from nbaccel.errors import LaunchError, WorkerDiedError, WorkerError
from nbaccel.launch.call import Call, report
from nbaccel.launch.job import Job
from nbaccel.launch.output import policy_for
from nbaccel.launch.recording import record
from nbaccel.launch.run import Run
from nbaccel.launch.starter import STARTERS
from nbaccel.launch.starting import Surroundings, start_workers
from nbaccel.launch.team import Team
from nbaccel.plan import Plan


class OneShot:
    """Drives a job through its attempts, in a thread of its own."""

    def __init__(self, job: Job, call: Call, plan: Plan, resolved: Resolved, colors: str) -> None:
        self._job, self._call, self._plan, self._resolved = job, call, plan, resolved
        self._around = Surroundings.now(colors)

    def start(self) -> None:
        threading.Thread(target=self._drive, name="nbaccel-job", daemon=True).start()

    def _drive(self) -> None:
        problem: BaseException | None = None
        try:
            self._try_all()
        except BaseException as error:  # noqa: BLE001 - raised again by result(), in the thread that waits
            problem = error
        finally:
            self._job.finish(problem)
            if self._job.state != "done":
                self._call.close()

    def _try_all(self) -> None:
        attempts = self._resolved.config.max_restarts + 1
        for attempt in range(attempts):
            run = self._try_once_or_twice(attempt)
            error = run.error()
            last = attempt + 1 == attempts or self._job.was_stopped
            if last or not isinstance(error, WorkerError | WorkerDiedError):
                return
            first_line = str(error).splitlines()[0]
            self._job.feed.note(f"attempt {attempt + 1} of {attempts} failed ({first_line}); starting again")

    def _try_once_or_twice(self, attempt: int) -> Run:
        try:
            return self._try_once(attempt)
        except LaunchError:  # the zygote died since the last launch: the next one is as good
            if self._job.was_stopped:
                raise
            return self._try_once(attempt)

    def _try_once(self, attempt: int) -> Run:
        starter = STARTERS[self._plan.launcher]()
        start = partial(start_workers, starter, self._plan, self._resolved, self._around, attempt=attempt)
        team = Team(start, None)
        world_size = self._plan.world_size
        run = Run(self._call, self._job.ranks, self._job.feed, self._resolved.config.timeout, world_size=world_size)
        team.submit(run)
        self._job.attach(team, run)
        try:
            team.work()
        finally:
            starter.close()
        if team.could_not_begin() and run.timed_out is None and not self._job.was_stopped:
            raise starter.stillborn()
        return run


def start_job(
    call: Call,
    plan: Plan,
    resolved: Resolved,
    label: Callable[[int], str] | None = None,
    *,
    name: str,
    colors: str,
    select: Callable[[dict[int, Any]], Any] = lambda values: values,
) -> Job:
    """Start a call on fresh workers; returns at once.

    Args:
        call: what to run.
        plan: on which workers.
        resolved: the configuration that the plan was made of.
        label: makes the prefix of another rank's lines.
        name: what runs, for people.
        colors: IPython's colour scheme for tracebacks, empty for plain ones.
        select: makes the job's result of what each rank gave back.
    """
    ranks = tuple(plan.topology(local).rank for local in range(plan.local_world_size))
    job = Job(name, ranks, policy_for(resolved.config.output, label, main=ranks[0]), select=select)
    job.plan = plan
    heavy = report(call)
    if heavy:
        job.feed.note(heavy)
    record(resolved, job.feed.note)
    OneShot(job, call, plan, resolved, colors).start()
    return job
