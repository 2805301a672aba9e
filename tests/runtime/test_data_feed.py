"""The side stream that copies batches, with a fake in the place of CUDA."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from data_pieces import Stream, numbers
from torch.utils.data import DataLoader

from nbaccel.data_loader import prepare_data_loader
from nbaccel.runtime.data.loader import prepare_loader
from nbaccel.runtime.devices import side_stream
from nbaccel.runtime.devices.device import Device
from nbaccel.runtime.world import current_world
from nbaccel.state import GradientState


class FakeStream:
    """Writes down what is asked of it."""

    def __init__(self, told: list[Any]) -> None:
        self.told = told
        self.copies = self.made = 0

    def record_event(self) -> str:
        self.copies += 1
        self.told.append(f"copy {self.copies}")
        return f"copy {self.copies}"

    def wait_event(self, event: str) -> None:
        self.told.append(f"wait for {event}")


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    told: list[Any] = []
    stream = FakeStream(told)

    @contextmanager
    def on(_: Any) -> Iterator[None]:
        yield

    def new_stream(device: torch.device) -> FakeStream:
        stream.made += 1
        return stream

    side_stream.stream_of.cache_clear()
    monkeypatch.setattr(torch.cuda, "Stream", new_stream)
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    yield told
    side_stream.stream_of.cache_clear()


CPU = torch.device("cpu")


def test_copies_run_ahead_where_they_may(told: list[Any]) -> None:
    for batch in side_stream.copied_beside(iter([{"x": torch.ones(1)}] * 3), CPU, True, ahead=True):
        assert batch["x"].tolist() == [1]
        told.append("use")
    assert told == ["copy 1", "copy 2", "wait for copy 1", "use", "copy 3", "wait for copy 2", "use",
                    "wait for copy 3", "use"]  # fmt: skip


def test_copies_wait_for_their_turn_otherwise(told: list[Any]) -> None:
    batches = side_stream.copied_beside(iter([torch.ones(1)] * 2), CPU, True, ahead=False)
    told.extend("use" for _ in batches)
    assert told == ["copy 1", "wait for copy 1", "use", "copy 2", "wait for copy 2", "use"]


def test_objects_that_move_themselves_stay_on_the_stream(told: list[Any]) -> None:
    class Graph:
        def to(self, device: Any, **_: Any) -> str:
            return f"on {device}"

    assert list(side_stream.copied_beside(iter([[Graph()]]), CPU, False, ahead=True)) == [["on cpu"]]
    assert told == []


def test_all_passes_of_a_device_share_a_stream(told: list[Any]) -> None:
    first, second = (side_stream.copied_beside(iter([torch.ones(1)] * 2), CPU, True, ahead=True) for _ in range(2))
    assert [len(pair) for pair in zip(first, second, strict=True)] == [2, 2]  # two loaders at once
    assert side_stream.stream_of(CPU).made == 1  # type: ignore[attr-defined]
    assert told[:4] == ["copy 1", "copy 2", "wait for copy 1", "copy 3"]


@pytest.mark.filterwarnings("ignore:.*beta state", "ignore:.*prototype stage")
@pytest.mark.parametrize("kind", ["coo", "csr", "nested"])
def test_tensors_that_no_stream_can_keep_stay_on_the_users(kind: str, told: list[Any]) -> None:
    eye = torch.eye(3)
    odd = {"coo": eye.to_sparse, "csr": eye.to_sparse_csr, "nested": lambda: torch.nested.nested_tensor([eye])}[kind]()
    (batch,) = side_stream.copied_beside(iter([{"x": odd, "y": eye}]), CPU, True, ahead=True)
    dense = batch["x"].to_padded_tensor(0.0)[0] if kind == "nested" else batch["x"].to_dense()
    assert torch.equal(dense, eye)
    assert told == []


class Asked(Device):
    """Remembers how it was asked."""

    ahead: list[bool] = []  # noqa: RUF012 (the test's own record)

    def feed(self, batches: Iterator[Any], non_blocking: bool, ahead: bool = False) -> Iterator[Any]:
        self.ahead.append(ahead)
        return batches


def test_only_batches_of_workers_are_taken_ahead() -> None:
    loaders: list[DataLoader[Any]] = [numbers(4), numbers(4, num_workers=1), DataLoader(Stream(4), num_workers=1)]
    for loader in loaders:
        assert len(list(prepare_loader(loader, current_world(), GradientState(), Asked(CPU)))) == 4
    assert Asked.ahead == [False, True, False]
    assert prepare_data_loader(loaders[0], put_on_device=True).device == CPU
