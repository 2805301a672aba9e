"""Runs a function or a cell, and says what came out."""

from __future__ import annotations

import asyncio
import inspect
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import tblib

from nbaccel.wire.codec import Encoded, decode, encode
from nbaccel.wire.companions import Arrived
from nbaccel.wire.messages import LAST, Failed, RunCell, RunFunction
from nbaccel.wire.outcome import encode_outcome
from nbaccel.wire.parcel import Parcel
from nbaccel.worker.interrupts import InterruptGate
from nbaccel.worker.shell import WorkerShell, last_place, user_frames

_HELD = frozenset((int, float, complex, str))
"""While code runs, values of these types are kept: a new one soon takes the place of one that is gone, and its id."""
_LONG_TEXT = 4096


@dataclass
class Executor:
    """Runs what the kernel sends, on this worker's user namespace.

    Attributes:
        arrived: whether the names of the last run have been unpacked and bound.
        has_quit: whether the last run ended its rank before its end, as a script does, with `sys.exit()`.
    """

    shell: WorkerShell
    gate: InterruptGate
    arrived: bool = False
    has_quit: bool = False
    _before: Mapping[str, int] = field(default_factory=dict)
    _held: list[object] = field(default_factory=list)

    def run_function(self, message: RunFunction) -> Encoded | None:
        """Call the function. Returns what must be sent back, None when nothing. Raises what the function raises."""
        with _failure_told(message):
            (function, args, kwargs, names), arrived = self._unpack(message.parcel, message.keep)
            self._bind(names, message.keep)
            self._note_arrived()
            with self.gate.user_code():
                value = self._called(function, args, kwargs)
                self.shell.events.trigger("post_execute")  # draws the figures that are still open
            name = getattr(function, "__name__", "the function")
            result = _Result(value, f"the value returned by {name}()", message.wants_value, arrived)
            return self._answer(result, message)

    def run_cell(self, message: RunCell) -> Encoded | None:
        """Run the cell. Returns the asked names' values by name. Raises what the cell raises."""
        with _failure_told(message):
            names, arrived = self._unpack(message.parcel, message.keep)
            self._bind(names, message.keep)
            self._note_arrived()
            self.shell.execution_count = message.execution_count
            with self.gate.user_code():
                result = self.shell.run_cell(message.source, store_history=False)
            failure = result.error_before_exec or result.error_in_exec
            self.has_quit = _is_good_exit(failure)
            if failure is not None and not self.has_quit:
                raise failure
            values = self._named(message.outputs)
            return self._answer(_Result(values, "the outputs", bool(message.outputs), arrived), message)

    def _called(self, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """What a function returns; None where it has quit."""
        try:
            value = function(*args, **kwargs)
            return asyncio.run(value) if inspect.iscoroutine(value) else value
        except SystemExit as ending:
            self.has_quit = _is_good_exit(ending)
            if self.has_quit:
                return None
            raise

    def _unpack(self, parcel: Parcel, keep: frozenset[str]) -> tuple[Any, Arrived]:
        self._before, self.arrived, self.has_quit = self._identities(), False, False
        value, companions = decode(parcel, self.shell.user_ns)
        self._bind(companions.definitions, keep)
        return value, Arrived(companions)

    def _bind(self, names: Mapping[str, object], keep: frozenset[str]) -> None:
        namespace = self.shell.user_ns
        namespace.update({name: value for name, value in names.items() if name not in keep or name not in namespace})

    def changes(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names that the last run bound to another object, and names that it unbound."""
        after = self._identities()
        bound = tuple(name for name, identity in after.items() if self._before.get(name) != identity)
        return bound, tuple(self._before.keys() - after.keys())

    def _note_arrived(self) -> None:
        self._before, self.arrived = self._identities(), True
        self._held = [value for value in self.shell.user_ns.values() if type(value) in _HELD and not _is_long(value)]

    def _identities(self) -> dict[str, int]:
        """What each name is bound to; not the objects themselves, which must be free to go."""
        hidden = self.shell.user_ns_hidden
        return {name: id(value) for name, value in self.shell.user_ns.items() if name not in hidden}

    def _named(self, names: Sequence[str]) -> dict[str, object]:
        missing = [name for name in names if name not in self.shell.user_ns]
        if missing:
            raise NameError(f"the cell was to give back {', '.join(missing)}, but did not define it")
        return {name: self.shell.user_ns[name] for name in names}

    def _answer(self, result: _Result, message: RunFunction | RunCell) -> Encoded | None:
        wants_states = message.wants_models and bool(result.arrived.companions)
        wants_value = result.is_wanted and result.value is not None
        make = None
        if wants_value or wants_states:
            make = partial(_encode, result, wants_value, message.wants_models)
        home = _homecoming(message)
        if home is None:
            return None if make is None else make(None)
        with self.gate.user_code():  # an interrupt must reach those who wait for the others
            encoded: Encoded | None = home.together(make)
        return encoded


def _is_long(value: object) -> bool:
    return isinstance(value, str) and len(value) >= _LONG_TEXT


def _is_good_exit(error: BaseException | None) -> bool:
    return isinstance(error, SystemExit) and (error.code is None or (isinstance(error.code, int) and not error.code))


@dataclass(frozen=True)
class _Result:
    """What a run gave.

    Attributes:
        value: the value.
        path: what the user calls it.
        is_wanted: whether this rank must send it.
        arrived: what came along with the call.
    """

    value: object
    path: str
    is_wanted: bool
    arrived: Arrived


def _encode(result: _Result, wants_value: bool, wants_models: bool, whole: Callable[[Any], Any] | None) -> Encoded:
    value = result.value if wants_value else None
    return encode_outcome(value, result.path, result.arrived, wants_models=wants_models, whole=whole)


def _homecoming(message: RunFunction | RunCell) -> Any:
    """What joins the parts of sharded models; None where there have never been any."""
    registry = sys.modules.get("nbaccel.runtime.parallel.registry")
    if registry is None or not registry.is_known_at_all():
        return None
    from nbaccel.runtime.parallel.homecoming import Alone, Homecoming

    is_together = registry.is_in_use() and message.all_ranks
    return Homecoming(message.number) if is_together else Alone()


@contextmanager
def _failure_told(message: RunFunction | RunCell) -> Iterator[None]:
    """Lets the other ranks not wait for one that has failed."""
    try:
        yield
    except BaseException:
        home = _homecoming(message)
        if home is not None:
            home.tell_failed()
        raise


def describe(error: BaseException, shell: WorkerShell, colors: str) -> Failed:
    """Describe an exception so that it can be shown, and where possible rebuilt, in the kernel."""
    now = time.monotonic()
    kind, message = type(error), _message(error)
    prefix = "" if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}."
    return Failed(
        mark=LAST,
        type_name=f"{prefix}{kind.__qualname__}",
        message=message,
        traceback=_rendered(error, shell, colors),
        time_s=now,
        exception=_encoded(error),
        distributed=_is_distributed(error, message),
        interrupted=isinstance(error, KeyboardInterrupt),
        place=last_place(error),
    )


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as second:  # noqa: BLE001 - the user's exception class is the user's code
        return f"<its __str__() raised {type(second).__name__}>"


def _rendered(error: BaseException, shell: WorkerShell, colors: str) -> tuple[str, ...]:
    if not isinstance(error, KeyboardInterrupt):  # seldom seen, and the Stop button should not wait for fine rendering
        with suppress(Exception):  # it asks the user's objects what to show
            return shell.traceback_of(error, colors or "nocolor")
    return tuple(line.rstrip() for line in traceback.format_exception(type(error), error, user_frames(error)))


def _encoded(error: BaseException) -> Parcel | None:
    trace = error.__traceback__
    try:
        frames = tblib.Traceback(user_frames(error)).as_dict() if trace is not None else None
        parcel = encode((error.with_traceback(None), frames), home=True).parcel
    except Exception:  # noqa: BLE001 - an exception that cannot travel is still shown by its text
        return None
    finally:
        error.__traceback__ = trace  # post-mortem debugging wants it
    return parcel if parcel.file is None else None


def _is_distributed(error: BaseException, message: str) -> bool:
    dist = sys.modules.get("torch.distributed")
    kinds = tuple(filter(None, (getattr(dist, name, None) for name in ("DistError", "DistBackendError"))))
    return isinstance(error, kinds) or (isinstance(error, RuntimeError) and "gloo" in message.lower())
