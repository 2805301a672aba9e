"""The inline launcher: the call runs in the kernel itself, as one process, where a debugger can reach it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nbaccel.config import Resolved
from nbaccel.launch.call import Call
from nbaccel.launch.environment import worker_environ
from nbaccel.launch.starting import meeting_on_chips
from nbaccel.plan import Plan


def run_here(call: Call, plan: Plan, resolved: Resolved) -> dict[int, Any]:
    """Run the call in this process, in the environment of a lone worker. Raises what the code raises."""
    meeting = meeting_on_chips(plan)
    with _environ(worker_environ(os.environ, plan, resolved, 0, ("127.0.0.1", 0), 0, meeting)):
        return {0: call.here()}


@contextmanager
def _environ(wanted: dict[str, str]) -> Iterator[None]:
    """The one place in the kernel that changes its environment: for the time of an inline run."""
    before = dict(os.environ)
    del wanted["TORCHELASTIC_USE_AGENT_STORE"]  # there is no store of ours: torch finds a port of its own
    os.environ.update(wanted)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
