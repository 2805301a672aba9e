"""What a launch says of itself before it starts, for those who ask for it."""

from __future__ import annotations

import os

from nbaccel.config import Resolved, table
from nbaccel.plan import Plan


def announce(resolved: Resolved, plan: Plan) -> None:
    """Where each value came from and what will be started, if ACCELERATE_LOG_LEVEL asks for it."""
    level = os.environ.get("ACCELERATE_LOG_LEVEL", "").strip().upper()
    if level == "DEBUG":
        print(table(resolved, resolved.given()))
    if level in ("DEBUG", "INFO"):
        print(*(str(note) for note in resolved.notes), plan.describe(), sep="\n")
