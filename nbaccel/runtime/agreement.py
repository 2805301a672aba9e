"""Whether all ranks bring the same shapes to a collective operation: asked before it, where `debug` is configured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch.distributed as dist

from nbaccel.errors import DistributedOperationError, name_ranks
from nbaccel.runtime.batches import shape_table
from nbaccel.runtime.world import World, configure

DistributedOperationException = DistributedOperationError
"""Accelerate's name of it."""

_MOST_LINES = 8


class _Wish:
    """Whether the configuration of the world asked last wants the check."""

    world: World | None = None
    wanted = False


def check_agreement(operation: str, data: Any, world: World, *, sizes: bool = True) -> None:
    """Compare the data of all ranks, if the configuration says `debug: true`.

    Args:
        operation: name of the operation, for the error.
        data: what this rank brings: nested tensors.
        world: who takes part.
        sizes: compare sizes, too; without, only the number of dimensions and the dtypes.

    Raises:
        DistributedOperationError: on all ranks; names those that differ, and in what.
    """
    if _is_wanted(world):
        mine = (
            dict(shape_table(data))
            if sizes
            else {path: _without_sizes(text) for path, text in shape_table(data).items()}
        )
        found: list[Any] = [None] * world.size
        dist.all_gather_object(found, mine, group=world.group)
        compare(operation, found)


def _is_wanted(world: World) -> bool:
    if _Wish.world is not world:
        _Wish.world, _Wish.wanted = world, configure({}).debug
    return _Wish.wanted


def _without_sizes(text: str) -> str:
    if not text.startswith("("):
        return text
    shape, _, dtype = text.rpartition(" ")
    return f"{shape.count(',') + (not shape.endswith(',)') and shape != '()')} dimensions {dtype}"


def compare(operation: str, tables: Sequence[Mapping[str, str]]) -> None:
    """Find the ranks whose tables of shapes differ from what most have; rank 0's counts where there is no majority.

    Raises:
        DistributedOperationError: there is such a rank.
    """
    texts = [repr(sorted(table.items())) for table in tables]
    counts = Counter(texts)
    usual = max(counts, key=lambda text: (counts[text], text == texts[0]))
    odd = [rank for rank, text in enumerate(texts) if text != usual]
    if odd:
        raise DistributedOperationError(operation, odd, _differences(tables, odd))


def _differences(tables: Sequence[Mapping[str, str]], odd: Sequence[int]) -> list[str]:
    """Where the odd ranks differ: `data['x']: (2, 3) float32 on rank 1, (4, 3) float32 on ranks 0 and 2`."""
    usual = tables[next(rank for rank in range(len(tables)) if rank not in odd)]
    others = [rank for rank in range(len(tables)) if rank not in odd]
    lines = []
    for rank in odd:
        for path in dict.fromkeys([*usual, *tables[rank]]):
            here, there = tables[rank].get(path, "nothing"), usual.get(path, "nothing")
            if here != there:
                lines.append(f"{path}: {here} on rank {rank}, {there} on {name_ranks(others)}")
    return lines if len(lines) <= _MOST_LINES else [*lines[:_MOST_LINES], f"and {len(lines) - _MOST_LINES} more"]
