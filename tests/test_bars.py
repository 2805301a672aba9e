"""What progress bars look like."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest

from nbaccel.look.bars import MOST_FINISHED, MOST_ROWS, Bars
from nbaccel.runtime.progress import connect, disconnect, tqdm


def fields(bar: int = 0, n: float = 45, total: float | None = 100, **more: Any) -> dict[str, object]:
    usual = {
        "bar": bar, "desc": "train", "n": n, "total": total, "elapsed": 9.0, "rate": 5.0, "unit": "it",
        "unit_scale": False, "unit_divisor": 1000, "postfix": None, "leave": True, "closed": False,
    }  # fmt: skip
    return {**usual, **more}


def bars_of(*states: dict[str, object]) -> Bars:
    """Bars of as many ranks as there are states."""
    bars = Bars()
    for rank, state in enumerate(states):
        bars.update(rank, state)
    return bars


class Page(HTMLParser):
    """A parsed page: its elements by tag, its text by cell."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "td":
            self.cells.append("")
        if tag != "col":
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.cells[-1] += data

    def with_role(self, role: str) -> list[dict[str, str | None]]:
        return [attributes for _, attributes in self.elements if attributes.get("role") == role]

    def texts(self) -> list[str]:
        return [cell for cell in self.cells if cell]


def test_without_bars_there_is_nothing() -> None:
    bars = Bars()
    assert bars.empty
    assert bars.is_finished
    assert (bars.html(), bars.text()) == ("", "")


def test_a_bar_of_one_rank() -> None:
    bars = bars_of(fields(postfix="loss=0.5"))
    page = Page(bars.html())
    assert page.texts() == ["train", "45%", "45/100", "00:09 < 00:11", "5.00it/s", "loss=0.5"]
    assert bars.text() == "train:  45%|████▌     | 45/100 [00:09<00:11,  5.00it/s, loss=0.5]"
    assert not bars.empty
    assert not bars.is_finished


def test_those_who_cannot_see_it_are_told() -> None:
    (bar,) = Page(bars_of(fields()).html()).with_role("progressbar")
    assert (bar["aria-valuemin"], bar["aria-valuemax"], bar["aria-valuenow"]) == ("0", "100", "45")
    assert bar["aria-label"] == "train"
    assert bar["aria-valuetext"] == "45% 45/100 00:09 < 00:11"
    (unknown,) = Page(bars_of(fields(total=None, desc="")).html()).with_role("progressbar")
    assert "aria-valuenow" not in unknown
    assert unknown["aria-label"] == "progress"


def test_of_several_ranks_each_has_a_row() -> None:
    bars = bars_of(fields(n=50), fields(n=40))
    page = Page(bars.html())
    assert page.texts()[:3] == ["train", "rank 0", "50%"]
    assert [bar["aria-label"] for bar in page.with_role("progressbar")] == ["train rank 0", "train rank 1"]
    assert [line.split("|")[0] for line in bars.text().splitlines()] == ["rank 0 train:  50%", "rank 1 train:  40%"]


def test_ranks_that_call_a_bar_differently_keep_their_names() -> None:
    bars = bars_of(fields(desc="left"), fields(desc="right"))
    assert [text for text in Page(bars.html()).texts() if "rank" in text] == ["rank 0 left", "rank 1 right"]
    assert [line.split(":")[0] for line in bars.text().splitlines()] == [" rank 0 left", "rank 1 right"]


def test_bars_without_a_name() -> None:
    assert Page(bars_of(fields(desc="")).html()).texts()[0] == "45%"
    assert Page(bars_of(fields(desc=""), fields(desc="")).html()).texts()[:2] == ["rank 0", "45%"]
    assert bars_of(fields(desc="")).text().startswith(" 45%|")


def test_nested_bars_stand_in_the_order_of_their_numbers() -> None:
    bars = Bars()
    bars.update(0, fields(bar=1, desc="batches"))
    bars.update(0, fields(bar=0, desc="epochs"))
    assert [line.split(":")[0] for line in bars.text().splitlines()] == ["epochs", "batches"]


@pytest.mark.parametrize(
    ("state", "mood", "texts"),
    [
        (fields(), "run", ["45%", "45/100", "00:09 < 00:11"]),
        (fields(n=100, closed=True), "done", ["100%", "100/100", "00:09"]),
        (fields(n=100), "done", ["100%", "100/100", "00:09"]),
        (fields(closed=True), "stop", ["45%", "45/100", "00:09 stopped"]),
        (fields(total=None), "run", ["45", "00:09"]),
        (fields(total=None, closed=True), "done", ["45", "00:09"]),
        (fields(n=0, rate=None), "run", ["0%", "0/100", "00:09 < ?"]),
        (fields(n=0, total=0, closed=True), "done", ["100%", "0/0", "00:09"]),
        (fields(n=130), "run", ["130", "00:09"]),
        (fields(n=100.3), "done", ["100%", "100/100", "00:09"]),
        (fields(n=-1), "run", ["0%", "0/100", "00:09 < 00:20"]),
        (fields(n=99.99), "run", ["99%", "99.99/100", "00:09 < 00:00"]),
        (fields(n=2048, total=4096, unit="B", unit_scale=True, unit_divisor=1024), "run",
         ["50%", "2.00k/4.00k", "00:09 < 06:49"]),
    ],
)  # fmt: skip
def test_how_far_a_bar_is(state: dict[str, object], mood: str, texts: list[str]) -> None:
    bars = bars_of(state)
    html = bars.html()
    assert Page(html).texts()[1:-1] == texts
    colours = set(re.findall(r"var\(--nb-(run|done|stop)\)", html))
    assert colours == {mood}
    assert bars.text() != ""


def test_tqdm_formats_rates() -> None:
    assert Page(bars_of(fields(rate=0.1)).html()).texts()[-1] == "10.00s/it"
    assert Page(bars_of(fields(rate=1e5, unit_scale=True)).html()).texts()[-1] == "100kit/s"


def test_the_percentage_is_tqdms_but_100_means_complete() -> None:
    assert "99%" in Page(bars_of(fields(n=99.9)).html()).texts()
    assert " 99%|" in bars_of(fields(n=99)).text()


def test_everything_is_escaped() -> None:
    nasty = '<img src=x onerror="alert(1)">\'&'
    state = fields(desc=nasty, postfix=nasty, unit=nasty)
    page = Page(bars_of(state, fields(desc="other")).html())
    assert {tag for tag, _ in page.elements} == {"div", "table", "colgroup", "col", "tbody", "tr", "td"}
    assert page.texts().count(f"rank 0 {nasty}") == 1
    assert page.texts().count(nasty) == 1


def test_nothing_moves_while_numbers_grow() -> None:
    def columns(n: int, rate: float | None) -> list[str]:
        return re.findall(r"<col style=[^>]*>", bars_of(fields(n=n, total=12_000, rate=rate)).html())

    assert columns(0, None) == columns(999, 5.0) == columns(12_000, 321.0)
    assert columns(0, None) != []


def test_bars_that_do_not_stay_vanish_once_all_ranks_have_closed_them() -> None:
    bars = bars_of(fields(leave=False), fields(leave=False))
    bars.update(0, fields(leave=False, closed=True))
    assert not bars.empty
    bars.update(1, fields(leave=False, closed=True))
    assert bars.empty
    assert bars.is_finished


def test_bars_that_stay_are_finished_once_all_ranks_have_closed_them() -> None:
    bars = bars_of(fields(), fields(closed=True))
    assert not bars.is_finished
    bars.update(0, fields(n=100, closed=True))
    assert bars.is_finished
    assert not bars.empty


def test_at_the_end_of_a_job_open_bars_have_stopped() -> None:
    bars = bars_of(fields())
    bars.update(0, fields(bar=1, leave=False))
    bars.finish()
    assert bars.is_finished
    assert "00:09 stopped" in Page(bars.html()).texts()
    assert len(bars.text().splitlines()) == 1


def test_of_many_finished_bars_the_latest_stay_in_sight() -> None:
    bars = bars_of(fields(desc="epochs"))
    for number in range(1, 101):
        bars.update(0, fields(bar=number, desc=f"batches {number}", closed=True))
    lines = bars.text().splitlines()
    assert lines[0] == f"({100 - MOST_FINISHED} earlier bars finished)"
    assert [line.split(":")[0] for line in lines[1:3]] == ["epochs", f"batches {101 - MOST_FINISHED}"]
    assert len(lines) == 2 + MOST_FINISHED
    assert Page(bars.html()).texts()[0] == lines[0].strip("()")


def test_of_many_ranks_the_slowest_the_median_and_the_fastest_are_shown_and_all_in_small() -> None:
    bars = bars_of(*(fields(n=20 + rank, closed=rank == 7) for rank in range(64)))
    bars.update(5, fields(n=3))
    page = Page(bars.html())
    assert page.texts()[0] == "train 64 ranks"
    labels = [text.replace("\u2007", "") for text in page.texts() if "rank " in text]
    assert labels == ["min rank 5", "median rank 32", "max rank 63"]
    assert page.texts()[-1] == "all ranks"
    (strip,) = page.with_role("img")
    assert strip["aria-label"] == "progress of all 64 ranks"
    titles = [attributes["title"] for tag, attributes in page.elements if tag == "div" and "title" in attributes]
    assert titles == [f"rank {rank}: {3 if rank == 5 else 20 + rank}%" for rank in range(64)]
    assert "linear-gradient(to top,var(--nb-stop) 27.0%" in bars.html()


def test_the_text_of_many_ranks() -> None:
    bars = bars_of(*(fields(n=rank * 10, total=80) for rank in range(MOST_ROWS + 1)))
    lines = bars.text().splitlines()
    assert [line.split(":")[0].strip() for line in lines] == [
        "min rank 0 train", "median rank 4 train", "max rank 8 train", "all 9 ranks",
    ]  # fmt: skip
    assert lines[-1].endswith(": ▁▁▂▃▄▅▆▇█")
    assert len({line.index(":") for line in lines}) == 1


def test_many_ranks_without_totals() -> None:
    bars = bars_of(*(fields(n=rank, total=None) for rank in range(20)))
    assert "min rank" in bars.text()
    assert "rank 3: 3" in bars.html()


def test_as_many_ranks_as_have_room_have_a_row_each() -> None:
    assert len(bars_of(*[fields()] * MOST_ROWS).text().splitlines()) == MOST_ROWS


def test_colours_are_those_of_the_theme() -> None:
    html = bars_of(fields()).html()
    for name in ("brand-color1", "success-color1", "warn-color1", "content-font-color1"):
        assert f"var(--jp-{name}," in html
    assert "<style" not in html
    assert " class=" not in html


def test_what_training_code_sends_can_be_shown() -> None:
    bars = Bars()
    connect(lambda state: bars.update(0, state))
    try:
        for _ in tqdm(range(3), desc="real", postfix={"loss": 1.5}):
            pass
    finally:
        disconnect()
    assert bars.is_finished
    assert bars.text().startswith("real: 100%|██████████| 3/3 [00:00<00:00,")
    assert "loss=1.5" in Page(bars.html()).texts()
