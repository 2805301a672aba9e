"""Gathering results of an evaluation without the samples that only filled up the last round."""

from __future__ import annotations

from typing import Any

import torch

from nbaccel.runtime.collectives import gather, gather_object
from nbaccel.runtime.nested import leaves_of, map_tensors
from nbaccel.runtime.state import Position
from nbaccel.runtime.world import World


def gather_for_metrics(data: Any, world: World, position: Position, use_gather_object: bool = False) -> Any:
    """Join all processes' results of one batch, in the order of the samples.

    Args:
        data: nested tensors with samples along dimension 0; if anything else is among them, picklable objects.
        world: who takes part.
        position: where the loader stands; at its last batch, what exceeds the dataset is cut off.
        use_gather_object: send tensors as objects, too (for those whose sizes differ).

    Returns:
        The same structure, or for objects one list. One process: `data`, cut off in the same way, as a loss that was
        repeated for each sample of a full batch must be.
    """
    surplus = position.end and position.remainder > 0
    if world.size == 1:
        return _cut(data, position.remainder, use_gather_object) if surplus else data
    if use_gather_object or not _is_tensors(data):
        found = gather_object(data, world=world)
        return found[: position.remainder] if surplus and isinstance(data, (list, tuple)) else found
    joined = gather(data, world=world)
    return _cut(joined, position.remainder) if surplus else joined


def _is_tensors(data: Any) -> bool:
    return all(isinstance(leaf, torch.Tensor) for leaf in leaves_of(data))


def _cut(data: Any, count: int, as_objects: bool = False) -> Any:
    """The first samples of tensors, or of a list of objects."""
    if not as_objects and _is_tensors(data):
        return map_tensors(lambda tensor: tensor[:count] if tensor.ndim else tensor, data)
    return data[:count] if isinstance(data, (list, tuple)) else data
