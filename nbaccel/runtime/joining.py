"""Processes that run out of batches at different times."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch.utils.data import IterableDataset

from nbaccel.runtime.data.dispatch import DataLoaderDispatcher
from nbaccel.runtime.data.prepared import PreparedLoader
from nbaccel.runtime.data.samplers import inner_of, source_of
from nbaccel.runtime.data.shard import BatchSamplerShard
from nbaccel.runtime.handlers import DataLoaderConfiguration
from nbaccel.runtime.optimizer import AcceleratedOptimizer
from nbaccel.runtime.parallel.strategy import Strategy


@contextmanager
def joined(
    strategy: Strategy,
    joinables: Iterable[Any],
    loaders: Sequence[PreparedLoader],
    config: DataLoaderConfiguration,
    even_batches: bool | None,
) -> Iterator[None]:
    """A `with` block in which the processes may have different numbers of batches.

    Args:
        strategy: how they train together.
        joinables: prepared models, and optimizers that talk to the other processes.
        loaders: those whose ends `even_batches` changes, within the block.
        config: how loaders share batches.
        even_batches: whether all processes get equally many batches; None: as configured. If they do, there is
            nothing to wait for.
    """
    evenly = config.even_batches if even_batches is None else even_batches
    block = strategy.join([one.optimizer if isinstance(one, AcceleratedOptimizer) else one for one in joinables])
    if block is None:
        warnings.warn(
            "join_uneven_inputs() has no effect here: only models that train by DDP, and optimizers of the kind of "
            "ZeroRedundancyOptimizer, can wait for processes that have more batches.",
            stacklevel=4,
        )
        yield
        return
    changed = [] if even_batches is None else list(_set_even(loaders, even_batches))
    try:
        if evenly and not config.already_sharded:
            yield
        else:
            with block:
                yield
    finally:
        for shard, former in changed:
            shard.even_batches = former


def _set_even(loaders: Iterable[PreparedLoader], value: bool) -> Iterator[tuple[BatchSamplerShard, bool]]:
    for loader in loaders:
        shard: Any = source_of(loader.base_dataloader)
        while shard is not None and not isinstance(shard, BatchSamplerShard):
            shard = inner_of(shard)
        if shard is not None:
            former, shard.even_batches = shard.even_batches, value
            yield shard, former
        elif isinstance(loader, DataLoaderDispatcher) or isinstance(loader.dataset, IterableDataset):
            warnings.warn(
                f"join_uneven_inputs(even_batches={value}) has no effect on a loader of a stream, or one that the main "
                "process reads for all: its batches stay as they are.",
                stacklevel=5,
            )
