"""What training code may import from `nbaccel.utils.torch_xla`; nothing inside nbaccel does."""

from nbaccel.runtime.later import install_xla

__all__ = ["install_xla"]
