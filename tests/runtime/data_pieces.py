"""Datasets and loaders for the tests of data loading."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset


class Augmented(Dataset[torch.Tensor]):
    """Samples of their index and one random number from each of the three global generators."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.reads = 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> torch.Tensor:
        self.reads += 1
        draws = [random.random(), float(np.random.rand()), float(torch.rand(()))]
        return torch.tensor([float(index), *draws], dtype=torch.float64)


class AugmentedStream(IterableDataset[torch.Tensor]):
    """The same as a stream, cut among the workers."""

    def __init__(self, count: int) -> None:
        self.data = Augmented(count)

    def __iter__(self) -> Iterator[torch.Tensor]:
        worker = torch.utils.data.get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        return (self.data[index] for index in range(first, self.data.count, step))


class Stream(IterableDataset[int]):
    """Numbers from 0."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.count))


class Sized(Stream):
    """A stream that knows its length."""

    def __len__(self) -> int:
        return self.count


class Files(Stream):
    """A stream in files that can be shared out, and that knows where it stands, as `datasets.IterableDataset` does."""

    def __init__(self, count: int, num_shards: int, own: tuple[int, ...] | None = None) -> None:
        super().__init__(count)
        self.own = tuple(range(num_shards)) if own is None else own
        self.num_shards, self.all_shards = len(self.own), num_shards
        self.start = self.place = self.reads = 0

    def shard(self, num_shards: int, index: int) -> Files:
        return Files(self.count, self.all_shards, self.own[index::num_shards])

    def __iter__(self) -> Iterator[int]:
        self.place, self.start = self.start, 0
        samples = [number for number in range(self.count) if number % self.all_shards in self.own]
        for sample in samples[self.place :]:
            self.place += 1
            self.reads += 1
            yield sample

    def state_dict(self) -> dict[str, int]:
        return {"place": self.place}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.start = state["place"]


class Own(DataLoader[Any]):
    """A loader with an iteration of its own, which `len` does not describe."""

    def __iter__(self) -> Any:
        yield from ["a", "b", "c"]


def numbers(count: int, **kwargs: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.arange(count)), **kwargs)


def scramble() -> None:
    """Let all global generators say something else."""
    random.seed(987)
    np.random.seed(654)
    torch.manual_seed(321)
