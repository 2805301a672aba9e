"""A run: one call on some workers of a team. What they answered, and the verdict. Nothing here waits or signals."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field

from nbaccel.errors import RemoteFailure, RunError, RunTimeoutError, WorkerDiedError, WorkerError
from nbaccel.launch.call import Call, rebuilt_exception
from nbaccel.launch.feed import Feed
from nbaccel.wire.messages import Done, Failed
from nbaccel.wire.parcel import Parcel


@dataclass(eq=False)
class Run:
    """One call on some workers.

    Attributes:
        call: what they run.
        ranks: which of them.
        feed: takes what they print and draw.
        timeout_s: seconds after which it is stopped.
        keep: names that the workers keep if they have them (see `RunFunction`).
        names: names of the notebook that come along.
        in_session: whether its workers go on living.
        world_size: ranks of the team, those on other machines included; 0 if all of them take part.
        on_end: called once, by the thread that watches over the workers.
        number: in its team, from 1.
        began_s: when the workers were told; None before.
        pressed: some rank was sent a signal.
        interrupted: the user stopped it.
        is_late: it has taken longer than `timeout_s`.
        ended: it is over.
        done: answers of the ranks that ended well.
        failed: answers of those that raised.
        stopped: answers of those that were interrupted.
        died: a rank that ended without an answer.
        timed_out: set once it is known what each rank was doing then.
        reason: why it came to nothing, where no rank is to blame.
    """

    call: Call
    ranks: tuple[int, ...]
    feed: Feed
    timeout_s: float | None = None
    keep: frozenset[str] = frozenset()
    names: tuple[str, ...] = ()
    in_session: bool = False
    world_size: int = 0
    on_end: Callable[[Run], None] = lambda run: None
    number: int = 0
    began_s: float | None = None
    pressed: bool = False
    interrupted: bool = False
    is_late: bool = False
    ended: bool = False
    done: dict[int, Done] = field(default_factory=dict)
    failed: dict[int, Failed] = field(default_factory=dict)
    stopped: dict[int, Failed] = field(default_factory=dict)
    died: WorkerDiedError | None = None
    timed_out: RunTimeoutError | None = None
    reason: RunError | None = None

    def answered(self, rank: int) -> bool:
        return rank in self.done or rank in self.failed or rank in self.stopped

    @property
    def all_answered(self) -> bool:
        return all(map(self.answered, self.ranks))

    @property
    def unfinished(self) -> list[int]:
        return [rank for rank in self.ranks if rank not in self.done]

    def note_failure(self, rank: int, failed: Failed) -> bool:
        """A rank raised. Returns whether that is a failure: one that was told to stop did as it was told."""
        if failed.interrupted and self.pressed:
            self.stopped[rank] = failed
            return False
        self.failed[rank] = failed
        return True

    def error(self) -> RunError | None:
        """What went wrong, None if nothing did or the user stopped it."""
        if self.interrupted:
            return None
        if self.reason is not None or self.timed_out is not None:
            return self.reason or self.timed_out
        if self.died is not None and all(failed.distributed for failed in self.failed.values()):
            return self.died  # the others only lost their peer
        first = min((failed.time_s for failed in self.failed.values()), default=0.0)
        failures = [_failure(rank, failed, first) for rank, failed in self.failed.items()]
        return (
            WorkerError(failures, self.world_size or len(self.ranks), of_session=self.in_session) if failures else None
        )

    def places(self) -> dict[int, str]:
        """Where the code of each rank was when it was stopped, as far as they have told."""
        return {rank: self.stopped[rank].place for rank in sorted(self.stopped) if self.stopped[rank].place}

    def parcels(self) -> dict[int, Parcel | None]:
        """What each rank sent back, by rank."""
        return {rank: self.done[rank].parcel for rank in sorted(self.done)}


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
