"""The monitor of a run: what it is at, live, with buttons; at its end a summary of pure HTML."""

from __future__ import annotations

from nbaccel_widgets.monitor.monitor import RunMonitor

__all__ = ["RunMonitor"]
