"""Parameters of the user's own: of a training function, checked against its annotations, or of a cell."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from typing import Any, Optional

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from nbaccel.config.layers import PARAMS, plain_value
from nbaccel.config.resolve import Resolved
from nbaccel.config.schema import KEYS, SECTIONS
from nbaccel.config.secrets import masked
from nbaccel.errors import ConfigError, nearest

WHOLE = "params"
"""A parameter of this name takes all of them."""


class Params(dict[str, Any]):
    """Parameters, as a dict and by attribute: `params.trainer.epochs`."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            hint = nearest(name, self)
            known = f"Did you mean {hint!r}?" if hint else f"There are: {', '.join(self) or 'none'}."
            raise AttributeError(f"there is no parameter {name!r}. {known}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value


def as_params(values: Mapping[str, Any]) -> Params:
    """A tree of dicts as parameters."""
    return Params({name: as_params(value) if isinstance(value, Mapping) else value for name, value in values.items()})


def names_of(function: Callable[..., Any]) -> frozenset[str]:
    """The parameters of a function, which the user's own variables may set."""
    return frozenset(parameter.name for parameter in _parameters(function))


def filled(
    function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], resolved: Resolved
) -> Mapping[str, Any]:
    """The keyword arguments of a call, with parameters of the configuration where the call gives none.

    Args:
        function: what is called.
        args: its positional arguments.
        kwargs: its keyword arguments.
        resolved: the configuration.

    Raises:
        ConfigError: a parameter does not fit the annotation, or the function takes none of this name though the caller
            gave it.
    """
    params = resolved.config.params
    if not params or not isinstance(args, Sequence) or not isinstance(kwargs, Mapping):
        return kwargs  # the call's own check says what is wrong
    hints = _hints(function)
    found = dict(kwargs)
    for name in open_ones(function, len(args), kwargs, params):
        found[name] = _fitting(name, params.get(name, params), hints, resolved)
    _refuse_others(function, resolved)
    return found


def open_ones(
    function: Callable[..., Any], num_args: int, named: Container[str], params: Mapping[str, Any]
) -> list[str]:
    """The parameters of a function that the configuration's fill in: those that the call leaves open.

    Args:
        function: what is called.
        num_args: how many positional arguments the call gives.
        named: names of the keyword arguments that it gives.
        params: parameters of the configuration; one called `params` takes all of them.
    """
    names = [parameter.name for parameter in _parameters(function)[num_args:] if parameter.name not in named]
    return [name for name in names if name in params or name == WHOLE]


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return []
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [parameter for parameter in signature.parameters.values() if parameter.kind in kinds]


def _hints(function: Callable[..., Any]) -> Mapping[str, Any]:
    try:
        return typing.get_type_hints(function, include_extras=True)
    except (TypeError, NameError, AttributeError):
        return {}


def _fitting(name: str, value: Any, hints: Mapping[str, Any], resolved: Resolved) -> Any:
    if name not in hints:
        return as_params(value) if isinstance(value, Mapping) else value
    try:
        return adapter_of(hints[name]).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        inner = ".".join([PARAMS, name, *map(str, first["loc"])])
        place = next((_place(key, resolved) for key in (inner, f"{PARAMS}.{name}") if key in resolved.chain), None)
        raise ConfigError(
            f"{inner}={masked(inner, first['input'])!r}",
            f"from {place or _below(f'{PARAMS}.{name}', resolved)}",
            f"what {_type_name(hints[name])} allows: {first['msg'][:1].lower()}{first['msg'][1:]}",
        ) from None


def adapter_of(hint: Any) -> TypeAdapter[Any]:
    """What checks and converts values for an annotation, of whose types pydantic need not know all."""
    config = ConfigDict(arbitrary_types_allowed=True)
    try:
        return TypeAdapter(hint, config=config)
    except PydanticUserError:  # a model brings a configuration of its own; a dataclass takes one that stands around it
        return TypeAdapter(Optional[hint], config=config)  # noqa: UP045 - not every annotation knows `|`


def _place(key: str, resolved: Resolved) -> str:
    return resolved.origin(key).place


def _below(key: str, resolved: Resolved) -> str:
    return next((_place(held, resolved) for held in resolved.chain if held.startswith(f"{key}.")), "params")


def _type_name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint).removeprefix("typing.")


def _refuse_others(function: Callable[..., Any], resolved: Resolved) -> None:
    """What the caller gave for this very call must be taken; a project's parameters may be for other functions."""
    known = names_of(function)
    if WHOLE in known or _takes_any(function):
        return
    for name, place in _given_in_call(resolved):
        if name not in known:
            called = getattr(function, "__name__", "the function")
            possible = ", ".join(sorted(known)) or f"nothing: {called}() takes no arguments"
            raise ConfigError(f"the parameter {name!r}", f"from {place}", possible, nearest(name, known))


def _takes_any(function: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return True
    return any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)


def _given_in_call(resolved: Resolved) -> Iterator[tuple[str, str]]:
    for key, chain in resolved.chain.items():
        if key.startswith(f"{PARAMS}.") and chain[0].layer == "call":
            yield key.split(".")[1], chain[0].place


def overrides(words: list[str]) -> tuple[dict[str, object], list[str]]:
    """`trainer.epochs=5` and `mixed_precision=bf16` among the words of a line.

    Args:
        words: what stands beside the flags.

    Returns:
        Settings by key (parameters as `params.<name>`), and the other words.
    """
    found: dict[str, object] = {}
    others = []
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not all(part.isidentifier() for part in name.split(".")):
            others.append(word)
            continue
        is_key = name in KEYS or name.partition(".")[0] in SECTIONS or name.startswith(f"{PARAMS}.")
        if is_key and not name.startswith(f"{PARAMS}."):
            found[name] = text
        else:
            found[name if is_key else f"{PARAMS}.{name}"] = plain_value(text)
    return found, others
