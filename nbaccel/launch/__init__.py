"""Make it happen: start workers, run a call on them, show what they say, stop them, bring the results home."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from nbaccel.config import Resolved
from nbaccel.errors import StateError, WorkerDiedError, WorkerError
from nbaccel.launch.call import Call, can_send, cell_call, function_call
from nbaccel.launch.environment import WORKER_VARIABLE
from nbaccel.launch.events import Rich
from nbaccel.launch.inline import run_here
from nbaccel.launch.job import Job
from nbaccel.launch.output import policy_for
from nbaccel.plan import Plan
from nbaccel.wire.messages import Shown

__all__ = [
    "Call",
    "can_send",
    "Job",
    "Screen",
    "cell_call",
    "follow",
    "function_call",
    "refuse_inside_worker",
    "run",
    "warm",
]


class Screen(Protocol):
    """Where a face shows what workers print and draw."""

    colors: str
    """IPython's colour scheme for tracebacks, empty for plain ones."""

    def text(self, stream: int, text: str) -> None:
        """Show text of standard output (1) or standard error (2)."""

    def rich(self, rank: int, shown: Shown) -> None:
        """Show rich output."""

    def note(self, text: str) -> None:
        """Tell the user something about the run itself."""

    def end(self) -> None:
        """The run is over, well or not."""


def run(
    call: Call, plan: Plan, resolved: Resolved, screen: Screen, label: Callable[[int], str] | None = None
) -> dict[int, Any]:
    """Run a call on fresh workers and wait for it.

    Args:
        call: what to run.
        plan: on which workers.
        resolved: the configuration that the plan was made of.
        screen: where to show what the workers print and draw, in the calling thread.
        label: makes the prefix of another rank's lines.

    Returns:
        What each rank gave back, by rank.

    Raises:
        WorkerError: a rank raised. WorkerDiedError: a rank died. RunTimeoutError: it took longer than `timeout`.
        LaunchError: workers could not be started. KeyboardInterrupt: the user stopped it; no worker is left then.
    """
    if plan.launcher == "inline":
        return run_here(call, plan, resolved)
    try:
        attempts = resolved.config.max_restarts + 1
        for attempt in range(attempts):
            job = Job(call, plan, resolved, policy_for(resolved.config.output, label), screen.colors, attempt)
            try:
                return follow(job, screen)
            except (WorkerError, WorkerDiedError) as error:
                if attempt + 1 == attempts:
                    raise
                screen.note(
                    f"attempt {attempt + 1} of {attempts} failed ({str(error).splitlines()[0]}); starting again"
                )
    finally:
        call.close()
    raise AssertionError("a run has at least one attempt")


def follow(job: Job, screen: Screen) -> dict[int, Any]:
    """Start a job, show what comes and return what came out; an interrupt stops the job, a second one kills it."""
    try:
        job.start()
        _show_all(job, screen)
    finally:
        if not job.done():
            job.stop()
        screen.end()
    return job.result()


def _show_all(job: Job, screen: Screen) -> None:
    while True:
        try:
            return _show_until_end(job, screen)
        except KeyboardInterrupt:  # noqa: PERF203 - one try for each interrupt, not for each event
            job.stop()


def _show_until_end(job: Job, screen: Screen) -> None:
    while (event := job.next_event()) is not None:
        if isinstance(event, Rich):
            screen.rich(event.rank, event.shown)
        else:
            screen.text(event.stream, event.text)


def refuse_inside_worker(environ: Mapping[str, str]) -> None:
    """A launch inside a worker would start workers of workers."""
    if WORKER_VARIABLE in environ:
        raise StateError("this code runs in a worker already; call notebook_launcher from the notebook itself.")


def warm() -> None:
    """Start the zygote in the background, so that the first launch finds it warm."""
    from nbaccel.launch.zygote import shared

    shared()
