"""Make it happen: start workers, run calls on them, show what they say, stop them, bring the results home."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nbaccel.config import Resolved
from nbaccel.errors import StateError
from nbaccel.launch.call import Call, Wish, can_send, cell_call, function_call, report
from nbaccel.launch.environment import WORKER_VARIABLE
from nbaccel.launch.following import Screen, follow, follow_in_background, show
from nbaccel.launch.inline import run_here
from nbaccel.launch.job import Job, results_of
from nbaccel.launch.oneshot import start_job
from nbaccel.plan import Plan

__all__ = [
    "Call",
    "can_send",
    "Job",
    "Screen",
    "Wish",
    "cell_call",
    "follow",
    "follow_in_background",
    "function_call",
    "refuse_inside_worker",
    "report",
    "results_of",
    "run",
    "show",
    "start_job",
    "warm",
]


def run(
    call: Call,
    plan: Plan,
    resolved: Resolved,
    screen: Screen,
    label: Callable[[int], str] | None = None,
    name: str = "call",
) -> dict[int, Any]:
    """Run a call on fresh workers and wait for it.

    Args:
        call: what to run.
        plan: on which workers.
        resolved: the configuration that the plan was made of.
        screen: where to show what the workers print and draw, in the calling thread.
        label: makes the prefix of another rank's lines.
        name: what runs, for people.

    Returns:
        What each rank gave back, by rank.

    Raises:
        WorkerError: a rank raised. WorkerDiedError: a rank died. RunTimeoutError: it took longer than `timeout`.
        LaunchError: workers could not be started. KeyboardInterrupt: the user stopped it; no worker is left then.
    """
    if plan.launcher == "inline":
        return run_here(call, plan, resolved)
    job = start_job(call, plan, resolved, label, name=name, colors=screen.colors)
    return follow(job, screen)


def refuse_inside_worker(environ: Mapping[str, str]) -> None:
    """A launch inside a worker would start workers of workers."""
    if WORKER_VARIABLE in environ:
        raise StateError("this code runs in a worker already; call notebook_launcher from the notebook itself.")


def warm() -> None:
    """Start the zygote in the background, so that the first launch finds it warm."""
    from nbaccel.launch.zygote import shared

    shared()
