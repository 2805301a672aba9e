"""Brings a plan's workers to life: pipes, channels, rendezvous, specifications."""

from __future__ import annotations

import os
import random
import secrets
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from nbaccel.config import Resolved
from nbaccel.launch.environment import worker_environ
from nbaccel.launch.starter import Starter
from nbaccel.launch.worker import Worker
from nbaccel.plan import Plan
from nbaccel.plan.chips import Meeting
from nbaccel.wire.channel import Channel
from nbaccel.wire.ends import WorkerEnds
from nbaccel.wire.messages import RandomState, Start, WorkerSpec
from nbaccel.wire.parcel import MemoryFile

_LOOPBACK = "127.0.0.1"
_PRISTINE_TORCH_SEED = 67280421310721
"""What torch's generator starts with in every process: nobody seeded it."""


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


def start_workers(
    starter: Starter, plan: Plan, resolved: Resolved, around: Surroundings, *, attempt: int = 0, stay: bool = False
) -> list[Worker]:
    """Start all workers of this machine and tell each who it is. Raises LaunchError; leaves nothing behind then.

    Args:
        starter: how they come to life.
        plan: how many, and where.
        resolved: the configuration that they are to know.
        around: the kernel's state that they start with.
        attempt: how often the run was started before.
        stay: whether they will run more than one call.
    """
    token = secrets.token_hex(8)
    meeting = meeting_on_chips(plan)
    with rendezvous(plan) as (address, listener):
        workers = _born(starter, [plan.topology(local).rank for local in range(plan.local_world_size)], token)
        for local_rank, worker in enumerate(workers):
            environ = worker_environ(around.environ, plan, resolved, local_rank, address, attempt, meeting)
            serves = worker.rank == 0 and listener is not None
            spec = WorkerSpec(
                rank=worker.rank,
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
                hang_after_s=resolved.config.hang_after or None,
                stays=stay,
            )
            worker.send(Start(spec), (listener.fileno(),) if serves and listener is not None else ())
    starter.import_ahead(_PACKAGES.get(plan.device, ()))
    return workers


_PACKAGES = {
    "xla": ("torch_xla", "torch_xla.core.xla_model", "torch_xla.debug.metrics", "nbaccel.runtime.parallel.xla")
}
"""What workers on a device are going to import, where that takes seconds."""


def meeting_on_chips(plan: Plan) -> Meeting | None:
    """Free ports where the processes of one machine agree on its TPU chips; None for other devices."""
    if plan.chips is None:
        return None
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(plan.local_world_size)]
        for one in sockets:
            one.bind((_LOOPBACK, 0))
        ports = tuple(one.getsockname()[1] for one in sockets)
    return Meeting(ports, str(time.time_ns()))


@contextmanager
def rendezvous(plan: Plan) -> Iterator[tuple[tuple[str, int], socket.socket | None]]:
    """Where ranks meet; on one machine a listening loopback socket that rank 0 inherits: no port to choose, no race."""
    if plan.rendezvous is not None:
        yield (plan.rendezvous.host, plan.rendezvous.port), None
        return
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind((_LOOPBACK, 0))
        listener.listen()
        yield listener.getsockname(), listener


def _born(starter: Starter, ranks: Sequence[int], token: str) -> list[Worker]:
    with ExitStack() as theirs, ExitStack() as mine:
        pairs = [_ends(theirs, mine) for _ in ranks]
        processes = starter.start([ends for ends, _ in pairs])
        workers = [
            Worker(rank, process, *make(), token)
            for rank, process, (_, make) in zip(ranks, processes, pairs, strict=True)
        ]
        mine.pop_all()
    return workers


class _Here(NamedTuple):
    """The kernel's ends of a worker's descriptors."""

    channel: Channel
    pipes: dict[int, int]
    monitor: Channel
    stacks: MemoryFile


def _ends(theirs: ExitStack, mine: ExitStack) -> tuple[WorkerEnds, Callable[[], _Here]]:
    """Descriptors for one worker, and what makes the kernel's side of them once the worker is on its way."""
    channel, monitor = _pair(theirs, mine), _pair(theirs, mine)
    out, err = os.pipe(), os.pipe()
    stacks = MemoryFile()
    mine.callback(stacks.close)
    for stack, descriptors in ((mine, (out[0], err[0])), (theirs, (out[1], err[1]))):
        for descriptor in descriptors:
            stack.callback(os.close, descriptor)
    ends = WorkerEnds(channel[1].fileno(), out[1], err[1], monitor[1].fileno(), stacks.fileno())
    return ends, lambda: _Here(Channel(channel[0]), {1: out[0], 2: err[0]}, Channel(monitor[0]), stacks)


def _pair(theirs: ExitStack, mine: ExitStack) -> tuple[socket.socket, socket.socket]:
    here, there = socket.socketpair()
    theirs.callback(there.close)
    mine.callback(here.close)
    return here, there
