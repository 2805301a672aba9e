"""What is to be run, encoded once for all ranks, and what comes back from it."""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

from nbaccel.errors import CallError, ShipError
from nbaccel.wire.codec import Companions, Encoded, can_encode, decode, encode
from nbaccel.wire.culprit import find_culprit
from nbaccel.wire.messages import RunCell, RunFunction
from nbaccel.wire.parcel import Parcel
from nbaccel.wire.tensors import load_module_state


@dataclass(frozen=True)
class Call:
    """A function call or a cell, ready to be sent.

    Attributes:
        parcel: what travels, the same for all ranks.
        companions: the kernel's objects of which the workers hold copies.
        message: makes the message for a rank.
        here: does the same in this process, for the inline launcher.
    """

    parcel: Parcel
    companions: Companions
    message: Callable[[int], RunFunction | RunCell]
    here: Callable[[], Any]

    def close(self) -> None:
        """Let go of the memory file; workers that have mapped it keep what they mapped."""
        self.parcel.close()

    def receive(self, parcel: Parcel | None) -> Any:
        """Decode what a rank sent back; copies trained weights into the kernel's modules. Returns the value."""
        if parcel is None:
            return None
        (value, states), _ = decode(parcel, sys.modules["__main__"].__dict__)
        parcel.close()
        for module, state in zip(self.companions.modules, states, strict=False):
            _sync(module, state)
        return value


def _sync(module: Any, state: dict[str, Any]) -> None:
    unfit = load_module_state(module, state)
    if unfit:
        names = ", ".join(unfit[:5]) + (", ..." if len(unfit) > 5 else "")
        warnings.warn(
            f"{type(module).__name__} changed its structure in the workers; not copied back: {names}", stacklevel=2
        )


def function_call(
    function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], *, return_all: bool, sync_models: bool
) -> Call:
    """A call of a function.

    Raises:
        CallError: it is no function, or it does not take these arguments.
        ShipError: something that it needs cannot be sent; names the variable.
    """
    _check_callable(function, args, kwargs)
    name = getattr(function, "__name__", type(function).__name__)
    encoded = _encode_call(function, tuple(args), dict(kwargs), name)
    parcel = encoded.parcel.for_message()
    return Call(
        encoded.parcel,
        encoded.companions,
        lambda rank: RunFunction(parcel, return_all or rank == 0, sync_models and rank == 0),
        lambda: function(*args, **kwargs),
    )


def _check_callable(function: object, args: object, kwargs: object) -> None:
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


def _encode_call(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> Encoded:
    try:
        return encode((function, args, kwargs))
    except Exception as error:
        for path, value in ((f"the function {name}()", function), ("args", args), ("kwargs", kwargs)):
            found = _blame(value, path)
            if found is not None:
                raise found from error
        raise find_culprit((function, args, kwargs), "the call", error) from error


def can_send(value: object) -> bool:
    """Whether a value can travel to the workers."""
    return can_encode(value) is None


def _blame(value: object, path: str) -> ShipError | None:
    error = can_encode(value)
    return None if error is None else find_culprit(value, path, error)


def cell_call(
    source: str,
    names: Mapping[str, Any],
    outputs: Sequence[str],
    *,
    execution_count: int,
    sync_models: bool,
    here: Callable[[], Any],
) -> Call:
    """A cell that uses names of the kernel and gives names back.

    Raises:
        ShipError: a name that the cell uses cannot be sent.
    """
    try:
        encoded = encode(dict(names))
    except Exception as error:
        for name, value in names.items():
            found = _blame(value, f"`{name}`")
            if found is not None:
                raise found from error
        raise find_culprit(names, "the names that the cell uses", error) from error
    parcel = encoded.parcel.for_message()
    return Call(
        encoded.parcel,
        encoded.companions,
        lambda rank: RunCell(
            parcel, source, execution_count, tuple(outputs) if rank == 0 else (), sync_models and rank == 0
        ),
        here,
    )


def rebuilt_exception(parcel: Parcel | None, namespace: MutableMapping[str, object]) -> BaseException | None:
    """The exception that a rank sent, where it can be rebuilt here."""
    if parcel is None:
        return None
    try:
        exception, _ = decode(parcel, namespace)
    except Exception:  # noqa: BLE001 - a user's exception class may refuse in any way
        return None
    return exception if isinstance(exception, BaseException) else None
