"""`%%accelerate`: run a cell on worker processes."""

from __future__ import annotations

import ast
import os
from collections.abc import Container, Iterable, Mapping
from typing import Any

from IPython.core.error import UsageError

from nbaccel import launch
from nbaccel.config import KEYS, Resolved, call_layer, resolve
from nbaccel.config.params import as_params
from nbaccel.config.structured import as_mapping
from nbaccel.errors import CallError, ConfigError, PlanError, StateError
from nbaccel.launch.job import Job
from nbaccel.machine import probe
from nbaccel.notebook.announce import announce
from nbaccel.notebook.flags import PROGRAM, Line, help_text, parse
from nbaccel.notebook.names import bound_names, used_names
from nbaccel.notebook.screen import PlainScreen, cell_number, origin_screen_for, screen_for
from nbaccel.notebook.session import Session, current, running
from nbaccel.plan import Plan, settle


def run_cell(shell: Any, line: str, cell: str) -> None:
    """Run a cell on workers: those of the running session, else fresh ones.

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
        print(help_text(words.words))
        return
    source = _numbered(line, cell)
    tree = _parsed(shell, source)
    if tree is None:
        return
    in_session = current() is not None and not words.fresh
    if words.ranks is not None and not in_session:
        raise UsageError(f"{PROGRAM}: --ranks chooses ranks of a session; %accelerate start -n 2 starts one.")
    used = used_names(tree, shell.transform_cell)
    names = _names_to_send(shell, used, bound_names(tree, shell.transform_cell))
    wants_params = "params" in used
    job: Job | None
    if in_session:
        job = _run_in_session(shell, words, source, names, wants_params=wants_params)
    else:
        job = _run_fresh(shell, words, source, names, cell, wants_params=wants_params)
    if words.background:
        shell.push({words.background: job})


def _parsed(shell: Any, source: str) -> ast.Module | None:
    """The cell's syntax tree; one that cannot be read is shown as it would be for any other cell, and is None."""
    try:
        return ast.parse(shell.transform_cell(source), filename=f"<cell [{cell_number(shell)}]>")
    except SyntaxError:
        shell.showsyntaxerror()
        return None


def _run_fresh(
    shell: Any, words: Line, source: str, names: Mapping[str, Any], cell: str, *, wants_params: bool
) -> Job | None:
    resolved, plan = decided(shell, words)
    if wants_params:
        names = _with_params(names, resolved)
    announce(resolved, plan)
    sync = resolved.config.sync_models
    call = launch.cell_call(
        source,
        names,
        words.outputs,
        launch.Wish(sync_models=sync),
        execution_count=cell_number(shell),
        here=lambda: shell.run_cell(cell, store_history=False).raise_error(),
    )
    name = f"cell [{cell_number(shell)}]"
    if words.background is None:
        screen = screen_for(shell, resolved.config.monitor)
        shell.push(launch.run(call, plan, resolved, screen, name=name).get(0) or {})
        return None
    if plan.launcher == "inline":
        raise UsageError(f"{PROGRAM}: --background needs worker processes, not start_method=inline.")
    screen = origin_screen_for(shell, resolved.config.monitor)
    select = lambda values: values.get(0)  # noqa: E731
    job = launch.start_job(call, plan, resolved, name=name, colors=screen.colors, select=select)
    return _in_background(shell, job, screen)


def _in_background(shell: Any, job: Job, screen: PlainScreen) -> Job:
    launch.follow_in_background(job, screen, lambda outputs: shell.push(outputs or {}))
    return job


_PER_CELL = frozenset({"output", "timeout", "monitor"})
"""Settings that a cell of a session may have of its own; the others belong to its workers."""


def _with_params(names: Mapping[str, Any], resolved: Resolved) -> Mapping[str, Any]:
    """The names with `params`: the notebook's own, with what the configuration and this line say on top.

    Raises:
        UsageError: the notebook's `params` is nothing that holds parameters.
    """
    if not resolved.config.params:
        return names
    own = names.get("params", {})
    try:
        below = as_mapping(own, "the variable params")
    except ConfigError as error:
        raise UsageError(f"{PROGRAM}: {error}") from None
    return {**names, "params": as_params(_joined(below, resolved.config.params))}


def _joined(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Two trees in one; the second one wins."""
    joined = dict(below)
    for name, value in above.items():
        inner = joined.get(name)
        both = isinstance(inner, Mapping) and isinstance(value, Mapping)
        joined[name] = _joined(inner, value) if both else value  # type: ignore[arg-type]
    return joined


def _run_in_session(shell: Any, words: Line, source: str, names: Mapping[str, Any], *, wants_params: bool) -> Job:
    session = running()
    try:
        _check_same(session, words)
        ranks = session.chosen(words.ranks)
        own = {
            key: session.resolved.with_setting(key, value, flag_of(key))
            for key, value in words.settings.items()
            if key in _PER_CELL
        }
        resolved = session.resolved.with_settings(_params_of(words), flag_of) if wants_params else session.resolved
        own_params = {name: value for name, value in _with_params(names, resolved).items() if name == "params"}
    except (CallError, ConfigError) as error:
        raise UsageError(f"{PROGRAM}: {error}") from None
    job = session.cell_job(
        source,
        names,
        words.outputs,
        ranks=ranks,
        output=own.get("output"),
        timeout=own.get("timeout"),
        extra=own_params if wants_params else {},
    )
    monitor = str(own.get("monitor", session.resolved.config.monitor))
    if words.background is not None:
        return _in_background(shell, job, origin_screen_for(shell, monitor))
    launch.follow(job, screen_for(shell, monitor))
    shell.push(job.result())
    return job


def _params_of(words: Line) -> dict[str, object]:
    return {key: value for key, value in words.settings.items() if key.startswith("params.")}


def _check_same(session: Session, words: Line) -> None:
    """Flags that contradict the running session cannot be honoured by it."""
    instead = f"Use {PROGRAM} --new for fresh workers, or %accelerate restart with this flag."
    if words.config_file is not None:
        raise UsageError(
            f"{PROGRAM}: --config-file {words.config_file} is read when workers are started, and those of the running "
            f"session are. {instead}"
        )
    for key in words.settings.keys() - _PER_CELL - _params_of(words).keys():
        value = session.resolved.with_setting(key, words.settings[key], flag_of(key))
        held = len(session.ranks) if key == "num_processes" else session.resolved.value(key)
        if value != held:
            raise UsageError(f"{PROGRAM}: {key}={value!r}, but the running session has {key}={held!r}. {instead}")


def decided(shell: Any, words: Line) -> tuple[Resolved, Plan]:
    try:
        launch.refuse_inside_worker(os.environ)
        resolved = resolve(call_layer(words.settings, flag_of), config_file=words.config_file)
        return resolved, settle(resolved, probe(shell))
    except (ConfigError, PlanError, StateError) as error:
        raise UsageError(f"{PROGRAM}: {error}") from None


def _numbered(line: str, cell: str) -> str:
    """The cell with its first line in place of the magic's, so that errors name the lines of the notebook."""
    return cell if cell.startswith("%%") else f"# {PROGRAM} {line}\n{cell}"


def flag_of(key: str) -> str:
    """Where a setting of a magic's line came from, in words."""
    return f"the flag {KEYS[key].flags[0]}" if key in KEYS else f"{key.removeprefix('params.')}= on the line"


def _names_to_send(shell: Any, used: Iterable[str], own: Container[str]) -> Mapping[str, Any]:
    """The notebook's names that the cell uses.

    What the cell most likely binds itself (the `file` of a `with`) stays here if it cannot be sent.
    """
    known = [name for name in used if name in shell.user_ns and name not in shell.user_ns_hidden]
    return {name: shell.user_ns[name] for name in known if name not in own or launch.can_send(shell.user_ns[name])}
