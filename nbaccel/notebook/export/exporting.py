"""Exporting: from the history of the kernel to files."""

from __future__ import annotations

import argparse
import ast
import difflib
import os
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from IPython.core.error import UsageError

from nbaccel.config import Resolved
from nbaccel.config.layers import PARAMS
from nbaccel.config.params import open_ones
from nbaccel.config.secrets import variable_of, without_secrets
from nbaccel.errors import CallError, ConfigError, StateError
from nbaccel.look import bold, code, div, heading, joined, quiet, region, table
from nbaccel.notebook.export.cells import Cell, read_cells
from nbaccel.notebook.export.choosing import choose, find_notebook, tagged_sources
from nbaccel.notebook.export.jobs import asked_of_jobs, job_names
from nbaccel.notebook.export.needs import Needs, needs_of
from nbaccel.notebook.export.script import Script
from nbaccel.notebook.export.settings import arguments_of, as_yaml, plain, secrets_of, settings_of
from nbaccel.notebook.guide import command_help
from nbaccel.notebook.screen import current_shell

PROGRAM = "%accelerate export"
_LONGEST_DIFF = 60


@dataclass(frozen=True)
class Exported:
    """What was exported.

    Attributes:
        script: the script.
        config: the file of its configuration, None where every value is the default.
        command: the line that launches it.
        cells: number of each cell that the script is made of, and why it is there.
        notes: what could not be taken over.
    """

    script: Path
    config: Path | None
    command: str
    cells: tuple[tuple[int, str], ...]
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        files = str(self.script) if self.config is None else f"{self.script} and {self.config}"
        lines = [f"written: {files}", *(f"  cell [{number}]: {why}" for number, why in self.cells)]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes), f"run it: {self.command}"])

    def _repr_html_(self) -> str:
        files = joined([code(str(path)) for path in (self.script, self.config) if path is not None], " and ")
        cells = table(("cell", "why"), [(f"[{number}]", why) for number, why in self.cells])
        notes = [div(joined([bold("! "), note])) for note in self.notes]
        line = div(joined([quiet("Run it: "), code(self.command)]))
        return region(joined([heading(joined(["Written: ", files])), cells, *notes, line]), label="export")


def export(
    path: str | os.PathLike[str],
    cells: Sequence[str | int] = (),
    *,
    force: bool = False,
    notebook: str | os.PathLike[str] | None = None,
) -> Exported:
    """Write cells that ran in this kernel as a script, and beside it the configuration that they ran with.

    The script holds the cells and those that define what they use, as they ran; `nbaccel launch` runs it, and plain
    Python does with one process.

    Args:
        path: the script; its configuration gets the same name with `.yaml`.
        cells: numbers of cells, names of functions that they launch, tags of the notebook's file; left out: the cells
            with the tag `export`, else the last one that launched something.
        force: overwrite files that differ.
        notebook: the notebook's file, where the front end does not tell it.

    Raises:
        CallError: there is no such cell, or a file exists and differs; the difference is printed.
        ConfigError: the configuration is not valid. StateError: this is no IPython kernel.
    """
    shell = current_shell()
    if shell is None:
        raise StateError("only the cells of a notebook can be exported, and this is no notebook.")
    script = Path(path).expanduser()
    if script.suffix != ".py":
        raise CallError(f"{str(script)!r} is no name of a script. Possible: a name that ends with .py.")
    if not script.parent.is_dir():
        raise CallError(f"there is no folder {str(script.parent)!r}; make it first.")
    ran = read_cells(shell.history_manager.input_hist_raw, _failed(shell), shell.transform_cell)
    file = Path(notebook) if notebook is not None else find_notebook(shell.user_ns, os.environ)
    chosen = choose([str(word) for word in cells], ran, tagged_sources(file) if file is not None else {})
    return _write(script, chosen, needs_of(chosen, ran), shell.user_ns, file, force=force)


def _failed(shell: Any) -> Collection[int]:
    """Numbers of the cells that ended with an error, as the extension has seen them."""
    followers = shell.events.callbacks["post_run_cell"]
    return {number for follower in followers for number in getattr(follower, "failed", ())}


def _write(
    script: Path, chosen: Sequence[Cell], needs: Needs, namespace: Mapping[str, Any], file: Path | None, *, force: bool
) -> Exported:
    resolved, unknown = settings_of(chosen, namespace)
    settings, hidden = as_yaml(resolved), secrets_of(resolved)
    config = script.with_suffix(".yaml") if settings else None
    words = ["nbaccel", "launch", *(["--config_file", str(config)] if config else []), str(script)]
    command = shlex.join(words)
    title = f"Exported from {file.name if file is not None else 'a notebook'} by %accelerate export."
    params = resolved.config.params
    extra, unsure = _filled_in(chosen, resolved, namespace)
    reads_params = any("params" in cell.reads | cell.reads_later for cell in (*chosen, *needs.cells))
    text = Script(
        title,
        command,
        needs.cells,
        chosen,
        params=plain(without_secrets(PARAMS, params)) if params and (reads_params or extra) else None,
        config=config.name if config else None,
        seed=resolved.config.seed,
        extra=extra,
    ).text()
    files = {script: text}
    if config is not None:
        files[config] = f"# The configuration of {script.name}: {command}\n{settings}"
    _refuse_differing(files, force=force)
    for path, content in files.items():
        path.write_text(content, encoding="utf-8")
    why = {cell.number: "launched" if cell.line is not None or cell.launches else "chosen" for cell in chosen}
    why |= {number: f"for {', '.join(names)}" for number, names in needs.names.items()}
    notes = [f"{setting} is no literal value: set it in the configuration" for setting in unknown]
    notes += unsure
    notes += [f"{key} holds a secret, which files do not: set the variable {variable_of(key)}" for key in hidden]
    notes += _without_counterpart(chosen, needs.cells)
    notes += [f"no cell of this kernel defines {name}" for name in needs.missing]
    return Exported(script, config, command, tuple(sorted(why.items())), tuple(notes))


def _filled_in(
    chosen: Sequence[Cell], resolved: Resolved, namespace: Mapping[str, Any]
) -> tuple[dict[ast.Call, list[str]], list[str]]:
    """The arguments that the configuration's `params` give to launched functions, by the launch, and notes.

    A note stands for a launch of which it cannot be said which arguments it gives itself.
    """
    found: dict[ast.Call, list[str]] = {}
    notes = []
    for call in (call for cell in chosen for call in cell.launches):
        name = ast.unparse(call.args[0])
        function = namespace.get(name)
        if not resolved.config.params or not callable(function):
            continue
        try:
            num_args, named = arguments_of(call, namespace)
        except LookupError as error:
            if open_ones(function, 0, (), resolved.config.params):
                notes.append(
                    f"{name}() gets no parameters of the configuration beside {error}: write them into its call"
                )
            continue
        names = open_ones(function, num_args, named, resolved.config.params)
        found |= {call: names} if names else {}
    return found, notes


def _without_counterpart(chosen: Sequence[Cell], needed: Sequence[Cell]) -> list[str]:
    """What cells do that a script cannot."""
    jobs = job_names(chosen)
    asked = ((cell, asked_of_jobs(one, cell, jobs)) for cell in chosen for one in cell.tree.body)
    notes = [
        f"cell [{cell.number}]: {ast.unparse(node)} is asked of a job, and a script has none"
        for cell, nodes in asked
        for node in nodes
    ]
    return notes + [
        f"cell [{cell.number}] makes a Session, which workers cannot: call its functions themselves"
        for cell in (*needed, *chosen)
        if cell.starts_session
    ]


def _refuse_differing(files: Mapping[Path, str], *, force: bool) -> None:
    """Print how existing files would change, and refuse to change them."""
    differing = []
    for path, content in files.items():
        if path.exists() and not force:
            held = path.read_text(encoding="utf-8", errors="replace")
            if held != content:
                differing.append(str(path))
                lines = list(
                    difflib.unified_diff(held.splitlines(), content.splitlines(), str(path), "new", lineterm="")
                )
                more = [f"... {len(lines) - _LONGEST_DIFF} more lines"] if len(lines) > _LONGEST_DIFF else []
                print("\n".join([*lines[:_LONGEST_DIFF], *more]))
    if differing:
        named = " and ".join(differing)
        raise CallError(
            f"{named} exist{'s' if len(differing) == 1 else ''} already, different as shown: --force overwrites."
        )


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{PROGRAM}: {message}. {PROGRAM} --help shows how it is written.")


def run_line(line: str) -> Exported | None:
    """Carry out `export SCRIPT ...`, the line after `%accelerate`.

    Raises:
        UsageError: the line or the wish is wrong; one line that says what is possible.
    """
    parser = _Parser(prog=PROGRAM, add_help=False, allow_abbrev=False)
    parser.add_argument("script", nargs="?")
    parser.add_argument("--cells", nargs="+", default=[])
    parser.add_argument("--notebook")
    parser.add_argument("--force", action="store_true")
    parser.add_argument("-h", "--help", action="store_true")
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise UsageError(f"{PROGRAM}: {error} in {line!r}.") from None
    given = parser.parse_args(words)
    if given.help:
        print(command_help("export"))
        return None
    if given.script is None:
        raise UsageError(f"{PROGRAM}: a name is missing: {PROGRAM} train.py.")
    names = [name for word in given.cells for name in word.split(",") if name]
    try:
        return export(given.script, names, force=given.force, notebook=given.notebook)
    except (CallError, ConfigError, StateError) as error:
        raise UsageError(f"{PROGRAM}: {error}") from None
