"""What training code may import from `nbaccel.local_sgd`; nothing inside nbaccel does."""

from nbaccel.runtime.local_sgd import LocalSGD

__all__ = ["LocalSGD"]
