"""Whether the states exist yet."""

from __future__ import annotations

from nbaccel.runtime.state import AcceleratorState


def is_initialized() -> bool:
    """Whether an `Accelerator` or a state object has been made in this process."""
    return bool(AcceleratorState._shared_state)
