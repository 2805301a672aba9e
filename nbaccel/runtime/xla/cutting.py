"""SPMD: which tensors are cut among the chips, and along which dimension."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

AXIS = "devices"
"""The one axis of the mesh: batches are cut along it, and with FSDP parameters, too."""


def dimension_to_cut(shape: Sequence[int], devices: int) -> int | None:
    """The dimension of a parameter that is cut into equal parts: the largest that can be; None to keep it whole.

    Args:
        shape: the parameter's.
        devices: how many parts.
    """
    fitting = [number for number, size in enumerate(shape) if size >= devices and size % devices == 0]
    return max(fitting, key=lambda number: shape[number]) if fitting else None


@functools.cache
def device_mesh() -> Any:
    """All chips in one row."""
    from torch_xla import runtime
    from torch_xla.distributed import spmd

    count = runtime.global_runtime_device_count()
    return spmd.Mesh(list(range(count)), (count,), (AXIS,))


def device_count() -> int:
    """Chips that this process drives by SPMD."""
    return int(device_mesh().size())


def cut_parameters(model: nn.Module) -> None:
    """Let each chip hold a part of each parameter; what cannot be cut stays whole on all."""
    from torch_xla.distributed import spmd

    for parameter in model.parameters():
        place = dimension_to_cut(parameter.shape, device_count())
        if place is not None:
            spmd.mark_sharding(parameter, device_mesh(), _along(place, parameter.ndim))


def _along(place: int, dimensions: int) -> tuple[str | None, ...]:
    return tuple(AXIS if number == place else None for number in range(dimensions))


class BatchCutting:
    """How batches are cut among the chips: along their first dimension; tensors that are too short stay whole.

    It stands where torch_xla takes a `ShardingSpec`, which fits tensors of one number of dimensions alone.
    """

    minibatch = False

    def xla_spec(self, tensor: torch.Tensor) -> Any:
        """torch_xla's description of the cuts through a tensor, None to keep it whole."""
        if tensor.ndim == 0 or tensor.shape[0] < device_count():
            return None
        return _specification(tensor.ndim).xla_spec(tensor)


@functools.cache
def _specification(dimensions: int) -> Any:
    from torch_xla.distributed import spmd

    return spmd.ShardingSpec(device_mesh(), _along(0, dimensions))
