"""Which runs get a monitor, and whether its buttons are heard. Light: ipywidgets is imported with the first monitor."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from nbaccel.errors import MissingExtraError
from nbaccel.launch.job import Job

if TYPE_CHECKING:
    from nbaccel_widgets import RunMonitor


def wants_monitor(mode: str, job: Job, *, lasts: bool) -> bool:
    """Whether a run in a notebook is to have a monitor now.

    Args:
        mode: `auto` (in a notebook with ipywidgets, once the run has proved to be no short one), `always` or `never`.
        job: the run; what nbaccel itself runs has none.
        lasts: whether the run is no short one.
    """
    if mode == "never" or not job.number:
        return False
    return mode == "always" or (lasts and find_spec("ipywidgets") is not None)


def check(mode: str, shell: Any) -> None:
    """Before a run starts. Raises MissingExtraError if a monitor must be shown, and ipywidgets is not installed."""
    if mode == "always" and is_notebook(shell) and find_spec("ipywidgets") is None:
        raise MissingExtraError("ipywidgets", "monitor=always", "pip install 'nbaccel[widgets]'")


def is_notebook(shell: Any) -> bool:
    """Whether cells are shown by a front end, not by a terminal."""
    return getattr(shell, "kernel", None) is not None


def monitor_of(job: Job, shell: Any, *, in_background: bool) -> RunMonitor:
    """The monitor of a run.

    Args:
        job: the run.
        shell: the kernel's IPython shell.
        in_background: whether the cell that shows it is over already, so that clicks are heard in any case.
    """
    from nbaccel_widgets import RunMonitor

    if in_background:
        return RunMonitor(job)
    return RunMonitor(job, stop=job.stop, hears=lambda: hears_clicks(shell.kernel))


def hears_clicks(kernel: Any) -> bool:
    """Whether a running cell lets clicks through: the front end has asked the kernel for a thread of their own.

    From version 7 on ipykernel offers such threads, called subshells; front ends that know them ask for one as soon as
    a widget is shown.
    """
    channel = getattr(kernel, "shell_channel_thread", None)
    return channel is not None and bool(channel.manager.list_subshell())
