"""What training code may import from `nbaccel.optimizer`; nothing inside nbaccel does."""

from nbaccel.runtime.optimizer import AcceleratedOptimizer

__all__ = ["AcceleratedOptimizer"]
