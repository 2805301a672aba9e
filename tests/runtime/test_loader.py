"""Prepared loaders in one process."""

from __future__ import annotations

import gc
import pickle
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, TensorDataset

from nbaccel.errors import CallError, PlanError
from nbaccel.runtime.accelerator import Accelerator
from nbaccel.runtime.data.loader import PreparedLoader
from nbaccel.runtime.handlers import DataLoaderConfiguration
from nbaccel.state import GradientState


def numbers(count: int, **kwargs: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.arange(count)), **kwargs)


class Stream(IterableDataset[int]):
    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.count))


class Own(DataLoader[Any]):
    """A loader with an iteration of its own, which `len` does not describe."""

    def __iter__(self) -> Any:
        yield from ["a", "b"]


@pytest.mark.parametrize("workers", [0, 1])
def test_bit_identical_to_torch(workers: int) -> None:
    def order(loader: Any) -> list[Any]:
        torch.manual_seed(3)
        return [[batch.tolist() for (batch,) in loader] for _ in range(2)] + [torch.rand(1).item()]

    def loader() -> DataLoader[Any]:
        return numbers(11, batch_size=2, shuffle=True, num_workers=workers)

    assert order(Accelerator().prepare(loader())) == order(loader())


def test_passes_everything_on() -> None:
    original = numbers(5, batch_size=2, drop_last=True)
    loader = Accelerator().prepare(original)
    assert isinstance(loader, DataLoader)
    assert len(loader) == 2
    assert loader.dataset is original.dataset
    assert (loader.batch_size, loader.drop_last, loader.num_workers) == (2, True, 0)
    assert loader.batch_sampler is original.batch_sampler
    assert loader.total_batch_size == 2
    assert loader.total_dataset_length == 5
    with pytest.raises(AttributeError):
        _ = loader.nonsense


@pytest.mark.parametrize("count", range(8))
def test_end_and_remainder(count: int) -> None:
    state = GradientState()
    loader = Accelerator().prepare(numbers(count, batch_size=3))
    ends = []
    for _ in loader:
        ends.append((state.end_of_dataloader, loader.end_of_dataloader))
        assert state.in_dataloader
        assert state.active_dataloader is loader
        assert state.remainder == loader.remainder == count % 3
    assert ends == [(number + 1 == len(loader),) * 2 for number in range(len(loader))]
    assert (state.end_of_dataloader, state.remainder, state.active_dataloader) == (False, -1, None)


@pytest.mark.parametrize("count", range(4))
def test_stream(count: int) -> None:
    accelerator = Accelerator()
    loader = accelerator.prepare(DataLoader(Stream(count), batch_size=None))
    found = [(item, accelerator.gradient_state.end_of_dataloader) for item in loader]
    assert found == [(number, number == count - 1) for number in range(count)]
    with pytest.raises(TypeError):
        len(loader)


def test_iteration_of_a_subclass() -> None:
    accelerator = Accelerator()
    loader = accelerator.prepare(Own(range(100)))  # type: ignore[arg-type]
    assert [(item, accelerator.gradient_state.end_of_dataloader) for item in loader] == [("a", False), ("b", True)]


def test_nested_and_broken_loops() -> None:
    accelerator = Accelerator()
    state = accelerator.gradient_state
    outer, inner = accelerator.prepare(numbers(2, batch_size=1), numbers(3, batch_size=2))
    ends = []
    for _ in outer:
        for _ in inner:
            assert state.active_dataloader is inner
            break
        list(inner)
        assert state.active_dataloader is outer
        ends.append(state.end_of_dataloader)
    assert ends == [False, True]
    assert not state.in_dataloader


def test_failed_loop_leaves_nothing() -> None:
    accelerator = Accelerator()
    loader = accelerator.prepare(numbers(1, batch_size=1))
    with pytest.raises(ZeroDivisionError):
        sum(1 / 0 for _ in loader)
    assert not accelerator.gradient_state.in_dataloader
    stuck = iter(loader)
    next(stuck)  # as if a traceback kept it alive at its last batch
    assert accelerator.gradient_state.end_of_dataloader
    list(loader)
    assert not accelerator.gradient_state.end_of_dataloader


def test_epochs_are_told() -> None:
    class Sampler(RandomSampler):
        told: list[int] = []  # noqa: RUF012 (the test's own record)

        def set_epoch(self, epoch: int) -> None:
            self.told.append(epoch)

    class Data(TensorDataset):
        told: list[int] = []  # noqa: RUF012 (the test's own record)

        def set_epoch(self, epoch: int) -> None:
            self.told.append(epoch)

    data = Data(torch.arange(3))
    loaders = Accelerator().prepare(DataLoader(data, sampler=Sampler(range(3))), DataLoader(data))  # type: ignore[arg-type]
    for loader in loaders:
        list(loader)
        list(loader)
        loader.set_epoch(7)
        list(loader)
    assert Sampler.told == [0, 1, 7, 7]
    assert Data.told == [0, 1, 7, 7]


def test_prepared_afresh_by_another() -> None:
    original = numbers(4)
    first = Accelerator()
    loader = first.prepare(original)
    assert first.prepare(loader) is loader
    assert first.prepare(original) is loader
    again = Accelerator().prepare(loader)
    assert again is not loader
    assert again.original is original


def test_given_up_loader_is_freed() -> None:
    accelerator = Accelerator()
    loader = accelerator.prepare(numbers(4))
    list(loader)
    seen = weakref.ref(loader)
    gc.disable()
    try:
        [loader] = accelerator.free_memory(loader)
        assert seen() is None
    finally:
        gc.enable()


def test_travels() -> None:
    loader = Accelerator().prepare(numbers(4, batch_size=2))
    loader = loader.base_dataloader
    assert len(pickle.loads(pickle.dumps(loader))) == 2


def test_unknown_remainder() -> None:
    class Batches:
        def __iter__(self) -> Iterator[list[int]]:
            return iter([[0], [1, 2]])

    loader = Accelerator().prepare(DataLoader(TensorDataset(torch.arange(3)), batch_sampler=Batches()))  # type: ignore[arg-type]
    assert [len(batch) for (batch,) in loader] == [1, 2]
    assert loader.remainder == -1
    assert loader.total_batch_size is None
    assert Accelerator().prepare(numbers(3, batch_size=2, drop_last=True)).remainder == -1


def test_two_kinds_of_samplers_are_one_too_many() -> None:
    with pytest.raises(CallError, match="cannot both shuffle"):
        DataLoaderConfiguration(use_configured_sampler=True, use_seedable_sampler=True)


def test_accumulation_may_be_told_with_the_loaders() -> None:
    config = DataLoaderConfiguration(gradient_accumulation_kwargs={"num_steps": 4})
    assert Accelerator(dataloader_config=config).gradient_accumulation_steps == 4


def test_random_states_to_share() -> None:
    with pytest.raises(PlanError, match="generator, torch, cuda"):
        Accelerator(rng_types=["xla"]).prepare(numbers(3))


def test_without_placement() -> None:
    accelerator = Accelerator(device_placement=False)
    loader = accelerator.prepare(numbers(2))
    assert isinstance(loader, PreparedLoader)
    assert len(list(loader)) == 2
