"""Checks of data loading on every rank of a real process group; started with a folder and a turn.

The turn `first` runs all of them, `again` resumes in new processes what the first left in the folder.
"""

from __future__ import annotations

import faulthandler
import json
import sys
from collections import UserDict, namedtuple
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from data_pieces import Augmented, AugmentedStream, Files, Sized, Stream, numbers, scramble
from runtime_ranks import verdict
from torch.utils.data import DataLoader, Dataset

from nbaccel.data_loader import DataLoaderDispatcher, prepare_data_loader, skip_first_batches
from nbaccel.errors import PlanError, StateError
from nbaccel.runtime.data.parcels import Post
from nbaccel.runtime.metrics import gather_for_metrics
from nbaccel.runtime.state import PartialState
from nbaccel.runtime.world import current_world
from nbaccel.utils import gather_object

FOLDER, TURN = Path(sys.argv[1]), sys.argv[2]
Point = namedtuple("Point", ["x", "y"])


@dataclass
class Sample:
    value: torch.Tensor
    rest: Any


def place() -> tuple[int, int]:
    state = PartialState()
    return state.process_index, state.num_processes


def resumable() -> dict[str, Any]:
    """Loaders whose state is taken in one set of processes and loaded in another."""

    def data(**kwargs: Any) -> DataLoader[Any]:
        return DataLoader(Augmented(38), 3, **kwargs)

    generator = torch.Generator().manual_seed(8)
    dispatched = {"put_on_device": True, "dispatch_batches": True}
    return {
        "workers": prepare_data_loader(data(shuffle=True, num_workers=2)),
        "persistent": prepare_data_loader(data(shuffle=True, num_workers=2, persistent_workers=True)),
        "here": prepare_data_loader(data(shuffle=True)),
        "generator": prepare_data_loader(data(shuffle=True, generator=generator)),
        "seedable": prepare_data_loader(data(shuffle=True), use_seedable_sampler=True),
        "stream": prepare_data_loader(DataLoader(AugmentedStream(38), 3)),
        "dispatched": prepare_data_loader(data(shuffle=True), **dispatched),  # type: ignore[arg-type]
        "dispatched workers": prepare_data_loader(data(shuffle=True, num_workers=1), **dispatched),  # type: ignore[arg-type]
        "dispatched stream": prepare_data_loader(DataLoader(AugmentedStream(38), 3), put_on_device=True),
        "dispatched files": prepare_data_loader(DataLoader(Files(38, 1), 3), put_on_device=True),
    }


def drawn(batch: torch.Tensor) -> tuple[Any, float]:
    """A batch, and what a training step draws."""
    return batch.tolist(), float(torch.rand(()))


def course(loader: Any) -> list[Any]:
    return [drawn(batch) for batch in loader]


def write_courses() -> None:
    rank, _ = place()
    torch.manual_seed(50 + rank)
    kept = {}
    for name, loader in resumable().items():
        list(loader)
        passed, state = [], {}
        for number, batch in enumerate(loader):
            passed.append(drawn(batch))
            if number == 2:
                state = loader.state_dict()
        everyone = gather_object([item[0] for one, _ in passed for item in torch.tensor(one).view(-1, 4).tolist()]
                                 if name != "dispatched files" else list(range(38)))  # fmt: skip
        assert set(everyone) == set(range(38)), name
        kept[name] = (state, passed[3:], course(loader))
    torch.save(kept, FOLDER / f"courses{rank}.pt")


def go_on_from_courses() -> None:
    rank, _ = place()
    kept = torch.load(FOLDER / f"courses{rank}.pt", weights_only=True)
    for name, loader in resumable().items():
        state, rest, following = kept[name]
        scramble()
        loader.load_state_dict(state)
        assert course(loader) == rest, name
        assert course(loader) == following, name
        assert loader.iteration == 3


def check_resume() -> None:
    write_courses() if TURN == "first" else go_on_from_courses()


def check_metrics() -> None:
    _, size = place()
    for count in range(1, 4 * size + 2):
        for data in (Stream(count), Sized(count), list(range(count))):
            for settings in ({}, {"dispatch_batches": True}, {"dispatch_batches": False}, {"split_batches": True}):
                loader = DataLoader(data, 2 * size if "split_batches" in settings else 2)  # type: ignore[arg-type, var-annotated]
                prepared = prepare_data_loader(loader, put_on_device=True, **settings)  # type: ignore[arg-type]
                dispatched = settings.get("dispatch_batches", not isinstance(data, list))
                assert isinstance(prepared, DataLoaderDispatcher) == dispatched
                seen, ends = [], []
                for batch in prepared:
                    seen += gather_for_metrics(batch, current_world(), prepared.position).tolist()
                    ends.append(prepared.end_of_dataloader)
                assert seen == list(range(count)), (count, data, settings, seen)
                assert ends == [False] * (len(ends) - 1) + [True]


def check_dispatched_order_and_length() -> None:
    rank, size = place()
    loader = prepare_data_loader(DataLoader(Sized(6 * size), 3, drop_last=True), put_on_device=True)
    assert isinstance(loader, DataLoaderDispatcher)
    assert (len(loader), loader.total_batch_size, loader.split_batches, loader.slice_fn) == (2, 3 * size, False, None)
    assert [batch.tolist() for batch in loader] == [
        [start + 3 * rank + number for number in range(3)] for start in (0, 3 * size)
    ]
    skipping = skip_first_batches(loader, 1)
    assert isinstance(skipping, DataLoaderDispatcher)
    assert (len(skipping), len(list(skipping))) == (1, 1)
    short = prepare_data_loader(DataLoader(Sized(3 * size - 1), 3, drop_last=True), put_on_device=True)
    assert list(short) == []
    assert list(prepare_data_loader(DataLoader(Stream(0), 3), put_on_device=True)) == []
    mapped = prepare_data_loader(numbers(5 * size, batch_size=2), put_on_device=True, dispatch_batches=True)
    assert sum(len(batch) for (batch,) in skip_first_batches(mapped, 1)) == 3


def check_dispatched_structures() -> None:
    rank, size = place()

    class Batches(Dataset[Any]):
        def __len__(self) -> int:
            return 3 * size

        def __getitem__(self, index: int) -> Any:
            width = 2 if index < 2 * size else 5  # what batches look like changes
            own = torch.full((2, width), index, dtype=torch.bfloat16)
            flags = torch.tensor([True, False])
            return UserDict(
                point=Point(own, [flags]), sample=Sample(torch.full((2,), index), {"none": torch.empty(2, 0)})
            )

    loader = prepare_data_loader(DataLoader(Batches(), batch_size=None, collate_fn=lambda batch: batch),
                                 put_on_device=True, dispatch_batches=True)  # fmt: skip
    for number, batch in enumerate(loader):
        index = number * size + rank
        assert isinstance(batch, UserDict)
        assert isinstance(batch["point"], Point)
        assert batch["point"].x.tolist() == [[index] * (2 if number < 2 else 5)] * 2
        assert batch["point"].y[0].tolist() == [True, False]
        assert batch["sample"].value.tolist() == [index] * 2
        assert batch["sample"].rest["none"].shape == (2, 0)


def check_own_slices() -> None:
    rank, size = place()

    def backwards(batch: Any, cut: slice, process_index: int, num_processes: int) -> Any:
        assert num_processes == size
        return batch.flip(0)[cut], f"rank {process_index}"

    loader = prepare_data_loader(DataLoader(Stream(2 * size), 2), put_on_device=True, slice_fn_for_dispatch=backwards)
    [(batch, text)] = list(loader)
    assert (batch.tolist(), text) == ([2 * (size - rank) - 1, 2 * (size - rank) - 2], f"rank {rank}")
    assert skip_first_batches(loader, 1).slice_fn is backwards  # type: ignore[attr-defined]  # a dispatcher


def check_trouble_of_the_main_process() -> None:
    rank, _ = place()

    class Broken(Stream):
        def __iter__(self) -> Any:
            yield 0
            raise OSError("the disk is gone")

    def expect(loader: DataLoader[Any], kind: type[Exception], text: str) -> None:
        kind, text = (kind, text) if rank == 0 else (StateError, "rank 0 could not make the next batch")
        with pytest.raises(kind, match=text):
            list(prepare_data_loader(loader, put_on_device=True, dispatch_batches=True))

    expect(DataLoader(Broken(1)), OSError, "disk is gone")
    expect(DataLoader([["a", "b"]] * 4), PlanError, "there is a str in them")  # type: ignore[arg-type]
    expect(DataLoader([torch.ones(k) for k in (1, 2, 3, 4)]), PlanError, "differ in shape")  # type: ignore[arg-type]
    ragged = [(torch.ones(2), torch.ones(3))] * 4
    expect(DataLoader(ragged, batch_size=None), PlanError, "must have one length")  # type: ignore[arg-type]
    assert Post(current_world())._device.type == "cpu"


def check_streams_without_dispatch() -> None:
    rank, size = place()
    loader = prepare_data_loader(DataLoader(Stream(4 * size), 2), put_on_device=True, dispatch_batches=False)
    assert [batch.tolist() for batch in loader] == [[start + 2 * rank, start + 2 * rank + 1] for start in (0, 2 * size)]


def check_seedable_seeds_are_shared() -> None:
    rank, _ = place()
    torch.manual_seed(rank)
    loader = prepare_data_loader(numbers(24, batch_size=2, shuffle=True), use_seedable_sampler=True)
    for _ in range(2):
        assert sorted(gather_object([item for (batch,) in loader for item in batch.tolist()])) == list(range(24))


def main() -> None:
    torch.set_num_threads(1)
    faulthandler.dump_traceback_later(80)
    state = PartialState(timeout=timedelta(seconds=60))
    checks = {name: check for name, check in sorted(globals().items()) if name.startswith("check_")}
    found = {}
    for name in checks if TURN == "first" else ["check_resume"]:
        found[name] = verdict(checks[name])
    rank = state.process_index
    state.destroy_process_group()
    (FOLDER / f"{TURN}{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
