"""The worker's loop: receive, run, answer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from nbaccel.wire.channel import Channel
from nbaccel.wire.codec import Encoded
from nbaccel.wire.messages import Done, Exit, RunCell, RunFunction, Shown, WorkerSpec
from nbaccel.worker.execute import Executor, describe
from nbaccel.worker.interrupts import InterruptGate
from nbaccel.worker.shell import make_shell
from nbaccel.worker.streams import Outbox


class Server:
    """Answers the kernel's messages, one after the other."""

    def __init__(self, channel: Channel, gate: InterruptGate, spec: WorkerSpec) -> None:
        self._channel, self._spec = channel, spec
        self._outbox = Outbox(channel, gate, spec.marker)
        self._shell = make_shell()
        self._shell.connect(self._show)
        self._executor = Executor(self._shell, gate)

    def serve(self) -> None:
        """Until told to exit."""
        while True:
            message, descriptors = self._channel.receive()
            if isinstance(message, Exit):
                return
            assert isinstance(message, RunFunction | RunCell), f"a worker does not know {message!r}"
            self._run(message, descriptors)

    def _run(self, message: RunFunction | RunCell, descriptors: list[int]) -> None:
        try:
            answer = self._call(message, descriptors)
        except BaseException as error:  # noqa: BLE001 - whatever the user's code raises is the answer
            failed = describe(error, self._shell, self._spec.colors)
            self._outbox.send(lambda mark: replace(failed, mark=mark))
            return
        parcel = None if answer is None else answer.parcel
        descriptors = [] if parcel is None else list(parcel.descriptors())
        self._outbox.send(lambda mark: Done(mark, None if parcel is None else parcel.for_message()), descriptors)

    def _call(self, message: RunFunction | RunCell, descriptors: list[int]) -> Encoded | None:
        arrived = replace(message, parcel=message.parcel.with_file(descriptors))
        if isinstance(arrived, RunFunction):
            return self._executor.run_function(arrived)
        return self._executor.run_cell(arrived)

    def _show(self, kind: str, **content: Any) -> None:
        self._outbox.send(lambda mark: Shown(kind=kind, mark=mark, **content))
