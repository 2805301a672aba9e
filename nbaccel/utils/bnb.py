"""What training code may import from `nbaccel.utils.bnb`; nothing inside nbaccel does."""

from nbaccel.runtime.later import load_and_quantize_model
from nbaccel.runtime.modules import has_4bit_bnb_layers

__all__ = ["has_4bit_bnb_layers", "load_and_quantize_model"]
