"""How outputs look: nothing foreign gets through, colours can be read."""

from __future__ import annotations

import re

import pytest

from nbaccel.look import Html, badge, bold, code, div, heading, joined, quiet, region, struck, table
from nbaccel.look.sheet import STYLE

EVIL = "<script>alert('1 & 2')</script>"
SAFE = "&lt;script&gt;alert(&#x27;1 &amp; 2&#x27;)&lt;/script&gt;"


@pytest.mark.parametrize("piece", [bold, code, div, heading, quiet, struck, badge, region])
def test_text_is_escaped_and_html_is_not_escaped_again(piece: object) -> None:
    assert callable(piece)
    assert SAFE in piece(EVIL)
    assert EVIL not in piece(EVIL)
    assert f"<b>{SAFE}</b>" in piece(bold(EVIL))


def test_tables_and_lists_escape_too() -> None:
    made = region(joined([table((EVIL,), [(EVIL, bold(EVIL))]), EVIL], between=EVIL), label=EVIL)
    assert "<script>" not in made
    assert made.count(SAFE) == 6
    assert isinstance(made, Html)


def test_a_table_marks_rows_and_sets_numbers_right() -> None:
    made = table(("name", "count"), [("a", "1"), ("b", "2")], marked=[1], numbers=[1])
    assert '<tr><td>a</td><td class="nba-number">1</td></tr>' in made
    assert '<tr class="nba-marked"><td>b</td><td class="nba-number">2</td></tr>' in made
    assert '<th scope="col">name</th>' in made
    assert "<thead>" not in table((), [("a",)])


def test_a_state_does_not_hang_on_its_colour() -> None:
    assert "\N{CHECK MARK} done" in badge("done", "good")
    assert "\N{BALLOT X} failed" in badge("failed", "bad")


def test_regions_are_named_and_live_ones_are_heard() -> None:
    assert 'role="group" aria-label="plan"' in region("x", label="plan")
    assert 'role="status" aria-live="polite"' in region("x", live=True)
    assert STYLE in region("x")


def luminance(colour: str) -> float:
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def sheet_colours() -> list[tuple[str, str, str]]:
    light, dark, *_ = [dict(re.findall(r"--nba-(quiet|accent|good|warn|bad):(#[0-9a-f]{6})", rule))
                       for rule in STYLE.split("}") if "--nba-quiet:" in rule]  # fmt: skip
    assert len(light) == len(dark) == 5
    return [("light", mood, colour) for mood, colour in light.items()] + [
        ("dark", mood, colour) for mood, colour in dark.items()
    ]


@pytest.mark.parametrize(("theme", "mood", "colour"), sheet_colours())
def test_every_colour_can_be_read(theme: str, mood: str, colour: str) -> None:
    # the palest and the deepest surface of JupyterLab, VS Code and Colab that outputs stand on
    for background in ("#ffffff", "#f5f5f5") if theme == "light" else ("#111111", "#2a2a2a", "#383838"):
        assert contrast(colour, background) >= 4.5, f"{mood} on {background}"
