"""How a run looks outside a notebook."""

from __future__ import annotations

from pathlib import Path

import pytest

from nbaccel.launch.events import Flood
from nbaccel.notebook.screen import PlainScreen


def bar(number: int, n: int, desc: str, *, closed: bool = False, leave: bool = True) -> dict[str, object]:
    return {"bar": number, "n": n, "total": 2, "desc": desc, "closed": closed, "leave": leave}


def on_terminal(written: str) -> list[str]:
    """The lines that a terminal shows."""
    lines = []
    for line in written.split("\n"):
        cells: list[str] = []
        for part in line.split("\r"):
            cells[: len(part)] = part
        lines.append("".join(cells).rstrip())
    return lines


def beginnings(lines: list[str]) -> list[str]:
    return [line.split("|")[0] for line in lines]


def test_the_innermost_bar_moves_and_all_are_shown_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    screen = PlainScreen()
    screen.begin([0])
    states = [bar(0, 0, "epochs")]
    for epoch in (1, 2):
        states += [bar(epoch, n, f"epoch {epoch}", closed=n == 2) for n in range(3)]
        states.append(bar(0, epoch, "epochs", closed=epoch == 2))
    written, live = "", []
    for state in states:
        screen.bar(0, state)
        written += capsys.readouterr().err
        live.append(on_terminal(written))
    assert [beginnings(lines) for lines in live] == [
        ["epochs:   0%"],
        ["epoch 1:   0%"], ["epoch 1:  50%"], ["epochs:   0%"], ["epochs:  50%"],
        ["epoch 2:   0%"], ["epoch 2:  50%"], ["epochs:  50%"], ["epoch 2: 100%"],
    ]  # fmt: skip
    screen.end()
    written += capsys.readouterr().err
    assert beginnings(on_terminal(written)) == ["epochs: 100%", "epoch 1: 100%", "epoch 2: 100%", ""]


def test_many_finished_bars_do_not_hide_the_one_that_moves(capsys: pytest.CaptureFixture[str]) -> None:
    screen = PlainScreen()
    screen.begin([0])
    for number in range(30):
        screen.bar(0, bar(number, 2, "done", closed=True))
    screen.bar(0, bar(30, 1, "last"))
    assert beginnings(on_terminal(capsys.readouterr().err)) == ["last:  50%"]


def test_of_several_ranks_the_first_one_is_followed(capsys: pytest.CaptureFixture[str]) -> None:
    screen = PlainScreen()
    screen.begin([1, 2])
    for rank, n in ((1, 0), (2, 2), (1, 1)):
        screen.bar(rank, bar(0, n, "train", closed=n == 2))
    written = capsys.readouterr().err
    assert beginnings(on_terminal(written)) == ["rank 1 train:  50%"]
    screen.end()
    written += capsys.readouterr().err
    assert beginnings(on_terminal(written)) == ["rank 1 train:  50%", "rank 2 train: 100%", ""]


def test_nothing_stays_of_a_longer_line_or_of_a_bar_that_does_not_stay(capsys: pytest.CaptureFixture[str]) -> None:
    screen = PlainScreen()
    screen.begin([0])
    screen.bar(0, bar(0, 1, "short"))
    short = on_terminal(capsys.readouterr().err)
    screen.bar(0, bar(1, 1, "a long name", leave=False))
    screen.bar(0, bar(1, 2, "a long name", leave=False, closed=True))
    assert on_terminal(capsys.readouterr().err) == short
    screen.bar(0, bar(0, 1, "short", leave=False, closed=True))
    screen.end()
    assert on_terminal(capsys.readouterr().err) == [""]


def test_of_a_flood_only_the_end_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    screen = PlainScreen()
    screen.flood(Flood(10, "a line", Path("folder"), over=False))
    assert capsys.readouterr().err == ""
    screen.flood(Flood(1000, "a line", Path("folder"), over=True))
    assert "1,000 lines are left out here; all that the ranks printed is in folder" in capsys.readouterr().err
