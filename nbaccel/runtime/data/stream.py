"""One process's share of a stream of samples."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, cycle, islice
from typing import Any

import torch
from torch.utils.data import IterableDataset

from nbaccel.errors import PlanError


class IterableDatasetShard(IterableDataset[Any]):
    """Reads the whole stream in rounds and yields one process's slice of each.

    Args:
        dataset: yields the same samples on all processes. One with a `generator` and no `set_epoch` has its generator
            seeded with the number of the epoch.
        batch_size: samples per process and round; with `split_batches`, samples per round.
        drop_last: leave out a last round that is not full; False fills it up with samples of the first.
        num_processes: number of shares.
        process_index: whose share.
        split_batches: what `batch_size` counts.

    Attributes:
        epoch: number of the next pass.
        remainder: samples of a last round that had to be filled up, 0 if it was full, -1 until a pass has ended.

    Raises:
        PlanError: `split_batches` with a batch size that `num_processes` does not divide.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int = 1,
        drop_last: bool = False,
        num_processes: int = 1,
        process_index: int = 0,
        split_batches: bool = False,
    ) -> None:
        if split_batches and batch_size % num_processes:
            raise PlanError(
                f"split_batches=True with batches of {batch_size}",
                f"they cannot be cut into {num_processes} equal pieces.",
                f"Use a batch_size that is a multiple of {num_processes}, or split_batches=False.",
            )
        self.dataset, self.batch_size, self.drop_last = dataset, batch_size, drop_last
        self.num_processes, self.process_index, self.split_batches = num_processes, process_index, split_batches
        self.epoch = 0
        self.remainder = -1

    def set_epoch(self, epoch: int) -> None:
        """Make the next pass number `epoch`, and tell the dataset."""
        self.epoch = epoch
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)

    @property
    def _piece(self) -> int:
        return self.batch_size // self.num_processes if self.split_batches else self.batch_size

    def __len__(self) -> int:
        """Samples of this process. Raises TypeError if the dataset does not know its length."""
        rounds, rest = divmod(len(self.dataset), self._piece * self.num_processes)
        return (rounds + (rest > 0 and not self.drop_last)) * self._piece

    def __iter__(self) -> Iterator[Any]:
        self._seed()
        self.remainder = -1
        size = self._piece * self.num_processes
        start = self._piece * self.process_index
        samples = iter(self.dataset)
        first: list[Any] = []
        while samples_of_round := list(islice(samples, size)):
            first = first or samples_of_round
            self.remainder = len(samples_of_round) % size
            if self.remainder and self.drop_last:
                return
            if self.remainder:
                samples_of_round = list(islice(chain(samples_of_round, cycle(first)), size))
            yield from samples_of_round[start : start + self._piece]

    def _seed(self) -> None:
        generator = getattr(self.dataset, "generator", None)
        if isinstance(generator, torch.Generator) and not hasattr(self.dataset, "set_epoch"):
            generator.manual_seed(self.epoch)


def own_part(dataset: Any, num_processes: int, process_index: int) -> Any:
    """A stream's own way to be shared out, by its files (`datasets.IterableDataset`).

    Returns:
        The part of one process; None if the stream has no such way, or fewer files than processes.
    """
    pieces = getattr(dataset, "num_shards", None) or getattr(dataset, "n_shards", None)
    if not isinstance(pieces, int) or pieces < num_processes or not callable(getattr(dataset, "shard", None)):
        return None
    return dataset.shard(num_shards=num_processes, index=process_index)
