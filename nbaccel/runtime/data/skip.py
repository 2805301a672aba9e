"""Leaving out the first batches."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from torch.utils.data import BatchSampler, DataLoader, IterableDataset

from nbaccel.errors import CallError
from nbaccel.runtime.data.prepared import PreparedLoader
from nbaccel.runtime.data.samplers import source_of, with_source


class SkipBatchSampler(BatchSampler):
    """A batch sampler without its first batches; all else it knows it passes on.

    Args:
        batch_sampler: the batch sampler.
        skip_batches: how many to leave out.
    """

    def __init__(self, batch_sampler: Any, skip_batches: int = 0) -> None:  # composition, as in BatchSamplerShard
        self.batch_sampler, self.skip_batches = batch_sampler, skip_batches

    def __iter__(self) -> Iterator[Any]:
        return islice(self.batch_sampler, self.skip_batches, None)

    @property
    def total_length(self) -> int:
        """Batches with those that are left out."""
        return len(self.batch_sampler)

    def __len__(self) -> int:
        return max(len(self.batch_sampler) - self.skip_batches, 0)

    def __getattr__(self, name: str) -> Any:
        if name == "batch_sampler":  # not there yet, while unpickling
            raise AttributeError(name)
        return getattr(self.batch_sampler, name)


class SkipDataLoader(DataLoader[Any]):
    """A loader without its first batches, which are read and thrown away.

    Args:
        dataset: the dataset.
        skip_batches: how many to leave out.
        kwargs: as for DataLoader.
    """

    def __init__(self, dataset: Any, skip_batches: int = 0, **kwargs: Any) -> None:
        super().__init__(dataset, **kwargs)
        self.skip_batches = skip_batches

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # any iterator does
        return islice(super().__iter__(), self.skip_batches, None)

    def __len__(self) -> int:
        return max(super().__len__() - self.skip_batches, 0)


def skip_first_batches(dataloader: DataLoader[Any], num_batches: int = 0) -> DataLoader[Any]:
    """A loader like the given one, but for its first batches.

    Args:
        dataloader: any loader; a prepared one stays as it is in everything else, and counts the same epochs.
        num_batches: how many batches of this process to leave out in each pass. Samples of a map-style dataset are
            not even read for them.

    Raises:
        CallError: a negative number.
    """
    if isinstance(dataloader, PreparedLoader):
        return dataloader.skipping(num_batches)
    if num_batches < 0:
        raise CallError(f"skip_first_batches(..., num_batches={num_batches}): possible is a number from 0.")
    if not isinstance(dataloader.dataset, IterableDataset):
        return with_source(dataloader, SkipBatchSampler(source_of(dataloader), num_batches))
    twin = SkipDataLoader.__new__(SkipDataLoader)
    twin.__dict__.update(dataloader.__dict__, skip_batches=num_batches, _iterator=None)
    return twin
