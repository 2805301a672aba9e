"""The call that a filled-in form stands for: arguments, settings, and the line of code that does the same. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nbaccel.config.secrets import MASK, is_secret
from nbaccel_widgets.launch_form.parameters import Parameter
from nbaccel_widgets.launch_form.values import Named, code_of, fitting


@dataclass(frozen=True)
class Call:
    """A call of the training function on workers.

    Attributes:
        args: positional arguments, as written.
        kwargs: keyword arguments, as written.
        settings: keys of the configuration that the form sets.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    settings: Mapping[str, Any]

    @property
    def values(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments themselves, by place and by name."""
        return tuple(_value(one) for one in self.args), {name: _value(one) for name, one in self.kwargs.items()}

    def code(self, function: str) -> str:
        """The line that launches the same; what is secret is left out of it.

        Args:
            function: name of the function.
        """
        parts = [function]
        if self.args:
            parts.append(f"({', '.join(map(code_of, self.args))}{',' if len(self.args) == 1 else ''})")
        parts += [f"{name}={code_of(value)}" for name, value in self.settings.items() if "." not in name]
        if self.kwargs:
            inner = (f"{name!r}: {_code_or_mask(name, value)}" for name, value in self.kwargs.items())
            parts.append(f"kwargs={{{', '.join(inner)}}}")
        return f"notebook_launcher({', '.join(parts)})"


def _value(given: Any) -> Any:
    return given.value if isinstance(given, Named) else given


def _code_or_mask(name: str, value: Any) -> str:
    return repr(MASK) if is_secret(name) else code_of(value)


def called(
    parameters: Sequence[Parameter], values: Mapping[str, Any], changed: frozenset[str], settings: Mapping[str, Any]
) -> Call:
    """The call of a filled-in form. Parameters that are at their defaults are left to the function.

    Args:
        parameters: of the function.
        values: what is written, by the fields' dotted names.
        changed: names of the fields that must be given.
        settings: keys of the configuration that are set.

    Raises:
        WrittenError: the parts of a parameter do not fit together.
    """
    given = {
        one.name: _made(one, values)
        for one in parameters
        if one.is_needed or any(field.name in changed for field in one.fields)
    }
    last = max((place for place, one in enumerate(parameters) if one.positional_only and one.name in given), default=-1)
    args = []
    for place, one in enumerate(parameters):
        by_name = one.keyword_only or one.name not in given or is_secret(one.name)
        if by_name and place > last:
            break
        args.append(given.pop(one.name) if one.name in given else _made(one, values))
    return Call(tuple(args), given, dict(settings))


def _made(parameter: Parameter, values: Mapping[str, Any]) -> Any:
    if not parameter.made_of_parts:
        return values[parameter.fields[0].name]
    parts: dict[str, Any] = {}
    for field in parameter.fields:
        *outer, name = field.path[1:]
        holder = parts
        for one in outer:
            holder = holder.setdefault(one, {})
        holder[name] = _value(values[field.name])
    return fitting(parts, parameter.hint, "its parts together")
