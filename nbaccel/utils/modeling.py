"""What training code may import from `nbaccel.utils.modeling`; nothing inside nbaccel does."""

from nbaccel.runtime.amp import get_grad_scaler, get_mixed_precision_context_manager
from nbaccel.runtime.bigmodel.align import align_module_device
from nbaccel.runtime.bigmodel.loading import get_state_dict_offloaded_model, load_checkpoint_in_model, load_state_dict
from nbaccel.runtime.bigmodel.offload import load_offloaded_weights
from nbaccel.runtime.bigmodel.placing import (
    check_device_map,
    clean_device_map,
    get_balanced_memory,
    get_max_memory,
    infer_auto_device_map,
)
from nbaccel.runtime.bigmodel.sizes import (
    calculate_maximum_sizes,
    compute_module_sizes,
    compute_module_total_buffer_size,
    convert_file_size_to_int,
    dtype_byte_size,
    get_max_layer_size,
    named_module_tensors,
)
from nbaccel.runtime.bigmodel.tensors import has_offloaded_params, set_module_tensor_to_device
from nbaccel.runtime.bigmodel.ties import (
    check_tied_parameters_in_config,
    check_tied_parameters_on_same_device,
    find_tied_parameters,
    id_tensor_storage,
    retie_parameters,
)
from nbaccel.runtime.constants import SAFE_WEIGHTS_NAME, WEIGHTS_INDEX_NAME, WEIGHTS_NAME
from nbaccel.runtime.modules import is_peft_model

__all__ = [
    "SAFE_WEIGHTS_NAME",
    "WEIGHTS_INDEX_NAME",
    "WEIGHTS_NAME",
    "align_module_device",
    "calculate_maximum_sizes",
    "check_device_map",
    "check_tied_parameters_in_config",
    "check_tied_parameters_on_same_device",
    "clean_device_map",
    "compute_module_sizes",
    "compute_module_total_buffer_size",
    "convert_file_size_to_int",
    "dtype_byte_size",
    "find_tied_parameters",
    "get_balanced_memory",
    "get_grad_scaler",
    "get_max_layer_size",
    "get_max_memory",
    "get_mixed_precision_context_manager",
    "get_state_dict_offloaded_model",
    "has_offloaded_params",
    "id_tensor_storage",
    "infer_auto_device_map",
    "is_peft_model",
    "load_checkpoint_in_model",
    "load_offloaded_weights",
    "load_state_dict",
    "named_module_tensors",
    "retie_parameters",
    "set_module_tensor_to_device",
]
