"""A function's parameters as fields: what each may hold, its default, what it is for. Pure."""

from __future__ import annotations

import dataclasses
import enum
import functools
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from nbaccel.errors import CallError
from nbaccel_widgets.launch_form.ranges import Range, range_of
from nbaccel_widgets.launch_form.values import Kind

NEEDED: Any = inspect.Parameter.empty
"""The default of a parameter that has none."""


@dataclasses.dataclass(frozen=True)
class Field:
    """One value to be filled in: a parameter, or a part of one that is a dataclass or a model.

    Attributes:
        path: name of the parameter, then of its part, and so on.
        hint: its annotation, `Any` where there is none.
        kind: what it holds.
        default: its value when nobody writes one; `NEEDED` if there is none.
        choices: label and value of each possible value, for a choice.
        range: where a number may lie.
        nullable: whether None is possible.
        text: what it is for.
    """

    path: tuple[str, ...]
    hint: Any
    kind: Kind
    default: Any = NEEDED
    choices: tuple[tuple[str, Any], ...] = ()
    range: Range = dataclasses.field(default_factory=Range)
    nullable: bool = False
    text: str = ""

    @property
    def name(self) -> str:
        """The path with dots between."""
        return ".".join(self.path)

    @property
    def possible(self) -> str:
        """Its legal values in words."""
        if self.choices:
            return ", ".join(label for label, _ in self.choices)
        words = {
            "switch": "yes or no",
            "whole": f"a whole number{self.range}",
            "number": f"a number{self.range}",
            "text": "a text",
            "path": "a path",
        }
        said = words.get(self.kind) or (
            "the name of a variable, or a value such as 3 or [1, 2]"
            if self.hint is Any
            else f"{type_name(self.hint)}: the name of a variable, or a value"
        )
        return f"{said}, or nothing" if self.nullable else said


@dataclasses.dataclass(frozen=True)
class Group:
    """A dataclass or model that is filled in by its parts.

    Attributes:
        path: as of a field.
        kind: its class.
    """

    path: tuple[str, ...]
    kind: type


@dataclasses.dataclass(frozen=True)
class Parameter:
    """A parameter of a function.

    Attributes:
        name: its name.
        hint: its annotation, `Any` where there is none.
        fields: its parts, or itself as the only one.
        keyword_only: whether it must be given by name.
        positional_only: whether it must be given by place.
        groups: what its fields' values are built into, the outermost first; empty if it is its only field.
        is_needed: whether it must be given.
    """

    name: str
    hint: Any
    fields: tuple[Field, ...]
    keyword_only: bool = False
    positional_only: bool = False
    groups: tuple[Group, ...] = ()
    is_needed: bool = False


def parameters_of(function: Callable[..., Any]) -> tuple[Parameter, ...]:
    """The parameters of a function in their order, `*args` and `**kwargs` left out.

    Raises:
        CallError: it is nothing that can be called, or says nothing of its parameters.
    """
    if not callable(function):
        raise CallError(f"{function!r} cannot be called; give the training function itself: LaunchForm(train).")
    try:
        found = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        name = getattr(function, "__name__", repr(function))
        raise CallError(f"{name} does not tell its parameters; wrap it in a function of your own.") from None
    hints, texts = _hints(function), _texts(inspect.getdoc(function) or "")
    shown = [one for one in found if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
    return tuple(_parameter(one, hints.get(one.name, Any), texts.get(one.name, "")) for one in shown)


def _parameter(found: inspect.Parameter, hint: Any, text: str) -> Parameter:
    parts = list(_fields((found.name,), hint, found.default, text))
    return Parameter(
        found.name,
        hint,
        tuple(one for one in parts if isinstance(one, Field)),
        keyword_only=found.kind is found.KEYWORD_ONLY,
        positional_only=found.kind is found.POSITIONAL_ONLY,
        groups=tuple(one for one in parts if isinstance(one, Group)),
        is_needed=found.default is NEEDED,
    )


def _hints(function: Any) -> Mapping[str, Any]:
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.isclass(function):
        function = function.__init__
    elif not inspect.isroutine(function):
        function = type(function).__call__
    try:
        return typing.get_type_hints(function, include_extras=True)
    except (TypeError, NameError, AttributeError):
        return {}


def _fields(path: tuple[str, ...], hint: Any, default: Any, text: str) -> Iterator[Field | Group]:
    kind = _kind_of_group(hint, default)
    if kind is None:
        yield _field(path, hint, default, text)
        return
    yield Group(path, kind)
    for name, inner, inner_default, inner_text in _parts(kind, default):
        yield from _fields((*path, name), inner, inner_default, inner_text)


def _kind_of_group(hint: Any, default: Any) -> type | None:
    """The class of a dataclass or model, None for anything else."""
    kind = _plain_hint(hint)[0]
    if default is not NEEDED and (default is None or isinstance(default, type)):
        return None
    if default is not NEEDED and (kind is Any or (_is_group(kind) and isinstance(default, kind))):
        kind = type(default)
    return kind if _is_group(kind) else None


def _is_group(kind: Any) -> bool:
    return isinstance(kind, type) and (issubclass(kind, BaseModel) or dataclasses.is_dataclass(kind))


_Part = tuple[str, Any, Any, str]


def _parts(kind: type, default: Any) -> list[_Part]:
    """The parts of a dataclass or model: name, annotation, default and text of each."""
    if issubclass(kind, BaseModel):
        return [_of_model(name, field, default) for name, field in kind.model_fields.items()]
    assert dataclasses.is_dataclass(kind)
    hints, texts = _class_hints(kind), _texts(inspect.getdoc(kind) or "")
    return [
        (one.name, hints.get(one.name, Any), _of_dataclass(one, default), texts.get(one.name, ""))
        for one in dataclasses.fields(kind)
        if one.init
    ]


def _class_hints(kind: type) -> Mapping[str, Any]:
    try:
        return typing.get_type_hints(kind, include_extras=True)
    except (TypeError, NameError, AttributeError):
        return {}


def _of_model(name: str, field: FieldInfo, default: Any) -> _Part:
    own = field.get_default(call_default_factory=True) if not field.is_required() else NEEDED
    own = NEEDED if own is PydanticUndefined else own
    hint = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
    return name, hint, getattr(default, name, own), field.description or ""


def _of_dataclass(field: dataclasses.Field[Any], default: Any) -> Any:
    own: Any = NEEDED
    if field.default is not dataclasses.MISSING:
        own = field.default
    elif field.default_factory is not dataclasses.MISSING:
        own = field.default_factory()
    return own if default is NEEDED else getattr(default, field.name, own)


def _field(path: tuple[str, ...], hint: Any, default: Any, text: str) -> Field:
    described = _described(hint)
    if isinstance(default, FieldInfo):  # `lr: float = Field(0.1, gt=0)` of a plain function
        described, default = [*described, default], default.get_default(call_default_factory=True)
        default = NEEDED if default is PydanticUndefined else default
    said = next((one.description for one in described if isinstance(one, FieldInfo) and one.description), text)
    plain, nullable = _plain_hint(hint)
    if plain is Any and default is not NEEDED and default is not None:
        plain = type(default)
    nullable = nullable or default is None
    choices = _choices(plain, nullable=nullable)
    kind: Kind = "choice" if choices else _kind(plain)
    return Field(path, hint, kind, default, choices, range_of(described), nullable, said)


def _described(hint: Any) -> list[Any]:
    """What stands beside the type in `Annotated`."""
    found = list(hint.__metadata__) if typing.get_origin(hint) is Annotated else []
    inner = hint.__origin__ if found else hint
    if typing.get_origin(inner) in (typing.Union, types.UnionType):
        found += [one for argument in typing.get_args(inner) for one in _described(argument)]
    return found


def _plain_hint(hint: Any) -> tuple[Any, bool]:
    """An annotation without what is said beside the type and without None, and whether None is possible."""
    if typing.get_origin(hint) is Annotated:
        return _plain_hint(hint.__origin__)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        arguments = typing.get_args(hint)
        others = [one for one in arguments if one is not types.NoneType]
        if len(others) == 1:
            return _plain_hint(others[0])[0], len(others) < len(arguments)
        return hint, len(others) < len(arguments)
    return hint, False


def _choices(plain: Any, *, nullable: bool) -> tuple[tuple[str, Any], ...]:
    none = (("none", None),) if nullable else ()
    if typing.get_origin(plain) is Literal:
        return (*((_label(value), value) for value in typing.get_args(plain) if value is not None), *none)
    if isinstance(plain, type) and issubclass(plain, enum.Enum):
        return (*((one.name, one) for one in plain), *none)
    if plain is bool and nullable:
        return (("yes", True), ("no", False), *none)
    return ()


def _label(value: object) -> str:
    return value if isinstance(value, str) and value.strip() else repr(value)


_KINDS: Mapping[type, Kind] = {bool: "switch", int: "whole", float: "number", str: "text"}


def _kind(plain: Any) -> Kind:
    if isinstance(plain, type) and plain in _KINDS:
        return _KINDS[plain]
    if isinstance(plain, type) and issubclass(plain, Path):
        return "path"
    return "object"


def type_name(hint: Any) -> str:
    """An annotation as people write it."""
    if isinstance(hint, type) and not typing.get_args(hint):
        return hint.__name__
    return re.sub(r"\b(typing|collections\.abc|__main__|pathlib)\.", "", str(hint))


_ARGUMENT = re.compile(
    r"^\s+\*{0,2}(\w+)\s*(?:\([^)]*\))?:\s+(\S.*)$|^\s*:param\s+(?:[\w\[\], |.]+\s)?(\w+):\s*(\S.*)$"
)


def _texts(documentation: str) -> dict[str, str]:
    """What a docstring says about each parameter, its first line each."""
    found = (_ARGUMENT.match(line) for line in documentation.splitlines())
    return {one[1] or one[3]: one[2] or one[4] for one in found if one}


def leaves(parameters: Sequence[Parameter]) -> list[Field]:
    """All fields in their order."""
    return [field for parameter in parameters for field in parameter.fields]


def with_default(parameter: Parameter, value: Any) -> Parameter:
    """The parameter as if this were its default; it must be given if the value has not all of its parts."""
    found = [_part_of(value, field) for field in parameter.fields]
    fields = tuple(
        field if default is NEEDED else dataclasses.replace(field, default=default)
        for field, default in zip(parameter.fields, found, strict=True)
    )
    return dataclasses.replace(parameter, fields=fields, is_needed=any(default is NEEDED for default in found))


def _part_of(value: Any, field: Field) -> Any:
    for name in field.path[1:]:
        value = value.get(name, NEEDED) if isinstance(value, Mapping) else getattr(value, name, NEEDED)
    return value
