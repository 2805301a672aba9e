"""What `%accelerate WORD` can do: each command once, for its help, the list of commands, and completion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command of `%accelerate`.

    Attributes:
        summary: what it does, in a line.
        usage: what follows the command's word.
        takes: the words among that which the list of commands shows.
        detail: more about it.
        examples: lines that use it.
        function: the same in Python; `session` is an `nbaccel.Session`.
        flags: flags of its own, and what they do; flags of the configuration are not named here.
        takes_settings: whether flags of the configuration mean something to it.
    """

    summary: str
    usage: str = ""
    takes: str = ""
    detail: str = ""
    examples: tuple[str, ...]
    function: str
    flags: Mapping[str, str] = field(default_factory=dict)
    takes_settings: bool = False


COMMANDS: Mapping[str, Command] = {
    "start": Command(
        summary="start a session with these flags; %%accelerate cells then run in it",
        usage="[FLAGS]",
        detail="The workers keep their variables from cell to cell, until %accelerate stop.",
        examples=("%accelerate start -n 2", "%accelerate start -n 4 --mixed-precision bf16"),
        function="session = nbaccel.Session(num_processes=2)",
        takes_settings=True,
    ),
    "stop": Command(summary="end the session", examples=("%accelerate stop",), function="session.close()"),
    "restart": Command(
        summary="end its workers and start fresh ones, with new flags if some are given",
        usage="[FLAGS]",
        detail="Their variables are gone then. What was given at the start holds, and settings that have changed since "
        "are taken over.",
        examples=("%accelerate restart", "%accelerate restart -n 4"),
        function="session.restart()",
        takes_settings=True,
    ),
    "status": Command(
        summary="what each rank is and does", examples=("%accelerate status",), function="session.status()"
    ),
    "push": Command(
        summary="send names to the workers, also what changed inside an object",
        usage="NAME ... [--ranks RANKS]",
        takes="NAME ...",
        detail="Names that a cell uses are sent by themselves when they are bound anew; this sends them again.",
        examples=("%accelerate push dataset", "%accelerate push config --ranks 0"),
        function="session.push('dataset')",
        flags={"--ranks": "ranks to send to, such as 0,2:4; left out: all"},
    ),
    "pull": Command(
        summary="bring names back from rank 0, or from --ranks RANK",
        usage="NAME ... [--ranks RANK]",
        takes="NAME ...",
        examples=("%accelerate pull history", "%accelerate pull loss --ranks 1"),
        function="session.pull('history')",
        flags={"--ranks": "the rank to bring them from"},
    ),
    "stacks": Command(
        summary="where each rank is just now, and who waits for whom",
        examples=("%accelerate stacks",),
        function="session.stacks()",
    ),
    "debug": Command(
        summary="look at the frames of the error that a rank of the session has met last",
        usage="[RANK]",
        takes="[RANK]",
        detail="Opens the debugger in the worker; left out: rank 0. %debug does it for the rank that failed first.",
        examples=("%accelerate debug 1",),
        function="nbaccel.notebook.commands.debug_rank(get_ipython(), 1)",
    ),
    "config": Command(
        summary="the configuration and its files",
        usage="[WORD ...] [--config-file FILE] [--profile NAME]",
        takes="[show|why|set|unset|validate|diff|default|update|ask]",
        detail="What `nbaccel config WORD` does in a terminal; `config set` writes the project's file.",
        examples=("%accelerate config", "%accelerate config set mixed_precision bf16", "%accelerate config validate"),
        function="nbaccel.config.commands.show()",
        flags={"--config-file": "the file to look at or to change", "--profile": "the profile of the project's file"},
    ),
    "why": Command(
        summary="why a key has its value: the layer that wins, and what it shadows",
        usage="KEY",
        takes="KEY",
        examples=("%accelerate why mixed_precision",),
        function="nbaccel.config.commands.why('mixed_precision')",
        flags={"--config-file": "a file of the configuration, over the project's", "--profile": "its profile"},
    ),
    "set": Command(
        summary="set a key for this notebook",
        usage="KEY VALUE",
        takes="KEY VALUE",
        detail="It holds until the kernel ends; %accelerate undo takes it back. KEY=VALUE is as good.",
        examples=("%accelerate set mixed_precision bf16", "%accelerate set fsdp_config.fsdp_version 2"),
        function="nbaccel.notebook.configuring.set_for_notebook('mixed_precision', 'bf16')",
    ),
    "unset": Command(
        summary="forget what was set for this notebook",
        usage="[KEY ...]",
        takes="[KEY ...]",
        detail="Left out: all keys.",
        examples=("%accelerate unset mixed_precision",),
        function="nbaccel.notebook.configuring.unset_for_notebook('mixed_precision')",
    ),
    "undo": Command(
        summary="take the last set or unset back",
        examples=("%accelerate undo",),
        function="nbaccel.notebook.configuring.undo()",
    ),
    "form": Command(
        summary="a form of a function's parameters that launches it",
        usage="FUNCTION [FLAGS]",
        takes="FUNCTION",
        detail="Controls made of the function's annotations and defaults, a Launch button, the run, a table of all "
        "runs. FLAGS fill the settings in.",
        examples=("%accelerate form train", "%accelerate form train -n 2"),
        function="nbaccel_widgets.LaunchForm(train)",
        takes_settings=True,
    ),
    "export": Command(
        summary="write cells that ran as a script with its configuration",
        usage="SCRIPT [--cells CELL ...] [--notebook FILE] [--force]",
        takes="SCRIPT",
        detail="The cell that launched last, and above it what it needs: the cells that define the names that it "
        "uses.\nA CELL is a number (7), the name of a function that a cell launches, or a tag of the notebook's file;"
        "\nwithout any, cells with the tag `export` are taken if there are some. A YAML file beside SCRIPT keeps the "
        "settings.\nFiles that exist and differ are only overwritten with --force; the difference is shown.",
        examples=("%accelerate export train.py", "%accelerate export train.py --cells 3 7"),
        function="nbaccel.export('train.py')",
        flags={
            "--cells": "cells to export, by number, launched function or tag",
            "--notebook": "the notebook's file, where its name is not known",
            "--force": "overwrite files that differ",
        },
    ),
    "test": Command(
        summary="check the set-up: devices, collectives, precision, a training step, a checkpoint",
        usage="[FLAGS]",
        examples=("%accelerate test -n 2",),
        function="nbaccel.launch.selftest.run_test(resolved, plan, timeout_s=60, show=print)",
        takes_settings=True,
    ),
    "doctor": Command(
        summary="what was found on this machine, and what a launch will do",
        usage="[FLAGS]",
        examples=("%accelerate doctor",),
        function="nbaccel.launch.checkup.check_up()",
        takes_settings=True,
    ),
}
"""What `%accelerate WORD` can do, by the word."""

COMMANDS_HELP = "\n".join(
    [
        "%accelerate WORD, on a line of its own (%accelerate WORD --help tells more):",
        *(f"  {word:<9} {f'{one.takes} ' if one.takes else ''}{one.summary}" for word, one in COMMANDS.items()),
    ]
)


def command_help(word: str) -> str:
    """What a command does, how it is written, and which function does the same."""
    command = COMMANDS[word]
    lines = [f"%accelerate {word} {command.usage}".rstrip(), "", f"{command.summary[:1].upper()}{command.summary[1:]}."]
    if command.detail:
        lines.append(command.detail)
    if command.flags:
        lines += ["", *(f"  {flag:<14} {text}" for flag, text in command.flags.items())]
    if command.takes_settings:
        lines += ["", "FLAGS are those of the configuration; %%accelerate --help lists them."]
    lines += ["", "Examples:", *(f"  {line}" for line in command.examples)]
    return "\n".join([*lines, "", "In Python:", f"  {command.function}"])
