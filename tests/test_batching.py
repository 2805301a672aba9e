"""Numbers that are logged come together into few messages, and none that matters is lost."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nbaccel.runtime.tracking import reporting
from nbaccel.runtime.tracking.base import GeneralTracker
from nbaccel.runtime.tracking.notebook import NotebookTracker
from nbaccel.runtime.tracking.trackers import Trackers
from nbaccel.wire.messages import Point
from nbaccel.worker.batching import MOST_POINTS, Batches


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sent() -> list[tuple[Point, ...]]:
    return []


def test_what_is_logged_now_and_then_is_sent_at_once(clock: Clock, sent: list[tuple[Point, ...]]) -> None:
    batches = Batches(sent.append, clock)
    for step in range(5):
        clock.now_s = step
        batches.add({"loss": 1.0}, step)
        batches.add({"lr": 0.1}, step)
    assert [len(points) for points in sent] == [1] * 10
    assert sent[3] == (Point(1.0, 1.0, {"lr": 0.1}),)


def test_a_flood_becomes_few_messages_of_bounded_size(clock: Clock, sent: list[tuple[Point, ...]]) -> None:
    batches = Batches(sent.append, clock)
    for step in range(200_000):
        clock.now_s = step / 20_000
        batches.add({"loss": float(step)}, step)
    batches.flush()
    assert 75 <= len(sent) <= 90
    assert max(map(len, sent)) <= MOST_POINTS
    steps = [point.step for points in sent for point in points]
    assert steps == sorted(steps)
    assert steps[-1] == 199_999
    assert [points[-1].values["loss"] for points in sent] == [points[-1].step for points in sent]


def test_nothing_is_thinned_at_a_thousand_a_second(clock: Clock, sent: list[tuple[Point, ...]]) -> None:
    batches = Batches(sent.append, clock)
    for step in range(3000):
        clock.now_s = step / 1000
        batches.add({"loss": 0.0}, None)
    batches.flush()
    assert [point.step for points in sent for point in points] == list(range(3000))
    assert len(sent) <= 28


def test_a_step_that_is_not_given_follows_the_last(clock: Clock, sent: list[tuple[Point, ...]]) -> None:
    batches = Batches(sent.append, clock)
    for step in (None, 10, None, 4, None):
        batches.add({"loss": 0.0}, step)
    batches.flush()
    assert [point.step for points in sent for point in points] == [0, 10, 11, 4, 12]


def test_flush_sends_each_point_once(clock: Clock, sent: list[tuple[Point, ...]]) -> None:
    batches = Batches(sent.append, clock)
    for step in range(5):
        batches.add({"loss": 0.0}, step)
    batches.flush()
    batches.flush()
    assert [len(points) for points in sent] == [1, 1, 1, 2]


def test_numbers_are_kept_as_they_are_when_they_are_logged() -> None:
    running = torch.tensor(1.0)
    kept = reporting.kept(
        {"loss": running, "n": 3, "text": "x", "none": None, "list": [1], "big": torch.ones(2), "eval": {"acc": 0.5}}
    )
    running += 1
    assert kept == {"loss": 1.0, "n": 3.0, "eval/acc": 0.5}


def test_numbers_on_a_device_are_fetched_later() -> None:
    on_device = torch.ones((), device="meta", requires_grad=True)
    kept = reporting.kept({"loss": on_device, "many": torch.ones(3, device="meta")})
    assert kept["loss"] is not on_device
    assert not kept["loss"].requires_grad
    assert list(kept) == ["loss"]
    assert reporting.fetched({"loss": torch.tensor(2.0), "lr": 0.5}) == {"loss": 2.0, "lr": 0.5}


@pytest.fixture
def heard() -> Any:
    told: list[tuple[Any, Any]] = []
    reporting.connect(lambda values, step: told.append((values, step)))
    yield told
    reporting.disconnect()


class Own(GeneralTracker):
    name = "own"


@pytest.mark.parametrize(
    ("log_with", "is_main", "expected"),
    [
        (None, True, [({"loss": 1.0}, 7)]),
        ([Own()], True, [({"loss": 1.0}, 7)]),
        (None, False, []),
        ([NotebookTracker()], True, []),
    ],
)
def test_who_hears_of_what_is_logged(log_with: Any, is_main: bool, expected: Any, heard: list[Any]) -> None:
    """Other ranks than the main one log nothing; what a tracker draws in the notebook is not drawn twice."""
    trackers = Trackers(log_with, is_main=is_main)
    trackers.log({"loss": 1.0, "note": "text"}, step=7)
    trackers.log({"note": "text alone"}, step=8)
    trackers.finish()
    assert heard == expected


def test_nobody_hears_after_the_end(heard: list[Any]) -> None:
    reporting.disconnect()
    Trackers(None).log({"loss": 1.0})
    assert heard == []
