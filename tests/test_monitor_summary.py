"""How a run's monitor looks: nothing foreign gets through, and what is left at the end needs nothing to be seen."""

from __future__ import annotations

import base64
import re
import xml.etree.ElementTree as ElementTree

import pytest

from nbaccel.launch.board import Pace, Progress
from nbaccel.launch.standing import UNKNOWN, RankStanding, Standing
from nbaccel.look import Html
from nbaccel.look.curves import Curve
from nbaccel.machine import Gpu
from nbaccel.machine.usage import GpuUse, ProcessUse
from nbaccel_widgets.monitor.summary import curves, figures, ranks, summary, title

EVIL = "<img src=x onerror=alert(1)>"
GPU = GpuUse(Gpu(0, "0"), 87.0, 3_000_000_000, 80_000_000_000)


def standing(state: str = "running", *here: RankStanding, name: str = "train()") -> Standing:
    return Standing(3, name, state, 65.0, here or (rank(0), rank(1)), "cpu", Progress(0.5, 65.0), Pace(12.0, "step"))


def rank(number: int, doing: str = "running", gpu: GpuUse | None = None) -> RankStanding:
    peak = gpu.memory_bytes if gpu is not None else 0
    return RankStanding(number, doing, ProcessUse(150.0, 2_000_000_000), gpu, 2_500_000_000, peak)


def texts(html: str) -> list[str]:
    return [text.strip() for text in re.findall(r">([^<>]+)<", html) if text.strip()]


def test_the_title_tells_what_runs_and_how_it_is() -> None:
    assert texts(title(standing())) == ["▶ running", "train()", "job 3 on ranks 0 and 1, cpu"]
    assert texts(title(standing("failed")))[0] == "✗ failed"


def test_figures_stand_below_their_names() -> None:
    assert texts(figures(standing()))[:6] == ["elapsed", "1:05", "remaining", "1:05", "progress", "50%"]


@pytest.mark.parametrize(
    ("state", "here", "table"),
    [
        ("running", (rank(0), rank(1, "done")),
         ["rank", "state", "cores", "memory", "0", "running", "1.5", "2.0 GB", "1", "done", "1.5", "2.0 GB"]),
        ("running", (rank(0, gpu=GPU), rank(1)),
         ["rank", "state", "cores", "memory", "GPU", "GPU memory", "0", "running", "1.5", "2.0 GB", "87%",
          "3.0 GB of 80.0 GB", "1", "running", "1.5", "2.0 GB", UNKNOWN, UNKNOWN]),
        ("running", (RankStanding(0, "starting"),),
         ["rank", "state", "cores", "memory", "0", "starting", UNKNOWN, UNKNOWN]),
        ("failed", (rank(0, "failed"), rank(1, "stopped")),
         ["rank", "state", "peak memory", "0", "failed", "2.5 GB", "1", "stopped", "2.5 GB"]),
        ("done", (rank(0, "done", GPU), RankStanding(1, "done")),
         ["rank", "state", "peak memory", "peak GPU memory", "0", "done", "2.5 GB", "3.0 GB", "1", "done", UNKNOWN,
          UNKNOWN]),
        ("done", (RankStanding(0, "done"),), ["rank", "state", "0", "done"]),
    ],
)  # fmt: skip
def test_what_each_rank_uses(state: str, here: tuple[RankStanding, ...], table: list[str]) -> None:
    assert texts(ranks(standing(state, *here))) == table


def test_curves_are_an_image_that_brings_itself() -> None:
    html = curves({"loss": {"train/loss": Curve([(0, 2.0), (1, 1.0)]), EVIL: Curve([(0, 1.0)])}})
    assert "curves of train/loss, &lt;img" in html
    found = re.search(r'src="data:image/svg\+xml;base64,([^"]+)"', html)
    assert found is not None
    picture = ElementTree.fromstring(base64.b64decode(found[1]))
    assert len(picture.findall(".//{*}polyline")) == 1
    assert curves({}) == ""
    many = curves({"all": {f"m{number}": Curve([(0, 1.0)]) for number in range(5)}})
    assert 'alt="curves of m0, m1, m2 and 2 more"' in many


def test_a_summary_is_html_alone_with_everything_escaped() -> None:
    made = summary(
        standing("done", rank(0), rank(1), name=EVIL), Html("<p>bars</p>"), {EVIL: {EVIL: Curve([(0, 1.0)])}}
    )
    assert EVIL not in made
    assert "&lt;img src=x onerror=alert(1)&gt;" in made
    assert "<script" not in made
    assert "widget" not in made
    assert "<p>bars</p>" in made
    assert made.startswith("<style>")


def test_of_one_rank_the_figures_tell_all() -> None:
    made = summary(standing("done", rank(0)), Html(""), {})
    assert "nba-table" not in made.partition("</style>")[2]
    assert "2.5 GB" in made
