"""`nbaccel tpu-config`: the line that reaches all machines of a pod."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from nbaccel.cli.tpu_config import command

POD = ("--tpu_name", "pod", "--tpu_zone", "us-central1-a")


def tpu_config(*words: str) -> Result:
    return CliRunner().invoke(command, words)


def shown(*words: str) -> str:
    done = tpu_config(*words, "--debug")
    assert done.exception is None, done.exception
    return done.output


@pytest.mark.parametrize(
    ("words", "kind", "script"),
    [
        (("--command", "echo a"), "gcloud compute", "cd /usr/share; echo a"),
        (("--command", "echo a", "--command", "ls"), "gcloud compute", "cd /usr/share; echo a; ls"),
        (("--use_alpha", "--command", "ls"), "gcloud alpha compute", "cd /usr/share; ls"),
        (("--install_accelerate", "--command", "ls"), "gcloud compute", "cd /usr/share; pip install -U accelerate; ls"),
        (
            ("--install_accelerate", "--accelerate_version", "1.2.0", "--command", "ls"),
            "gcloud compute",
            "cd /usr/share; pip install accelerate==1.2.0; ls",
        ),
        (
            ("--install_accelerate", "--accelerate_version", "dev", "--command", "ls"),
            "gcloud compute",
            "cd /usr/share; pip install git+https://github.com/huggingface/accelerate; ls",
        ),
        (("--install_nbaccel", "--command", "ls"), "gcloud compute", "cd /usr/share; pip install -U nbaccel; ls"),
    ],
)
def test_the_line_from_flags(nowhere: Path, words: tuple[str, ...], kind: str, script: str) -> None:
    expected = f"Running {kind} tpus tpu-vm ssh pod --zone us-central1-a --command '{script}' --worker all\n"
    assert shown(*POD, *words) == expected


def test_a_file_of_commands_and_a_configuration_of_accelerate(nowhere: Path) -> None:
    (nowhere / "commands.txt").write_text("echo hello\n\necho world\n")
    (nowhere / "pod.yaml").write_text(
        "distributed_type: XLA\ntpu_name: mine\ntpu_zone: here\ncommand_file: commands.txt\n"
    )
    assert "ssh mine --zone here --command 'cd /usr/share; echo hello; echo world'" in shown(
        "--config_file", "pod.yaml"
    )
    assert "cd /usr/share; ls" in shown("--config_file", "pod.yaml", "--command", "ls")  # nearer than the file


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--command", "ls"), "tpu_name is not given.*--tpu-name NAME"),
        (("--tpu_name", "pod", "--command", "ls"), "tpu_zone is not given"),
        (POD, "no command.*--command TEXT.*--command-file FILE"),
        ((*POD, "--command_file", "none.txt"), "command_file='none.txt'.*a file that exists"),
        ((*POD, "script.py"), "'script.py'.*flags and NAME=VALUE only"),
    ],
)
def test_what_is_missing_is_said(nowhere: Path, words: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        raise tpu_config(*words).exception or AssertionError("it was taken")


def test_without_gcloud_it_says_where_to_get_it(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(nowhere))
    with pytest.raises(ImportError, match=r"gcloud.*cloud\.google\.com/sdk"):
        raise tpu_config(*POD, "--command", "ls").exception or AssertionError("it was run")


def test_gcloud_is_called_and_its_exit_code_handed_on(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = nowhere / "gcloud"
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@" > said\nexit 3\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{nowhere}{os.pathsep}{os.environ['PATH']}")
    assert tpu_config(*POD, "--command", "echo 'a b'").exit_code == 3
    said = (nowhere / "said").read_text().splitlines()
    assert said[:5] == ["compute", "tpus", "tpu-vm", "ssh", "pod"]
    assert "cd /usr/share; echo 'a b'" in said


def test_help_names_its_flags() -> None:
    text = tpu_config("--help").output
    for flag in ("--use-alpha", "--install-nbaccel", "--command-file", "--tpu-zone"):
        assert flag in text
