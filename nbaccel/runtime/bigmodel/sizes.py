"""Sizes of a model's parts, in bytes."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import nn

from nbaccel.errors import CallError
from nbaccel.runtime.enums import CustomDtype

Dtype = torch.dtype | CustomDtype
_BITS = {CustomDtype.FP8: 8, CustomDtype.INT4: 4, CustomDtype.INT2: 2, torch.bool: 1}
_PREFIXES = {"K": 1, "M": 2, "G": 3, "T": 4}


def dtype_byte_size(dtype: Dtype) -> float:
    """Bytes that one number takes: below 1 for the smallest formats, which are packed."""
    if dtype in _BITS:
        bits = _BITS[dtype]
        return bits // 8 if bits >= 8 else bits / 8
    if not isinstance(dtype, torch.dtype):
        raise CallError(f"dtype_byte_size({dtype!r}): possible is a torch.dtype or a CustomDtype.")
    return dtype.itemsize


def convert_file_size_to_int(size: int | str) -> int:
    """A size in bytes.

    Args:
        size: a number of bytes, or text such as `10GB` (powers of 1000), `10GiB` (of 1024), `10Gb` (bits).

    Raises:
        CallError: other text.
    """
    if isinstance(size, int):
        return size
    found = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*([KMGT])(I?)B", size.strip(), re.IGNORECASE)
    if found is None:
        raise CallError(f"the size {size!r} cannot be read. Write a number of bytes, or as '5GB', '5GiB', '500MB'.")
    number, prefix, binary = found.groups()
    unit = (1024 if binary else 1000) ** _PREFIXES[prefix.upper()]
    in_bits = not binary and size.strip().endswith("b")
    return int(float(number) * unit) // (8 if in_bits else 1)


def convert_bytes(size: float) -> str:
    """A number of bytes in the unit that suits it: `1.5 KB` is 1536 of them."""
    for unit in ("bytes", "KB", "MB", "GB", "TB"):
        if size < 1024:
            return f"{round(size, 2)} {unit}"
        size /= 1024
    return f"{round(size, 2)} PB"


def as_dtype(dtype: str | Dtype | None) -> Dtype | None:
    """A dtype, which may be given by its name: `torch.float16` or `float16`."""
    if not isinstance(dtype, str) or isinstance(dtype, CustomDtype):
        return dtype
    found = getattr(torch, dtype.removeprefix("torch."), None)
    if not isinstance(found, torch.dtype):
        raise CallError(f"dtype={dtype!r}: torch has none of this name. Write as 'float16', or torch.float16.")
    return found


def non_persistent_buffers(module: nn.Module) -> set[str]:
    """Names of the buffers, of all depths, that `state_dict` leaves out."""
    return {
        f"{prefix}.{name}" if prefix else name
        for prefix, part in module.named_modules()
        for name in part._non_persistent_buffers_set
    }


def named_module_tensors(
    module: nn.Module, include_buffers: bool = True, recurse: bool = False, remove_non_persistent: bool = False
) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and tensors of a module: first its parameters, then its buffers.

    Args:
        module: the module.
        include_buffers: yield buffers, too.
        recurse: and those of the modules inside.
        remove_non_persistent: leave out buffers that `state_dict` leaves out.
    """
    yield from module.named_parameters(recurse=recurse)
    if include_buffers:
        left_out = non_persistent_buffers(module) if remove_non_persistent else set()
        for name, buffer in module.named_buffers(recurse=recurse):
            if name not in left_out:
                yield name, buffer


def compute_module_sizes(
    model: nn.Module,
    dtype: str | Dtype | None = None,
    special_dtypes: Mapping[str, str | Dtype] | None = None,
    buffers_only: bool = False,
) -> defaultdict[str, int]:
    """Bytes of every parameter, buffer and module, by its name; `""` is the whole model.

    Args:
        model: the model; a weight that stands at several places counts at the first.
        dtype: the format that floating point weights will have, if that is smaller than their own.
        special_dtypes: formats of single weights, by their names.
        buffers_only: leave parameters out.
    """
    wanted, special = as_dtype(dtype), {name: as_dtype(kind) for name, kind in (special_dtypes or {}).items()}
    tensors = model.named_buffers() if buffers_only else named_module_tensors(model, recurse=True)
    sizes: defaultdict[str, int] = defaultdict(int)
    for name, tensor in tensors:
        size = _size(tensor, special.get(name), wanted)
        parts = name.split(".")
        for depth in range(len(parts) + 1):
            sizes[".".join(parts[:depth])] += size
    return sizes


def compute_module_total_buffer_size(
    model: nn.Module, dtype: str | Dtype | None = None, special_dtypes: Mapping[str, str | Dtype] | None = None
) -> int:
    """Bytes of all buffers; arguments as in `compute_module_sizes`."""
    return compute_module_sizes(model, dtype, special_dtypes, buffers_only=True)[""]


def _size(tensor: torch.Tensor, special: Dtype | None, wanted: Dtype | None) -> int:
    per_number = dtype_byte_size(tensor.dtype)
    if special is not None:
        per_number = dtype_byte_size(special)
    elif wanted is not None and tensor.dtype.is_floating_point:
        per_number = min(dtype_byte_size(wanted), per_number)
    return int(tensor.numel() * per_number)


def get_max_layer_size(
    modules: Iterable[tuple[str, nn.Module | torch.Tensor]],
    module_sizes: Mapping[str, int],
    no_split_module_classes: Sequence[str],
) -> tuple[int, list[str]]:
    """The size of the largest layer, and the names of all layers of this size.

    Args:
        modules: names and modules to look into.
        module_sizes: from `compute_module_sizes`.
        no_split_module_classes: names of classes that count as one layer; others do if nothing is inside them.
    """
    sizes = {name: module_sizes.get(name, 0) for name in _layers(modules, no_split_module_classes)}
    largest = max(sizes.values(), default=0)
    return largest, [name for name, size in sizes.items() if size == largest and size > 0]


def _layers(modules: Iterable[tuple[str, nn.Module | torch.Tensor]], no_split: Sequence[str]) -> Iterator[str]:
    for name, module in modules:
        inside = [] if isinstance(module, torch.Tensor) else list(module.named_children())
        if not inside or type(module).__name__ in no_split:
            yield name
        else:
            yield from _layers([(f"{name}.{child}", part) for child, part in inside], no_split)


def calculate_maximum_sizes(model: nn.Module) -> tuple[int, tuple[int, list[str]]]:
    """Bytes of the whole model, and of its largest layer with the names of those of that size."""
    sizes = compute_module_sizes(model)
    no_split = getattr(model, "_no_split_modules", None) or []
    return sizes[""], get_max_layer_size(model.named_children(), sizes, list(no_split))
