"""Every command of `%accelerate` tells what it does, how it is written, and how to do it in Python."""

from __future__ import annotations

import importlib

import pytest

from harness import Kernel
from nbaccel import Session
from nbaccel.notebook.commands import _COMMANDS
from nbaccel.notebook.flags import help_text
from nbaccel.notebook.guide import COMMANDS, command_help


def test_every_command_is_described() -> None:
    assert COMMANDS.keys() == _COMMANDS.keys() | {"export"}
    for word, command in COMMANDS.items():
        assert f"  {word:<9} " in help_text()
        assert command.summary[1:] in command_help(word)
        assert all(line.startswith(f"%accelerate {word}") for line in command.examples)


@pytest.mark.parametrize("word", COMMANDS)
def test_the_function_that_does_the_same_exists(word: str) -> None:
    path, _, _ = COMMANDS[word].function.split("= ")[-1].partition("(")
    owner, _, name = path.rpartition(".")
    holder = Session if owner == "session" else importlib.import_module(owner)
    assert callable(getattr(holder, name))


def test_help_is_shown_in_the_notebook(kernel: Kernel) -> None:
    for word in ("start", "export", "why"):
        assert kernel.ok(f"%accelerate {word} --help").text() == f"{command_help(word)}\n"
    assert "%accelerate WORD --help tells more" in kernel.ok("%accelerate --help").text()
    assert "--timeout" in kernel.ok("%accelerate --help timeout").text()


def test_the_question_mark_shows_all_commands(kernel: Kernel) -> None:
    message = kernel.client.execute("%accelerate?")
    while (answer := kernel.client.get_shell_msg(timeout=60))["parent_header"].get("msg_id") != message:
        pass
    (page,) = answer["content"]["payload"]
    for word in COMMANDS:
        assert f"  {word:<9} " in page["data"]["text/plain"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("exprot train.py", "%accelerate: 'exprot' is no command. Did you mean 'export'?"),
        ("form", "%accelerate form: one word is needed: %accelerate form FUNCTION."),
        ("form nbacel", "%accelerate form: the notebook has no function 'nbacel'"),
        ("form number", "%accelerate form: 3 cannot be called"),
        ("form notebook_launcher --seed x", "%%accelerate: seed='x' (from the flag --seed) is not valid."),
    ],
)
def test_wrong_use_is_one_line(kernel: Kernel, line: str, said: str) -> None:
    kernel.ok("number = 3")
    answer = kernel.run(f"%accelerate {line}")
    assert f"UsageError: {said}" in answer.text("stderr")
    assert answer.text("stderr").count("\n") == 1
    assert not answer.error.count("Traceback")
