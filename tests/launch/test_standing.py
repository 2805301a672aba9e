"""Where a run stands, in words."""

from __future__ import annotations

import pytest

from nbaccel.launch.board import Pace, Progress
from nbaccel.launch.standing import UNKNOWN, RankStanding, Standing, clock, size
from nbaccel.look.curves import Curve
from nbaccel.machine import Gpu
from nbaccel.machine.usage import GpuUse, ProcessUse

RANKS = tuple(RankStanding(rank, "running", ProcessUse(50.0, 300_000_000), peak_bytes=400_000_000) for rank in range(2))


def standing(**changed: object) -> Standing:
    values = {"number": 3, "name": "train()", "state": "running", "elapsed_s": 65.0, "ranks": RANKS, "device": "cpu"}
    return Standing(**(values | changed))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changed", "figures"),
    [
        ({}, [("elapsed", "1:05"), ("remaining", UNKNOWN), ("memory", "600 MB")]),
        ({"progress": Progress(0.756, 30.0), "pace": Pace(12.345, "step")},
         [("elapsed", "1:05"), ("remaining", "0:30"), ("progress", "75%"), ("steps/s", "12.3"), ("memory", "600 MB")]),
        ({"progress": Progress(0.0, None), "ranks": ()},
         [("elapsed", "1:05"), ("remaining", UNKNOWN), ("progress", "0%")]),
        ({"state": "done", "progress": Progress(1.0, 0.0)},
         [("took", "1:05"), ("progress", "100%"), ("peak memory", "800 MB")]),
        ({"ranks": (RankStanding(0, "running", gpu=GpuUse(Gpu(0, "0"), 9.0, 2_000_000_000, 8_000_000_000)),)},
         [("elapsed", "1:05"), ("remaining", UNKNOWN), ("GPU memory", "2.0 GB")]),
    ],
)  # fmt: skip
def test_figures(changed: dict[str, object], figures: list[tuple[str, str]]) -> None:
    assert standing(**changed).figures() == figures


@pytest.mark.parametrize(
    ("ranks", "where"),
    [([0], "rank 0, cpu"), ([0, 2], "ranks 0 and 2, cpu"), ([4, 5, 6, 7], "ranks 4 to 7, cpu")],
)
def test_where(ranks: list[int], where: str) -> None:
    assert standing(ranks=tuple(RankStanding(rank, "running") for rank in ranks)).where == where


def test_text() -> None:
    curve = Curve([(0, 2.0), (1, 1.0)])
    text = standing(state="failed", bars="train: 45%", curves={"loss": curve}).text()
    first, *others = text.splitlines()
    assert first == "job 3: train() on ranks 0 and 1, cpu: failed, took 1:05, peak memory 800 MB"
    assert others[0] == "train: 45%"
    assert others[1].startswith("loss  █▁")
    assert standing().text().count("\n") == 0


def test_units() -> None:
    assert [clock(seconds) for seconds in (-1, 0.4, 59.6, 3599, 3661)] == ["0:00", "0:00", "1:00", "59:59", "1:01:01"]
    assert [size(count) for count in (0, 999_400_000, 999_600_000)] == ["0 MB", "999 MB", "1.0 GB"]
