"""The configuration that exported cells ran with, and its file."""

from __future__ import annotations

import ast
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nbaccel.config import KEYS, SECTIONS, Layer, Resolved, call_layer, resolve
from nbaccel.config.interpolate import nested
from nbaccel.config.layers import PARAMS
from nbaccel.config.params import names_of
from nbaccel.config.resolve import stays_known
from nbaccel.config.schema.key import IN_NOTEBOOKS
from nbaccel.config.secrets import masked, without_secrets
from nbaccel.config.structured import as_mapping, is_structured, split_config
from nbaccel.notebook.export.cells import Cell
from nbaccel.notebook.export.choosing import launched_names
from nbaccel.notebook.flags import parse

_PLACES = {
    2: "num_processes",
    3: "mixed_precision",
    4: "main_process_port",
    5: "main_process_ip",
    6: "machine_rank",
    7: "num_machines",
}
"""Settings among the positional arguments of `notebook_launcher`."""
_OF_DEBUG_LAUNCHER = {"num_processes": 2, "use_cpu": True}
_ALIASES = {
    "use_port": "main_process_port",
    "master_addr": "main_process_ip",
    "node_rank": "machine_rank",
    "num_nodes": "num_machines",
}
_OF_NOTEBOOKS = frozenset(
    name for name, key in KEYS.items() if key.honoured_by and {*key.honoured_by} <= {*IN_NOTEBOOKS}
)
"""Keys that mean nothing to `nbaccel launch`; a seed is set by the script itself."""
_SETTLED = frozenset({"profile"})
"""Keys whose effect is in the other values already, secrets apart."""


def settings_of(cells: Sequence[Cell], namespace: Mapping[str, Any]) -> tuple[Resolved, list[str]]:
    """The configuration that cells ran with, a later cell's above an earlier one's, and what cannot be known of it.

    Args:
        cells: the cells.
        namespace: the notebook's variables.

    Raises:
        ConfigError: it is not valid any more. UsageError: a line is not.
    """
    values: dict[str, object] = {}
    below: Layer = {}
    config_file: str | os.PathLike[str] | None = None
    unknown: list[str] = []
    for cell in cells:
        lines = [line for line in (cell.session, cell.line) if line is not None]
        for words in map(parse, lines):
            values |= words.settings
            config_file = words.config_file or config_file
        for call in cell.launches:
            given, open_ones = _given(call, namespace)
            layer, file = split_config(given.pop("config", None), "the argument config=")
            below = {**below, **layer}
            config_file = file or config_file
            values |= given
            unknown += open_ones
    launched = [namespace.get(name) for cell in cells for name in launched_names(cell)]
    names = {name for function in launched if callable(function) for name in names_of(function)}
    return resolve(call_layer(values), below, config_file=config_file, params=names), unknown


def _given(call: ast.Call, namespace: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Settings of a launcher's call, by key, and those that cannot be known, as they were written."""
    is_debug = ast.unparse(call.func).rpartition(".")[2] == "debug_launcher"
    found: dict[str, Any] = {**_OF_DEBUG_LAUNCHER} if is_debug else {}
    unknown = []
    for name, node in _written(call):
        try:
            given = {name: _value(node, namespace)} if name else _several(node, namespace)
        except LookupError:
            unknown.append(f"{name}={ast.unparse(node)}" if name else f"**{ast.unparse(node)}")
            continue
        found |= {one: _as_setting(one, value) for one, value in given.items() if value is not None}
    return found, unknown


def _several(node: ast.expr, namespace: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in `**settings`. Raises LookupError if they cannot be known."""
    held = _value(node, namespace)
    if not isinstance(held, Mapping):
        raise LookupError
    named = {_ALIASES.get(str(name), str(name)): value for name, value in held.items()}
    return {name: value for name, value in named.items() if _is_setting(name)}


def _as_setting(name: str, value: Any) -> Any:
    return as_mapping(value, f"the argument {name}=") if name != "config" and is_structured(value) else value


def _written(call: ast.Call) -> Iterator[tuple[str, ast.expr]]:
    """Settings of a launcher's call as they are written, by key; of `**settings` the name is empty."""
    yield from ((name, call.args[place]) for place, name in _PLACES.items() if place < len(call.args))
    for keyword in call.keywords:
        name = _ALIASES.get(keyword.arg or "", keyword.arg or "")
        if not name or _is_setting(name):
            yield name, keyword.value


def _is_setting(name: str) -> bool:
    return name in KEYS or name in SECTIONS or name in (PARAMS, "config")


def _value(node: ast.expr, namespace: Mapping[str, Any]) -> Any:
    """The value of a literal or of a variable of the notebook. Raises LookupError for anything else."""
    if isinstance(node, ast.Name) and node.id in namespace:
        return namespace[node.id]
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise LookupError from None


def arguments_of(call: ast.Call, namespace: Mapping[str, Any]) -> tuple[int, frozenset[str]]:
    """How many positional arguments a launch gives to its function, and the names of those that it gives by name.

    Args:
        call: the launcher's call.
        namespace: the notebook's variables.

    Raises:
        LookupError: that cannot be known; its text is the argument, as it was written.
    """
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    args = call.args[1] if len(call.args) > 1 else given.get("args")
    kwargs = given.get("kwargs")
    return len(_inside(args, namespace)), frozenset(_inside(kwargs, namespace))


def _inside(node: ast.expr | None, namespace: Mapping[str, Any]) -> Sequence[Any]:
    """The arguments in a tuple or list, the names in a dict."""
    if node is None:
        return ()
    if isinstance(node, ast.Tuple | ast.List) and not any(isinstance(one, ast.Starred) for one in node.elts):
        return node.elts
    if isinstance(node, ast.Dict) and all(isinstance(name, ast.Constant) for name in node.keys):
        return [name.value for name in node.keys if isinstance(name, ast.Constant)]
    if isinstance(node, ast.Name) and isinstance(namespace.get(node.id), tuple | list | Mapping):
        return list(namespace[node.id])
    raise LookupError(ast.unparse(node))


def as_yaml(resolved: Resolved) -> str:
    """What somebody has set, as the file that `--config_file` reads; empty if nobody has.

    A default that was set is there too, for it may stand above another value in a file or variable below. Secrets are
    null, which lets their variables set them, or absent where lower layers give them by themselves; what only notebooks
    need is left out.
    """
    import yaml

    values = {name: plain(without_secrets(name, _in_force(resolved, name))) for name in _kept(resolved)}
    if not values:
        return ""
    text = io.StringIO()
    yaml.safe_dump(nested(values), text, sort_keys=False, allow_unicode=True)
    return text.getvalue()


def secrets_of(resolved: Resolved) -> list[str]:
    """The keys that hold a secret, or a text with one."""
    return [name for name in _kept(resolved) if masked(name, resolved.value(name)) != resolved.value(name)]


def _kept(resolved: Resolved) -> list[str]:
    known = {name for name in resolved.given() if stays_known(resolved, name)}
    settled = frozenset() if any(resolved.origin(name).layer == "project" for name in known) else _SETTLED
    return [name for name in resolved.given() if name not in _OF_NOTEBOOKS | settled | known]


def _in_force(resolved: Resolved, name: str) -> Any:
    """A key's value; one that was set to null stays so, for what it stands for may differ elsewhere."""
    return None if resolved.origin(name).value is None else resolved.value(name)


def plain(value: Any) -> Any:
    """What YAML can hold; an object of the user's own is its text."""
    if isinstance(value, Mapping):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
