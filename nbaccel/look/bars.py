"""All progress bars of all ranks of a job, as HTML for a cell and as text for a terminal. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass, fields, replace
from html import escape
from typing import Any, cast

from tqdm.std import tqdm

MOST_ROWS = 8
"""With more ranks than this, a bar shows the slowest, the median and the fastest, and all of them only in small."""
MOST_FINISHED = 12
"""So many finished bars stay in sight; of a loop that made thousands, the latest."""


@dataclass(frozen=True)
class _State:
    """How far one rank's bar is; see `runtime.progress` for what the fields mean."""

    desc: str = ""
    n: float = 0
    total: float | None = None
    elapsed: float = 0.0
    rate: float | None = None
    unit: str = "it"
    unit_scale: bool | float = False
    unit_divisor: float = 1000
    postfix: str | None = None
    leave: bool = True
    closed: bool = False

    @classmethod
    def of(cls, values: Mapping[str, object]) -> _State:
        known = {name: values[name] for name in _FIELDS if name in values}
        state = cls(**cast("dict[str, Any]", known))
        return replace(state, total=None) if state.total is not None and state.n >= state.total + 0.5 else state

    @property
    def fraction(self) -> float | None:
        """From 0 to 1, None if the total is unknown."""
        if self.total is None:
            return 1.0 if self.closed else None
        return min(max(self.n / self.total, 0.0), 1.0) if self.total > 0 else 1.0

    @property
    def mood(self) -> str:
        """`done`, `run`, or `stop` for a bar that was closed before it was complete."""
        if self.fraction == 1.0:
            return "done"
        return "stop" if self.closed else "run"

    @property
    def percentage(self) -> str:
        """Rounded as tqdm does, but only a complete bar has 100%; empty if unknown."""
        if self.fraction is None or self.total is None:
            return ""
        return "100%" if self.fraction == 1 else f"{min(round(self.fraction * 100), 99)}%"

    def meter(self, prefix: str = "", form: str | None = None) -> str:
        """tqdm's text."""
        return cast(
            "str",
            tqdm.format_meter(
                n=max(self.n, 0) if self.total is None else min(max(self.n, 0), self.total),
                total=self.total,
                elapsed=self.elapsed,
                rate=self.rate or 0,  # tqdm would make one up of None, from a `n` that may not have begun at 0
                unit=self.unit,
                unit_scale=self.unit_scale,
                unit_divisor=self.unit_divisor,
                postfix=self.postfix,
                prefix=prefix,
                bar_format=form,
            ),
        )


_FIELDS = tuple(field.name for field in fields(_State))


class Bars:
    """The bars of one job.

    Attributes:
        num_forgotten: finished bars that are out of sight.
    """

    def __init__(self, num_ranks: int = 1) -> None:
        """No bars yet.

        Args:
            num_ranks: of the job; with more than one, each row says whose it is, from the first one on.
        """
        self.num_forgotten = 0
        self._names_ranks = num_ranks > 1
        self._widest: _Columns | None = None
        self._blocks: dict[int, _Block] = {}

    def update(self, rank: int, fields: Mapping[str, object]) -> None:
        """A rank's bar has moved; the fields are those of `runtime.progress`."""
        number = cast("int", fields["bar"])
        block = self._blocks.setdefault(number, _Block({}, self._names_ranks))
        block.states[rank] = _State.of(fields)
        if block.is_gone():
            del self._blocks[number]
        elif block.is_finished():
            self._forget_oldest()

    def finish(self) -> None:
        """The job is over: bars that are open still will not move any more."""
        for block in self._blocks.values():
            block.close()
        self._blocks = {number: block for number, block in self._blocks.items() if not block.is_gone()}

    @property
    def empty(self) -> bool:
        return not self._blocks

    @property
    def is_finished(self) -> bool:
        """Whether no bar is open."""
        return all(block.is_finished() for block in self._blocks.values())

    def html(self) -> str:
        """All bars, in inline styles only; empty without bars."""
        if self.empty:
            return ""
        self._widest = _Columns.of(self._in_order(), self._widest)
        return _html(self._in_order(), self.num_forgotten, self._widest)

    def text(self) -> str:
        """All bars, one line per rank; empty without bars."""
        lines = [line for block in self._in_order() for line in block.lines()]
        return "\n".join([f"({_earlier(self.num_forgotten)})", *lines] if self.num_forgotten else lines)

    def line(self, rank: int) -> str:
        """The bar that a rank has opened last, of those that it has not closed if there are some; empty without one."""
        own = [block for block in self._in_order() if rank in block.states]
        is_open = [block for block in own if not block.states[rank].closed]
        return (is_open or own)[-1].line(rank) if own else ""

    def _in_order(self) -> list[_Block]:
        return [block for _, block in sorted(self._blocks.items())]

    def _forget_oldest(self) -> None:
        finished = sorted(number for number, block in self._blocks.items() if block.is_finished())
        for number in finished[:-MOST_FINISHED]:
            del self._blocks[number]
            self.num_forgotten += 1


def _earlier(num_bars: int) -> str:
    return f"{num_bars} earlier bar{'s' if num_bars > 1 else ''} finished"


@dataclass(frozen=True)
class _Row:
    """One line: what it is called beside others of its block, and how far it is."""

    name: str
    state: _State


@dataclass(frozen=True)
class _Block:
    """One bar of the code, as it is on each rank that has it."""

    states: dict[int, _State]
    names_ranks: bool = False

    def is_finished(self) -> bool:
        return all(state.closed for state in self.states.values())

    def is_gone(self) -> bool:
        return self.is_finished() and not any(state.leave for state in self.states.values())

    def close(self) -> None:
        for rank, state in self.states.items():
            self.states[rank] = replace(state, closed=True)

    @property
    def is_crowded(self) -> bool:
        return len(self.states) > MOST_ROWS

    @property
    def title(self) -> str:
        """What all ranks call it, empty if they differ."""
        names = {state.desc for state in self.states.values()}
        return names.pop() if len(names) == 1 else ""

    def labels(self) -> list[str]:
        """What stands before its rows."""
        labels = [row.name or row.state.desc for row in self.rows()]
        return [*labels, "all ranks"] if self.is_crowded else labels

    def in_order(self) -> list[tuple[int, _State]]:
        return sorted(self.states.items())

    def rows(self) -> list[_Row]:
        """What is shown of it, line by line."""
        return self._typical_rows() if self.is_crowded else [self._row(rank) for rank, _ in self.in_order()]

    def line(self, rank: int) -> str:
        """One rank's bar."""
        row = self._row(rank)
        return row.state.meter(self._title_of(row))

    def lines(self) -> list[str]:
        rows = self.rows()
        titles = [self._title_of(row) for row in rows]
        width = max(map(len, titles))
        lines = [row.state.meter(f"{title:>{width}}") for row, title in zip(rows, titles, strict=True)]
        return [*lines, f"{f'all {len(self.states)} ranks':>{width}}: {self._strip()}"] if self.is_crowded else lines

    def _title_of(self, row: _Row) -> str:
        return f"{row.name} {self.title}".strip() if self.title or row.name else row.state.desc

    def _row(self, rank: int) -> _Row:
        names_rank = len(self.states) > 1 or self.names_ranks
        return _Row(self._name(rank) if names_rank else "", self.states[rank])

    def _name(self, rank: int) -> str:
        digits = len(str(max(self.states)))
        own = "" if self.title else f" {self.states[rank].desc}"
        return f"rank {str(rank).rjust(digits, _WIDE_SPACE)}{own}".rstrip()

    def _typical_rows(self) -> list[_Row]:
        ranked = sorted(self.in_order(), key=lambda item: (item[1].fraction or 0.0, item[1].n))
        typical = {"min": ranked[0], "median": ranked[len(ranked) // 2], "max": ranked[-1]}
        return [_Row(f"{kind} {self._name(rank)}", state) for kind, (rank, state) in typical.items()]

    def _strip(self) -> str:
        return "".join(_LEVELS[int((state.fraction or 0.0) * (len(_LEVELS) - 1))] for _, state in self.in_order())


_WIDE_SPACE = "\u2007"
"""A space as wide as a digit."""
_LEVELS = "▁▂▃▄▅▆▇█"

_PARTS = "\x1f".join(("{n_fmt}", "{total_fmt}", "{elapsed}", "{remaining}", "{rate_fmt}"))


@dataclass(frozen=True)
class _Words:
    """What stands beside a bar, in tqdm's format, and how wide each part may become as numbers grow."""

    count: str
    time: str
    rate: str
    count_width: float
    rate_width: float

    @classmethod
    def of(cls, state: _State) -> _Words:
        n, total, elapsed, remaining, rate = (part.strip() for part in state.meter(form=_PARTS).split("\x1f", 4))
        count = n if state.total is None else f"{n}/{total}"
        after = {"done": "", "stop": " stopped", "run": "" if state.total is None else f" < {remaining}"}[state.mood]
        widest = max(_width(total), _width("0.00M") if state.unit_scale else 0)
        count_width = max(_width(count), 6 if state.total is None else 2 * widest + _width("/"))
        return cls(count, elapsed + after, rate, count_width, max(_width(rate), _width(f"000.00{state.unit}/s")))


def _width(text: str) -> float:
    """About how wide a text is, in digits."""
    return sum(0.6 if character in " .,:/|'ijlft" else 1.5 if character in "mwMW%@" else 1 for character in text)


_ROOT = (
    "--nb-run:var(--jp-brand-color1,var(--vscode-progressBar-background,#2196f3));"
    "--nb-done:var(--jp-success-color1,var(--vscode-charts-green,#43a047));"
    "--nb-stop:var(--jp-warn-color1,var(--vscode-charts-orange,#f57c00));"
    "--nb-track:rgba(128,128,128,.22);"
    "color:var(--jp-content-font-color1,inherit);"
    "font-family:var(--jp-ui-font-family,system-ui,sans-serif);font-size:var(--jp-ui-font-size1,13px);"
    "font-variant-numeric:tabular-nums;line-height:20px;overflow-x:auto;padding:2px 0"
)
_TABLE = "table-layout:fixed;width:100%;border-collapse:collapse;border:0;margin:0;font:inherit;color:inherit"
_ROW = "background:none;border:0"
_CELL = "border:0;background:none;white-space:nowrap;vertical-align:middle;font-weight:inherit;line-height:20px"
_NUMBER = f"{_CELL};text-align:right;padding:1px 0 1px 14px"
_WORDS = f"{_CELL};text-align:left;overflow:hidden;text-overflow:ellipsis;padding:1px 0"
_QUIET = "opacity:.7"
_MOVING = "repeating-linear-gradient(-45deg,var(--nb-run) 0 6px,var(--nb-track) 6px 12px)"
_WIDEST_LABEL = 28
_WIDEST_RATE = 20
_PERCENT = 4.6


def _html(blocks: list[_Block], num_forgotten: int, columns: _Columns) -> str:
    note = _line(columns, _earlier(num_forgotten), _QUIET) if num_forgotten else ""
    body = "".join(_block_html(block, columns) for block in blocks)
    return f'<div style="{_ROOT}"><table style="{_TABLE};{columns.limits}">{columns.html()}{note}{body}</table></div>'


@dataclass(frozen=True)
class _Columns:
    """Widths in digits. They come from the largest numbers to expect, so that nothing moves as numbers grow."""

    label: float
    count: float
    time: float
    rate: float
    has_postfix: bool

    @classmethod
    def of(cls, blocks: list[_Block], before: _Columns | None = None) -> _Columns:
        """For these bars; never narrower than before, or bars that come and go would shift the others."""
        rows = [row for block in blocks for row in block.rows()]
        words = [_Words.of(row.state) for row in rows]
        now = cls(
            label=min(max(_width(label) for block in blocks for label in block.labels()), _WIDEST_LABEL),
            count=max(item.count_width for item in words),
            time=max(_width("00:00 < 00:00"), *(_width(item.time) for item in words)),
            rate=min(max(item.rate_width for item in words), _WIDEST_RATE),
            has_postfix=any(row.state.postfix for row in rows),
        )
        return now if before is None else cls(*map(max, astuple(now), astuple(before)))

    @property
    def number(self) -> int:
        return 6 + self.has_postfix

    @property
    def limits(self) -> str:
        fixed = f"{self.label + _PERCENT + self.count + self.time + self.rate:.1f}ch"
        least, most = (240, 760) if self.has_postfix else (180, 460)
        return f"min-width:calc({fixed} + {least}px);max-width:calc({fixed} + {most}px)"

    def html(self) -> str:
        label = f"calc({self.label:.1f}ch + 14px)" if self.label else "0"
        numbers = [f"calc({width:.1f}ch + 14px)" for width in (_PERCENT, self.count, self.time, self.rate)]
        widths = [label, "20%" if self.has_postfix else "auto", *numbers, *(["auto"] if self.has_postfix else [])]
        columns = "".join(f'<col style="width:{width}">' for width in widths)
        return f"<colgroup>{columns}</colgroup>"


def _block_html(block: _Block, columns: _Columns) -> str:
    lines = [_row_html(row, block, columns) for row in block.rows()]
    if (len(block.states) > 1 or block.names_ranks) and (block.title or block.is_crowded):
        crowd = f' <span style="{_QUIET};font-weight:400">{len(block.states)} ranks</span>' if block.is_crowded else ""
        lines.insert(0, _line(columns, f"{escape(block.title)}{crowd}", "font-weight:600;padding-top:4px"))
    if block.is_crowded:
        lines.append(_strip_html(block, columns))
    return f"<tbody>{''.join(lines)}</tbody>"


def _line(columns: _Columns, content: str, style: str) -> str:
    return f'<tr style="{_ROW}"><td colspan="{columns.number}" style="{_WORDS};{style}">{content}</td></tr>'


def _row_html(row: _Row, block: _Block, columns: _Columns) -> str:
    words, state = _Words.of(row.state), row.state
    label = row.name or state.desc
    percent = f"color:var(--nb-stop);{_NUMBER}" if state.mood == "stop" else _NUMBER
    cells = [
        f'<td style="{_WORDS}{f";{_QUIET}" if row.name else ""}" title="{escape(label)}">{escape(label)}</td>',
        f'<td style="{_CELL};padding:0">{_bar_html(row, block.title, words)}</td>',
        f'<td style="{percent}">{state.percentage}</td>',
        f'<td style="{_NUMBER}">{escape(words.count)}</td>',
        f'<td style="{_NUMBER}" title="elapsed &lt; remaining">{escape(words.time)}</td>',
        f'<td style="{_NUMBER}">{escape(words.rate)}</td>',
    ]
    if columns.has_postfix:
        postfix = escape(state.postfix or "")
        cells.append(f'<td style="{_WORDS};{_QUIET};padding-left:20px" title="{postfix}">{postfix}</td>')
    return f'<tr style="{_ROW}">{"".join(cells)}</tr>'


def _bar_html(row: _Row, title: str, words: _Words) -> str:
    state = row.state
    known = "" if state.fraction is None else f' aria-valuenow="{state.fraction * 100:.0f}"'
    label = escape(f"{title or state.desc} {row.name}".strip() or "progress")
    told = escape(f"{state.percentage} {words.count} {words.time}".strip())
    width, fill = (100, _MOVING) if state.fraction is None else (state.fraction * 100, f"var(--nb-{state.mood})")
    return (
        f'<div role="progressbar" aria-label="{label}" aria-valuemin="0" aria-valuemax="100"{known} '
        f'aria-valuetext="{told}" style="height:8px;border-radius:4px;background:var(--nb-track);overflow:hidden">'
        f'<div style="width:{width:.2f}%;height:100%;border-radius:4px;background:{fill}"></div></div>'
    )


def _strip_html(block: _Block, columns: _Columns) -> str:
    cells = "".join(_level_html(rank, state) for rank, state in block.in_order())
    label = f"progress of all {len(block.states)} ranks"
    return (
        f'<tr style="{_ROW}"><td style="{_WORDS};{_QUIET}">all ranks</td>'
        f'<td colspan="{columns.number - 1}" style="{_CELL};padding:4px 0">'
        f'<div role="img" aria-label="{label}" style="display:flex;gap:2px">{cells}</div></td></tr>'
    )


def _level_html(rank: int, state: _State) -> str:
    level = (state.fraction or 0.0) * 100
    told = f"rank {rank}: {state.percentage or _Words.of(state).count}"
    fill = f"background:linear-gradient(to top,var(--nb-{state.mood}) {level:.1f}%,var(--nb-track) 0)"
    return f'<div title="{escape(told)}" style="flex:1;max-width:12px;height:16px;border-radius:2px;{fill}"></div>'
