"""What training code may import from `nbaccel.utils.transformer_engine`; nothing inside nbaccel does."""

from nbaccel.runtime.later import apply_fp8_autowrap, contextual_fp8_autocast, convert_model
from nbaccel.runtime.modules import has_transformer_engine_layers

__all__ = ["apply_fp8_autowrap", "contextual_fp8_autocast", "convert_model", "has_transformer_engine_layers"]
