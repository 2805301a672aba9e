"""Shares of batches: the same as Accelerate's, over all small sizes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import accelerate.data_loader
import pytest
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from nbaccel.errors import PlanError
from nbaccel.runtime.data.shard import BatchSamplerShard


class Lengths:
    """A batch sampler of batches of any length, which does not know a batch size."""

    def __init__(self, batches: int) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[list[int]]:
        return iter([[number] * (1 + number % 3) for number in range(self.batches)])

    def __len__(self) -> int:
        return self.batches


def shares(kind: type[Any], sampler: Any, ranks: int, **settings: bool) -> list[list[Any]]:
    return [list(kind(sampler, ranks, rank, **settings)) for rank in range(ranks)]


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("even", [False, True])
@pytest.mark.parametrize("drop", [False, True])
def test_truth_table(split: bool, even: bool, drop: bool) -> None:
    for samples, size, ranks in itertools.product(range(20), range(1, 7), range(1, 5)):
        if split and size % ranks:
            continue
        sampler = BatchSampler(SequentialSampler(range(samples)), size, drop)
        settings = {"split_batches": split, "even_batches": even}
        expected = shares(accelerate.data_loader.BatchSamplerShard, sampler, ranks, **settings)
        found = shares(BatchSamplerShard, sampler, ranks, **settings)
        assert found == expected, (samples, size, ranks)
        lengths = [len(BatchSamplerShard(sampler, ranks, rank, split, even)) for rank in range(ranks)]
        assert lengths == [len(share) for share in found], (samples, size, ranks)


@pytest.mark.parametrize("even", [False, True])
def test_batches_of_any_length(even: bool) -> None:
    for batches, ranks in itertools.product(range(10), range(1, 5)):
        sampler = Lengths(batches)
        expected = shares(accelerate.data_loader.BatchSamplerShard, sampler, ranks, even_batches=even)
        assert shares(BatchSamplerShard, sampler, ranks, even_batches=even) == expected
        for rank in range(ranks):
            shard = BatchSamplerShard(sampler, ranks, rank, even_batches=even)
            assert len(shard) == len(list(shard))
            assert shard.total_length == batches


def test_pieces_must_be_equal() -> None:
    sampler = DataLoader(range(4), batch_size=3).batch_sampler  # type: ignore[arg-type, var-annotated]
    with pytest.raises(PlanError, match="multiple of 2"):
        BatchSamplerShard(sampler, 2, 0, split_batches=True)
    with pytest.raises(PlanError, match="cannot be cut"):
        BatchSamplerShard(Lengths(3), 2, 0, split_batches=True)


def test_is_a_batch_sampler() -> None:
    sampler = BatchSampler(SequentialSampler(range(4)), 2, False)
    shard = BatchSamplerShard(sampler, 2, 0)
    assert isinstance(shard, BatchSampler)
    assert (shard.sampler, shard.batch_size, shard.drop_last) == (sampler.sampler, 2, False)
