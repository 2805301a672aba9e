"""What training code may import from `nbaccel.utils.operations`; nothing inside nbaccel does."""

from nbaccel.runtime.agreement import DistributedOperationException
from nbaccel.runtime.batches import (
    CannotPadNestedTensorWarning,
    concatenate,
    find_batch_size,
    find_device,
    get_data_structure,
    ignorant_find_batch_size,
    initialize_tensors,
    is_tensor_information,
    listify,
    pad_input_tensors,
    slice_tensors,
)
from nbaccel.runtime.collectives import (
    broadcast,
    broadcast_object_list,
    copy_tensor_to_devices,
    gather,
    gather_object,
    pad_across_processes,
    reduce,
    send_to_device,
)
from nbaccel.runtime.constants import TORCH_DISTRIBUTED_OPERATION_TYPES
from nbaccel.runtime.fp32 import ConvertOutputsToFp32, convert_outputs_to_fp32, convert_to_fp32
from nbaccel.runtime.modules import GatheredParameters
from nbaccel.runtime.nested import honor_type, is_namedtuple, recursively_apply
from nbaccel.runtime.nested import is_tensor as is_torch_tensor

__all__ = [
    "CannotPadNestedTensorWarning",
    "ConvertOutputsToFp32",
    "DistributedOperationException",
    "GatheredParameters",
    "TORCH_DISTRIBUTED_OPERATION_TYPES",
    "broadcast",
    "broadcast_object_list",
    "concatenate",
    "convert_outputs_to_fp32",
    "convert_to_fp32",
    "copy_tensor_to_devices",
    "find_batch_size",
    "find_device",
    "gather",
    "gather_object",
    "get_data_structure",
    "honor_type",
    "ignorant_find_batch_size",
    "initialize_tensors",
    "is_namedtuple",
    "is_tensor_information",
    "is_torch_tensor",
    "listify",
    "pad_across_processes",
    "pad_input_tensors",
    "recursively_apply",
    "reduce",
    "send_to_device",
    "slice_tensors",
]
