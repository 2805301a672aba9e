"""Collectives over nested data: few messages, none at all for one process.

All ranks must call them together, with data of the same structure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist

from nbaccel.errors import CallError, nearest
from nbaccel.runtime.agreement import check_agreement
from nbaccel.runtime.batches import warn_if_ragged
from nbaccel.runtime.nested import is_container, leaves_of, map_children, map_tensors, with_leaves
from nbaccel.runtime.world import World, current_world

PACK_LIMIT_BYTES = 1 << 20
"""Leaves up to this size travel together: copying them costs less than another collective's latency."""

_all_gather = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)
"""The old name warns where there is a new one."""

REDUCTIONS = ("sum", "mean", "max", "none")


def send_to_device(
    data: Any, device: torch.device | str | int, non_blocking: bool = False, skip_keys: Sequence[str] | str = ()
) -> Any:
    """Move every tensor, and every object with a `.to` method, in nested data.

    Args:
        data: nested data.
        device: where to.
        non_blocking: copy without waiting, where source memory is pinned.
        skip_keys: entries of mappings that stay where they are.

    Returns:
        The same structure; the same object if nothing had to move.
    """
    skipped = {skip_keys} if isinstance(skip_keys, str) else set(skip_keys)

    def move(item: Any) -> Any:
        if isinstance(item, torch.Tensor):
            return item.to(device, non_blocking=non_blocking)
        if callable(getattr(item, "to", None)) and not isinstance(item, type):
            return _move_object(item, device, non_blocking)  # a library's batch class moves itself as a whole
        return map_children(move, item, skipped) if is_container(item) else item

    return move(data)


def _move_object(item: Any, device: torch.device | str | int, non_blocking: bool) -> Any:
    try:
        return item.to(device, non_blocking=non_blocking)
    except TypeError:  # a method of its own that takes the device alone
        return item.to(device)


def gather(data: Any, *, world: World | None = None) -> Any:
    """Concatenate every rank's tensors along dimension 0, on every rank, in the order of the ranks.

    Args:
        data: nested tensors, of the same shapes and dtypes on all ranks; a tensor without dimensions counts as one
            of length 1.
        world: who takes part; left out: all processes.

    Returns:
        The same structure; tensors of shape (size * n, ...) without gradient. One process: `data` itself.

    Raises:
        CallError: a leaf is not a tensor.
        DistributedOperationError: `debug` is configured, and the ranks' shapes differ.
    """
    world = world or current_world()
    if world.size == 1:
        return data
    given = _tensors_of(data, "gather", "gather_object")
    leaves = [_ready(leaf, world) for leaf in given]
    check_agreement("gather", data, world)
    return with_leaves(data, _back(_in_packs(leaves, lambda pack: _gather_pack(pack, world)), given))


def gather_object(data: Any, *, world: World | None = None) -> Any:
    """Collect picklable objects of all ranks.

    Args:
        data: a list or tuple, whose items are joined over the ranks, or any other object.
        world: who takes part; left out: all processes.

    Returns:
        One flat list of all ranks' items, or a list with one object per rank. One process: a list or tuple is
        returned as it is.
    """
    world = world or current_world()
    several = isinstance(data, (list, tuple))
    if world.size == 1:
        return data if several else [data]
    found: list[Any] = [None] * world.size
    dist.all_gather_object(found, data, group=world.group)
    return [item for part in found for item in part] if several else found


def reduce(data: Any, reduction: str = "mean", scale: float = 1.0, *, world: World | None = None) -> Any:
    """Combine every rank's tensors elementwise, on every rank.

    Args:
        data: nested tensors of the same shapes and dtypes on all ranks.
        reduction: `sum`, `mean`, `max` or `none` (each rank keeps its own).
        scale: factor for the result.
        world: who takes part; left out: all processes.

    Returns:
        The same structure with new tensors. One process: `data` itself unless it has to be scaled.

    Raises:
        CallError: an unknown reduction, or a leaf that is not a tensor.
        DistributedOperationError: `debug` is configured, and the ranks' shapes differ.
    """
    if reduction not in REDUCTIONS:
        meant = nearest(reduction, REDUCTIONS)
        hint = f" Did you mean {meant!r}?" if meant else ""
        raise CallError(f"reduce(reduction={reduction!r}): possible are {', '.join(REDUCTIONS)}.{hint}")
    world = world or current_world()
    if world.size > 1 and reduction != "none":
        given = _tensors_of(data, "reduce", "gather_object")
        leaves = [_ready(leaf, world) for leaf in given]
        check_agreement("reduce", data, world)
        combined = _by_dtype(leaves, lambda pack: _reduce_pack(pack, reduction, world))
        data = with_leaves(data, _back(combined, given))
    return data if scale == 1.0 else map_tensors(lambda tensor: tensor * scale, data)


def broadcast(data: Any, from_process: int = 0, *, world: World | None = None) -> Any:
    """Overwrite every rank's tensors with those of one rank.

    Args:
        data: nested tensors of the same shapes and dtypes on all ranks; changed in place.
        from_process: the rank whose values count.
        world: who takes part; left out: all processes.

    Returns:
        `data`.

    Raises:
        CallError: a leaf is not a tensor.
    """
    world = world or current_world()
    if world.size > 1:
        targets = _tensors_of(data, "broadcast", "broadcast_object_list")
        check_agreement("broadcast", data, world)
        received = _in_packs(
            [_ready(leaf, world) for leaf in targets], lambda pack: _broadcast_pack(pack, from_process, world)
        )
        with torch.no_grad():
            for target, value in zip(targets, received, strict=True):
                target.copy_(value)
    return data


def broadcast_object_list(objects: list[Any], from_process: int = 0, *, world: World | None = None) -> list[Any]:
    """Overwrite a list's items with the picklable ones of one rank.

    Args:
        objects: a list of the same length on all ranks; changed in place.
        from_process: the rank whose items count.
        world: who takes part; left out: all processes.

    Returns:
        `objects`.
    """
    world = world or current_world()
    if world.size > 1:
        dist.broadcast_object_list(objects, src=from_process, group=world.group)
    return objects


def wait_for_everyone() -> None:
    """Block until every process is here."""
    current_world().barrier()


def copy_tensor_to_devices(tensor: torch.Tensor | None = None, *, world: World | None = None) -> torch.Tensor:
    """Hand the tensor of the one rank that has it to all others, which need not know its shape.

    Args:
        tensor: the tensor, None on ranks that have none; where several have one, the first rank's counts.
        world: who takes part; left out: all processes.

    Returns:
        The tensor, on this rank's device.

    Raises:
        CallError: no rank has a tensor.
    """
    world = world or current_world()
    described = None if tensor is None else (tensor.shape, tensor.dtype)
    all_described: list[Any] = [described] if world.size == 1 else gather_object([described], world=world)
    source = next((rank for rank, found in enumerate(all_described) if found is not None), None)
    if source is None:
        raise CallError("copy_tensor_to_devices(None): no rank has a tensor. Give it on one of them.")
    if tensor is None or source != world.rank:
        shape, dtype = all_described[source]
        tensor = torch.empty(shape, dtype=dtype, device=world.device)
    return broadcast(tensor.detach().clone().to(world.device), source, world=world) if world.size > 1 else tensor


def pad_across_processes(
    data: Any, dim: int = 0, pad_index: float = 0, pad_first: bool = False, *, world: World | None = None
) -> Any:
    """Pad every rank's tensors to the greatest size that any rank has, so that they can be gathered.

    Args:
        data: nested tensors that differ in size along `dim` alone; tensors without that dimension stay.
        dim: the dimension to pad.
        pad_index: the value to pad with.
        pad_first: pad before the data instead of behind.
        world: who takes part; left out: all processes.

    Returns:
        The same structure. One process: `data` itself.

    Raises:
        CallError: a leaf is not a tensor.
    """
    world = world or current_world()
    if world.size == 1:
        return data
    tensors = _tensors_of(data, "pad_across_processes", "gather_object")
    check_agreement("pad_across_processes", data, world, sizes=False)
    sizes = [
        tensor.shape[dim] if -tensor.ndim <= dim < tensor.ndim and not warn_if_ragged(tensor) else 0
        for tensor in tensors
    ]
    greatest = _ready(torch.tensor(sizes, dtype=torch.int64, device=world.device), world)
    dist.all_reduce(greatest, dist.ReduceOp.MAX, group=world.group)
    padded = [
        _pad(tensor, dim, most - size, pad_index, pad_first) if most > size else tensor
        for tensor, size, most in zip(tensors, sizes, greatest.tolist(), strict=True)
    ]
    return with_leaves(data, iter(padded))


def _pad(tensor: torch.Tensor, dim: int, missing: int, value: float, first: bool) -> torch.Tensor:
    shape = list(tensor.shape)
    shape[dim] = missing
    filling = tensor.new_full(shape, value)
    return torch.cat((filling, tensor) if first else (tensor, filling), dim=dim)


def _tensors_of(data: Any, caller: str, instead: str) -> list[torch.Tensor]:
    leaves = leaves_of(data)
    for leaf in leaves:
        if not isinstance(leaf, torch.Tensor):
            raise CallError(f"{caller}() takes nested tensors, and there is a {type(leaf).__name__} among them. "
                            f"Make it a tensor, or use {instead}().")  # fmt: skip
    return leaves


def _ready(tensor: torch.Tensor, world: World) -> torch.Tensor:
    """The tensor as a collective wants it: where the group works, contiguous, out of the graph, with a dimension."""
    tensor = tensor.detach()
    if world.group_device.type != "cpu" or tensor.device.type == "xla":  # of other devices gloo reads the memory
        tensor = tensor.to(world.group_device)
    return tensor.contiguous()


def _back(results: Sequence[torch.Tensor], given: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Results where the data was: nothing moves that was not moved before."""
    for result, tensor in zip(results, given, strict=True):
        yield result.to(tensor.device) if tensor.device.type == "xla" else result


def _in_packs(
    leaves: Sequence[torch.Tensor], move: Callable[[Sequence[torch.Tensor]], list[torch.Tensor]]
) -> list[torch.Tensor]:
    """Move large leaves one by one and all small ones of a device together, whatever their dtypes."""
    packs: dict[Any, list[int]] = {}
    for number, leaf in enumerate(leaves):
        small = leaf.nbytes <= PACK_LIMIT_BYTES
        packs.setdefault(leaf.device if small else number, []).append(number)
    return _by_pack(leaves, list(packs.values()), move)


def _by_dtype(
    leaves: Sequence[torch.Tensor], move: Callable[[Sequence[torch.Tensor]], list[torch.Tensor]]
) -> list[torch.Tensor]:
    packs: dict[Any, list[int]] = {}
    for number, leaf in enumerate(leaves):
        packs.setdefault((leaf.device, leaf.dtype), []).append(number)
    return _by_pack(leaves, list(packs.values()), move)


def _by_pack(
    leaves: Sequence[torch.Tensor],
    packs: Sequence[Sequence[int]],
    move: Callable[[Sequence[torch.Tensor]], list[torch.Tensor]],
) -> list[torch.Tensor]:
    results: dict[int, torch.Tensor] = {}
    for numbers in packs:
        results.update(zip(numbers, move([leaves[number] for number in numbers]), strict=True))
    return [results[number] for number in range(len(leaves))]


def _bytes_of(leaf: torch.Tensor) -> torch.Tensor:
    return leaf.reshape(-1).view(torch.uint8)


def _gather_pack(pack: Sequence[torch.Tensor], world: World) -> list[torch.Tensor]:
    """One all-gather of the bytes of all leaves: gloo knows few dtypes, but it knows bytes."""
    sizes = [leaf.nbytes for leaf in pack]
    sent = torch.cat([_bytes_of(leaf) for leaf in pack]) if len(pack) > 1 else _bytes_of(pack[0])
    received = sent.new_empty(world.size * sent.numel())
    _all_gather(received, sent, group=world.group)
    columns = received.view(world.size, -1).split(sizes, dim=1)
    return [_stacked(column, leaf) for column, leaf in zip(columns, pack, strict=True)]


def _stacked(column: torch.Tensor, leaf: torch.Tensor) -> torch.Tensor:
    """One leaf of all ranks, from its bytes of shape (size, nbytes)."""
    rows = column.shape[0]
    apart = column.storage_offset() > 0  # bytes in the midst of others may be ill placed for their dtype
    values = (column.clone(memory_format=torch.contiguous_format) if apart else column.contiguous()).view(-1)
    values = values.view(leaf.dtype)
    return values.view(rows) if leaf.ndim == 0 else values.view(rows * leaf.shape[0], *leaf.shape[1:])


def _broadcast_pack(pack: Sequence[torch.Tensor], source: int, world: World) -> list[torch.Tensor]:
    sent = torch.cat([_bytes_of(leaf) for leaf in pack])
    dist.broadcast(sent, src=source, group=world.group)
    parts = sent.split([leaf.nbytes for leaf in pack])
    return [part.clone().view(leaf.dtype).view(leaf.shape) for part, leaf in zip(parts, pack, strict=True)]


def _reduce_pack(pack: Sequence[torch.Tensor], reduction: str, world: World) -> list[torch.Tensor]:
    total = torch.cat([leaf.reshape(-1) for leaf in pack])  # a copy: the caller's tensors stay
    dist.all_reduce(total, dist.ReduceOp.MAX if reduction == "max" else dist.ReduceOp.SUM, group=world.group)
    if reduction == "mean":
        total = total / world.size
    parts = total.split([leaf.numel() for leaf in pack])
    return [part.view(leaf.shape) for part, leaf in zip(parts, pack, strict=True)]
