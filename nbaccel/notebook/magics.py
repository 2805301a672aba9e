"""`%%accelerate`: run a cell on worker processes."""

from __future__ import annotations

import ast
import os
from collections.abc import Mapping
from typing import Any

from IPython.core.error import UsageError

from nbaccel import launch
from nbaccel.config import Resolved, call_layer, resolve
from nbaccel.errors import ConfigError, PlanError, StateError
from nbaccel.machine import probe
from nbaccel.notebook.flags import PROGRAM, Line, parse, parser
from nbaccel.notebook.names import bound_names, used_names
from nbaccel.notebook.screen import screen_for
from nbaccel.plan import Plan, decide


def run_cell(shell: Any, line: str, cell: str) -> None:
    """Run a cell on workers.

    Args:
        shell: the kernel's IPython shell.
        line: what stands after `%%accelerate`.
        cell: the lines below.

    Raises:
        UsageError: the line or the wish is wrong; one line that says what is possible.
        ShipError: a name that the cell uses cannot be sent.
        RunError: the cell failed in a worker.
    """
    words = parse(line)
    if words.wants_help:
        print(parser().format_help())
        return
    resolved, plan = _decided(shell, words)
    call = launch.cell_call(
        _numbered(line, cell),
        _names_to_send(shell, cell),
        words.outputs,
        execution_count=shell.execution_count,
        sync_models=resolved.config.sync_models,
        here=lambda: shell.run_cell(cell, store_history=False).raise_error(),
    )
    values = launch.run(call, plan, resolved, screen_for(shell))
    shell.push(values.get(0) or {})


def describe_run(shell: Any, line: str) -> None:
    """`%accelerate ...`: says what a cell with these flags would do, and who set what. Starts nothing."""
    words = parse(line)
    if words.wants_help:
        print(parser().format_help())
        return
    resolved, plan = _decided(shell, words)
    print(plan.describe())
    for key, chain in resolved.chain.items():
        if chain[0].layer != "default":
            print(resolved.explain(key))


def _decided(shell: Any, words: Line) -> tuple[Resolved, Plan]:
    try:
        launch.refuse_inside_worker(os.environ)
        resolved = resolve(call_layer(words.settings, _flag))
        return resolved, decide(resolved.config, probe(shell))
    except (ConfigError, PlanError, StateError) as error:
        raise UsageError(f"{PROGRAM}: {error}") from None


def _numbered(line: str, cell: str) -> str:
    """The cell with its first line in place of the magic's, so that errors name the lines of the notebook."""
    return cell if cell.startswith("%%") else f"# {PROGRAM} {line}\n{cell}"


def _flag(key: str) -> str:
    return f"the flag --{key.replace('_', '-')}"


def _names_to_send(shell: Any, cell: str) -> Mapping[str, Any]:
    """The notebook's names that the cell uses. Raises SyntaxError for a cell that is no Python.

    What the cell most likely binds itself (the `file` of a `with`) stays here if it cannot be sent.
    """
    tree = ast.parse(shell.transform_cell(cell), filename=f"<cell below {PROGRAM}>")
    known = [name for name in used_names(tree) if name in shell.user_ns and name not in shell.user_ns_hidden]
    own = bound_names(tree)
    return {name: shell.user_ns[name] for name in known if name not in own or launch.can_send(shell.user_ns[name])}
