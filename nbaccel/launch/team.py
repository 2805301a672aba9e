"""Brings a plan's workers to life: pipes, channels, rendezvous, specifications."""

from __future__ import annotations

import os
import random
import secrets
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

from nbaccel.config import Resolved
from nbaccel.launch.environment import worker_environ
from nbaccel.launch.order import Item, Order
from nbaccel.launch.process import ProcessHandle, WorkerEnds
from nbaccel.launch.starter import Starter
from nbaccel.plan import Plan
from nbaccel.wire.channel import Channel
from nbaccel.wire.messages import RandomState, Start, WorkerSpec

_LOOPBACK = "127.0.0.1"
_PRISTINE_TORCH_SEED = 67280421310721
"""What torch's generator starts with in every process: nobody seeded it."""
_READ_BYTES = 1 << 18
_LAST_OUTPUT_CHARACTERS = 2000


class Worker:
    """The kernel's handle on one worker process.

    Attributes:
        left: it has closed its end of the channel, as the last thing it does.
        exited: nothing more is expected of it.
    """

    def __init__(self, rank: int, process: ProcessHandle, channel: Channel, pipes: dict[int, int], token: str) -> None:
        self.rank, self.process, self.channel = rank, process, channel
        self.pipes = pipes
        self.order = Order(token)
        self.last_output = ""
        self.left = False
        self.exited = False
        for descriptor in pipes.values():
            os.set_blocking(descriptor, False)

    def descriptors(self, *, with_output: bool) -> list[int]:
        """Where news of it can come from; without its output, which then waits, and it with it."""
        if self.exited:
            return []
        channel = [] if self.left else [self.channel.fileno()]
        return [self.process.fileno(), *([*channel, *self.pipes.values()] if with_output else ())]

    def read_pipe(self, stream: int) -> list[Item] | None:
        """Read what is there, None when nothing is; at its end a pipe is closed and forgotten."""
        try:
            data = os.read(self.pipes[stream], _READ_BYTES)
        except BlockingIOError:
            return None
        if not data:
            os.close(self.pipes.pop(stream))
            return None
        return self.order.text(stream, data)

    def note_output(self, text: str) -> None:
        """Remember the end of what it printed: it tells most if the worker dies."""
        self.last_output = (self.last_output + text)[-_LAST_OUTPUT_CHARACTERS:]

    def drain(self) -> list[Item]:
        """All text that is in the pipes; does not wait for more, since a grandchild may hold them open."""
        items: list[Item] = []
        for stream in tuple(self.pipes):
            while (got := self.read_pipe(stream)) is not None:
                items += got
        return items

    def send(self, message: object, descriptors: tuple[int, ...] = ()) -> None:
        """Send a message; a worker that is gone is noticed by its end, not here."""
        with suppress(OSError):
            self.channel.send(message, descriptors)

    def close(self) -> None:
        for descriptor in self.pipes.values():
            os.close(descriptor)
        self.pipes.clear()
        self.channel.close()
        self.process.close()


@dataclass(frozen=True)
class Surroundings:
    """What of the kernel's state every worker starts with, read once per launch."""

    cwd: str
    environ: dict[str, str]
    sys_path: tuple[str, ...]
    argv: tuple[str, ...]
    random: RandomState
    colors: str

    @classmethod
    def now(cls, colors: str) -> Surroundings:
        """Read it from this process."""
        return cls(
            cwd=os.getcwd(),
            environ=dict(os.environ),
            sys_path=tuple(sys.path),
            argv=tuple(sys.argv) or ("",),
            random=random_state(),
            colors=colors,
        )


def random_state() -> RandomState:
    """The states of this process's generators."""
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    seeded = torch is not None and hasattr(torch, "initial_seed") and torch.initial_seed() != _PRISTINE_TORCH_SEED
    return RandomState(
        python=random.getstate(),
        numpy=numpy.random.get_state() if numpy is not None and hasattr(numpy, "random") else None,
        torch=bytes(torch.get_rng_state().tolist()) if torch is not None and seeded else None,
        fresh=secrets.randbits(32),
    )


def start_team(starter: Starter, plan: Plan, resolved: Resolved, around: Surroundings, attempt: int) -> list[Worker]:
    """Start all workers of this machine and tell each who it is. Raises LaunchError; leaves nothing behind then."""
    token = secrets.token_hex(8)
    with _rendezvous(plan) as (address, listener):
        workers = _start_workers(starter, [plan.topology(local).rank for local in range(plan.local_world_size)], token)
        for local_rank, worker in enumerate(workers):
            environ = worker_environ(around.environ, plan, resolved, local_rank, address, attempt)
            serves = worker.rank == 0 and listener is not None
            spec = _spec(plan, resolved, around, worker.rank, environ, token, serves)
            worker.send(Start(spec), (listener.fileno(),) if serves and listener is not None else ())
    return workers


def _spec(
    plan: Plan, resolved: Resolved, around: Surroundings, rank: int, environ: dict[str, str], token: str, serves: bool
) -> WorkerSpec:
    return WorkerSpec(
        rank=rank,
        world_size=plan.world_size,
        environ=environ,
        cwd=around.cwd,
        sys_path=around.sys_path,
        argv=around.argv,
        threads=plan.threads_per_worker,
        seed=resolved.config.seed,
        random=around.random,
        marker=token,
        colors=around.colors,
        serves_store=serves,
    )


@contextmanager
def _rendezvous(plan: Plan) -> Iterator[tuple[tuple[str, int], socket.socket | None]]:
    """Where ranks meet; on one machine a listening loopback socket that rank 0 inherits: no port to choose, no race."""
    if plan.rendezvous is not None:
        yield (plan.rendezvous.host, plan.rendezvous.port), None
        return
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind((_LOOPBACK, 0))
        listener.listen()
        yield listener.getsockname(), listener


def _start_workers(starter: Starter, ranks: Sequence[int], token: str) -> list[Worker]:
    with ExitStack() as born, ExitStack() as mine:
        channels, pipes, ends = [], [], []
        for _ in ranks:
            here, there = socket.socketpair()
            out, err = os.pipe(), os.pipe()
            born.callback(there.close)
            mine.callback(here.close)
            for stack, descriptors in ((mine, (out[0], err[0])), (born, (out[1], err[1]))):
                for descriptor in descriptors:
                    stack.callback(os.close, descriptor)
            channels.append(here)
            pipes.append({1: out[0], 2: err[0]})
            ends.append(WorkerEnds(there.fileno(), out[1], err[1]))
        processes = starter.start(ends)
        mine.pop_all()
    parts = zip(ranks, processes, channels, pipes, strict=True)
    return [Worker(rank, process, Channel(channel), streams, token) for rank, process, channel, streams in parts]
