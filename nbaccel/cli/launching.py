"""What `nbaccel launch` does with its line: resolve, decide, show, run."""

from __future__ import annotations

import importlib.util
import os
import shlex
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import click

from nbaccel.cli.child import run_to_end
from nbaccel.cli.launch_flags import Line
from nbaccel.config import Layer, Resolved, call_layer, resolve, table
from nbaccel.config.launched import LAUNCHED, without_ours
from nbaccel.config.secrets import MASK, is_secret
from nbaccel.config.snapshot import leaves_snapshot, write_snapshot
from nbaccel.errors import ConfigError, MissingExtraError, nearest
from nbaccel.launch.torchrun import Target, command_line, environment, variables_set
from nbaccel.machine import probe
from nbaccel.machine.words import describe_devices
from nbaccel.plan import Plan, settle


def launch(line: Line, program: str) -> int:
    """Carry out a line of `nbaccel launch`.

    Returns:
        The exit code of torch's launcher.

    Raises:
        ConfigError: a value is not valid, or there is no such script.
        PlanError: this machine, or nbaccel so far, cannot do what was asked.
        MissingExtraError: torch is not installed.
        RunTimeoutError: the run took longer than `timeout`.
        LaunchError: that time was over while no worker ran.
    """
    target = _target(line, program)
    resolved, plan = decided(line, program)
    for text in _announcements(resolved, plan, line):
        click.echo(text, err=True)
    command = command_line(resolved, plan, target)
    if line.has("dry_run"):
        _show(command, variables_set(resolved, plan, os.environ), hidden=set(without_ours(resolved.dotenv)))
        return 0
    need_torch(program)
    if plan.machine_rank == 0 and leaves_snapshot(resolved):  # else the machine need not be looked at again
        write_snapshot(resolved, describe_devices(probe()), _said(line))
    return run_to_end(command, environment(resolved, plan, os.environ), resolved.config.timeout)


def _said(line: Line) -> list[str]:
    """The script and its arguments, as a replay gives them to the launcher again."""
    kind = ["--module"] if line.has("module") else ["--no-python"] if line.has("no_python") else []
    return [*kind, *line.words]


def decided(line: Line, program: str) -> tuple[Resolved, Plan]:
    """What a line asks for with all layers below it, and what is decided on it. Raises ConfigError, PlanError."""
    resolved = resolve(*launch_layers(line, program), config_file=line.options.get("config_file"))
    return resolved, replace(settle(resolved, probe()), launcher="torchrun")


def launch_layers(line: Line, program: str) -> tuple[Layer, ...]:
    """A line's layers: its flags, and below them that a notebook's way of starting workers is not meant."""
    return line.settings, call_layer({"start_method": "spawn"}, lambda _: f"`{program}`")


def need_torch(program: str) -> None:
    """Raises MissingExtraError if torch is not installed; it is not imported."""
    if importlib.util.find_spec("torch") is None:
        raise MissingExtraError("torch", program, "pip install 'nbaccel[torch]'")


def _target(line: Line, program: str) -> Target:
    is_module, is_program = line.has("module"), line.has("no_python")
    place = f"given to {program}"
    if is_module and is_program:
        raise ConfigError("--module beside --no-python", place, "one of the two")
    if not line.words:
        raise ConfigError("a line without a script", place, f"{program} [FLAGS] SCRIPT [ARGUMENTS]")
    script = Path(line.words[0])
    if not (is_module or is_program or script.is_file()):
        raise ConfigError(f"the script {line.words[0]!r}", place, "a file that exists", _neighbour(script))
    return Target(line.words, is_module, is_program)


def _neighbour(script: Path) -> str | None:
    """A file beside the missing one, of a name like its."""
    folder = script.parent
    names = [entry.name for entry in folder.iterdir() if entry.is_file()] if folder.is_dir() else []
    meant = nearest(script.name, names)
    return None if meant is None else str(folder / meant)


def _announcements(resolved: Resolved, plan: Plan, line: Line) -> Iterator[str]:
    """What is said before a launch: notes on old files, and as much of the decision as the log level asks for."""
    if not line.has("quiet"):
        yield from (f"note: {note}" for note in resolved.notes)
    level = {**os.environ, **resolved.dotenv}.get("ACCELERATE_LOG_LEVEL", "").upper()
    if level == "DEBUG":
        yield str(table(resolved, [key for key in resolved.given() if key != "start_method"]))
    if level in ("DEBUG", "INFO"):
        yield plan.describe()


def _show(command: Sequence[str], variables: Mapping[str, str], hidden: Container[str]) -> None:
    """The variables and the command line, in a shell's words; secrets and what `.env` adds stay hidden."""
    for name, value in variables.items():
        click.echo(f"{name}={MASK if is_secret(name) or name in hidden else _short(name, value)} \\")
    click.echo(shlex.join(command))


def _short(name: str, value: str) -> str:
    return f"'(all settings with their places, {len(value)} characters)'" if name == LAUNCHED else shlex.quote(value)
