"""Tensors of which each rank has a part: made whole, filled from rank 0, measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor, distribute_tensor


def whole(tensor: DTensor) -> torch.Tensor:
    """The full value, on the mesh's device. All ranks must ask together."""
    mesh, local = tensor.device_mesh, tensor.to_local().detach()
    if local.device.type != mesh.device_type:  # offloaded: the ranks talk through the mesh's device
        device = _device_of(mesh)
        tensor = DTensor.from_local(
            local.to(device), mesh, tensor.placements, run_check=False, shape=tensor.shape, stride=tensor.stride()
        )
    return tensor.full_tensor().detach()


def spread_like(full: torch.Tensor | None, like: DTensor, source: int | None = 0) -> DTensor:
    """A tensor spread over the ranks as another one is.

    Args:
        full: the value; None on ranks whose value does not count.
        like: gives shape, mesh and places.
        source: the rank whose value counts; None: each rank cuts its own.
    """
    mesh = like.device_mesh
    device = _device_of(mesh)
    value = (
        torch.empty(like.shape, dtype=like.dtype, device=device)
        if full is None
        else full.detach().to(device, like.dtype)
    )
    made = distribute_tensor(value.contiguous(), mesh, like.placements, src_data_rank=source)
    home = like.to_local().device
    if home.type == mesh.device_type:
        return made
    return DTensor.from_local(
        made.to_local().to(home), mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )


def empty_like(like: DTensor, dtype: torch.dtype) -> DTensor:
    """A tensor without values, spread over the ranks as another one is, where that one is."""
    local = torch.empty_like(like.to_local().detach(), dtype=dtype)
    return DTensor.from_local(
        local, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )


def fill(tensor: DTensor, full: torch.Tensor | None) -> None:
    """Take over rank 0's value in place. All ranks must call together."""
    with torch.no_grad():
        tensor.to_local().copy_(spread_like(full, tensor).to_local())


def _device_of(mesh: Any) -> torch.device:
    kind = mesh.device_type
    return torch.device(kind, torch.cuda.current_device()) if kind == "cuda" else torch.device(kind)


def local_of(tensor: torch.Tensor) -> torch.Tensor:
    """What this process has of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def total_norm(tensors: Sequence[torch.Tensor], norm_type: float) -> torch.Tensor:
    """The norm of all of them together, a plain tensor, equal on all ranks that have the same plain tensors.

    Args:
        tensors: DTensors of any meshes, and plain ones, which are equal on all ranks.
        norm_type: above 0, `inf` included.
    """
    by_place: dict[Any, list[torch.Tensor]] = {}
    for tensor in tensors:
        place = (tensor.device_mesh, tensor.placements) if isinstance(tensor, DTensor) else None
        by_place.setdefault(place, []).append(local_of(tensor))
    parts = [_reduced(_norm(local, norm_type), place, norm_type) for place, local in by_place.items()]
    return _joined(parts, norm_type) if parts else torch.zeros(())


def _norm(tensors: Sequence[torch.Tensor], norm_type: float) -> torch.Tensor:
    some = [tensor for tensor in tensors if tensor.numel()]  # an empty one has no greatest element
    if not some:
        return torch.zeros((), device=tensors[0].device)
    return _joined(torch._foreach_norm(some, norm_type, dtype=torch.float32), norm_type)


def _joined(norms: Sequence[torch.Tensor], norm_type: float) -> torch.Tensor:
    device = norms[0].device
    return torch.linalg.vector_norm(torch.stack([norm.to(device) for norm in norms]), norm_type)


def _reduced(norm: torch.Tensor, place: Any, norm_type: float) -> torch.Tensor:
    if place is None:
        return norm
    mesh, placements = place
    home, is_greatest = norm.device, math.isinf(norm_type)
    value = (norm if is_greatest else norm**norm_type).to(_device_of(mesh))
    for dimension, placement in enumerate(placements):
        if placement.is_shard():
            operation = dist.ReduceOp.MAX if is_greatest else dist.ReduceOp.SUM
            dist.all_reduce(value, operation, group=mesh.get_group(dimension))
    return (value if is_greatest else value ** (1 / norm_type)).to(home)
