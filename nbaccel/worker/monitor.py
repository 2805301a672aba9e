"""The monitor: a thread that answers the kernel while the worker's main thread runs the user's code.

It tells when this rank has waited too long in a collective, says which collectives it has reached, and frees the main
thread from C code that waits for other ranks. torch's flight recorder knows all collectives, those of DDP included.
"""

from __future__ import annotations

import gc
import linecache
import os
import pickle
import select
import socket
import stat
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from nbaccel.wire.channel import Channel
from nbaccel.wire.messages import Collective, Examine, Examined, Unblock, Waiting
from nbaccel.worker.interrupts import InterruptGate

_PATIENCE_S = 0.2
"""How long an interrupted main thread gets to come back to Python by itself."""
_LOOKS = 4
"""How often the recorder is looked at within the time after which a wait counts as a hang."""


class Monitor:
    """Watches over one worker from inside."""

    def __init__(
        self, channel: Channel, gate: InterruptGate, connections: Connections, hang_after_s: float | None
    ) -> None:
        self._channel, self._gate, self._connections = channel, gate, connections
        self._hang_after_s = hang_after_s
        self._told: set[tuple[str, int]] = set()

    def start(self) -> None:
        threading.Thread(target=self._run, name="nbaccel-monitor", daemon=True).start()

    def _run(self) -> None:
        poll = select.poll()  # not select(), which knows no descriptor above 1023
        poll.register(self._channel.fileno(), select.POLLIN)
        pause_s = None if self._hang_after_s is None else min(15.0, max(0.1, self._hang_after_s / _LOOKS))
        with suppress(EOFError, OSError):  # the kernel side is gone
            while True:
                if poll.poll(None if pause_s is None else pause_s * 1000):
                    self._answer(self._channel.receive()[0])
                else:
                    self._look()

    def _answer(self, message: object) -> None:
        if isinstance(message, Examine):
            self._channel.send(Examined(*examine(), _sources()))
        elif isinstance(message, Unblock):
            self._unblock()

    def _look(self) -> None:
        if self._hang_after_s is None or not _something_in_flight():
            return
        for waiting in examine()[0]:
            if waiting.waited_s >= self._hang_after_s and (waiting.group, waiting.number) not in self._told:
                self._told.add((waiting.group, waiting.number))
                self._channel.send(Waiting(waiting))

    def _unblock(self) -> None:
        heard = self._gate.heard
        deadline = time.monotonic() + _PATIENCE_S
        while self._gate.is_open and self._gate.heard == heard and time.monotonic() < deadline:
            time.sleep(0.02)
        if self._gate.is_open and self._gate.heard == heard:
            self._connections.cut()


def _recorded(collectives: bool) -> dict[str, Any]:
    """What the flight recorder holds; empty without a process group, or in versions of torch without one."""
    dist = sys.modules.get("torch.distributed")
    core = sys.modules.get("torch._C._distributed_c10d")
    if dist is None or core is None or not dist.is_available() or not dist.is_initialized():
        return {}
    nccl = dist.get_backend() == "nccl"
    dump = getattr(core, "_dump_nccl_trace" if nccl else "_dump_fr_trace", None)
    # without the call sites: finding them takes more than a second the first time
    return {} if dump is None else pickle.loads(dump(collectives, False, False))


def _something_in_flight() -> bool:
    return any(
        group["last_enqueued_collective"] > group["last_completed_collective"]
        for group in _recorded(collectives=False).get("pg_status", {}).values()
    )


def examine() -> tuple[tuple[Collective, ...], Mapping[str, int]]:
    """Collectives that were called and have not completed, and the last completed one of each group."""
    record = _recorded(collectives=True)
    completed = {name: int(group["last_completed_collective"]) for name, group in record.get("pg_status", {}).items()}
    waits = [_collective(entry) for entry in record.get("entries", ()) if not entry["retired"]]
    # what a group gave up long ago is never marked as ended
    return tuple(one for one in waits if one.number > completed.get(one.group, 0)), completed


def _sources() -> dict[str, tuple[str, ...]]:
    """Lines of the code without a file that the main thread is in."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    found: dict[str, tuple[str, ...]] = {}
    while frame is not None:
        file = frame.f_code.co_filename
        if file in linecache.cache and not os.path.exists(file):
            found[file] = tuple(linecache.getlines(file))
        frame = frame.f_back
    return found


def _collective(entry: Mapping[str, Any]) -> Collective:
    return Collective(
        name=str(entry["profiling_name"]).partition(":")[2] or str(entry["profiling_name"]),
        number=int(entry["collective_seq_id"]),
        group=str(entry["process_group"][0]),
        waited_s=time.time() - entry["time_created_ns"] / 1e9,
        shapes=tuple(tuple(shape) for shape in entry["input_sizes"]),
    )


class Connections:
    """The connections to other ranks, as those that this process has made itself."""

    def __init__(self) -> None:
        """To be made at the worker's birth: what it has by then is not its own (a fork has the kernel's sockets)."""
        self._inherited = {inode for _, inode in _sockets()}

    def cut(self) -> None:
        """End them: whoever waits for them in C code comes back with an error, at once.

        They are TCP connections over the loopback interface that no socket object of Python holds.
        """
        pythons = {one.fileno() for one in gc.get_objects() if issubclass(type(one), socket.socket)}
        for descriptor, inode in _sockets():
            if descriptor not in pythons and inode not in self._inherited:
                _cut_if_loopback(descriptor)


def _sockets() -> Iterator[tuple[int, int]]:
    """Descriptors of sockets, and what tells a socket from another one that had the same number."""
    for name in os.listdir("/dev/fd"):
        with suppress(OSError):  # gone meanwhile
            status = os.fstat(int(name))
            if stat.S_ISSOCK(status.st_mode):
                yield int(name), status.st_ino


def _cut_if_loopback(descriptor: int) -> None:
    with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as copy:
        if copy.family in (socket.AF_INET, socket.AF_INET6) and copy.type == socket.SOCK_STREAM:
            host = copy.getpeername()[0]
            if host.startswith(("127.", "::1", "::ffff:127.")):
                copy.shutdown(socket.SHUT_RDWR)
