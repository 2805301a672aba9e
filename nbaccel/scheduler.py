"""What training code may import from `nbaccel.scheduler`; nothing inside nbaccel does."""

from nbaccel.runtime.scheduler import AcceleratedScheduler

__all__ = ["AcceleratedScheduler"]
