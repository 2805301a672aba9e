"""A team: the workers of one launch, and the one thread that touches their channels, pipes and processes.

Other threads hand it commands, so that a KeyboardInterrupt in the kernel's main thread can never hit the protocol.
A one-shot team ends with its run; the team of a session stays for the next one.
"""

from __future__ import annotations

import logging
import select
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from signal import SIGINT, SIGKILL, SIGTERM, Signals

from nbaccel.errors import LaunchError, RunTimeoutError, WorkerDiedError
from nbaccel.launch.doctor import Examination, Report
from nbaccel.launch.events import Text
from nbaccel.launch.inbox import Inbox
from nbaccel.launch.order import Item, Marked
from nbaccel.launch.regrouping import Meeting, Regrouping
from nbaccel.launch.run import Run
from nbaccel.launch.stopping import (
    FAILURE,
    FAILURE_KEEPING,
    GOODBYE,
    LATE_GOODBYE,
    NOW,
    SLOW_GOODBYE_S,
    Press,
    Pressing,
    Steps,
    cut_off,
    still_waits,
)
from nbaccel.launch.worker import Worker
from nbaccel.wire.messages import (
    LAST,
    Ask,
    Done,
    Examined,
    Exit,
    Failed,
    Metrics,
    Progress,
    Regrouped,
    Shown,
    Unblock,
    Waiting,
)

_TICK_S = 0.1
_EXAMINING_TICK_S = 0.02

Command = Callable[[float], None]


class Team:
    """Live workers. Public methods may be called from any thread, but `work`, which is the team's own."""

    def __init__(
        self,
        start: Callable[[], list[Worker]],
        meet: Callable[[], AbstractContextManager[Meeting]] | None,
        on_break: Callable[[Team], None] = lambda team: None,
    ) -> None:
        """A team that is not started yet.

        Args:
            start: starts the workers.
            meet: makes a new meeting point for them, for teams that stay; None for one-shot teams.
            on_break: called in the team's thread when one that was to stay cannot go on, before anybody learns of it.
        """
        self._on_break = on_break
        self._start, self._regrouping = start, Regrouping(meet) if meet is not None else None
        self.workers: list[Worker] = []
        self.busy: dict[int, Run] = {}
        self.broken = ""
        self._last: dict[int, Run] = {}
        self._pending: deque[Run] = deque()
        self._runs = 0
        self._pressing: Pressing[Run] = Pressing()
        self._examination: Examination | None = None
        self._closing = False
        self._goodbye_s: float | None = None
        self._inbox: Inbox[Run | Command] = Inbox()
        self._ready: frozenset[int] = frozenset()

    # commands, from any thread

    def submit(self, run: Run) -> bool:
        """Run this when its ranks are free. Returns false when the team has ended."""
        return self._inbox.put(run)

    def stop(self, run: Run, steps: Steps) -> None:
        """End a run early, on the user's wish; does nothing when it is over."""
        self._inbox.put(lambda now: self._stop(run, steps, now))

    def send(self, rank: int, message: object) -> None:
        """Send a message to a worker."""
        self._inbox.put(lambda now: self.workers[rank].send(message))

    def close(self, steps: Steps = GOODBYE) -> None:
        """Let the workers exit."""
        self._inbox.put(lambda now: self._close(steps, now))

    def examine(self, then: Callable[[Report], None]) -> bool:
        """Find out what each rank does; `then` gets the report, in the team's thread. False if the team has ended."""
        return self._inbox.put(lambda now: self._examine(then, now))

    @property
    def is_over(self) -> bool:
        return self._inbox.closed

    # the team's thread

    def work(self) -> None:
        """Until every worker is gone. Raises LaunchError if they could not be started."""
        problem: LaunchError | None = None
        try:
            self.workers = self._start()
            while not all(worker.exited for worker in self.workers):
                self._turn()
        except LaunchError as error:
            problem = error
            raise
        finally:
            self._end(problem)

    def never_began(self) -> bool:
        """Whether the workers did not come to life: whoever was to start them had gone, or the system refused one."""
        refused = any(worker.process.refusal for worker in self.workers)
        return refused or all(worker.process.pid is None for worker in self.workers)

    def could_not_begin(self) -> bool:
        """The same, but not where the workers were given up before anybody could start them."""
        gone = not self.workers or any(worker.process.is_stillborn for worker in self.workers)
        return gone and self.never_began()

    def _turn(self) -> None:
        self._wait()
        now = time.monotonic()
        if self._inbox.fileno() in self._ready:
            self._inbox.clear_signal()
        while (item := self._inbox.take()) is not None:
            if isinstance(item, Run):
                self._pending.append(item)
            else:
                item(now)
        for worker in self.workers:
            self._read(worker, now)
        self._begin(now)
        self._check_time(now)
        self._advance(now)

    def _wait(self) -> None:
        poll = select.poll()  # not select(), which knows no descriptor above 1023
        poll.register(self._inbox.fileno(), select.POLLIN)
        for worker in self.workers:
            for descriptor in worker.descriptors(with_output=self._may_read(worker)):
                poll.register(descriptor, select.POLLIN)
        self._ready = frozenset(descriptor for descriptor, _ in poll.poll(self._patience()))

    def _patience(self) -> float | None:
        """Milliseconds until something is due; None while nothing is."""
        if self._examination is not None:
            return _EXAMINING_TICK_S * 1000
        due = self._pressing.next_at()
        waits = [] if due is None else [max(0.0, due - time.monotonic())]
        if self.busy or self._closing or (self._regrouping is not None and self._regrouping.is_going_on):
            waits.append(_TICK_S)
        return min(waits) * 1000 if waits else None

    def _may_read(self, worker: Worker) -> bool:
        """Not while the reader of its output lags behind; the worker then waits in its prints."""
        run = self.busy.get(worker.rank)
        return run is None or run.feed.has_room()

    # runs

    def _begin(self, now: float) -> None:
        """Send the runs whose ranks are free; none overtakes another one on the same rank."""
        if not self._pending or self._closing or (self._regrouping is not None and self._regrouping.is_going_on):
            return
        taken = set(self.busy)
        for run in tuple(self._pending):
            if taken.isdisjoint(run.ranks):
                self._pending.remove(run)
                self._send(run, now)
            taken.update(run.ranks)

    def _send(self, run: Run, now: float) -> None:
        self._runs += 1
        run.number, run.began_s = self._runs, now
        descriptors = run.call.parcel.descriptors()
        for rank in run.ranks:
            self.busy[rank] = self._last[rank] = run
            self._worker(rank).last_output = ""
            message = replace(
                run.call.message(rank),
                keep=run.keep,
                number=run.number,
                all_ranks=len(run.ranks) == len(self.workers),
            )
            self._worker(rank).send(message, descriptors)

    def _worker(self, rank: int) -> Worker:
        return next(worker for worker in self.workers if worker.rank == rank)

    def _stop(self, run: Run, steps: Steps, now: float) -> None:
        if run.ended:
            return
        if len(run.done) == len(run.ranks):  # the result is there: only its goodbye is cut short
            self._close(NOW, now)
            return
        run.interrupted = True
        if run in self._pending:
            self._pending.remove(run)
            self._finish(run)
            if self._regrouping is None:
                self._close(NOW, now)
        else:
            self._press(run, steps, now)

    def _finish(self, run: Run) -> None:
        """The run is over, however it went."""
        if run.ended:
            return
        run.ended = True
        self._pressing.end(run)
        for rank in run.ranks:
            if self.busy.get(rank) is run:
                del self.busy[rank]
        run.on_end(run)

    def _settle(self, run: Run, now: float) -> None:
        """What follows when a rank of a run has answered."""
        if run.failed and not self._pressing.concerns(run):
            self._press(run, FAILURE if self._regrouping is None else FAILURE_KEEPING, now)
        if not run.all_answered:
            return
        if self._regrouping is not None:
            self._finish(run)
            self._regrouping.consider(run)
        elif not self._pressing.concerns(run):
            self._dismiss()
            self._goodbye_s = now

    # reading

    def _read(self, worker: Worker, now: float) -> None:
        if worker.exited:
            return
        if self._may_read(worker):
            for stream, descriptor in tuple(worker.pipes.items()):
                if descriptor in self._ready:
                    self._take(worker, worker.read_pipe(stream), now)
        if worker.monitored and worker.monitor.fileno() in self._ready:
            self._hear_monitor(worker, now)
        if not worker.left and worker.channel.fileno() in self._ready:
            self._receive(worker, now)
        if worker.order.waits():
            self._take(worker, worker.order.expire(now), now)
        has_ended = worker.process.fileno() in self._ready and worker.process.learn()
        if has_ended or (worker.left and self._has_said_all(worker)):
            self._see_out(worker, now)

    def _has_said_all(self, worker: Worker) -> bool:
        """Whether the end of its channel is the end of a worker: the system may take its time to tear down the rest."""
        run = self._last.get(worker.rank)
        answered = (
            run is None or worker.rank in run.done or (self._regrouping is not None and run.answered(worker.rank))
        )
        return self._closing and answered

    def _receive(self, worker: Worker, now: float) -> None:
        try:
            message, descriptors = worker.channel.receive()
        except (EOFError, OSError):
            worker.left = True
        except Exception as error:  # noqa: BLE001 - unpickling runs the user's code: a display of a class of its own
            text = f"nbaccel: something that rank {worker.rank} wanted to show cannot be shown here: {error}\n"
            self._take(worker, [Text(2, text)], now)
        else:
            marked = _with_files(message, descriptors)
            if marked.mark == LAST:
                self._take(worker, worker.drain(), now)
            self._take(worker, worker.order.message(marked, now), now)

    def _take(self, worker: Worker, items: Sequence[Item], now: float) -> None:
        run = self.busy.get(worker.rank) or self._last.get(worker.rank)
        for item in items:
            if isinstance(item, Text):
                worker.note_output(item.text)
                if run is not None:
                    run.feed.text(worker.rank, item.stream, item.text, now)
            elif isinstance(item, Regrouped):
                assert self._regrouping is not None
                self._regrouping.note(worker.rank, item)
            elif run is not None:
                self._hear(run, worker.rank, item, now)

    def _hear(self, run: Run, rank: int, message: object, now: float) -> None:
        if isinstance(message, Shown):
            run.feed.rich(rank, message, now)
        elif isinstance(message, Progress):
            run.feed.bar(rank, message.fields)
        elif isinstance(message, Metrics):
            run.feed.metrics(rank, message.points)
        elif isinstance(message, Ask):
            run.feed.ask(rank, message)
        elif isinstance(message, Done | Failed) and not run.ended:
            self._note_answer(run, rank, message, now)

    def _note_answer(self, run: Run, rank: int, answer: Done | Failed, now: float) -> None:
        if self._regrouping is not None:
            self._regrouping.note_group(rank, answer.names)
        if isinstance(answer, Done):
            run.done[rank] = answer
        else:
            run.note_failure(rank, answer)
        self._settle(run, now)

    def _see_out(self, worker: Worker, now: float) -> None:
        """The process is gone, or has said its last word: read what it left, end what it started."""
        worker.process.signal(SIGKILL)  # its group: what it started must not go on printing
        while not worker.left and worker.channel.ready():
            self._receive(worker, now)
        self._take(worker, worker.drain() + worker.order.finish(), now)
        worker.exited = True
        run = self.busy.get(worker.rank)
        answered = run is None or run.answered(worker.rank) or worker.process.pid is None
        if run is not None and not answered and not run.pressed and run.died is None:
            run.died = WorkerDiedError(worker.rank, worker.process.status, worker.last_output)
            if self._regrouping is None:
                self._press(run, FAILURE, now)
        if worker.process.refusal:
            self._close(NOW, now)
        elif self._regrouping is not None and not self._closing:
            self._break(
                "its workers did not start" if worker.process.pid is None else f"rank {worker.rank} is gone", now
            )

    def _break(self, why: str, now: float) -> None:
        """A team that was to stay cannot go on."""
        self.broken = why
        self._on_break(self)
        for run in set() if self.never_began() else set(self.busy.values()):
            run.feed.note("the session is started again: the variables of its workers are gone.")
        self._close(NOW, now)

    # time

    def _tell_slow_goodbye(self, now: float) -> None:
        if self._goodbye_s is None or now - self._goodbye_s < SLOW_GOODBYE_S:
            return
        self._goodbye_s = None
        staying = self._staying()
        if staying:
            self._say(still_waits(staying))

    def _staying(self) -> list[int]:
        return [worker.rank for worker in self.workers if not worker.exited]

    def _say(self, text: str) -> None:
        """Tell the user, in the log where no cell waits."""
        for run in set(self.busy.values()):
            run.feed.note(text)
        if not self.busy:
            logging.getLogger(__name__).warning(text)

    def _check_time(self, now: float) -> None:
        self._tell_slow_goodbye(now)
        for run in set(self.busy.values()):
            run.feed.tick(now)
            late = run.timeout_s is not None and run.began_s is not None and now - run.began_s > run.timeout_s
            if not late or self._pressing.concerns(run):
                continue
            if run.all_answered:
                self._close(LATE_GOODBYE, now)
            elif not run.is_late:
                run.is_late = True
                self._examine(lambda report, run=run: self._time_out(run, report), now)  # type: ignore[misc]
        if self._examination is not None and self._examination.is_ready(now):
            examination, self._examination = self._examination, None
            examination.finish()
        if self._regrouping is not None and not self._closing:
            problem = self._regrouping.advance(self.workers, self.busy, now)
            if problem:
                self._break(problem, now)

    def _time_out(self, run: Run, report: Report) -> None:
        if run.ended or run.all_answered or self._pressing.concerns(run):  # meanwhile
            return
        run.timed_out = RunTimeoutError(run.timeout_s or 0.0, run.unfinished, report.text())
        steps = FAILURE if self._regrouping is None else FAILURE_KEEPING
        self._press(run, tuple((max(0.0, at - steps[0][0]), number) for at, number in steps), time.monotonic())

    def _press(self, run: Run, steps: Steps, now: float) -> None:
        """Begin to press a run's ranks to end; those of a one-shot team that have answered are told to exit."""
        self._pressing.begin(run.ranks, steps, run, now)
        if self._regrouping is None:
            self._dismiss()

    def _close(self, steps: Steps, now: float) -> None:
        self._dismiss()
        self._pressing.begin((worker.rank for worker in self.workers), steps, None, now)

    def _dismiss(self) -> None:
        """Tell the workers to exit once they are through, which may take them long."""
        self._closing = True
        for worker in self.workers:
            worker.send(Exit())

    def _advance(self, now: float) -> None:
        for press, number in self._pressing.due(now):
            staying = self._staying()  # nobody, if the last one has left just now
            if press.whom is None and number == SIGTERM and staying:
                self._say(cut_off(staying))
            self._signal(press, number)
        if self._pressing.is_exhausted and self._closing:
            for worker in self.workers:
                # whoever was to start it has not got round to it; when it does, the worker finds its channel closed
                worker.exited |= worker.process.pid is None

    def _signal(self, press: Press[Run], number: Signals) -> None:
        runs = set(self.busy.values()) if press.whom is None else {press.whom}
        for run in runs:
            run.pressed = True
        for worker in self.workers:
            spared = self._regrouping is not None and press.whom is not None and press.whom.answered(worker.rank)
            if worker.exited or worker.rank not in press.ranks or spared:
                continue
            worker.process.signal(number)
            if number == SIGINT and self._regrouping is not None:
                worker.tell_monitor(Unblock())

    # the doctor

    def _hear_monitor(self, worker: Worker, now: float) -> None:
        try:
            message, _ = worker.monitor.receive()
        except (EOFError, OSError):
            worker.monitored = False
            return
        run = self.busy.get(worker.rank)
        if isinstance(message, Examined) and self._examination is not None:
            self._examination.note(worker.rank, message)
        elif isinstance(message, Waiting) and run is not None and not run.pressed:
            self._examine(lambda report: run.feed.note(report.text()), now)

    def _examine(self, then: Callable[[Report], None], now: float) -> None:
        if self._examination is None:
            self._examination = Examination(self.workers, self.busy, now)
        self._examination.then.append(then)

    # the end

    def _end(self, problem: LaunchError | None) -> None:
        left = [item for item in self._inbox.close() if isinstance(item, Run)]
        if self._examination is not None:
            self._examination.finish()
        for run in {*self.busy.values(), *self._pending, *left}:
            if problem is not None and not run.interrupted:
                run.reason = problem
            self._finish(run)
        for worker in self.workers:
            if not worker.exited:
                worker.process.signal(SIGKILL)
            worker.close()


def _with_files(message: object, descriptors: list[int]) -> Marked:
    known = Shown | Progress | Metrics | Ask | Done | Failed | Regrouped
    assert isinstance(message, known), f"the kernel does not know {message!r}"
    if isinstance(message, Done) and message.parcel is not None:
        return replace(message, parcel=message.parcel.with_file(descriptors))
    return message
