"""What training code may import from `nbaccel.state`; nothing inside nbaccel does."""

from nbaccel.runtime.initialized import is_initialized
from nbaccel.runtime.state import AcceleratorState, DistributedType, GradientState, PartialState

__all__ = ["AcceleratorState", "DistributedType", "GradientState", "PartialState", "is_initialized"]
