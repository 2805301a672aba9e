"""Two runs side by side. Pure: knows no widgets."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from nbaccel.look import Html, bold, code, div, joined, quiet
from nbaccel.look import table as html_table
from nbaccel.look.curves import Curve
from nbaccel.look.svg import draw
from nbaccel.look.ticks import short
from nbaccel_widgets.launch_form.history import Run, cut, duration, outcome

_NONE = "\N{EN DASH}"
_DIFFERS = "\N{NOT EQUAL TO}"


def compared(one: Run, other: Run) -> Html:
    """A table of two runs: a line for each parameter, setting and number; those that differ are marked by a sign.

    Args:
        one: a run.
        other: another.
    """
    rows: list[tuple[str, ...]] = []
    marked = []
    for name, left, right, difference in _lines(one, other):
        if left != right:
            marked.append(len(rows))
        sign = bold(_DIFFERS) if left != right else ""
        rows.append((name, sign, code(cut(left)), code(cut(right)), difference))
    heads = ("", "", f"run {one.number}", f"run {other.number}", "difference")
    said = f"{len(marked)} of {len(rows)} lines differ ({_DIFFERS})" if marked else "nothing differs"
    return joined([html_table(heads, rows, marked=marked), div(quiet(said)), _curves(one, other)])


def _curves(one: Run, other: Run) -> Html:
    """The curves of both by what they measure; each named by its run."""
    panels: dict[str, dict[str, Curve]] = {}
    for run in (one, other):
        for title, curves in run.job.feed.board.panels().items():
            panels.setdefault(title, {}).update({f"run {run.number}: {name}": curve for name, curve in curves.items()})
    return div(Html(draw(panels)), "margin-top:8px") if panels else Html()


def _lines(one: Run, other: Run) -> Iterator[tuple[str, str, str, str]]:
    for left, right in ((_parameters(one, other), _parameters(other, one)), (one.settings, other.settings)):
        for name in dict.fromkeys([*left, *right]):
            yield name, left.get(name, _NONE), right.get(name, _NONE), ""
    yield "state", one.job.state, other.job.state, ""
    took = other.job.elapsed_s - one.job.elapsed_s
    yield "took", duration(one.job.elapsed_s), duration(other.job.elapsed_s), f"{took:+.1f} s"
    numbers = dict.fromkeys([*one.numbers, *other.numbers])
    for name in numbers:
        first, second = one.numbers.get(name), other.numbers.get(name)
        yield name, _short(first), _short(second), _difference(first, second)
    if not (one.numbers and other.numbers) or one.error or other.error:
        yield "result", outcome(one) or _NONE, outcome(other) or _NONE, ""


def _parameters(run: Run, other: Run) -> Mapping[str, str]:
    """The parameters of a run that were given to it or to the other one."""
    return {name: value for name, value in run.parameters.items() if name in run.given | other.given}


def _short(value: float | None) -> str:
    return _NONE if value is None else short(value)


def _difference(left: float | None, right: float | None) -> str:
    if left is None or right is None or not (math.isfinite(left) and math.isfinite(right)):
        return ""
    share = f" ({(right - left) / abs(left):+.1%})" if left else ""
    return f"{right - left:+.4g}{share}"
