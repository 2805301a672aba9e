"""What a run is at: a table of what ranks tell, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from nbaccel.launch.board import Board, Pace
from nbaccel.launch.events import Bar, Metrics
from nbaccel.wire.messages import Point

NOW_S = 100.0


def bar(rank: int = 0, **changed: object) -> Bar:
    fields = {
        "bar": 0, "desc": "train", "n": 0, "total": 10, "elapsed": 0.0, "rate": None, "unit": "it", "unit_scale": False,
        "unit_divisor": 1000, "postfix": None, "leave": True, "closed": False,
    }  # fmt: skip
    return Bar(rank, fields | changed)


def board_of(*events: Bar | Metrics, ranks: int = 1) -> Board:
    board = Board(range(ranks), clock=lambda: NOW_S)
    for event in events:
        board.take(event)
    return board


def points(*rows: tuple[float, float, Mapping[str, float]], rank: int = 0) -> Metrics:
    return Metrics(rank, tuple(Point(*row) for row in rows))


@pytest.mark.parametrize(
    ("events", "fraction", "remaining_s"),
    [
        ([bar(n=4, elapsed=4.0, rate=1.0)], 0.4, 6.0),
        ([bar(n=4, elapsed=4.0)], 0.4, 6.0),
        ([bar(n=10, closed=True, rate=2.0)], 1.0, 0.0),
        ([bar(n=14, rate=2.0)], 1.0, 0.0),
        ([bar(n=0)], 0.0, None),
        # an inner bar is a part of a step of the outer one
        ([bar(n=1, total=2, elapsed=30.0), bar(bar=1, n=5)], 0.75, 10.0),
        ([bar(n=0, total=2, elapsed=30.0), bar(bar=1, n=5), bar(bar=2, n=5)], 0.275, 870 / 11),
        # what is closed inside does not take back what was reached
        ([bar(n=0, total=2), bar(bar=1, n=9), bar(bar=1, n=9, closed=True)], 0.45, None),
        # one after the other: the one that runs counts, and at the end the last
        ([bar(n=10, closed=True, rate=1.0), bar(bar=1, n=2, rate=1.0)], 0.2, 8.0),
        # stopped inside
        ([bar(n=0, total=4), bar(bar=1, n=8), bar(bar=1, n=8, closed=True), bar(n=0, total=4, closed=True)], 0.2, None),
    ],
)
def test_progress(events: list[Bar], fraction: float, remaining_s: float | None) -> None:
    progress = board_of(*events).progress()
    assert progress is not None
    assert progress.fraction == pytest.approx(fraction)
    if remaining_s is not None:
        assert progress.remaining_s == pytest.approx(remaining_s)


def test_the_run_is_as_far_as_its_slowest_rank() -> None:
    progress = board_of(bar(0, n=9, rate=1.0), bar(1, n=3, rate=1.0), bar(2, n=5, rate=1.0), ranks=3).progress()
    assert progress is not None
    assert (progress.fraction, progress.remaining_s) == (0.3, 7.0)


@pytest.mark.parametrize("events", [[], [bar(total=None, n=5)], [points((0, 0.0, {"loss": 1.0}))]])
def test_without_a_total_nobody_knows_how_far_it_is(events: list[Bar | Metrics]) -> None:
    assert board_of(*events).progress() is None


def test_of_thousands_of_bars_few_are_kept() -> None:
    board = board_of(bar(n=1, total=5000))
    for number in range(1, 5000):
        board.take(bar(bar=number, n=10, closed=True, leave=False))
    assert len(board._bars[0]) < 50
    assert board.bars_text().startswith("train:   0%|")


def test_pace_of_the_last_seconds_and_of_the_whole() -> None:
    slow = [points((step, float(step), {"loss": 1.0})) for step in range(20)]
    fast = [points((20 + step, 20 + step / 10, {"loss": 1.0})) for step in range(200)]
    board = board_of(*slow, *fast)
    assert board.pace() == Pace(pytest.approx(10.0), "step")
    assert board.pace(overall=True) == Pace(pytest.approx(219 / 39.9), "step")


def test_there_is_no_pace_without_two_steps_that_follow_each_other() -> None:
    assert board_of().pace() is None
    assert board_of(points((5, 1.0, {"loss": 1.0}))).pace() is None
    assert board_of(points((5, 1.0, {"loss": 1.0})), points((5, 2.0, {"lr": 1.0}))).pace() is None
    assert board_of(points((5, 1.0, {"loss": 1.0}), (7, 2.0, {"loss": 1.0}))).pace() == Pace(2.0, "step")


def test_what_is_read_does_not_change_any_more() -> None:
    board = board_of(points((0, 0.0, {"train/loss": 2.0, "eval/loss": 3.0, "lr": 0.1})))
    panels = board.panels()
    before = board.changes
    board.take(points((1, 1.0, {"train/loss": 1.0})))
    assert list(panels) == ["loss", "lr"]
    assert panels["loss"]["train/loss"].points() == [(0.0, 2.0)]
    assert board.panels()["loss"]["train/loss"].points() == [(0.0, 2.0), (1.0, 1.0)]
    assert board.changes == before + 1


def test_bars_that_stay_open_are_stopped_at_the_end() -> None:
    board = board_of(bar(n=4))
    assert "stopped" not in board.bars_html()
    board.finish_bars()
    assert "stopped" in board.bars_html()
    assert (board_of().bars_html(), board_of().bars_text()) == ("", "")
