"""The configuration that exported cells ran with, and its file."""

from __future__ import annotations

import ast
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nbaccel.config import KEYS, SECTIONS, Resolved, call_layer, resolve
from nbaccel.config.interpolate import nested
from nbaccel.config.layers import PARAMS
from nbaccel.config.schema.key import IN_NOTEBOOKS
from nbaccel.config.secrets import is_secret
from nbaccel.notebook.export.cells import Cell
from nbaccel.notebook.flags import parse

_PLACES = {2: "num_processes", 3: "mixed_precision"}
"""Settings among the positional arguments of `notebook_launcher`."""
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
"""Keys whose effect is in the other values already."""


def settings_of(cells: Sequence[Cell], namespace: Mapping[str, Any]) -> tuple[Resolved, list[str]]:
    """The configuration that cells ran with, a later cell's above an earlier one's, and what cannot be known of it.

    Args:
        cells: the cells.
        namespace: the notebook's variables.

    Raises:
        ConfigError: it is not valid any more. UsageError: a line is not.
    """
    values: dict[str, object] = {}
    config_file = None
    unknown: list[str] = []
    for cell in cells:
        lines = [line for line in (cell.session, cell.line) if line is not None]
        for words in map(parse, lines):
            values |= words.settings
            config_file = words.config_file or config_file
        for call in cell.launches:
            for name, node in _given(call):
                try:
                    value = _value(node, namespace)
                except LookupError:
                    unknown.append(f"{name}={ast.unparse(node)}")
                    continue
                if name == "config":
                    config_file = value if isinstance(value, str) else config_file
                elif value is not None:
                    values[name] = value
    return resolve(call_layer(values), config_file=config_file), unknown


def _given(call: ast.Call) -> Iterator[tuple[str, ast.expr]]:
    """Settings of a launcher's call, by key."""
    yield from ((name, call.args[place]) for place, name in _PLACES.items() if place < len(call.args))
    for keyword in call.keywords:
        name = _ALIASES.get(keyword.arg or "", keyword.arg or "")
        if name in KEYS or name in SECTIONS or name in (PARAMS, "config"):
            yield name, keyword.value


def _value(node: ast.expr, namespace: Mapping[str, Any]) -> Any:
    """The value of a literal or of a variable of the notebook. Raises LookupError for anything else."""
    if isinstance(node, ast.Name) and node.id in namespace:
        return namespace[node.id]
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise LookupError from None


def as_yaml(resolved: Resolved) -> str:
    """What differs from the defaults, as the file that `--config_file` reads; empty if nothing does.

    Secrets and what only notebooks need are left out.
    """
    import yaml

    names = [name for name in resolved.given() if not is_secret(name) and name not in _OF_NOTEBOOKS | _SETTLED]
    values = {name: _plain(resolved.value(name)) for name in names}
    kept = {name: value for name, value in values.items() if name not in KEYS or value != _plain(KEYS[name].default)}
    if not kept:
        return ""
    text = io.StringIO()
    yaml.safe_dump(nested(kept), text, sort_keys=False, allow_unicode=True)
    return text.getvalue()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
