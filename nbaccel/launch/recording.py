"""Leaves a snapshot of the configuration beside a run that has a folder."""

from __future__ import annotations

import threading
from collections.abc import Callable

from nbaccel.config import Resolved
from nbaccel.config.snapshot import leaves_snapshot, write_snapshot
from nbaccel.errors import ConfigError
from nbaccel.machine import probe
from nbaccel.machine.words import describe_devices


def record(resolved: Resolved, tell: Callable[[str], None]) -> None:
    """Write the snapshot in the background: versions and the state of git take longer than a launch.

    Args:
        resolved: the configuration; without a project or run folder nothing is written.
        tell: gets a note if it cannot be written, which is no reason to stop a run.
    """
    if leaves_snapshot(resolved):
        threading.Thread(target=_write, args=(resolved, tell), name="nbaccel-record").start()


def _write(resolved: Resolved, tell: Callable[[str], None]) -> None:
    try:
        write_snapshot(resolved, describe_devices(probe()))
    except ConfigError as error:
        tell(f"the configuration of this run was not saved: {error}")
