"""`nbaccel tpu-config`: run commands on all machines of a TPU pod, by Google's `gcloud`."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click

from nbaccel.cli.launch_flags import COMMON_OPTIONS, Line, Option
from nbaccel.cli.words import WordsCommand, read_flags
from nbaccel.config import RunConfig, resolve
from nbaccel.errors import ConfigError, MissingExtraError

PROGRAM = "nbaccel tpu-config"

OPTIONS = (
    Option("use_alpha", ("--use-alpha",), "Use gcloud alpha."),
    Option("install_nbaccel", ("--install-nbaccel",), "Install nbaccel on the machines first."),
    Option("install_accelerate", ("--install-accelerate",), "Install Accelerate on the machines first."),
    Option("accelerate_version", ("--accelerate-version",), "Which one. [default: latest]", "VERSION"),
    Option("debug", ("--debug",), "Show the command line, and end."),
    *COMMON_OPTIONS,
)

_DESCRIPTION = """\
Run the commands of --command (which may be given several times), or of the file --command-file, on all machines of \
the pod --tpu-name in --tpu-zone. What no flag gives comes from the environment and from files. Programs are found \
below /usr/share, where the commands are run."""


@click.command("tpu-config", cls=WordsCommand)
def command(words: tuple[str, ...]) -> None:
    """Run commands on all machines of a TPU pod."""
    line = read_flags(words, PROGRAM, _DESCRIPTION, OPTIONS)
    if line is None:
        return
    config = resolve(line.settings, config_file=line.options.get("config_file")).config
    told = gcloud_line(config, line)
    if line.has("debug"):
        click.echo(f"Running {shlex.join(told)}")
        return
    if shutil.which(told[0]) is None:
        raise MissingExtraError(
            "gcloud", PROGRAM, "see https://cloud.google.com/sdk/docs/install (on Google's machines it is there)"
        )
    sys.exit(subprocess.run(told, check=False).returncode)


def gcloud_line(config: RunConfig, line: Line) -> list[str]:
    """The command line that reaches all machines of the pod.

    Args:
        config: says which pod, and what to run there.
        line: the command's own flags.

    Raises:
        ConfigError: the pod or the commands are not named, or there is no such file.
    """
    for name, value in (("tpu_name", config.tpu_name), ("tpu_zone", config.tpu_zone)):
        if not value:
            raise ConfigError(f"{name} is not given", f"needed by {PROGRAM}", f"--{name.replace('_', '-')} NAME")
    script = "; ".join(["cd /usr/share", *_installations(line), *_commands(config)])
    kind = ["gcloud", *(["alpha"] if line.has("use_alpha") else [])]
    where = [str(config.tpu_name), "--zone", str(config.tpu_zone)]
    return [*kind, "compute", "tpus", "tpu-vm", "ssh", *where, "--command", script, "--worker", "all"]


def _installations(line: Line) -> list[str]:
    found = ["pip install -U nbaccel"] if line.has("install_nbaccel") else []
    if line.has("install_accelerate"):
        version = line.options.get("accelerate_version", "latest")
        what = {"dev": "git+https://github.com/huggingface/accelerate", "latest": "-U accelerate"}
        found.append(f"pip install {what.get(version, f'accelerate=={version}')}")
    return found


def _commands(config: RunConfig) -> list[str]:
    if config.commands:
        return list(config.commands)
    if not config.command_file:
        raise ConfigError("no command", f"given to {PROGRAM}", "--command TEXT (several times), or --command-file FILE")
    file = Path(config.command_file).expanduser()
    if not file.is_file():
        raise ConfigError(f"command_file={config.command_file!r}", f"needed by {PROGRAM}", "a file that exists")
    return [text for text in file.read_text().splitlines() if text.strip()]
