"""What training code may import from `nbaccel.utils.other`; nothing inside nbaccel does."""

from nbaccel.runtime.bigmodel.sizes import convert_bytes
from nbaccel.runtime.collectives import wait_for_everyone
from nbaccel.runtime.constants import FSDP_PYTORCH_VERSION
from nbaccel.runtime.environment import check_os_kernel
from nbaccel.runtime.modules import (
    compile_regions,
    compile_regions_deepspeed,
    compile_regions_fsdp2,
    get_model_tp_size,
    get_module_children_bottom_up,
    has_compiled_regions,
    has_repeated_blocks,
    is_compiled_module,
    is_repeated_blocks,
    model_has_dtensor,
)
from nbaccel.runtime.saved_objects import clean_state_dict_for_safetensors, load, save
from nbaccel.runtime.unwrap import extract_model_from_parallel
from nbaccel.runtime.words import get_free_port, get_pretty_name, is_port_in_use, merge_dicts, recursive_getattr

__all__ = [
    "FSDP_PYTORCH_VERSION",
    "check_os_kernel",
    "clean_state_dict_for_safetensors",
    "compile_regions",
    "compile_regions_deepspeed",
    "compile_regions_fsdp2",
    "convert_bytes",
    "extract_model_from_parallel",
    "get_free_port",
    "get_model_tp_size",
    "get_module_children_bottom_up",
    "get_pretty_name",
    "has_compiled_regions",
    "has_repeated_blocks",
    "is_compiled_module",
    "is_port_in_use",
    "is_repeated_blocks",
    "load",
    "merge_dicts",
    "model_has_dtensor",
    "recursive_getattr",
    "save",
    "wait_for_everyone",
]
