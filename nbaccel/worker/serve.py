"""The worker's loop: receive, run, answer."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from nbaccel.runtime import progress
from nbaccel.runtime.tracking import reporting
from nbaccel.wire.channel import Channel
from nbaccel.wire.codec import Encoded
from nbaccel.wire.messages import (
    LAST,
    Done,
    Exit,
    Metrics,
    Names,
    Point,
    Progress,
    Regroup,
    Regrouped,
    Reply,
    RunCell,
    RunFunction,
    Shown,
    WorkerSpec,
)
from nbaccel.worker.asking import Asker
from nbaccel.worker.batching import Batches
from nbaccel.worker.execute import Executor, describe
from nbaccel.worker.interrupts import InterruptGate
from nbaccel.worker.regroup import Group
from nbaccel.worker.shell import make_shell
from nbaccel.worker.streams import Outbox, mend_streams


class Server:
    """Answers the kernel's messages, one after the other."""

    def __init__(self, channel: Channel, gate: InterruptGate, spec: WorkerSpec, group: Group) -> None:
        self._channel, self._spec, self._group = channel, spec, group
        self._outbox = Outbox(channel, gate, spec.marker)
        self._shell = make_shell()
        self._shell.connect(self._show)
        self._executor = Executor(self._shell, gate)
        self._gate, self._has_run = gate, False
        self._asker = Asker(channel, gate, self._outbox)

    def serve(self) -> None:
        """Until told to exit."""
        self._asker.install()
        while True:
            message, descriptors = self._next()
            if isinstance(message, Exit):
                return
            if isinstance(message, Reply):  # to a question that was interrupted
                continue
            if isinstance(message, Regroup):
                self._regroup(message, descriptors)
            else:
                assert isinstance(message, RunFunction | RunCell), f"a worker does not know {message!r}"
                self._run(message, descriptors)

    def _next(self) -> tuple[object, list[int]]:
        postponed = self._asker.postponed
        return postponed.pop(0) if postponed else self._channel.receive()

    def _run(self, message: RunFunction | RunCell, descriptors: list[int]) -> None:
        if self._has_run:
            self._gate.forget()
        self._has_run = True
        mend_streams()
        if self._spec.stays:  # a group that this run forms must not meet what an earlier one left in the store
            os.environ["TORCHELASTIC_RESTART_COUNT"] = str(message.number)
        progress.connect(self._show_progress)
        self._group.begin_run()
        try:
            answer = self._call(message, descriptors)
        except BaseException as error:  # noqa: BLE001 - whatever the user's code raises is the answer
            self._shell.remember(error)
            failed = describe(error, self._shell, self._spec.colors)
            names = self._changes()
            self._outbox.send_last(replace(failed, names=names))
            return
        finally:
            progress.disconnect()
        if self._executor.has_quit and not self._spec.stays:
            self._group.quit()
        parcel = None if answer is None else answer.parcel
        descriptors = [] if parcel is None else list(parcel.descriptors())
        for_message = None if parcel is None else parcel.for_message()
        names = self._changes()
        self._outbox.send_last(Done(LAST, for_message, names), descriptors)

    def _call(self, message: RunFunction | RunCell, descriptors: list[int]) -> Encoded | None:
        arrived = replace(message, parcel=message.parcel.with_file(descriptors))
        with self._metrics_sent():
            if isinstance(arrived, RunFunction):
                return self._executor.run_function(arrived)
            return self._executor.run_cell(arrived)

    @contextmanager
    def _metrics_sent(self) -> Iterator[None]:
        batches = Batches(self._show_metrics)
        reporting.connect(batches.add)
        try:
            yield
        finally:
            reporting.disconnect()
            with suppress(Exception):  # a device that has failed gives no numbers; the run's own error says why
                batches.flush()

    def _changes(self) -> Names:
        if not self._spec.stays:
            return Names()
        bound, unbound = self._executor.changes()
        return Names(bound, unbound, self._group.state(), arrived=self._executor.arrived)

    def _regroup(self, message: Regroup, descriptors: list[int]) -> None:
        problem = ""
        try:
            self._group.regroup(message, descriptors)
        except Exception as error:  # noqa: BLE001 - the kernel side decides what to do about it
            problem = f"{type(error).__name__}: {error}"
        self._outbox.send_last(Regrouped(LAST, problem))

    def _show(self, kind: str, **content: Any) -> None:
        self._outbox.send(lambda mark: Shown(kind=kind, mark=mark, **content))

    def _show_progress(self, fields: Mapping[str, object]) -> None:
        self._outbox.send(lambda mark: Progress(mark, fields))

    def _show_metrics(self, points: tuple[Point, ...]) -> None:
        self._outbox.send(lambda mark: Metrics(mark, points))
