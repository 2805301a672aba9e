"""What training code may import from `nbaccel.state`; nothing inside nbaccel does."""

from nbaccel.runtime.state import AcceleratorState, DistributedType, GradientState, PartialState

__all__ = ["AcceleratorState", "DistributedType", "GradientState", "PartialState"]
