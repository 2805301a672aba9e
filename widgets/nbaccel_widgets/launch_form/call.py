"""The call that a filled-in form stands for: arguments, settings, and the line of code that does the same. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nbaccel.config.interpolate import nested
from nbaccel.config.secrets import is_secret
from nbaccel_widgets.config_form.copying import ARGUMENTS
from nbaccel_widgets.launch_form.parameters import Parameter
from nbaccel_widgets.launch_form.values import Named, built, code_of, fitting


@dataclass(frozen=True)
class Call:
    """A call of the training function on workers.

    Attributes:
        args: positional arguments, as written.
        kwargs: keyword arguments, as written.
        settings: keys of the configuration that the form sets.
        places: names of the positional arguments.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    settings: Mapping[str, Any]
    places: tuple[str, ...] = ()

    @property
    def values(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments themselves, by place and by name."""
        return tuple(_value(one) for one in self.args), {name: _value(one) for name, one in self.kwargs.items()}

    def code(self, function: str, config: Any = None) -> str:
        """The line that launches the same; what is secret is left out of it.

        Args:
            function: the code that names the function.
            config: a configuration file or object that is given as well.
        """
        parts = [function]
        if self.args:
            inner = map(code_of, self.args, self.places)
            parts.append(f"({', '.join(inner)}{',' if len(self.args) == 1 else ''})")
        settings = nested({ARGUMENTS.get(name, name): value for name, value in self.settings.items()})
        parts += [f"{name}={code_of(value, name)}" for name, value in settings.items()]
        if config is not None:
            parts.append(f"config={code_of(config)}")
        if self.kwargs:
            parts.append(f"kwargs={code_of(dict(self.kwargs))}")
        return f"notebook_launcher({', '.join(parts)})"


def _value(given: Any) -> Any:
    return given.value if isinstance(given, Named) else given


def name_of(function: Callable[..., Any], namespace: Mapping[str, Any]) -> str:
    """The code that names a function: a variable of the notebook that is this very object, or has it as its method.

    Args:
        function: the function.
        namespace: the notebook's variables.
    """
    own = getattr(function, "__name__", "")
    found = _variable(function, namespace, own)
    if found:
        return found
    if own:
        holder = getattr(function, "__self__", None)
        held_by = "" if holder is None else _variable(holder, namespace) or f"{type(holder).__name__}(...)"
        return f"{held_by}.{own}" if held_by else own
    return f"{type(function).__name__}(...)"


def _variable(value: Any, namespace: Mapping[str, Any], first: str = "") -> str:
    if first and namespace.get(first) is value:
        return first
    return next((name for name, held in list(namespace.items()) if held is value and not name.startswith("_")), "")


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
    places = tuple(one.name for one in parameters[: len(args)])
    return Call(tuple(args), given, dict(settings), places)


def _made(parameter: Parameter, values: Mapping[str, Any]) -> Any:
    if not parameter.groups:
        return values[parameter.name]
    made = {field.path: _value(values[field.name]) for field in parameter.fields}
    for group in reversed(parameter.groups):  # the inner ones come first
        parts = {path[-1]: value for path, value in made.items() if path[:-1] == group.path}
        made[group.path] = built(group.kind, parts, ".".join(group.path))
    return fitting(made[parameter.name,], parameter.hint, "its parts together", parameter.name)
