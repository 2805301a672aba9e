"""The runs of a form and the table of them. Pure: knows no widgets."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nbaccel.launch.job import MOODS, Job
from nbaccel.look import Html, badge, bold, code, joined, quiet, told
from nbaccel.look import table as html_table
from nbaccel.look.ticks import short

MOST_COLUMNS = 6
"""So many numbers of the results get a column."""
_LONGEST = 40


@dataclass
class Run:
    """One launch of a form.

    Attributes:
        job: its job.
        parameters: all parameters by name, as code.
        given: names of those that were not left to their defaults.
        settings: keys of the configuration that are not at their defaults, as text.
        written: what the controls held, to be put back.
        call: the line of code that launches the same.
        began: the time of day at which it began.
        result: what came out, None while it runs.
        error: why it failed, in a line.
        is_over: whether it has ended and what came out is here.
    """

    job: Job
    parameters: Mapping[str, str]
    given: frozenset[str]
    settings: Mapping[str, str]
    written: Mapping[str, Any]
    call: str
    began: str = field(default_factory=lambda: time.strftime("%H:%M:%S"))
    result: Any = None
    error: str = ""
    is_over: bool = False

    @property
    def number(self) -> int:
        """The number that its job has in this kernel."""
        return self.job.number

    @property
    def label(self) -> str:
        """The run in a few words, for a list to choose from."""
        took = f", {duration(self.job.elapsed_s)}" if self.job.done() else ""
        return f"{self.number}: {self.job.state}{took}, begun {self.began}"

    @property
    def numbers(self) -> Mapping[str, float]:
        """The numbers of a result that is a mapping, by name; of one that is a number, itself."""
        if isinstance(self.result, Mapping):
            pairs = ((str(name), _number(value)) for name, value in self.result.items())
            return {name: value for name, value in pairs if value is not None}
        alone = _number(self.result)
        return {} if alone is None else {"result": alone}

    def finish(self) -> None:
        """The job is over: fetch what came out."""
        try:
            if not self.job.cancelled():
                self.result = self.job.result()
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - whatever it was, the table says it
            if self.job.state != "stopped":
                self.error = next(iter(str(error).splitlines()), type(error).__name__)
        finally:
            self.is_over = True


def _number(value: Any) -> float | None:
    """A value as a number; tensors and numpy's numbers of one element too."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return None
    if isinstance(value, int | float):
        return float(value)
    item = getattr(value, "item", None)
    if item is None or getattr(value, "size", 1) == 0 or getattr(value, "ndim", 0) != 0:
        return None
    alone = item()
    return float(alone) if isinstance(alone, int | float) and not isinstance(alone, bool) else None


def duration(seconds: float) -> str:
    """A time in few characters: `0.8 s`, `2 min 05 s`, `1 h 02 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def cut(text: str, longest: int = _LONGEST) -> str:
    """A text of bounded length, in one line."""
    line = " ".join(text.split())
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def outcome(run: Run) -> str:
    """What came out, in a line."""
    if run.error:
        return run.error
    return "" if run.result is None else repr(run.result)


def columns(runs: Sequence[Run]) -> tuple[list[str], list[str], list[str]]:
    """Names that get a column: of parameters that some run was given, of settings, and of results' numbers."""
    parameters: dict[str, None] = {}
    settings: dict[str, None] = {}
    numbers: dict[str, None] = {}
    given = {name for run in runs for name in run.given}
    for run in runs:
        parameters.update(dict.fromkeys(name for name in run.parameters if name in given))
        settings.update(dict.fromkeys(run.settings))
        numbers.update(dict.fromkeys(run.numbers))
    return list(parameters), list(settings), list(numbers)[:MOST_COLUMNS]


def table(runs: Sequence[Run]) -> Html:
    """All runs, the newest first; what differs from the run before is marked by a sign.

    Args:
        runs: in the order in which they began.
    """
    parameters, settings, numbers = columns(runs)
    with_outcome = any(_needs_words(run) for run in runs)
    heads = ["run", "state", "began", "took", *parameters, *settings, *numbers, *(["result"] if with_outcome else [])]
    first_number = len(heads) - len(numbers) - with_outcome
    rows = []
    for run, before in zip(runs, [None, *runs], strict=False):
        took = duration(run.job.elapsed_s) if run.job.done() else ""
        cells = [f"{run.number}", badge(run.job.state, MOODS[run.job.state]), run.began, took]
        cells += [_cell(name, run.parameters, before.parameters if before else None) for name in parameters]
        cells += [_cell(name, run.settings, before.settings if before else None) for name in settings]
        cells += [short(run.numbers[name]) if name in run.numbers else "" for name in numbers]
        cells += [_outcome_cell(run)] if with_outcome else []
        rows.append(cells)
    body = html_table(heads, reversed(rows), numbers=[3, *range(first_number, first_number + len(numbers))])
    legend = quiet(f"{CHANGED} differs from the run before") if len(runs) > 1 else ""
    return joined([Html(f'<div style="overflow-x:auto">{body}</div>'), legend])


CHANGED = "\N{BLACK DIAMOND}"
_NONE = "\N{EN DASH}"


def _needs_words(run: Run) -> bool:
    """Whether its outcome is not told by numbers alone."""
    return bool(outcome(run)) and (bool(run.error) or not run.numbers)


def _cell(name: str, values: Mapping[str, str], before: Mapping[str, str] | None) -> Html:
    now = values.get(name)
    content: Html = quiet(_NONE) if now is None else code(cut(now, 28))
    if before is None or before.get(name) == now:
        return content
    return bold(joined([f"{CHANGED} ", content]))


def _outcome_cell(run: Run) -> Html:
    if not _needs_words(run):
        return Html()
    text = outcome(run)
    return Html(f'<span title="{told(cut(text, 400))}">{code(cut(text))}</span>')
