"""After an interrupt the ranks of a session form their process group anew; this decides when, and sees it through."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager

from nbaccel.launch.run import Run
from nbaccel.launch.worker import Worker
from nbaccel.wire.messages import Names, Regroup, Regrouped

_PATIENCE_S = 25.0

_USED_UP = ("", 0)
"""What the rank that serves the store tells of a group that was taken down."""

Meeting = tuple[tuple[str, int], socket.socket | None]
"""Host and port where ranks meet, and the listening socket behind it."""


class Regrouping:
    """Knows each rank's process group, and whether it can still be trusted."""

    def __init__(self, meet: Callable[[], AbstractContextManager[Meeting]]) -> None:
        self._meet = meet
        self._groups: dict[int, tuple[str, int] | None] = {}
        self._wanted = False
        self._missing: set[int] = set()
        self._since = 0.0
        self._problem = ""

    @property
    def is_going_on(self) -> bool:
        return self._wanted or bool(self._missing)

    def note_group(self, rank: int, names: Names) -> None:
        """What a rank told of its process group at the end of a run."""
        self._groups[rank] = names.group

    def consider(self, run: Run) -> None:
        """A run has ended: was some collective perhaps cut off, or joined by some ranks only?

        A store in which a group that has gone left its traces must not serve the next one either.
        """
        groups = {self._groups.get(rank) for rank in run.ranks}
        used_up = _USED_UP in groups
        self._wanted |= run.pressed or used_up or (len(groups) > 1 and bool(run.failed))

    def advance(self, workers: Sequence[Worker], busy: Mapping[int, Run], now: float) -> str:
        """Begin when every rank is idle. Returns what went wrong, empty while all is well."""
        if self._wanted and not busy:
            self._wanted, self._since, self._problem = False, now, ""
            self._missing = {worker.rank for worker in workers}
            self._tell(workers)
        if self._missing and now - self._since > _PATIENCE_S:
            return f"{len(self._missing)} of its ranks did not form their process group again"
        return self._problem

    def note(self, rank: int, answer: Regrouped) -> None:
        self._missing.discard(rank)
        if answer.problem:
            self._problem = f"rank {rank} could not form its process group again: {answer.problem}"

    def _tell(self, workers: Sequence[Worker]) -> None:
        groups = [self._groups.get(worker.rank) for worker in workers]
        backends = {None if group is None else group[0] for group in groups}
        again = backends.isdisjoint({None, _USED_UP[0]}) and len(backends) == 1
        with self._meet() as ((host, port), listener):
            for worker in workers:
                serves = worker.rank == 0 and listener is not None
                descriptors = (listener.fileno(),) if serves and listener is not None else ()
                worker.send(Regroup(host, port, again), descriptors)
        backend = backends.pop()
        self._groups = {worker.rank: (backend, 0) if again and backend else None for worker in workers}
