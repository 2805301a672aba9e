"""Every error that a user of nbaccel can meet.

    NbaccelError
    ├── ConfigError (ValueError)       a key or value of the configuration makes no sense
    │   └── ConfigFileError            a configuration file cannot be read
    ├── PlanError (ValueError)         the wish is well formed, but this machine or this combination cannot do it
    ├── CallError (TypeError)          a function was called with arguments that it does not take
    ├── MissingExtraError (ImportError)  an optional package is needed
    ├── ShipError (TypeError)          a value cannot travel between the kernel and a worker
    ├── StateError (RuntimeError)      the right call at the wrong moment
    ├── DistributedOperationError (RuntimeError)  ranks bring different data to a collective operation
    ├── RunError (RuntimeError)        a run on workers did not end well
    │   ├── WorkerError                the user's code raised in a worker
    │   ├── WorkerDiedError            a worker process ended without an answer
    │   ├── LaunchError                worker processes could not be started
    │   └── RunTimeoutError (TimeoutError)  the run took longer than its `timeout`
    KeyboardInterrupt
    └── RunInterrupted                 the user stopped a run
    concurrent.futures.CancelledError
    └── RunCancelledError              a job was cancelled

Each message has three parts: what was written, what is possible, what to do now.
"""

from __future__ import annotations

import difflib
import os
import signal as signals
import traceback
import types
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, field


def _rebuilt(kind: type[BaseException], args: tuple[object, ...], state: dict[str, object]) -> BaseException:
    """An error that has travelled: `__init__` takes data and makes the text of it, of which `args` holds the latter."""
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(state)
    return error


class NbaccelError(Exception):
    """Base of all errors that nbaccel raises on purpose."""

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuilt, (type(self), self.args, self.__dict__)

    def _render_traceback_(self) -> list[str]:
        """Lines that IPython shows: where the user called nbaccel, and what it has to say; not its own frames."""
        return [*_called_at(self.__traceback__), f"{type(self).__name__}: {self}"]


def _called_at(trace: types.TracebackType | None) -> list[str]:
    """The user's own frames above nbaccel's, innermost last."""
    lines = []
    for frame in traceback.extract_tb(trace):
        if _HOME in frame.filename:
            break
        if frame.line and "/IPython/core/" not in frame.filename and "run_cell_magic(" not in frame.line:
            is_cell = "ipykernel_" in frame.filename or frame.filename.startswith("<")
            where = "Cell" if is_cell else f"File {frame.filename}"
            lines += [f"{where}, line {frame.lineno}, in {frame.name}", f"    {frame.line}"]
    return lines


_HOME = os.path.dirname(os.path.abspath(__file__))


class ConfigError(NbaccelError, ValueError):
    """A configuration key or value is wrong; says what was written, where, and what is possible."""

    def __init__(self, written: str, place: str, possible: str, meant: str | None = None) -> None:
        self.written, self.place, self.possible, self.meant = written, place, possible, meant
        hint = f" Did you mean {meant!r}?" if meant else ""
        super().__init__(f"{written} ({place}) is not valid. Possible: {possible}.{hint}")


class ConfigFileError(ConfigError):
    """A configuration file cannot be read; says where, why and what to do."""

    def __init__(self, place: str, problem: str, remedy: str, excerpt: str = "") -> None:
        self.problem, self.remedy, self.excerpt = problem, remedy, excerpt
        self.written, self.place, self.possible, self.meant = problem, place, remedy, None
        shown = f"\n{excerpt}" if excerpt else ""
        Exception.__init__(self, f"{place}: {problem}. {remedy}{shown}")


class PlanError(NbaccelError, ValueError):
    """The configuration is well formed, but cannot be carried out here.

    Attributes:
        wish: what was asked.
        obstacle: what stands in the way.
        remedy: what to do.
        key: the key of the configuration that asks for it, empty where there is no single one.
    """

    def __init__(self, wish: str, obstacle: str, remedy: str, key: str = "", place: str = "") -> None:
        self.wish, self.obstacle, self.remedy, self.key = wish, obstacle, remedy, key
        super().__init__(f"{wish}{f' (from {place})' if place else ''}: {obstacle} {remedy}")

    def at(self, place: str) -> PlanError:
        """The same error, with the place that the wish came from."""
        return PlanError(self.wish, self.obstacle, self.remedy, self.key, place)


class CallError(NbaccelError, TypeError):
    """A function of nbaccel was called in a way that cannot work."""


class MissingExtraError(NbaccelError, ImportError):
    """An optional package is missing; the message holds the line that installs it."""

    def __init__(self, package: str, purpose: str, install: str) -> None:
        self.package, self.install = package, install
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed. Run: {install}", name=package
        )


class ShipError(NbaccelError, TypeError):
    """A value cannot be sent to the workers or back; names the culprit and what to do."""

    def __init__(self, path: str, type_name: str, reason: str, remedy: str) -> None:
        self.path, self.type_name, self.reason, self.remedy = path, type_name, reason, remedy
        super().__init__(f"{path} (a {type_name}) cannot be sent: {reason}. {remedy}")


class StateError(NbaccelError, RuntimeError):
    """The call is right, but not now (a second launch in a worker, a closed session)."""


class DistributedOperationError(NbaccelError, RuntimeError):
    """The ranks brought different data to a collective operation, which would hang or give nonsense.

    Attributes:
        operation: name of the operation.
        ranks: those that differ from the others.
    """

    def __init__(self, operation: str, ranks: Sequence[int], differences: Sequence[str]) -> None:
        self.operation, self.ranks, self.differences = operation, tuple(ranks), tuple(differences)
        verb = "differs" if len(ranks) == 1 else "differ"
        super().__init__(
            "\n".join(
                [
                    f"{operation}(): {name_ranks(ranks)} {verb} from the other ranks.",
                    *(f"  {line}" for line in differences),
                    "All ranks must bring the same shapes and dtypes; see pad_across_processes() and gather_object().",
                ]
            )
        )


class RunError(NbaccelError, RuntimeError):
    """A run on workers did not end well.

    Attributes:
        rank: rank of the worker that failed first, None when no single one did.
        exceptions: what each failed rank reported, by rank.
    """

    rank: int | None = None
    exceptions: Mapping[int, RemoteFailure] = {}


class LaunchError(RunError):
    """Worker processes could not be started."""


class RunCancelledError(CancelledError):
    """A job was cancelled by `cancel()`."""

    def _render_traceback_(self) -> list[str]:
        return [f"CancelledError: {self}"]


class RunInterrupted(KeyboardInterrupt):
    """The user stopped a run; says where its ranks were."""

    def __init__(self, places: Mapping[int, str] | None = None) -> None:
        self.places = dict(places or {})
        super().__init__("\n".join(["stopped", *(f"rank {rank} was at {self.places[rank]}" for rank in self.places)]))

    def _render_traceback_(self) -> list[str]:
        return [f"KeyboardInterrupt: {self}"]


class RunTimeoutError(RunError, TimeoutError):
    """The run took longer than its `timeout` (seconds); `report` says what each rank was doing."""

    def __init__(self, timeout_s: float, unfinished: Sequence[int], report: str = "") -> None:
        self.timeout_s, self.unfinished, self.report = timeout_s, tuple(unfinished), report
        super().__init__(
            f"the run took longer than timeout={timeout_s:g} s and was stopped; "
            f"{name_ranks(unfinished)} had not finished. Raise `timeout`, or leave it out to wait for ever."
            + (f"\n{report}" if report else "")
        )

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


@dataclass(frozen=True)
class RemoteFailure:
    """What a rank reported of the exception that ended its code.

    Attributes:
        rank: the rank that raised.
        type_name: class of the exception, with its module unless that is builtins.
        message: `str(exception)`.
        traceback: lines as they are to be shown, colours included, source lines included.
        time_s: monotonic time at which it was raised; comparable between ranks of one machine.
        exception: the exception itself, where it could be rebuilt here.
        collateral: true when it most likely only followed from another rank's failure.
    """

    rank: int
    type_name: str
    message: str
    traceback: tuple[str, ...]
    time_s: float
    exception: BaseException | None = field(default=None, compare=False)
    collateral: bool = False

    @property
    def summary(self) -> str:
        return f"{self.type_name}: {self.message}" if self.message else self.type_name


class WorkerError(RunError):
    """The user's code raised in one or more workers; the first failure in time is on top."""

    def __init__(self, failures: Iterable[RemoteFailure], world_size: int, *, of_session: bool = False) -> None:
        ordered = sorted(failures, key=lambda failure: (failure.collateral, failure.time_s))
        self.first = ordered[0]
        self.rank = self.first.rank
        self.exceptions = {failure.rank: failure for failure in ordered}
        self.world_size, self.of_session = world_size, of_session
        super().__init__("\n".join(self._headlines()))
        self.__cause__ = self.first.exception

    def _headlines(self) -> list[str]:
        same = [rank for rank, failure in self.exceptions.items() if failure.summary == self.first.summary]
        lines = [f"{name_ranks(same)} of {self.world_size} failed: {self.first.summary}"]
        for rank, failure in self.exceptions.items():
            if rank not in same:
                note = "  (followed from the failure above)" if failure.collateral else ""
                lines.append(f"rank {rank}: {failure.summary}{note}")
        return lines

    def _render_traceback_(self) -> list[str]:
        """Lines that IPython shows: the remote traceback is what helps, not the launcher's frames."""
        hint = [f"(%accelerate debug {self.rank} opens the debugger there)"] if self.of_session else []
        return [*self.first.traceback, *self._headlines(), *hint]


class WorkerDiedError(RunError):
    """A worker process ended without an answer: killed, crashed or exited."""

    def __init__(self, rank: int, status: int | None, last_output: str) -> None:
        self.rank, self.status, self.last_output = rank, status, last_output
        tail = f"\nIts last output:\n{last_output.rstrip()}" if last_output.strip() else "\nIt printed nothing."
        super().__init__(f"rank {rank} {describe_exit(status)}{tail}")

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


_LIKELY_CAUSES: dict[int, str] = {
    signals.SIGKILL: "most likely the system ran out of memory, or somebody killed it",
    signals.SIGSEGV: "a crash in C code",
    signals.SIGBUS: "a crash in C code, or a full shared memory or disk",
    signals.SIGABRT: "C code gave up, see its last output",
    signals.SIGTERM: "somebody asked it to end",
}


def describe_exit(status: int | None) -> str:
    """Says in words how a process ended: `status` as from `Popen.returncode`, None when nobody knows."""
    if status is None:
        return "disappeared, and the process that watches over it with it."
    if status < 0:
        named = -status in set(signals.Signals)
        name = signals.Signals(-status).name if named else f"signal {-status}"
        cause = _LIKELY_CAUSES.get(-status)
        return f"was killed by {name}{f': {cause}' if cause else ''}."
    return f"called exit with code {status} before it had answered."


def name_ranks(ranks: Sequence[int]) -> str:
    """`rank 3`, `ranks 0 and 2`, `ranks 0, 1 and 2`."""
    names = [str(rank) for rank in sorted(ranks)]
    if len(names) == 1:
        return f"rank {names[0]}"
    return f"ranks {', '.join(names[:-1])} and {names[-1]}"


def nearest(written: object, possible: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The legal word that was probably meant, or None; `cutoff` is how alike they must be, from 0 to 1."""
    by_lower = {word.lower(): word for word in possible}
    close = difflib.get_close_matches(str(written).lower(), by_lower, n=1, cutoff=cutoff)
    return by_lower[close[0]] if close else None
