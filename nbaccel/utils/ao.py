"""What training code may import from `nbaccel.utils.ao`; nothing inside nbaccel does."""

from nbaccel.runtime.later import (
    convert_model_to_fp8_ao,
    filter_first_and_last_linear_layers,
    filter_linear_layers,
    find_first_last_linear_layers,
)
from nbaccel.runtime.modules import has_ao_layers

__all__ = [
    "convert_model_to_fp8_ao",
    "filter_first_and_last_linear_layers",
    "filter_linear_layers",
    "find_first_last_linear_layers",
    "has_ao_layers",
]
