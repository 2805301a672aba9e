"""A loader that loads a state hands out the batches that would have come: one process."""

from __future__ import annotations

import io
import itertools
import random
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from data_pieces import Augmented, AugmentedStream, Files, Own, Stream, numbers, scramble
from torch.utils.data import DataLoader, RandomSampler, SubsetRandomSampler, WeightedRandomSampler

from nbaccel.data_loader import DataLoaderShard, prepare_data_loader, skip_first_batches
from nbaccel.errors import MissingExtraError, StateError
from nbaccel.runtime.data.generators import read_states, write_states

Make = Callable[[], DataLoader[Any]]


def travelled(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    assert file.tell() < 60_000
    file.seek(0)
    return torch.load(file, weights_only=True)  # type: ignore[no-any-return]


def draw_in_the_loop() -> list[float]:
    """What a training step may draw between two batches."""
    return [random.random(), float(np.random.rand()), float(torch.rand(()))]


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def with_one_generator(**kwargs: Any) -> DataLoader[Any]:
    generator = seeded()
    sampler = RandomSampler(range(14), generator=generator)
    return DataLoader(Augmented(14), 3, sampler=sampler, generator=generator, **kwargs)


KINDS: dict[str, Make] = {
    "shuffled": lambda: DataLoader(Augmented(14), 3, shuffle=True),
    "shuffled by workers": lambda: DataLoader(Augmented(14), 3, shuffle=True, num_workers=2),
    "persistent workers": lambda: DataLoader(Augmented(14), 3, shuffle=True, num_workers=2, persistent_workers=True),
    "a generator": with_one_generator,
    "a generator and persistent workers": lambda: with_one_generator(num_workers=1, persistent_workers=True),
    "replacement": lambda: DataLoader(Augmented(14), 3, sampler=RandomSampler(range(14), True, 70)),
    "subset": lambda: DataLoader(Augmented(20), 2, sampler=SubsetRandomSampler(range(5, 19))),
    "weighted": lambda: DataLoader(Augmented(14), 3, sampler=WeightedRandomSampler([1.0] * 14, 14)),
    "single samples": lambda: DataLoader(Augmented(7), batch_size=None, shuffle=True),
    "drop last": lambda: DataLoader(Augmented(14), 3, shuffle=True, drop_last=True),
    "stream": lambda: DataLoader(AugmentedStream(14), 3),
    "stream by workers": lambda: DataLoader(AugmentedStream(14), 3, num_workers=2),
}


def course(loader: Any) -> list[Any]:
    return [(batch.tolist(), draw_in_the_loop()) for batch in loader]


@pytest.mark.parametrize("kind", KINDS)
def test_goes_on_exactly(kind: str) -> None:
    loader = prepare_data_loader(KINDS[kind]())
    list(loader)  # it is the second pass that is resumed
    expected, states, randoms = [], [], []
    for batch in loader:
        expected.append((batch.tolist(), draw_in_the_loop()))
        states.append(travelled(loader.state_dict()))
        randoms.append(read_states())
    following = course(loader)
    assert following != expected
    for place in (0, 2, len(states) - 1) if "workers" in kind else range(len(states)):
        fresh: Any = prepare_data_loader(KINDS[kind]())
        fresh.load_state_dict(states[place])
        assert fresh.state_dict()["iteration"] == fresh.iteration
        scramble()
        if place == len(states) - 1:  # between two passes, the global generators are not the loader's business
            write_states(randoms[place])
        else:
            assert course(fresh) == expected[place + 1 :], place
        assert fresh.iteration == 2
        assert course(fresh) == following, place


def test_skipped_samples_are_not_read() -> None:
    states = []
    loader: Any = prepare_data_loader(DataLoader(Augmented(100), 2))
    states = [loader.state_dict() for _ in loader]
    fresh: Any = prepare_data_loader(DataLoader(Augmented(100), 2))
    fresh.load_state_dict(states[39])
    assert len(list(fresh)) == 10
    assert fresh.dataset.reads == 20


def test_a_dataset_that_knows_its_place_is_not_read_again() -> None:
    loader: Any = prepare_data_loader(DataLoader(Files(20, 1), 2))
    states = [loader.state_dict() for _ in loader]
    fresh: Any = prepare_data_loader(DataLoader(Files(20, 1), 2))
    fresh.load_state_dict(travelled(states[5]))
    assert torch.cat(list(fresh)).tolist() == list(range(12, 20))
    assert fresh.dataset.reads == 8
    assert torch.cat(list(fresh)).tolist() == list(range(20))


def test_iteration_of_a_subclass() -> None:
    loader: Any = prepare_data_loader(Own(range(9)))  # type: ignore[arg-type]
    states = [loader.state_dict() for _ in loader]
    loader.load_state_dict(states[0])
    assert list(loader) == ["b", "c"]
    assert list(loader) == ["a", "b", "c"]


def test_workers_draw_the_same_whatever_their_number() -> None:
    found = []
    for workers in (1, 2):
        torch.manual_seed(4)
        found.append(torch.cat(list(prepare_data_loader(DataLoader(Augmented(9), 2, num_workers=workers)))))
    assert torch.equal(*found)
    assert len({float(number) for number in found[0][:, 1:].flatten()}) == 27


def test_a_broken_loop_and_a_resumed_one_are_resumed_again() -> None:
    loader: Any = prepare_data_loader(KINDS["shuffled"]())
    for number, _ in enumerate(loader):
        if number == 1:
            break
    state = loader.state_dict()
    fresh: Any = prepare_data_loader(KINDS["shuffled"]())
    fresh.load_state_dict(state)
    assert fresh.state_dict() is not state
    rest = iter(fresh)
    next(rest)
    assert fresh.position.taken == 3
    again: Any = prepare_data_loader(KINDS["shuffled"]())
    again.load_state_dict(fresh.state_dict())
    assert [batch[:, 0].tolist() for batch in again] == [batch[:, 0].tolist() for batch in rest]


def test_a_state_before_the_first_pass() -> None:
    loader: Any = prepare_data_loader(with_one_generator())
    state = loader.state_dict()
    expected = [batch[:, 0].tolist() for batch in loader]
    loader.load_state_dict(state)
    assert (loader.iteration, [batch[:, 0].tolist() for batch in loader]) == (0, expected)


def test_skipping_is_resumed_too() -> None:
    loader: Any = prepare_data_loader(KINDS["a generator"]())
    state = loader.state_dict()
    whole = [batch[:, 0].tolist() for batch in loader]
    loader.load_state_dict(state)
    rest: Any = iter(skip_first_batches(loader, 2))
    next(rest)
    place = loader.state_dict()  # the original knows how far its copy has come
    assert place["batches"] == 3
    fresh: Any = prepare_data_loader(KINDS["a generator"]())
    fresh.load_state_dict(place)
    assert [batch[:, 0].tolist() for batch in fresh] == whole[3:]


def shares(count: int, size: int, **kwargs: Any) -> list[Any]:
    return [prepare_data_loader(numbers(count, **kwargs), num_processes=size, process_index=r) for r in range(size)]


def test_other_numbers_of_processes() -> None:
    states = [loader.state_dict() for loader in shares(24, 2, batch_size=2) for number, _ in enumerate(loader)]
    state = states[2]  # after three rounds of 4 samples
    for size, batch_size in ((1, 2), (3, 2), (2, 3), (1, 12)):
        found = []
        for loader in shares(24, size, batch_size=batch_size):
            loader.load_state_dict(state)
            found += [item for (batch,) in loader for item in batch.tolist()]
        assert sorted(found) == list(range(12, 24)), (size, batch_size)
    with pytest.raises(StateError, match="after 3 rounds of 4 samples on 2 process"):
        shares(24, 5, batch_size=2)[0].load_state_dict(state)
    cut: Any = prepare_data_loader(numbers(24, batch_size=2), already_sharded=True, num_processes=1)
    with pytest.raises(StateError, match="as many processes"):
        cut.load_state_dict(state)
    files: Any = prepare_data_loader(DataLoader(Files(24, 2), 2), num_processes=2, process_index=0)
    next(iter(files))
    with pytest.raises(StateError, match="as many processes"):
        prepare_data_loader(DataLoader(Files(24, 2), 2)).load_state_dict(files.state_dict())


def test_states_of_something_else() -> None:
    loader: Any = prepare_data_loader(numbers(4))
    for wrong in ({}, {"version": 7}, {**loader.state_dict(), "version": 0}, "text"):
        with pytest.raises(StateError, match="not the state of a prepared loader"):
            loader.load_state_dict(wrong)
    with pytest.raises(StateError, match=r"0 generator\(s\), and the loader has 1"):
        prepare_data_loader(with_one_generator()).load_state_dict(loader.state_dict())


def test_torchdata_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchdata.stateful_dataloader", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'torchdata>=0\.8'"):
        prepare_data_loader(numbers(4), use_stateful_dataloader=True)


class Stateful(DataLoader[Any]):
    """In the place of torchdata's loader: knows its place, and reads on from there."""

    taken = start = 0

    def __iter__(self) -> Any:
        self.taken, self.start = self.start, 0
        for batch in itertools.islice(super().__iter__(), self.taken, None):
            self.taken += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        return {"taken": self.taken}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.start = state["taken"]


@pytest.mark.parametrize("data", [range(10), Stream(10)])
@pytest.mark.parametrize("batch_size", [3, None])
def test_torchdata(data: Any, batch_size: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("torchdata.stateful_dataloader")
    module.StatefulDataLoader = Stateful  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchdata.stateful_dataloader", module)

    def made() -> Any:
        return prepare_data_loader(DataLoader(data, batch_size), use_stateful_dataloader=True)

    loader = made()
    assert loader.use_stateful_dataloader
    assert isinstance(loader.base_dataloader, Stateful)
    batches = [(batch, loader.state_dict()) for batch in loader]
    for place, (_, state) in enumerate(batches):
        fresh = made()
        fresh.load_state_dict(state)
        rest = batches[place + 1 :] or batches
        assert [torch.as_tensor(batch).tolist() for batch in fresh] == [torch.as_tensor(b).tolist() for b, _ in rest]


def test_a_prepared_loader_is_what_data_loader_calls_a_shard() -> None:
    assert isinstance(prepare_data_loader(numbers(2)), DataLoaderShard)
