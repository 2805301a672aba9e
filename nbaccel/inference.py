"""What training code may import from `nbaccel.inference`; nothing inside nbaccel does."""

from nbaccel.runtime.later import prepare_pippy

__all__ = ["prepare_pippy"]
