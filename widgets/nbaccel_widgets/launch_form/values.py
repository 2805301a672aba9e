"""From what was written to a value, and from a value to the code that stands for it. Pure."""

from __future__ import annotations

import ast
import dataclasses
import enum
import keyword
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import AliasChoices, AliasPath, BaseModel, ValidationError
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError
from pydantic_core import SchemaError

from nbaccel.config.params import adapter_of
from nbaccel.config.secrets import MASK, is_secret
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


def fitting(value: Any, hint: Any, possible: str, name: str = "") -> Any:
    """A value as its annotation wants it. What nobody can check, such as a protocol, is as it was written.

    Args:
        value: what was written.
        hint: the annotation.
        possible: what is possible, in words.
        name: of the field; a secret's value is not shown.

    Raises:
        WrittenError: it does not fit.
    """
    if hint is Any:
        return value
    try:
        found = adapter_of(hint).validate_python(value)
    except ValidationError as error:
        reason = _reason(error) if isinstance(value, dict) and error.errors()[0]["loc"] else ""
        raise WrittenError(reason or f"{_shown(value, name)} is not valid. Possible: {possible}") from None
    except (PydanticUserError, PydanticUndefinedAnnotation, SchemaError):
        return value
    except Exception as error:  # noqa: BLE001 - checks of the user's own raise what they like
        raise WrittenError(_told(error)) from None
    # an Iterable is checked while it is read, by something that cannot travel
    return value if isinstance(found, Iterator) else found


def _reason(error: ValidationError) -> str:
    first = error.errors()[0]
    return ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}".removesuffix(": ")


def _shown(value: Any, name: str) -> str:
    text = code_of(value, name)
    return text if len(text) <= 60 else f"{text[:57]}..."


def built(kind: type, parts: Mapping[str, Any], name: str) -> Any:
    """A dataclass or model.

    Args:
        kind: its class.
        parts: its fields by name.
        name: what it is for, for the error.

    Raises:
        WrittenError: its parts do not fit together.
    """
    try:
        return kind(**_arguments(kind, parts))
    except ValidationError as error:
        raise WrittenError(f"{name}: {_reason(error)}") from None
    except Exception as error:  # noqa: BLE001 - checks of the user's own raise what they like
        raise WrittenError(f"{name}: {_told(error)}") from None


def _arguments(kind: type, parts: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a dataclass or model by the names that its constructor takes."""
    described = getattr(kind, "model_fields", None) or getattr(kind, "__pydantic_fields__", {})
    by_alias = getattr(kind, "model_config", {}).get("validate_by_alias", True)
    found: dict[Any, Any] = {}
    for name, value in parts.items():
        *outer, last = _way(described[name], name) if by_alias and name in described else [name]
        holder = found
        for one in outer:
            holder = holder.setdefault(one, {})
        holder[last] = value
    return found


def _way(field: Any, name: str) -> list[str | int]:
    """Where a model looks for one of its fields among what it is given."""
    alias = field.validation_alias or field.alias or name
    if isinstance(alias, AliasChoices):
        alias = alias.choices[0]
    return alias.path if isinstance(alias, AliasPath) else [alias]


def _asterisks(_: Any) -> str:
    return MASK


def code_of(value: Any, name: str = "", hide: Callable[[Any], str] = _asterisks) -> str:
    """The code that makes a value; of one that has no such code, its `repr`.

    Args:
        value: the value.
        name: what it is for; asterisks stand for a secret, at any depth.
        hide: what stands for a secret instead.
    """
    if isinstance(value, Named):
        return value.name
    if value is not None and is_secret(name):
        return repr(hide(value))
    if isinstance(value, enum.Enum):
        return f"{type(value).__name__}.{value.name}"
    if isinstance(value, Path):
        return f"Path({str(value)!r})"
    if isinstance(value, dict):
        items = (f"{code_of(key)}: {code_of(inner, f'{name}.{key}', hide)}" for key, inner in value.items())
        return f"{{{', '.join(items)}}}"
    if type(value) in (list, tuple):
        inner = ", ".join(code_of(item, name, hide) for item in value)
        return f"[{inner}]" if isinstance(value, list) else f"({inner}{',' if len(value) == 1 else ''})"
    parts = _parts(value)
    if parts is not None:
        return f"{type(value).__name__}({', '.join(_passed(_arguments(type(value), parts), name, hide))})"
    return repr(value)


def _passed(arguments: Mapping[str, Any], name: str, hide: Callable[[Any], str]) -> Iterator[str]:
    """Arguments as a call has them."""
    others = {}
    for key, value in arguments.items():
        if key.isidentifier() and not keyword.iskeyword(key):
            yield f"{key}={code_of(value, f'{name}.{key}', hide)}"
        else:
            others[key] = value
    if others:
        yield f"**{code_of(others, name, hide)}"


def _parts(value: Any) -> Mapping[str, Any] | None:
    if isinstance(value, BaseModel):
        return {name: getattr(value, name) for name in type(value).model_fields}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {one.name: getattr(value, one.name) for one in dataclasses.fields(value) if one.init}
    return None
