"""Shuffling that is a function of a seed and the number of the epoch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import RandomSampler


class SeedableRandomSampler(RandomSampler):
    """A RandomSampler that is seeded anew for each epoch: initial seed + epoch.

    Args:
        args: as for RandomSampler.
        data_seed: the initial seed; None takes the one of torch's global generator.
        kwargs: as for RandomSampler; of a `generator` only the device counts.

    Attributes:
        initial_seed: the seed of epoch 0.
        epoch: number of the next epoch; goes up by itself when one has ended.
    """

    def __init__(self, *args: Any, data_seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.initial_seed = torch.initial_seed() if data_seed is None else data_seed
        self.epoch = 0

    def __iter__(self) -> Iterator[int]:
        if self.generator is None:
            self.generator = torch.Generator()
        self.generator.manual_seed(self.initial_seed + self.epoch)
        yield from super().__iter__()
        self.set_epoch(self.epoch + 1)

    def set_epoch(self, epoch: int) -> None:
        """Make the next epoch number `epoch`."""
        self.epoch = epoch
