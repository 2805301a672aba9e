"""Shares of streams, beside Accelerate's and from first principles; samplers; skipping; pickling."""

from __future__ import annotations

import itertools
import pickle
from typing import Any

import accelerate.data_loader
import pytest
import torch
from data_pieces import Augmented, Files, Sized, Stream, numbers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler

from nbaccel import data_loader
from nbaccel.data_loader import (
    BatchSamplerShard,
    DataLoaderShard,
    IterableDatasetShard,
    SeedableRandomSampler,
    SkipBatchSampler,
    SkipDataLoader,
    get_sampler,
    prepare_data_loader,
    skip_first_batches,
)
from nbaccel.errors import CallError, PlanError
from nbaccel.runtime.data.samplers import source_of
from nbaccel.state import GradientState


def streams(kind: Any, count: int, size: int, drop: bool, ranks: int, split: bool) -> list[list[int]]:
    return [list(kind(Sized(count), size, drop, ranks, rank, split)) for rank in range(ranks)]


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("drop", [False, True])
def test_truth_table_of_streams(split: bool, drop: bool) -> None:
    for count, size, ranks in itertools.product(range(20), range(1, 7), range(1, 5)):
        if split and size % ranks:
            continue
        found = streams(IterableDatasetShard, count, size, drop, ranks, split)
        assert found == streams(accelerate.data_loader.IterableDatasetShard, count, size, drop, ranks, split)
        lengths = [len(IterableDatasetShard(Sized(count), size, drop, ranks, rank, split)) for rank in range(ranks)]
        assert lengths == [len(share) for share in found], "Accelerate's len() ignores split_batches"
        everyone = {sample for share in found for sample in share}
        total = size if split else size * ranks
        assert everyone == set(range(count - count % total if drop else count))


@given(
    samples=st.integers(0, 40),
    size=st.integers(1, 9),
    ranks=st.integers(1, 6),
    split=st.booleans(),
    even=st.booleans(),
    drop=st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_shares_from_first_principles(samples: int, size: int, ranks: int, split: bool, even: bool, drop: bool) -> None:
    size = size * ranks if split else size
    sampler = BatchSampler(SequentialSampler(range(samples)), size, drop)
    shares = [list(BatchSamplerShard(sampler, ranks, rank, split, even)) for rank in range(ranks)]
    everything = [index for share in shares for batch in share for index in batch]
    piece = size // ranks if split else size
    assert all(0 < len(batch) <= piece for share in shares for batch in share)
    if drop:
        kept = samples - samples % (size if split else size * ranks)
        assert sorted(everything) == list(range(kept))
    elif even:
        assert set(everything) == set(range(samples))
        assert len({len(share) for share in shares}) == 1
        assert all(len(batch) == piece for share in shares for batch in share)
    else:
        assert sorted(everything) == list(range(samples))


def test_pieces_of_a_stream_must_be_equal() -> None:
    for size in (3, 1):  # Accelerate takes batches of 1, and then hands out nothing
        with pytest.raises(PlanError, match="cannot be cut into 2"):
            IterableDatasetShard(Stream(4), size, num_processes=2, split_batches=True)


def test_a_stream_shuffled_by_a_generator_follows_the_epoch() -> None:
    class Shuffled(Stream):
        generator = torch.Generator()

        def __iter__(self) -> Any:
            return iter(torch.randperm(self.count, generator=self.generator).tolist())

    shards = [IterableDatasetShard(Shuffled(8), 2, num_processes=2, process_index=rank) for rank in (0, 1)]
    orders = []
    for epoch in (0, 1):
        for shard in shards:
            shard.set_epoch(epoch)
        orders.append([list(shard) for shard in shards])
        assert sorted(itertools.chain(*orders[-1])) == list(range(8))
    assert orders[0] != orders[1]


def test_a_stream_is_told_the_epoch() -> None:
    class Told(Stream):
        epochs: list[int] = []  # noqa: RUF012 (the test's own record)

        def set_epoch(self, epoch: int) -> None:
            self.epochs.append(epoch)

    loader = prepare_data_loader(DataLoader(Told(4)), num_processes=2, process_index=0)
    list(loader)
    list(loader)
    assert Told.epochs == [0, 1]


def of_all(loader: DataLoader[Any], size: int, **settings: Any) -> list[list[Any]]:
    prepared = [prepare_data_loader(loader, num_processes=size, process_index=r, **settings) for r in range(size)]
    return [[torch.as_tensor(batch).tolist() for batch in one] for one in prepared]


def test_streams_of_several_processes() -> None:
    assert of_all(DataLoader(Stream(6), 2), 2) == [[[0, 1], [4, 5]], [[2, 3], [0, 1]]]
    assert of_all(DataLoader(Stream(6), 2), 2, split_batches=True) == [[[0], [2], [4]], [[1], [3], [5]]]
    assert of_all(DataLoader(Stream(5), batch_size=None), 2) == [[0, 2, 4], [1, 3, 0]]
    assert of_all(DataLoader(Stream(6), 2, drop_last=True), 2) == [[[0, 1]], [[2, 3]]]
    loader = prepare_data_loader(DataLoader(Sized(7), 2), num_processes=2, process_index=0, split_batches=True)
    assert (len(loader), loader.total_batch_size, loader.batch_size) == (4, 2, 1)
    assert len(list(loader)) == 4


def test_streams_in_files() -> None:
    shares = of_all(DataLoader(Files(12, 4), 3), 2)
    assert shares == [[[0, 2, 4], [6, 8, 10]], [[1, 3, 5], [7, 9, 11]]]
    assert of_all(DataLoader(Files(4, 1), 1), 2) == [[[0], [2]], [[1], [3]]]  # fewer files than processes
    assert of_all(DataLoader(Files(4, 4), 2), 2, split_batches=True) == [[[0], [2]], [[1], [3]]]
    assert prepare_data_loader(DataLoader(Files(12, 4), 3), num_processes=2, process_index=0).total_batch_size == 6


@pytest.mark.parametrize(("stream", "workers"), [(Stream(7), 0), (Sized(7), 1)])
def test_remainder_of_streams(stream: Any, workers: int) -> None:
    loader = prepare_data_loader(DataLoader(stream, 2, num_workers=workers), num_processes=2, process_index=1)
    found = [(loader.end_of_dataloader, loader.remainder) for _ in loader]
    assert found[-1] == (True, 3)
    assert not found[0][0]


def test_already_sharded() -> None:
    assert of_all(numbers(4, batch_size=2, collate_fn=lambda items: [int(item) for (item,) in items]), 2,
                  already_sharded=True) == [[[0, 1], [2, 3]]] * 2  # fmt: skip
    loader = prepare_data_loader(numbers(5, batch_size=2), num_processes=2, process_index=0, already_sharded=True)
    list(loader)
    assert loader.remainder == -1


def test_mesh() -> None:
    class Two:
        def size(self) -> int:
            return 2

    class Mesh:
        mesh_dim_names = ("dp_replicate", "dp_shard", "tp")

        def get_coordinate(self) -> list[int]:
            return [1, 0, 1]

        def __getitem__(self, name: str) -> Any:
            return Two()

    loader: Any = prepare_data_loader(numbers(8), torch_device_mesh=Mesh())
    assert [int(item) for (item,) in loader] == [2, 6]
    with pytest.raises(PlanError, match="4 shares of the data for 1 processes"):
        prepare_data_loader(numbers(8), torch_device_mesh=Mesh(), dispatch_batches=True, put_on_device=True)


def test_dispatching_needs_a_device() -> None:
    with pytest.raises(PlanError, match="placement is off"):
        prepare_data_loader(numbers(8), dispatch_batches=True)


# Samplers


def test_seedable_sampler_is_accelerates() -> None:
    own = SeedableRandomSampler(range(9), data_seed=4)
    other = accelerate.data_loader.SeedableRandomSampler(range(9), data_seed=4)
    assert [list(own) for _ in range(3)] == [list(other) for _ in range(3)]
    own.set_epoch(0)
    other.set_epoch(0)
    assert list(own) == list(other)
    torch.manual_seed(11)
    assert SeedableRandomSampler(range(9)).initial_seed == 11


def test_loaders_with_seeds() -> None:
    loader: Any = prepare_data_loader(numbers(9, shuffle=True), use_seedable_sampler=True, data_seed=3)
    orders = [[int(item) for (item,) in loader] for _ in range(2)]
    expected = SeedableRandomSampler(range(9), data_seed=3)
    assert orders == [list(expected), list(expected)]
    assert isinstance(loader.get_sampler(), SeedableRandomSampler)
    shares = of_all(DataLoader(range(8), 2, shuffle=True), 2, use_seedable_sampler=True)  # type: ignore[arg-type]
    assert sorted(index for share in shares for batch in share for index in batch) == list(range(8))
    plain: Any = prepare_data_loader(numbers(3), use_seedable_sampler=True)
    assert isinstance(get_sampler(plain), SequentialSampler)


def test_get_and_set_sampler() -> None:
    original: Any = numbers(4, batch_size=2)
    assert get_sampler(original) is original.sampler
    loader: Any = prepare_data_loader(original, num_processes=2, process_index=1)
    assert loader.get_sampler() is original.sampler
    loader.set_sampler([3, 2, 1, 0])
    assert [batch.tolist() for (batch,) in loader] == [[1, 0]]
    assert [batch.tolist() for (batch,) in original] == [[0, 1], [2, 3]]
    batches = BatchSampler(SequentialSampler(range(4)), 2, False)
    whole: Any = prepare_data_loader(DataLoader(torch.arange(4), sampler=batches, batch_size=None))  # type: ignore[arg-type]
    assert whole.get_sampler() is batches.sampler
    whole.set_sampler([2, 3])
    assert [batch.tolist() for batch in whole] == [[2, 3]]
    assert get_sampler(DataLoader(range(3), batch_size=None)) is None  # type: ignore[arg-type]


# Skipping


def test_skip_sampler() -> None:
    inner = BatchSampler(SequentialSampler(range(7)), 2, False)
    sampler = SkipBatchSampler(inner, 3)
    assert (list(sampler), len(sampler), sampler.total_length) == ([[6]], 1, 4)
    assert (sampler.batch_size, sampler.drop_last) == (2, False)
    assert len(SkipBatchSampler(inner, 9)) == 0
    assert list(pickle.loads(pickle.dumps(sampler))) == [[6]]


def test_skip_plain_loaders() -> None:
    skipping: Any = skip_first_batches(DataLoader(range(6), 2), 2)  # type: ignore[arg-type]
    assert (torch.cat(list(skipping)).tolist(), len(skipping)) == ([4, 5], 1)
    skipping = skip_first_batches(DataLoader(Sized(6), 2), 2)
    assert isinstance(skipping, SkipDataLoader)
    assert (torch.cat(list(skipping)).tolist(), len(skipping)) == ([4, 5], 1)
    assert torch.cat(list(SkipDataLoader(range(6), 1, batch_size=2))).tolist() == [2, 3, 4, 5]


def test_skipping_keeps_everything() -> None:
    original = DataLoader(Augmented(14), 2, drop_last=True, num_workers=1, prefetch_factor=3)
    loader: Any = prepare_data_loader(
        original, num_processes=2, process_index=1, put_on_device=True, non_blocking=True, rng_types=["torch"]
    )
    skipping: Any = skip_first_batches(loader, 1)
    assert type(skipping) is type(loader)
    names = "_drop_last _non_blocking device rng_types synchronized_generator use_stateful_dataloader prefetch_factor"
    names += " num_workers total_batch_size total_dataset_length base_dataloader dataset gradient_state iteration"
    for name in names.split():
        assert getattr(skipping, name) == getattr(loader, name), name
    assert (skipping._drop_last, skipping._non_blocking, skipping.rng_types) == (True, True, ["torch"])
    assert (len(loader), len(skipping), len(skip_first_batches(skipping, 1))) == (3, 2, 1)
    assert [int(batch[0, 0]) for batch in skipping] == [6, 10]
    assert loader.iteration == 1
    assert [int(batch[0, 0]) for batch in loader] == [2, 6, 10]


@pytest.mark.parametrize("number", [0, 1, 3, 4])
def test_skipping_finds_the_end(number: int) -> None:
    for loader in (prepare_data_loader(numbers(6, batch_size=2)), prepare_data_loader(DataLoader(Stream(6), 2))):
        skipping = skip_first_batches(loader, number)
        state = GradientState()
        ends = [state.end_of_dataloader for _ in skipping]
        assert ends == ([False, False, True][number:])


def test_skipping_backwards() -> None:
    for loader in (numbers(3), prepare_data_loader(numbers(3))):
        with pytest.raises(CallError, match="num_batches=-1"):
            skip_first_batches(loader, -1)


# The rest


def test_a_length_that_is_not_true() -> None:
    class Batches(BatchSampler):
        def __len__(self) -> int:
            return 2

    loader: Any = prepare_data_loader(numbers(8, batch_sampler=Batches(SequentialSampler(range(8)), 2, False)))
    assert [(batch.tolist()[0], loader.end_of_dataloader) for (batch,) in loader] == [
        (0, False),
        (2, False),
        (4, False),
        (6, True),
    ]


def test_no_batch_is_made_before_it_is_wanted() -> None:
    data = Augmented(6)
    for number, _ in enumerate(prepare_data_loader(DataLoader(data, 2)), 1):
        assert data.reads == 2 * number


def test_pickling() -> None:
    loader: Any = prepare_data_loader(
        numbers(8, batch_size=2, shuffle=True, generator=torch.Generator()), num_processes=2, process_index=0,
        put_on_device=True,
    )  # fmt: skip
    next(iter(loader))
    list(loader)
    twin = pickle.loads(pickle.dumps(loader))
    assert isinstance(twin, DataLoaderShard)
    assert (len(twin), twin.iteration, twin.total_batch_size) == (2, 1, 4)
    assert [batch.tolist() for (batch,) in twin] == [batch.tolist() for (batch,) in loader]
    shuffled: Any = prepare_data_loader(numbers(8, shuffle=True), num_processes=2, process_index=0)
    assert len(list(pickle.loads(pickle.dumps(shuffled)))) == 4


def test_public_names() -> None:
    assert set(data_loader.__all__) <= set(dir(accelerate.data_loader))
    assert isinstance(source_of(prepare_data_loader(numbers(4), num_processes=2, process_index=0)), BatchSamplerShard)
    assert isinstance(get_sampler(numbers(4, shuffle=True)), RandomSampler)
