"""What training code may import from `nbaccel.accelerator`; nothing inside nbaccel does."""

from nbaccel.runtime.accelerator import Accelerator

__all__ = ["Accelerator"]
