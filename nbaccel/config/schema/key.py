"""How a key is described: once, beside its type; readers, flags, errors and pages are made from that."""

from __future__ import annotations

import ast
import json
import types
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator
from pydantic.fields import FieldInfo

EVERYWHERE = ("zygote", "spawn", "fork", "inline", "torchrun")
"""The launchers on one machine of workers; `torchrun` stands for `nbaccel launch`."""
IN_NOTEBOOKS = ("zygote", "spawn", "fork", "inline")


@dataclass(frozen=True)
class Key:
    """One key of the schema, as readers and faces need it.

    Attributes:
        name: its dotted path (`mixed_precision`, `fsdp_config.fsdp_version`).
        section: the section that it stands in, empty for the top level.
        group: heading under which faces show it.
        default: its value when nobody sets it.
        text: one line that says what it is for.
        env: the environment variable that sets it.
        flags: its flags, the long one first.
        possible: its legal values, in words.
        choices: its legal words, where it is a choice among words.
        is_switch: true for a boolean.
        is_nullable: true where null is a value of its own; elsewhere null stands for the default.
        is_secret: true if its value must not be shown.
        honoured_by: launchers and strategies that it steers.
        needs: another key and the values of it without which this one has no effect.
    """

    name: str
    section: str
    group: str
    default: Any
    text: str
    env: str
    flags: tuple[str, ...]
    possible: str
    choices: tuple[str, ...]
    is_switch: bool
    is_nullable: bool
    is_secret: bool
    honoured_by: tuple[str, ...]
    needs: tuple[str, tuple[str, ...]] | None

    @property
    def short_name(self) -> str:
        """The name without its section."""
        return self.name.rpartition(".")[2]


def key(
    default: Any,
    text: str,
    *,
    env: str = "",
    flag: str = "",
    more_flags: tuple[str, ...] = (),
    possible: str = "",
    group: str = "",
    honoured_by: tuple[str, ...] = (),
    needs: tuple[str, tuple[str, ...]] | None = None,
    secret: bool = False,
) -> Any:
    """Describe a field; what is left out is made from its name and type, or taken over from its section."""
    described = {
        "env": env,
        "flag": flag,
        "more_flags": more_flags,
        "possible": possible,
        "group": group,
        "honoured_by": honoured_by,
        "needs": needs,
        "secret": secret,
    }
    extra: Any = {"nbaccel": described}
    return Field(default=default, description=text, json_schema_extra=extra, repr=not secret)


class Section(BaseModel):
    """A group of keys.

    Words may be written in any case, whole numbers as YAML's readers leave them (`1e8`). Variables and flags, which are
    texts alone, write mappings as JSON and null as `none`. A truth value is no number.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    @field_validator("*", mode="before")
    @classmethod
    def _as_it_is_written(cls, value: Any, info: ValidationInfo) -> Any:
        field = cls.model_fields[str(info.field_name)]
        choices, kinds = _choices(field.annotation), _kinds(field.annotation)
        if isinstance(value, str):
            value = _from_text(value.strip(), kinds)
        if choices:
            return _word(value, choices)
        if isinstance(value, bool) and kinds & {int, float} and bool not in kinds:
            raise ValueError("a truth value is no number")
        return value


def _from_text(text: str, kinds: set[Any]) -> Any:
    """What a text stands for where the type knows no texts."""
    if str in kinds:
        return text
    if text.lower() in ("none", "null") and types.NoneType in kinds:
        return None
    if dict in kinds:
        return _mapping(text)
    return _whole(text) if int in kinds else text


def _word(value: Any, choices: tuple[str, ...]) -> Any:
    by_lower = {choice.lower(): choice for choice in choices}
    if value is False and "no" in by_lower:  # YAML reads a bare `no` as false; here it is a word
        return by_lower["no"]
    return by_lower.get(str(value).lower(), value) if isinstance(value, str | int) else value


def _mapping(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _whole(text: str) -> Any:
    try:
        return int(float(text)) if "e" in text.lower() and float(text).is_integer() else text
    except (ValueError, OverflowError):
        return text


def _split(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    held = _list_in(value)
    return tuple(part.strip() for part in value.split(",") if part.strip()) if held is None else held


def listed(value: Any) -> Any:
    """Several texts; one text is a list of one, unless it is written as a list of texts."""
    if not isinstance(value, str):
        return value
    held = _list_in(value)  # `[ -f x ] && y` is a command
    return held if isinstance(held, list) and all(isinstance(line, str) for line in held) else (value,)


def _list_in(text: str) -> Any:
    """The list that a text is, in JSON or, as Accelerate writes it into a variable, in Python's words; else None."""
    for read in (json.loads, ast.literal_eval) if text.startswith("[") else ():
        with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            return read(text)
    return None


Names = Annotated[tuple[str, ...], BeforeValidator(_split)]
"""Several names; a text is split at its commas."""
Lines = Annotated[tuple[str, ...], BeforeValidator(listed)]
"""Several texts, as `listed` reads them."""


def keys_of(model: type[BaseModel], section: str = "", inherited: Mapping[str, Any] | None = None) -> Iterator[Key]:
    """The keys of a section and of those inside it, in the order in which they are written."""
    for name, field in model.model_fields.items():
        described = {**(inherited or {}), **{item: value for item, value in _described(field).items() if value}}
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from keys_of(field.annotation, name, described | {"env": "", "flag": "", "more_flags": ()})
        else:
            yield _key(name, section, field, described)


def _described(field: FieldInfo) -> Mapping[str, Any]:
    extra = field.json_schema_extra
    return extra.get("nbaccel", {}) if isinstance(extra, dict) else {}  # type: ignore[return-value]


def _key(name: str, section: str, field: FieldInfo, described: Mapping[str, Any]) -> Key:
    choices, kinds = _choices(field.annotation), _kinds(field.annotation)
    is_switch = bool in kinds and not choices
    path = f"{section}.{name}" if section else name
    flag = described.get("flag") or f"--{name.replace('_', '-')}"
    return Key(
        name=path,
        section=section,
        group=described.get("group", ""),
        default=field.get_default(call_default_factory=True),
        text=field.description or "",
        env=described.get("env") or f"NBACCEL_{path.replace('_config.', '_').replace('.', '_').upper()}",
        flags=(flag, *described.get("more_flags", ())),
        possible=described.get("possible") or _possible(field, choices, kinds),
        choices=choices,
        is_switch=is_switch,
        is_nullable=types.NoneType in kinds,
        is_secret=bool(described.get("secret")),
        honoured_by=tuple(described.get("honoured_by", ())),
        needs=described.get("needs"),
    )


def _kinds(annotation: Any) -> set[Any]:
    """The plain types that an annotation allows."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _kinds(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return set().union(*map(_kinds, get_args(annotation)))
    return {origin or annotation}


def _choices(annotation: Any) -> tuple[str, ...]:
    """The words of a Literal, also where null is allowed beside them."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return tuple(argument for argument in arguments if isinstance(argument, str))
    if origin is Annotated:
        return _choices(arguments[0])
    if origin in (Union, types.UnionType):
        others = [argument for argument in arguments if argument is not types.NoneType]
        return _choices(others[0]) if len(others) == 1 else ()
    return ()


def _possible(field: FieldInfo, choices: tuple[str, ...], kinds: set[Any]) -> str:
    if choices:
        return ", ".join(choices)
    if bool in kinds:
        return "true, false"
    if int in kinds or float in kinds:
        return f"{'a whole number' if int in kinds else 'a number'}{_bounds(field)}"
    if tuple in kinds:
        return "a list, or words with commas between"
    return "a mapping" if dict in kinds else "a text"


def _bounds(field: FieldInfo) -> str:
    limits = list(field.metadata) + [
        limit
        for part in get_args(field.annotation)
        if get_origin(part) is Annotated
        for given in part.__metadata__
        for limit in getattr(given, "metadata", [given])
    ]
    low = next((limit.ge for limit in limits if getattr(limit, "ge", None) is not None), None)
    above = next((limit.gt for limit in limits if getattr(limit, "gt", None) is not None), None)
    high = next((limit.le for limit in limits if getattr(limit, "le", None) is not None), None)
    start = f" above {above}" if above is not None else f" from {low}" if low is not None else ""
    return start + (f" to {high}" if high is not None else "")
