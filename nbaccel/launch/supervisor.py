"""Watches over the workers of one run in a thread of its own: reads what they say, ends them, settles the verdict.

The thread alone touches channels, pipes and processes, so that a KeyboardInterrupt in the kernel's main thread can
never hit the protocol. What is to be seen leaves through a queue.
"""

from __future__ import annotations

import os
import select
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from signal import SIGKILL

from nbaccel.errors import RemoteFailure, RunError, RunTimeoutError, WorkerDiedError, WorkerError
from nbaccel.launch.call import Call, rebuilt_exception
from nbaccel.launch.events import Event, Rich, Text
from nbaccel.launch.order import Item, Marked
from nbaccel.launch.output import Policy
from nbaccel.launch.stopping import FAILURE, GOODBYE, INTERRUPT, Escalation, Steps
from nbaccel.launch.team import Worker
from nbaccel.wire.messages import Done, Exit, Failed, Shown
from nbaccel.wire.parcel import Parcel

Emit = Callable[[Event], None]

_TICK_S = 0.1


class Supervisor:
    """Runs one call on a team of workers and sees them out."""

    def __init__(self, workers: Sequence[Worker], call: Call, policy: Policy, timeout_s: float | None) -> None:
        self._workers = workers
        self._call = call
        self._policy = policy
        self._timeout_s = timeout_s
        self._done: dict[int, Done] = {}
        self._failed: dict[int, Failed] = {}
        self._died: WorkerDiedError | None = None
        self._timed_out: RunTimeoutError | None = None
        self._escalation: Escalation | None = None
        self._commands: list[Steps] = []
        self._pressed = False
        self._wakeup, self._wake = os.pipe()
        self._ready: frozenset[int] = frozenset()
        self._ending = threading.Lock()
        self._over = False
        self.interrupted = False

    # called from other threads

    def stop(self, steps: Steps) -> None:
        """End the run early, on the user's wish; does nothing when it is over."""
        with self._ending:
            if not self._over:
                self.interrupted = True
                self._commands.append(steps)
                os.write(self._wake, b"!")

    # called in the supervisor's thread

    def run(self, emit: Emit, may_read: Callable[[], bool]) -> None:
        """Until every worker is gone.

        Args:
            emit: takes what is to be seen.
            may_read: false while the reader of what is emitted lags behind; workers then wait in their prints.
        """
        started = time.monotonic()
        try:
            self._send_call()
            while not all(worker.exited for worker in self._workers):
                self._wait(may_read())
                now = time.monotonic()
                self._read_commands(now)
                for worker in self._workers:
                    self._read(worker, emit, now, may_read())
                self._check_time(now, started)
                self._advance(now)
                _emit_text(emit, self._policy.tick(now))
            _emit_text(emit, self._policy.finish())
        finally:
            with self._ending:
                self._over = True
            for worker in self._workers:
                if not worker.exited:
                    worker.process.signal(SIGKILL)
                worker.close()
            os.close(self._wake)
            os.close(self._wakeup)

    def _send_call(self) -> None:
        if self._commands:  # stopped before it began
            return
        for worker in self._workers:
            worker.send(self._call.message(worker.rank), self._call.parcel.descriptors())

    def _wait(self, may_read: bool) -> None:
        poll = select.poll()  # not select(), which knows no descriptor above 1023
        poll.register(self._wakeup, select.POLLIN)
        for worker in self._workers:
            for descriptor in worker.descriptors(with_output=may_read):
                poll.register(descriptor, select.POLLIN)
        self._ready = frozenset(descriptor for descriptor, _ in poll.poll(self._patience() * 1000))

    def _patience(self) -> float:
        due = self._escalation.next_at() if self._escalation is not None else None
        return _TICK_S if due is None else min(_TICK_S, max(0.0, due - time.monotonic()))

    def _read_commands(self, now: float) -> None:
        if self._wakeup in self._ready:
            os.read(self._wakeup, 64)
        while self._commands:  # one at a time: another thread may add one meanwhile
            self._end(self._commands.pop(0), now)

    def _read(self, worker: Worker, emit: Emit, now: float, may_read: bool) -> None:
        if worker.exited:
            return
        if may_read:
            for stream, descriptor in tuple(worker.pipes.items()):
                if descriptor in self._ready:
                    self._show(worker, worker.read_pipe(stream) or [], emit, now)
        if not worker.left and worker.channel.fileno() in self._ready:
            self._receive(worker, emit, now)
        if worker.order.waits():
            self._show(worker, worker.order.expire(now), emit, now)
        has_ended = worker.process.fileno() in self._ready and worker.process.learn()
        if has_ended or (worker.left and worker.rank in self._done):
            self._see_out(worker, emit, now)

    def _receive(self, worker: Worker, emit: Emit, now: float) -> None:
        try:
            message, descriptors = worker.channel.receive()
        except (EOFError, OSError):
            worker.left = True
        except Exception as error:  # noqa: BLE001 - unpickling runs the user's code: a display of a class of its own
            emit(Text(2, f"nbaccel: something that rank {worker.rank} wanted to show cannot be shown here: {error}\n"))
        else:
            self._show(worker, worker.order.message(_with_file(message, descriptors), now), emit, now)

    def _show(self, worker: Worker, items: Sequence[Item], emit: Emit, now: float) -> None:
        for item in items:
            if isinstance(item, Text):
                worker.note_output(item.text)
                _emit_text(emit, self._policy.feed(worker.rank, item.stream, item.text, now))
            elif isinstance(item, Shown):
                emit(Rich(worker.rank, item))
            else:
                self._note_answer(worker.rank, item, now)

    def _note_answer(self, rank: int, answer: object, now: float) -> None:
        if isinstance(answer, Done):
            self._done[rank] = answer
        elif isinstance(answer, Failed) and not (answer.interrupted and self._pressed):  # else it did as it was told
            self._failed[rank] = answer
            if self._escalation is None:
                self._end(FAILURE, now)
        if len(self._done) == len(self._workers):
            self._end(GOODBYE, now)

    def _see_out(self, worker: Worker, emit: Emit, now: float) -> None:
        """The process is gone, or has said its last word: read what it left, end what it started."""
        worker.process.signal(SIGKILL)  # its group: what it started must not go on printing
        while not worker.left and worker.channel.ready():
            self._receive(worker, emit, now)
        self._show(worker, worker.drain() + worker.order.finish(), emit, now)
        worker.exited = True
        answered = worker.rank in self._done or worker.rank in self._failed
        if not answered and not self._pressed and self._died is None:
            self._died = WorkerDiedError(worker.rank, worker.process.status, worker.last_output)
            self._end(FAILURE, now)

    def _check_time(self, now: float, started: float) -> None:
        if self._timeout_s is not None and self._escalation is None and now - started > self._timeout_s:
            unfinished = [worker.rank for worker in self._workers if worker.rank not in self._done]
            self._timed_out = RunTimeoutError(self._timeout_s, unfinished)
            self._end(INTERRUPT, now)

    def _end(self, steps: Steps, now: float) -> None:
        """Tell those that have answered to exit, and begin to press the others."""
        self._escalation = Escalation(now, steps)
        for worker in self._workers:
            worker.send(Exit())

    def _advance(self, now: float) -> None:
        if self._escalation is None:
            return
        for number in self._escalation.due(now):
            self._pressed = True
            for worker in self._workers:
                if not worker.exited:
                    worker.process.signal(number)
        if self._escalation.next_at() is None:
            for worker in self._workers:
                # whoever was to start it has not got round to it; when it does, the worker finds its channel closed
                worker.exited |= worker.process.pid is None

    # the verdict, once all is over

    def never_began(self) -> bool:
        """Whether no worker came to life: whoever was to start them had gone meanwhile."""
        return all(worker.process.pid is None for worker in self._workers)

    def error(self) -> RunError | None:
        """What went wrong, None if nothing did or the user stopped it."""
        if self.interrupted:
            return None
        if self._timed_out is not None:
            return self._timed_out
        if self._died is not None and all(failed.distributed for failed in self._failed.values()):
            return self._died  # the others only lost their peer
        first = min((failed.time_s for failed in self._failed.values()), default=0.0)
        failures = [self._failure(rank, failed, first) for rank, failed in self._failed.items()]
        return WorkerError(failures, len(self._workers)) if failures else None

    @staticmethod
    def _failure(rank: int, failed: Failed, first: float) -> RemoteFailure:
        return RemoteFailure(
            rank=rank,
            type_name=failed.type_name,
            message=failed.message,
            traceback=failed.traceback,
            time_s=failed.time_s,
            exception=rebuilt_exception(failed.exception, sys.modules["__main__"].__dict__),
            collateral=failed.distributed and failed.time_s > first,
        )

    def parcels(self) -> dict[int, Parcel | None]:
        """What each rank sent back."""
        return {rank: done.parcel for rank, done in self._done.items()}


def _with_file(message: object, descriptors: list[int]) -> Marked:
    assert isinstance(message, Shown | Done | Failed), f"the kernel does not know {message!r}"
    if isinstance(message, Done) and message.parcel is not None:
        return replace(message, parcel=message.parcel.with_file(descriptors))
    return message


def _emit_text(emit: Emit, shown: Sequence[tuple[int, str]]) -> None:
    for stream, text in shown:
        emit(Text(stream, text))
