"""What training code may import from `nbaccel.logging`; nothing inside nbaccel does."""

from nbaccel.runtime.logging import MultiProcessAdapter, get_logger

__all__ = ["MultiProcessAdapter", "get_logger"]
