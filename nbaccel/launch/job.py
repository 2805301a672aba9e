"""A job: a handle on one running call, in the words of `concurrent.futures.Future`."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from typing import Any

from nbaccel.errors import CallError, RunCancelledError, RunInterrupted, name_ranks
from nbaccel.launch.call import Call
from nbaccel.launch.doctor import Report
from nbaccel.launch.events import Event
from nbaccel.launch.feed import Feed
from nbaccel.launch.output import Policy
from nbaccel.launch.run import Run
from nbaccel.launch.stopping import INTERRUPT, INTERRUPT_KEEPING, NOW, Steps
from nbaccel.launch.team import Team
from nbaccel.look import Mood, badge, bold, code, joined, region
from nbaccel.plan import Plan
from nbaccel.wire.messages import Reply

_numbers = itertools.count(1)
MOODS: Mapping[str, Mood] = {
    "running": "accent",
    "stopping": "accent",
    "done": "good",
    "failed": "bad",
    "stopped": "warn",
}
"""How each state of a job looks."""


@dataclass(frozen=True)
class RankView:
    """What one rank of a job did."""

    job: Job
    rank: int

    def result(self, timeout: float | None = None) -> Any:
        """What this rank gave back (None unless all ranks' values were asked for). Raises as `Job.result`."""
        return self.job.values(timeout).get(self.rank)

    def logs(self) -> str:
        """Everything that this rank has printed."""
        return self.job.logs(self.rank)

    def __repr__(self) -> str:
        return f"<rank {self.rank} of {self.job!r}>"


class Job:
    """A call that runs on workers, or has run.

    Attributes:
        number: of the job in this kernel.
        name: what runs.
        ranks: on which ranks.
        plan: on what they run; None while nobody has said.
    """

    def __init__(
        self,
        name: str,
        ranks: tuple[int, ...],
        policy: Policy,
        *,
        keeps: bool = False,
        counted: bool = True,
        select: Callable[[dict[int, Any]], Any] = lambda values: values,
    ) -> None:
        """A job that is not started yet.

        Args:
            name: what runs, for people.
            ranks: on which ranks.
            policy: whose text is shown.
            keeps: whether its workers are worth keeping when it is stopped.
            counted: whether it is a user's job; those have numbers.
            select: makes the result of what each rank gave back.
        """
        self.number = next(_numbers) if counted else 0
        self.name, self.ranks = name, ranks
        self.feed = Feed(policy, self.number, ranks)
        self.run: Run | None = None
        self.plan: Plan | None = None
        self._keeps, self._select = keeps, select
        self._team: Team | None = None
        self._problem: BaseException | None = None
        self._values: dict[int, Any] | None = None
        self._collecting = threading.RLock()
        self._stops = 0
        self._cancelled = False
        self._ended = threading.Event()
        self._callbacks: list[Callable[[Job], object]] = []
        self._since_s, self._until_s = time.monotonic(), 0.0

    # what a Future has

    def done(self) -> bool:
        """Whether it is over, however it went."""
        return self._ended.is_set()

    def running(self) -> bool:
        return not self.done()

    def cancelled(self) -> bool:
        """Whether `cancel` has ended it."""
        return self.done() and isinstance(self._problem, RunCancelledError)

    def cancel(self) -> bool:
        """Stop it as the Stop button would. Returns whether it was still running."""
        if self.done():
            return False
        self._cancelled = True
        self.stop()
        return True

    def result(self, timeout: float | None = None) -> Any:
        """What came out; waits for it.

        Args:
            timeout: seconds to wait at most.

        Raises:
            RunError: it did not end well. CancelledError, KeyboardInterrupt: it was cancelled or stopped.
            TimeoutError: it runs still.
        """
        return self._select(self.values(timeout))

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The error that `result` would raise, None if all went well. Raises CancelledError, TimeoutError."""
        self._wait(timeout)
        try:
            self.values()
        except CancelledError:
            raise
        except (Exception, RunInterrupted) as error:  # noqa: BLE001 - a result may refuse to come home in any way
            return error
        return None

    def add_done_callback(self, function: Callable[[Job], object]) -> None:
        """Call `function(job)` when it is over, from another thread; at once if it is over already."""
        with self._collecting:
            if not self.done():
                self._callbacks.append(function)
                return
        self._call_back(function)

    # what a job on several ranks has besides

    def values(self, timeout: float | None = None) -> dict[int, Any]:
        """What each rank gave back, by rank; trained weights are copied home on the way. Raises as `result`."""
        self._wait(timeout)
        with self._collecting:
            if self._problem is None and self._values is None:
                self._collect()
        if self._problem is not None:
            raise self._problem
        return self._values or {}

    def _wait(self, timeout: float | None) -> None:
        if not self._ended.wait(timeout):
            raise FutureTimeoutError(f"job {self.number} is not done after {timeout:g} s.")

    def rank(self, number: int) -> RankView:
        """One rank of it. Raises CallError for one that is not part of it."""
        self._check_rank(number)
        return RankView(self, number)

    def logs(self, rank: int | None = None) -> str:
        """Everything that a rank has printed so far; left out: of all ranks, one after the other."""
        if rank is not None:
            self._check_rank(rank)
            return self.feed.log(rank).text()
        if len(self.ranks) == 1:
            return self.feed.log(self.ranks[0]).text()
        return "".join(f"--- rank {one} ---\n{self.feed.log(one).text()}" for one in self.ranks)

    @property
    def state(self) -> str:
        """`running`, `stopping`, `done`, `failed` or `stopped`."""
        if not self.done():
            return "stopping" if self._stops else "running"
        if isinstance(self._problem, RunInterrupted | RunCancelledError):
            return "stopped"
        return "failed" if self._problem is not None else "done"

    @property
    def elapsed_s(self) -> float:
        """Seconds since it began, or that it took."""
        return (self._until_s or time.monotonic()) - self._since_s

    def _check_rank(self, rank: int) -> None:
        if rank not in self.ranks:
            raise CallError(f"job {self.number} runs on {name_ranks(self.ranks)}; it has no rank {rank!r}.")

    def __repr__(self) -> str:
        return f"<Job {self.number}: {self.name} on {name_ranks(self.ranks)}, {self.state}, {self.elapsed_s:.1f} s>"

    def _repr_html_(self) -> str:
        took = f", {self.elapsed_s:.1f} s" if self.done() else ""
        state = badge(self.state, MOODS[self.state])
        return region(
            joined([bold(f"Job {self.number} "), code(self.name), f" on {name_ranks(self.ranks)} ", state, took])
        )

    # for those who run it

    def attach(self, team: Team, run: Run) -> None:
        """Whoever runs it has found a team for it; a stop from before reaches it then."""
        self._team, self.run = team, run
        if self._stops:
            team.stop(run, self._steps())

    def stop(self) -> None:
        """Interrupt it; the second time, kill its workers."""
        self._stops += 1
        if self._team is not None and self.run is not None:
            self._team.stop(self.run, self._steps())

    def kill(self) -> None:
        """Stop it, and do not wait for its workers to come to an end."""
        self._stops = max(self._stops, 1)
        self.stop()

    @property
    def was_stopped(self) -> bool:
        return self._stops > 0

    def _steps(self) -> Steps:
        if self._stops > 1:
            return NOW
        return INTERRUPT_KEEPING if self._keeps else INTERRUPT

    def answer(self, rank: int, reply: Reply) -> None:
        """Answer a rank's question."""
        if self._team is not None:
            self._team.send(rank, reply)

    def examine(self, then: Callable[[Report], None]) -> bool:
        """Find out what each rank does; `then` gets the report, in another thread. False if nothing runs any more."""
        return self._team is not None and not self.done() and self._team.examine(then)

    def pids(self) -> dict[int, int]:
        """Process ids by rank, of workers that live."""
        workers = list(self._team.workers) if self._team is not None else []
        return {
            worker.rank: worker.process.pid
            for worker in workers
            if worker.rank in self.ranks and worker.process.pid is not None and not worker.exited
        }

    def doing(self, rank: int) -> str:
        """What a rank is at: `starting`, `running`, `done`, `failed`, `stopped` or `gone`."""
        run = self.run
        if run is None:
            return "starting"
        if rank in run.done:
            return "done"
        if rank in run.failed or (run.died is not None and run.died.rank == rank):
            return "failed"
        if rank in run.stopped or self.done():
            return "stopped"
        return "running" if run.began_s is not None else "starting"

    def next_event(self) -> Event | None:
        """Waits for the next thing to be seen; None at the end."""
        return self.feed.next_event(self._ended.is_set)

    def finish(self, problem: BaseException | None = None) -> None:
        """It is over. Called by whoever runs it, in the thread that fills the feed."""
        self._problem = self._verdict(problem)
        self._until_s = time.monotonic()
        self.feed.close()
        with self._collecting:
            self._ended.set()
            callbacks, self._callbacks = self._callbacks, []
        self.feed.end()  # only now: whoever has seen all of it finds the job done
        for function in callbacks:
            self._call_back(function)

    def _verdict(self, problem: BaseException | None) -> BaseException | None:
        run = self.run
        was_stopped = run.interrupted if run is not None else self.was_stopped and problem is None
        if was_stopped and self._cancelled:
            return RunCancelledError(f"job {self.number} ({self.name}) was cancelled")
        if was_stopped:
            return RunInterrupted(run.places() if run is not None else None)
        return run.error() if problem is None and run is not None else problem

    def _call_back(self, function: Callable[[Job], object]) -> None:
        try:
            function(self)
        except Exception:
            logging.getLogger(__name__).exception("a callback of job %d failed", self.number)

    def _collect(self) -> None:
        assert self.run is not None, "a job that ended without a problem had a run"
        call: Call = self.run.call
        try:
            self._values = {rank: call.receive(parcel) for rank, parcel in self.run.parcels().items()}
        except Exception as error:  # noqa: BLE001 - unpickling runs the user's code; there is no second try
            self._problem = error
        finally:
            call.close()


def results_of(values: Mapping[int, Any], *, return_all: bool) -> Any:
    """Rank 0's value, or all ranks' in order."""
    return [values[rank] for rank in sorted(values)] if return_all else values.get(0)
