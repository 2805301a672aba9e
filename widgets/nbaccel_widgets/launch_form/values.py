"""From what was written to a value, and from a value to the code that stands for it. Pure."""

from __future__ import annotations

import ast
import dataclasses
import enum
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from nbaccel.errors import nearest

Kind = Literal["switch", "choice", "whole", "number", "text", "path", "object"]


class WrittenError(ValueError):
    """What was written is no value of a field; says what is possible."""


@dataclasses.dataclass(frozen=True)
class Named:
    """A value that was given by the name of a notebook's variable.

    Attributes:
        value: the value.
        name: the variable's name.
    """

    value: Any
    name: str


def looked_up(text: str, namespace: Mapping[str, Any]) -> Named | Any:
    """The value that a text stands for: a variable's, or a literal such as 3 or [1, 2].

    Raises:
        WrittenError: it is neither.
    """
    first, *rest = text.split(".")
    if all(part.isidentifier() for part in (first, *rest)) and text not in ("None", "True", "False"):
        if first not in namespace:
            meant = nearest(first, (name for name in namespace if not name.startswith("_")))
            hint = f" Did you mean {meant!r}?" if meant else ""
            raise WrittenError(f"there is no variable {first!r} in the notebook.{hint}")
        return Named(_attribute(namespace[first], rest, text), text)
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise WrittenError(f"{text!r} is no variable's name, and no value such as 3 or [1, 2]") from None


def _attribute(value: Any, names: list[str], text: str) -> Any:
    for name in names:
        if not hasattr(value, name):
            raise WrittenError(f"{text!r}: a {type(value).__name__} has no attribute {name!r}")
        value = getattr(value, name)
    return value


def fitting(value: Any, hint: Any, possible: str) -> Any:
    """A value as its annotation wants it.

    Args:
        value: what was written.
        hint: the annotation.
        possible: what is possible, in words.

    Raises:
        WrittenError: it does not fit.
    """
    if hint is Any:
        return value
    try:
        return _adapter(hint).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        reason = f"{where}: {first['msg']}" if where and isinstance(value, dict) else ""
        raise WrittenError(reason or f"{_shown(value)} is not valid. Possible: {possible}") from None


def _adapter(hint: Any) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
    except PydanticUserError:  # a model or dataclass brings a configuration of its own
        return TypeAdapter(hint)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def code_of(value: Any) -> str:
    """The code that makes a value; of one that has no such code, its `repr`."""
    if isinstance(value, Named):
        return value.name
    if isinstance(value, enum.Enum):
        return f"{type(value).__name__}.{value.name}"
    if isinstance(value, Path):
        return f"Path({str(value)!r})"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{code_of(name)}: {code_of(inner)}' for name, inner in value.items())}}}"
    if type(value) in (list, tuple):
        inner = ", ".join(map(code_of, value))
        return f"[{inner}]" if isinstance(value, list) else f"({inner}{',' if len(value) == 1 else ''})"
    parts = _parts(value)
    if parts is not None:
        return f"{type(value).__name__}({', '.join(f'{name}={code_of(inner)}' for name, inner in parts.items())})"
    return repr(value)


def _parts(value: Any) -> Mapping[str, Any] | None:
    if isinstance(value, BaseModel):
        return {name: getattr(value, name) for name in type(value).model_fields}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {one.name: getattr(value, one.name) for one in dataclasses.fields(value) if one.init}
    return None
