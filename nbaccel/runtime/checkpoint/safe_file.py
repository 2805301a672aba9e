"""Writing safetensors as a stream: no copy of all tensors in memory.

The format: the length of a JSON header (8 bytes), the header, the tensors' bytes
(https://huggingface.co/docs/safetensors). The order is that of the library: widest numbers first, then by name.
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import save as whole_file

_NAMES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int16: "I16",
    torch.int32: "I32",
    torch.int64: "I64",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
}
_METADATA = {"format": "pt"}
_ALIGNMENT = 8


def write_safetensors(tensors: Mapping[str, torch.Tensor], stream: Any) -> None:
    """Write tensors, each as it stands (tied ones several times).

    Args:
        tensors: by name, on any device.
        stream: has `write`.
    """
    if sys.byteorder == "big" or not all(_is_common(tensor) for tensor in tensors.values()):
        stream.write(whole_file({name: _apart(tensor) for name, tensor in tensors.items()}, _METADATA))
        return
    ordered = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Any] = {"__metadata__": _METADATA}
    end = 0
    for name in ordered:
        tensor = tensors[name]
        begin, end = end, end + tensor.nbytes
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    stream.write(len(text).to_bytes(8, "little") + text)
    for name in ordered:
        if tensors[name].nbytes:
            _write_bytes(tensors[name], stream)


def _is_common(tensor: torch.Tensor) -> bool:
    return tensor.dtype in _NAMES and tensor.layout == torch.strided and not tensor.is_conj() and not tensor.is_neg()


def _apart(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().cpu().contiguous().clone()


def _write_bytes(tensor: torch.Tensor, stream: Any) -> None:
    here = tensor.detach().cpu().contiguous()  # on the CPU and in order already, it is not copied
    stream.write(memoryview((ctypes.c_char * here.nbytes).from_address(here.data_ptr())).cast("B"))
