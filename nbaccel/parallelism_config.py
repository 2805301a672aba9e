"""What training code may import from `nbaccel.parallelism_config`; nothing inside nbaccel does."""

from nbaccel.runtime.plugins import ParallelismConfig

__all__ = ["ParallelismConfig"]
