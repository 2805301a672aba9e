"""A session: workers that keep their variables and their process group from one call to the next."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import psutil

from nbaccel.config import Resolved
from nbaccel.errors import LaunchError, StateError
from nbaccel.launch.call import Call
from nbaccel.launch.doctor import Report
from nbaccel.launch.job import Job
from nbaccel.launch.ledger import Ledger, Sending
from nbaccel.launch.recording import record
from nbaccel.launch.run import Run
from nbaccel.launch.starter import STARTERS, Starter
from nbaccel.launch.starting import Surroundings, rendezvous, start_workers
from nbaccel.launch.stopping import GOODBYE, NOW
from nbaccel.launch.team import Team
from nbaccel.plan import Plan
from nbaccel.wire.messages import Done, Failed

_REPORT_PATIENCE_S = 5.0
_END_PATIENCE_S = 5.0


@dataclass(frozen=True)
class RankStatus:
    """What is known of a session's rank.

    Attributes:
        rank: its rank.
        pid: its process id, None while it is being started.
        device: what it computes on.
        memory_bytes: memory of its own, its children's included; 0 when nobody knows.
        doing: what it does.
    """

    rank: int
    pid: int | None
    device: str
    memory_bytes: int
    doing: str


class LiveSession:
    """The workers of a session, whatever happens to them: a team that breaks is followed by a fresh one."""

    def __init__(self, plan: Plan, resolved: Resolved, colors: str) -> None:
        self.plan, self.resolved = plan, resolved
        self.ranks = tuple(range(plan.world_size))
        self.closed = False
        self.ledger = Ledger(self.ranks)
        self._colors = colors
        self._jobs: dict[Run, Job] = {}
        self._lock = threading.Lock()
        self._may_try_again = False
        self._loss = ""  # how the variables got lost, until somebody has been told
        record(resolved, logging.getLogger(__name__).warning)
        self._team, self._thread = self._new_team()

    def _new_team(self) -> tuple[Team, threading.Thread]:
        self.ledger = Ledger(self.ranks)
        self._starter = starter = STARTERS[self.plan.launcher]()
        around = Surroundings.now(self._colors)
        team = Team(
            partial(start_workers, starter, self.plan, self.resolved, around, stay=True),
            partial(rendezvous, self.plan),
            self._replace,
        )
        thread = threading.Thread(target=self._serve, args=(team, starter), name="nbaccel-session", daemon=True)
        thread.start()
        return team, thread

    def _serve(self, team: Team, starter: Starter) -> None:
        """A team's whole life."""
        with suppress(LaunchError):
            team.work()
        starter.close()
        if not team.never_began():
            self._may_try_again = True
        elif team.could_not_begin():
            if not self._may_try_again:
                return
            self._may_try_again = False  # the zygote died, and the workers with it: the next one is as good
            starter.stillborn()
        with self._lock:
            if team is self._team and not self.closed:
                self._team, self._thread = self._new_team()

    def _replace(self, team: Team) -> None:
        """A team has broken: whoever hears of that finds fresh workers in its place already, and their ledger."""
        with self._lock:
            if team is self._team and not team.never_began() and not self.closed:
                self._may_try_again = True
                self._loss = "" if team.busy else team.broken  # the runs that are under way say so themselves
                self._team, self._thread = self._new_team()

    # running

    def submit(self, job: Job, call: Call, sending: Sending, timeout_s: float | None = None) -> None:
        """Run a call on the job's ranks, when they are free.

        Args:
            job: the handle on it.
            call: what to run.
            sending: the names that come along.
            timeout_s: seconds after which it is stopped.

        Raises:
            StateError: the session has ended. LaunchError: its workers did not start.
        """
        with self._lock:
            team = self._team
            run = Run(
                call, job.ranks, job.feed, timeout_s, sending.keep, sending.names,
                in_session=True, world_size=self.plan.world_size, on_end=partial(self._note_end, team, self.ledger),
            )  # fmt: skip
            self._jobs[run] = job
            job.plan = self.plan
            job.run = run  # before it begins: it may be over before this thread gets on
            if job.number and self._loss:
                job.feed.note(f"the session was started again ({self._loss}): the variables of its workers are gone.")
                self._loss = ""
            accepted = not self.closed and team.submit(run)
        if not accepted:
            del self._jobs[run]
            call.close()
            if not self.closed and team.could_not_begin():
                raise self._early_end(team)
            raise _ended(team)
        job.attach(team, run)

    def _note_end(self, team: Team, ledger: Ledger, run: Run) -> None:
        """In the team's thread: what the ranks have bound is known from now on, then whoever waits goes on."""
        answers: dict[int, Done | Failed] = {**run.stopped, **run.failed, **run.done}
        for rank, answer in answers.items():
            ledger.note_bound(rank, answer.names.bound, answer.names.unbound)
        for rank in run.ranks:
            if rank not in answers or not answers[rank].names.arrived:
                ledger.note_lost(rank, run.names, run.keep)
        job = self._jobs.pop(run)
        if not run.all_answered and not run.interrupted and run.error() is None:
            run.reason = self._early_end(team)
        job.finish()
        if run.error() is not None or run.interrupted:
            run.call.close()

    def _early_end(self, team: Team) -> LaunchError:
        if team.could_not_begin():
            return self._starter.stillborn()
        return LaunchError(f"the session ended before the call had come to its end{_epitaph(team)}.")

    # looking

    def status(self) -> list[RankStatus]:
        """What each rank is and does."""
        team = self._team
        waits = {worker.rank: worker for worker in list(team.workers)}
        return [self._status_of(rank, waits.get(rank), team) for rank in self.ranks]

    def _status_of(self, rank: int, worker: object, team: Team) -> RankStatus:
        pid = getattr(getattr(worker, "process", None), "pid", None)
        run = team.busy.get(rank)
        job = self._jobs.get(run) if run is not None else None
        doing = "idle" if job is None else f"runs {job.name} for {_since(run)}"
        if pid is None:
            doing = "is gone" if team.is_over else "is starting"
        return RankStatus(rank, pid, _device(self.plan, rank), _memory_of(pid), doing)

    def report(self) -> Report:
        """The stacks of all ranks and who waits for whom. Raises StateError when the session has ended."""
        answers: list[Report] = []
        come = threading.Event()

        def take(report: Report) -> None:
            answers.append(report)
            come.set()

        if not self._team.examine(take) or not come.wait(_REPORT_PATIENCE_S):
            raise _ended(self._team)
        return answers[0]

    # ending

    def restart(self) -> None:
        """End the workers now and start fresh ones; their variables are gone. Raises StateError after `close`."""
        self._check_open()
        old, thread = self._team, self._thread
        old.close(NOW)
        thread.join(_END_PATIENCE_S)
        with self._lock:
            self._check_open()  # another thread may have closed it meanwhile
            self._loss = ""
            if self._team is old:
                self._team, self._thread = self._new_team()

    def _check_open(self) -> None:
        if self.closed:
            raise _ended(self._team)

    def close(self) -> None:
        """End the workers; what runs is stopped. Calling it again does nothing."""
        self.closed = True
        self._team.close(NOW if self._team.busy else GOODBYE)
        if threading.current_thread() is not self._thread:
            self._thread.join(_END_PATIENCE_S)


def _ended(team: Team) -> StateError:
    return StateError(f"this session has ended{_epitaph(team)}. Start another one.")


def _epitaph(team: Team) -> str:
    return f" ({team.broken})" if team.broken else ""


def _since(run: Run | None) -> str:
    return f"{time.monotonic() - run.began_s:.0f} s" if run is not None and run.began_s is not None else "0 s"


def _device(plan: Plan, rank: int) -> str:
    return plan.device if plan.device != "cuda" else f"cuda:{rank % plan.local_world_size}"


def _memory_of(pid: int | None) -> int:
    if pid is None:
        return 0
    try:
        root = psutil.Process(pid)
        return sum(_own_memory(process) for process in (root, *root.children(recursive=True)))
    except psutil.Error:
        return 0


def _own_memory(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().uss)
    except (psutil.Error, AttributeError):
        return 0
