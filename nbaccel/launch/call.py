"""What is to be run, encoded once for all ranks, and what comes back from it."""

from __future__ import annotations

import inspect
import sys
import types
import warnings
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

from nbaccel.errors import CallError, ShipError
from nbaccel.wire.codec import Encoded, can_encode, decode, encode
from nbaccel.wire.companions import Companions
from nbaccel.wire.culprit import find_culprit
from nbaccel.wire.messages import RunCell, RunFunction
from nbaccel.wire.outcome import Outcome
from nbaccel.wire.parcel import Parcel
from nbaccel.wire.weigh import heaviest

_WORTH_TELLING_BYTES = 100_000_000


@dataclass(frozen=True)
class Call:
    """A function call or a cell, ready to be sent.

    Attributes:
        parcel: what travels, the same for all ranks.
        companions: the kernel's objects of which the workers hold copies.
        message: makes the message for a rank.
        here: does the same in this process, for the inline launcher.
        names: what the call was made of, by the names that the user knows.
    """

    parcel: Parcel
    companions: Companions
    message: Callable[[int], RunFunction | RunCell]
    here: Callable[[], Any]
    names: Callable[[], Mapping[str, object]] = dict

    @property
    def size_bytes(self) -> int:
        """Bytes that were copied for the call, without what lies in shared memory."""
        return self.parcel.written_bytes

    def heaviest(self) -> list[tuple[str, int]]:
        """The largest variables of the call and their bytes. Looks through all of them, so ask only if it matters."""
        return heaviest(self.names(), self.size_bytes)

    def close(self) -> None:
        """Let go of the memory file; workers that have mapped it keep what they mapped."""
        self.parcel.close()

    def receive(self, parcel: Parcel | None) -> Any:
        """Decode what a rank sent back. Returns the value.

        States of modules, optimizers and schedulers are copied into the kernel's own; where one of these does not fit
        any more, a warning says so.
        """
        if parcel is None:
            return None
        outcome, _ = decode(parcel, sys.modules["__main__"].__dict__, self.companions)
        assert isinstance(outcome, Outcome), "a rank answers with an outcome"
        parcel.close()
        for problem in outcome.states.load_into(self.companions):
            warnings.warn(problem, stacklevel=2)
        return outcome.value


def report(call: Call) -> str:
    """One line that says what makes a call heavy; empty for one that is not."""
    if call.size_bytes < _WORTH_TELLING_BYTES:
        return ""
    named = ", ".join(f"`{name}` {_in_words(size)}" for name, size in call.heaviest())
    listed = f": {named}" if named else ""
    return (
        f"sending {_in_words(call.size_bytes)} to the workers{listed} "
        "(arrays and tensors from nbaccel.share(x) are not copied)"
    )


def _in_words(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


@dataclass(frozen=True)
class Wish:
    """What is to come home of a call.

    Attributes:
        main: the rank whose value counts, and that sends the states of models.
        all_values: whether every rank sends its value.
        sync_models: whether the states of models are sent.
    """

    main: int = 0
    all_values: bool = False
    sync_models: bool = True

    def value_from(self, rank: int) -> bool:
        return self.all_values or rank == self.main

    def models_from(self, rank: int) -> bool:
        return self.sync_models and rank == self.main


def function_call(
    function: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    wish: Wish,
    names: Mapping[str, Any] | None = None,
) -> Call:
    """A call of a function.

    Args:
        function: the function.
        args: its positional arguments.
        kwargs: its keyword arguments.
        wish: what is to come home.
        names: names of the notebook that the workers of a session must have, where the ledger says that they lack
            them; None for fresh workers, to whom functions bring along all that they use.

    Raises:
        CallError: it is no function, or it does not take these arguments.
        ShipError: something that it needs cannot be sent; names the variable.
    """
    check_callable(function, args, kwargs)
    name = getattr(function, "__name__", type(function).__name__)
    values = (function, tuple(args), dict(kwargs), dict(names or {}))
    encoded = _encode_call(values, name, by_name=names is not None)
    parcel = encoded.parcel.for_message()
    return Call(
        encoded.parcel,
        encoded.companions,
        lambda rank: RunFunction(parcel, wish.value_from(rank), wish.models_from(rank)),
        lambda: function(*args, **kwargs),
        lambda: {name: function, **{f"args[{number}]": value for number, value in enumerate(args)}, **kwargs},
    )


def check_callable(function: object, args: object, kwargs: object) -> None:
    """Raises CallError unless `function(*args, **kwargs)` can be called."""
    if not callable(function):
        raise CallError(f"notebook_launcher needs a function to run, not {_described(function)}.")
    name = getattr(function, "__name__", type(function).__name__)
    if isinstance(args, Mapping):
        raise CallError(f"args={_described(args)} is a mapping; keyword arguments of {name}() go into kwargs=.")
    if not isinstance(args, tuple | list):
        raise CallError(f"args={_described(args)} must be a tuple of {name}()'s arguments, such as args=(value,).")
    if not isinstance(kwargs, Mapping):
        raise CallError(f"kwargs={_described(kwargs)} must be a dict of {name}()'s keyword arguments.")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # a builtin that does not say what it takes
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise CallError(f"{name}{signature} cannot be called with these args and kwargs: {error}.") from None


def _described(value: object) -> str:
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} (a {type(value).__name__})"


def _encode_call(values: tuple[Any, ...], name: str, *, by_name: bool) -> Encoded:
    try:
        return encode(values, by_name=by_name)
    except Exception as error:
        paths = (f"the function {name}()", "args", "kwargs", "the names that it uses")
        for path, value in zip(paths, values, strict=True):
            found = _blame(value, path, by_name)
            if found is not None:
                raise found from error
        raise find_culprit(values, "the call", error, by_name=by_name) from error


def can_send(value: object) -> bool:
    """Whether a value can travel to the workers."""
    return can_encode(value) is None


def _blame(value: object, path: str, by_name: bool) -> ShipError | None:
    error = can_encode(value, by_name=by_name)
    return None if error is None else find_culprit(value, path, error, by_name=by_name)


def cell_call(
    source: str,
    names: Mapping[str, Any],
    outputs: Sequence[str],
    wish: Wish,
    *,
    execution_count: int,
    here: Callable[[], Any],
    by_name: bool = False,
) -> Call:
    """A cell that uses names of the kernel and gives names back.

    Args:
        source: the cell.
        names: what it is to have.
        outputs: names to bring home.
        wish: from which ranks.
        execution_count: the cell's number.
        here: runs the cell in this process.
        by_name: whether functions find the names that they use on the other side, as in a session.

    Raises:
        ShipError: a name that the cell uses cannot be sent.
    """
    try:
        encoded = encode(dict(names), by_name=by_name)
    except Exception as error:
        for name, value in names.items():
            found = _blame(value, f"`{name}`", by_name)
            if found is not None:
                raise found from error
        raise find_culprit(names, "the names that the cell uses", error, by_name=by_name) from error
    parcel = encoded.parcel.for_message()
    return Call(
        encoded.parcel,
        encoded.companions,
        lambda rank: RunCell(
            parcel,
            source,
            execution_count,
            tuple(outputs) if wish.value_from(rank) else (),
            wish.models_from(rank),
        ),
        here,
        lambda: names,
    )


def _traceback(frames: dict[str, Any]) -> types.TracebackType:
    """A traceback with the frames of another process: they can be shown, not entered."""
    import tblib

    rebuilt: types.TracebackType = tblib.Traceback.from_dict(frames).as_traceback()
    return rebuilt


def rebuilt_exception(parcel: Parcel | None, namespace: MutableMapping[str, object]) -> BaseException | None:
    """The exception that a rank sent, with the frames that it passed through there; None if it cannot be rebuilt."""
    if parcel is None:
        return None
    try:
        (exception, frames), _ = decode(parcel, namespace)
    except Exception:  # noqa: BLE001 - a user's exception class may refuse in any way
        return None
    if not isinstance(exception, BaseException):
        return None
    return exception if frames is None else exception.with_traceback(_traceback(frames))
