"""`nbaccel test`: does training work with this configuration, on this machine?"""

from __future__ import annotations

import signal
import sys

import click

from nbaccel.cli.launch_flags import COMMON_OPTIONS, Option
from nbaccel.cli.words import WordsCommand, read_flags
from nbaccel.errors import ConfigError

PROGRAM = "nbaccel test"

OPTIONS = (
    Option("timeout", ("--timeout",), "Seconds that one check may take. [default: 60]", "SECONDS"),
    *COMMON_OPTIONS,
)

_DESCRIPTION = """\
Start the workers that a launch with these flags would start, and let them check devices, collective operations, \
precision, a training step, a data loader, a checkpoint and the random generators. The exit code is 0 if all is well, \
else 1."""


@click.command("test", cls=WordsCommand)
def command(words: tuple[str, ...]) -> None:
    """Check the set-up by a small real training run."""
    line = read_flags(words, PROGRAM, _DESCRIPTION, OPTIONS)
    if line is None:
        return
    timeout_s = _seconds(line.options.get("timeout", "60"))
    from nbaccel.cli.launching import decided, need_torch  # what --help needs not load
    from nbaccel.launch.selftest import run_test

    resolved, plan = decided(line, PROGRAM)
    need_torch(PROGRAM)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that the workers are ended, too
    report = run_test(resolved, plan, timeout_s=timeout_s, show=click.echo)
    click.echo(report.verdict)
    sys.exit(0 if report.passed else 1)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ConfigError(f"timeout={text!r}", "from the flag --timeout", "seconds, a number above 0")
    return seconds
