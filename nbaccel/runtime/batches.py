"""Batches of nested tensors: their size and structure, cutting and joining them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from nbaccel.errors import CallError
from nbaccel.runtime.nested import children_of, is_container, leaves_of, map_tensors, recursively_apply, with_leaves


class CannotPadNestedTensorWarning(UserWarning):
    """A nested tensor (`torch.nested`) has no single size that could be padded."""


@dataclass
class TensorInformation:
    """What is needed to make room for a tensor.

    Attributes:
        shape: its shape.
        dtype: its dtype.
    """

    shape: torch.Size
    dtype: torch.dtype


def is_tensor_information(tensor_info: Any) -> bool:
    """Whether it describes a tensor."""
    return isinstance(tensor_info, TensorInformation)


def find_batch_size(data: Any) -> int:
    """Length of the first tensor along dimension 0.

    Args:
        data: nested tensors.

    Raises:
        CallError: the first leaf is not a tensor that has a dimension, or there is none.
    """
    leaves = leaves_of(data)
    if not leaves:
        raise CallError(f"find_batch_size(): there is nothing in this {type(data).__name__}. Give it nested tensors.")
    first = next((leaf for leaf in leaves if isinstance(leaf, torch.Tensor)), leaves[0])
    if not isinstance(first, torch.Tensor) or first.ndim == 0:
        kind = "tensor without dimensions" if isinstance(first, torch.Tensor) else type(first).__name__
        raise CallError(f"find_batch_size(): a {kind} has no batch size. Give it nested tensors of shape (batch, ...).")
    return first.shape[0]


def ignorant_find_batch_size(data: Any) -> int | None:
    """Like `find_batch_size`, but None where there is no batch size."""
    try:
        return find_batch_size(data)
    except CallError:
        return None


def find_device(data: Any) -> torch.device | None:
    """Device of the first tensor in nested data, None if there is none."""
    return next((leaf.device for leaf in leaves_of(data) if isinstance(leaf, torch.Tensor)), None)


def get_data_structure(data: Any) -> Any:
    """The same structure with a `TensorInformation` in place of each tensor; other leaves stay."""
    return map_tensors(lambda tensor: TensorInformation(tensor.shape, tensor.dtype), data)


def initialize_tensors(data_structure: Any) -> Any:
    """The same structure with an uninitialised tensor on the CPU in place of each `TensorInformation`."""
    return recursively_apply(
        lambda described: torch.empty(described.shape, dtype=described.dtype),
        data_structure,
        test_type=is_tensor_information,
    )


def listify(data: Any) -> Any:
    """The same structure with (nested) lists of numbers in place of tensors; 16-bit floats as float32 would be."""
    return map_tensors(lambda tensor: tensor.detach().cpu().tolist(), data)


def slice_tensors(
    data: Any, tensor_slice: slice, process_index: int | None = None, num_processes: int | None = None
) -> Any:
    """The same slice, along dimension 0, of every tensor.

    Args:
        data: nested tensors; other leaves stay.
        tensor_slice: which rows.
        process_index: not used here; part of Accelerate's signature, for slicing functions that need it.
        num_processes: likewise.
    """
    return map_tensors(lambda tensor: tensor[tensor_slice], data)


def concatenate(data: Sequence[Any], dim: int = 0) -> Any:
    """Join batches of one structure, tensor by tensor.

    Args:
        data: the batches.
        dim: the dimension along which they are joined.

    Returns:
        One batch of the structure of the first.

    Raises:
        CallError: there is no batch, a leaf is not a tensor, or the structures differ.
    """
    if not data:
        raise CallError("concatenate(): the list is empty. Give it at least one batch.")
    parts = [leaves_of(batch) for batch in data]
    for leaves in parts:
        if len(leaves) != len(parts[0]):
            raise CallError(f"concatenate(): one batch has {len(parts[0])} leaves, another {len(leaves)}. "
                            "Give it batches of one structure.")  # fmt: skip
    paths = [_keys(batch) for batch in data]
    if any(keys != paths[0] for keys in paths):
        raise CallError("concatenate(): the batches have different keys. Give it batches of one structure.")
    return with_leaves(data[0], iter([_joined(column, dim) for column in zip(*parts, strict=True)]))


def _keys(batch: Any) -> Any:
    if not is_container(batch):
        return None
    named = {str(name): _keys(child) for name, child in children_of(batch)}
    return dict(sorted(named.items()))


def _joined(column: Sequence[Any], dim: int) -> torch.Tensor:
    for leaf in column:
        if not isinstance(leaf, torch.Tensor):
            raise CallError(f"concatenate(): there is a {type(leaf).__name__} among the leaves. Make it a tensor, or "
                            "take it out of the batches.")  # fmt: skip
    return torch.cat(list(column), dim=dim)


def pad_input_tensors(tensor: Any, batch_size: int, num_processes: int, dim: int = 0) -> Any:
    """Append zeros so that a batch can be cut into equal parts.

    Args:
        tensor: nested tensors with the batch along `dim`; tensors of another length there stay.
        batch_size: length of the batch.
        num_processes: number of parts.
        dim: dimension of the batch.

    Returns:
        The same structure, with `batch_size` rounded up to a multiple of `num_processes`.
    """
    missing = math.ceil(batch_size / num_processes) * num_processes - batch_size

    def pad(part: torch.Tensor) -> torch.Tensor:
        if not missing or not -part.ndim <= dim < part.ndim or part.shape[dim] != batch_size:
            return part
        behind = part.ndim - 1 - dim % part.ndim
        return functional.pad(part, [0, 0] * behind + [0, missing])

    return map_tensors(pad, tensor)


def warn_if_ragged(tensor: torch.Tensor) -> bool:
    """True, with a warning, for a `torch.nested` tensor."""
    if tensor.is_nested:
        warnings.warn(
            "a nested tensor cannot be padded and stays as it is. Give tensors with one size per dimension, or use "
            "gather_object().",
            CannotPadNestedTensorWarning,
            stacklevel=4,
        )
    return tensor.is_nested


def shape_table(data: Any) -> Mapping[str, str]:
    """Shape and dtype of every tensor by its path, other leaves by their types: what ranks compare."""
    found: dict[str, str] = {}

    def walk(item: Any, path: str) -> None:
        if isinstance(item, torch.Tensor):
            found[path] = f"{tuple(item.shape)} {str(item.dtype).removeprefix('torch.')}"
        elif is_container(item):
            for name, child in children_of(item):
                walk(child, f"{path}{name}")
        else:
            found[path] = type(item).__name__

    walk(data, "data")
    return found
