"""What objects with settings have in common: they know what they were given."""

from __future__ import annotations

from dataclasses import MISSING, Field, dataclass, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self


class Remembering:
    """Base of dataclasses that remember which of their fields somebody has given."""

    _given: frozenset[str] = frozenset()

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        made = super().__new__(cls)
        made._given = frozenset([*(item.name for item in fields(cls)[: len(args)]), *kwargs])  # type: ignore[arg-type]
        return made


@dataclass
class KwargsHandler(Remembering):
    """Base of the objects that `kwargs_handlers=` takes."""

    def to_dict(self) -> dict[str, Any]:
        """All fields by name; the values are shared."""
        return {item.name: getattr(self, item.name) for item in fields(self)}

    def to_kwargs(self) -> dict[str, Any]:
        """The fields that differ from their defaults."""
        return {item.name: value for item in fields(self) if (value := getattr(self, item.name)) != _default(item)}


def _default(item: Field[Any]) -> Any:
    return item.default if item.default_factory is MISSING else item.default_factory()
