"""Runs the workers of a test, and follows what they note."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import nbaccel
from nbaccel.config import Resolved, RunConfig
from nbaccel.launch.interpreter import is_installed
from nbaccel.launch.selftest.judge import (
    START_LIMIT_S,
    Said,
    finished,
    late_workers,
    of_the_workers,
    unfinished,
    why_late,
    why_over,
)
from nbaccel.launch.selftest.report import AFTER_A_DEATH, AFTER_A_HANG, REMEDIES, START, Report, Result
from nbaccel.launch.torchrun import Target, environment, plain_command_line
from nbaccel.plan import Plan
from nbaccel.runtime.selftest import notes
from nbaccel.runtime.selftest.notes import CHECKS, FAILED, Wish

_POLL_S = 0.03
_STOP_GRACE_S = 5.0
_STACKS_PATIENCE_S = 2.0
_MOST_OUTPUT_LINES = 15
_DTYPES = {"no": "float32", "fp16": "float16"}


def run_test(
    resolved: Resolved,
    plan: Plan,
    *,
    timeout_s: float = 60.0,
    environ: Mapping[str, str] | None = None,
    show: Callable[[str], None] = lambda line: None,
) -> Report:
    """Start the planned workers of this machine, let them check the set-up, and wait for them.

    Args:
        resolved: the configuration that is tested.
        plan: what was decided on it.
        timeout_s: how long one check may take.
        environ: the environment of the workers, to which the configuration is added; left out: `os.environ`.
        show: is given the parts of the report as soon as they are known, but not the verdict.
    """
    headline = f"testing {replace(plan, launcher='torchrun').describe()}"
    show(headline)
    begun_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="nbaccel-test-") as name:
        folder = Path(name)
        _wish(resolved.config, plan, timeout_s).write(folder)
        command = plain_command_line(resolved, plan, Target(("nbaccel.runtime.selftest", name), is_module=True))
        variables = _with_home(environment(resolved, plan, os.environ if environ is None else environ))
        watch = _Watch(folder, plan.local_world_size, timeout_s)
        results = []
        with _started(command, variables, watch.output_file) as child:
            for result in watch.results(child):
                show(str(result))
                results.append(result)
            failed = any(result.state == FAILED for result in results)
            output = of_the_workers(watch.output(), _MOST_OUTPUT_LINES) if failed else ""
    return Report(headline, tuple(results), time.monotonic() - begun_s, output)


def _wish(config: RunConfig, plan: Plan, timeout_s: float) -> Wish:
    word = config.mixed_precision
    return Wish(
        world_size=plan.world_size,
        device=plan.device,
        mixed_precision=word,
        autocast_dtype=_DTYPES.get(word, "bfloat16") if config.autocast_config.enabled else "float32",
        seed=config.seed,
        timeout_s=timeout_s,
    )


def _with_home(environ: dict[str, str]) -> dict[str, str]:
    """The workers find the same nbaccel, where this one is not installed but found by a path of this process."""
    home = str(Path(nbaccel.__file__).parents[1])
    if is_installed(home):
        return environ
    return environ | {"PYTHONPATH": os.pathsep.join(filter(None, [home, environ.get("PYTHONPATH", "")]))}


@contextmanager
def _started(command: list[str], environ: Mapping[str, str], output_file: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A `with` block in which the workers run; none is left after it.

    They are in a session of their own: Ctrl-C comes to this process alone, which ends them.
    """
    with output_file.open("w") as output:
        child = subprocess.Popen(command, env=environ, stdout=output, stderr=output, start_new_session=True)
    try:
        yield child
    finally:
        _stop(child)


def _stop(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is not None:
        return
    import psutil

    family = [psutil.Process(child.pid), *psutil.Process(child.pid).children(recursive=True)]
    child.terminate()
    _, alive = psutil.wait_procs(family, timeout=_STOP_GRACE_S)
    for process in alive:
        process.kill()
    child.wait()


class _Watch:
    """Follows the notes of this machine's workers until each check has an end, or will have none."""

    def __init__(self, folder: Path, workers: int, timeout_s: float) -> None:
        self._folder, self._workers, self._timeout_s = folder, workers, timeout_s
        self.output_file = folder / "output.txt"

    def output(self) -> str:
        return self.output_file.read_text(errors="replace")

    def results(self, child: subprocess.Popen[bytes]) -> Iterator[Result]:
        """Each check's result as soon as it is known, in order."""
        begun_s = time.monotonic()
        checks = [START, *CHECKS]
        while checks:
            over = child.poll() is not None  # asked first: what was noted before the end is read below
            said = notes.read(self._folder, self._workers)
            while checks and (result := finished(checks[0], said, begun_s)) is not None:
                yield result
                checks.pop(0)
            late = late_workers(said, time.monotonic(), begun_s, self._timeout_s)
            if checks and (over or late):
                reason = self._why_late(said, late) if late else why_over(self.output(), said)
                remedy = AFTER_A_HANG + REMEDIES[checks[0]] if late else AFTER_A_DEATH
                yield from unfinished(checks, said, reason, remedy, _silent_for(said, begun_s))
                return
            time.sleep(_POLL_S)

    def _why_late(self, said: Said, late: list[int]) -> str:
        if not all(said[worker] for worker in late):
            return f"no word within {START_LIMIT_S:g} s"
        deadline = time.monotonic() + _STACKS_PATIENCE_S
        while time.monotonic() < deadline and not all(map(self._stacks, late)):
            time.sleep(_POLL_S)
        return why_late({said[worker][0].rank: self._stacks(worker) for worker in late}, self._timeout_s)

    def _stacks(self, worker: int) -> str:
        file = notes.stacks_file(self._folder, worker)
        return file.read_text(errors="replace") if file.exists() else ""


def _silent_for(said: Said, begun_s: float) -> float:
    """Seconds since the last note but those of checks that ended."""
    begun = [notes[-1].time_s for notes in said.values() if notes]
    return time.monotonic() - max(begun, default=begun_s)
