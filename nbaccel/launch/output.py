"""Whose text and displays the cell shows, and how they are labelled. Pure: what ranks made in, what is shown out."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable

from nbaccel.launch.events import Rich
from nbaccel.wire.messages import Shown as RichOutput

HOLD_S = 0.3
"""How long a line of another rank waits for rank 0 to print the same, once rank 0 has fallen silent."""
LONGEST_HOLD_S = 2.0
"""How long it waits while rank 0 goes on printing."""
_REMEMBERED_LINES = 200_000

Shown = list[tuple[int, str] | Rich]
"""Pieces for the cell: stream (1 or 2) and text, or rich output."""


class Policy:
    """Shows the main rank alone; the base of the others."""

    def __init__(self, label: Callable[[int], str] = "[{}] ".format, main: int = 0) -> None:
        self._label, self._main = label, main

    def feed(self, rank: int, stream: int, text: str, now: float) -> Shown:
        """Text of a rank. Returns what the cell shows now."""
        return [(stream, text)] if rank == self._main else []

    def rich(self, rank: int, output: RichOutput, now: float) -> Shown:
        """Rich output of a rank. Returns what the cell shows now."""
        return [Rich(rank, output)] if rank == self._main or output.kind == "result" else []

    def tick(self, now: float) -> Shown:
        """What has waited long enough."""
        return []

    def finish(self) -> Shown:
        """What is left at the end."""
        return []

    def in_flood(self) -> Policy:
        """The policy for text of which the cell will show the end at most."""
        return self


class _Lines:
    """Cuts the text of one stream of one rank into lines; of a progress bar's states only the last one counts."""

    def __init__(self) -> None:
        self._rest = ""

    def feed(self, text: str) -> list[str]:
        *lines, self._rest = (self._rest + text).split("\n")
        self._rest = self._rest[max(0, self._rest[:-1].rfind("\r")) :]  # the mark of what was overwritten stays
        return [_last_state(line) for line in lines]

    def finish(self) -> list[str]:
        rest, self._rest = self._rest, ""
        return [f"{rest}\n"] if rest.strip() else []


def _last_state(line: str) -> str:
    """What is left of a line that a progress bar has overwritten."""
    _, overwritten, last = line.rstrip("\r").rpartition("\r")
    return f"{_OVERWRITTEN if overwritten else ''}{last}\n"


_OVERWRITTEN = "\r"


def _made(line: str) -> str:
    """What two ranks' lines are compared by: of a progress bar not its times and rates."""
    return line.partition("[")[0] if line.startswith(_OVERWRITTEN) else line


class All(Policy):
    """Shows every rank's lines, those of the others with a label."""

    def __init__(self, label: Callable[[int], str] = "[{}] ".format, main: int = 0) -> None:
        super().__init__(label, main)
        self._lines: dict[tuple[int, int], _Lines] = {}

    def feed(self, rank: int, stream: int, text: str, now: float) -> Shown:
        if rank == self._main:
            return [(stream, text)]
        lines = self._lines.setdefault((rank, stream), _Lines()).feed(text)
        return self._others(rank, stream, lines, now)

    def rich(self, rank: int, output: RichOutput, now: float) -> Shown:
        if rank == self._main or output.kind == "result":
            return [Rich(rank, output)]
        if output.kind == "clear":  # there is no clearing what one rank alone has shown
            return []
        return self._other_rich(rank, output, now)

    def _other_rich(self, rank: int, output: RichOutput, now: float) -> Shown:
        label: Shown = [(1, self._label(rank).rstrip() + "\n")] if output.kind == "display" else []
        return [*label, Rich(rank, output)]

    def finish(self) -> Shown:
        shown: Shown = []
        for (rank, stream), lines in self._lines.items():
            shown += self._others(rank, stream, lines.finish(), float("inf"))
        return shown

    def _others(self, rank: int, stream: int, lines: list[str], now: float) -> Shown:
        return [(stream, self._label(rank) + line.lstrip(_OVERWRITTEN)) for line in lines]


class Auto(All):
    """Shows rank 0 as it is, and of the other ranks the lines that rank 0 does not print too."""

    def __init__(self, label: Callable[[int], str] = "[{}] ".format, main: int = 0) -> None:
        super().__init__(label, main)
        self._of_main: dict[int, _Lines] = {1: _Lines(), 2: _Lines()}
        self._recent: deque[int] = deque(maxlen=_REMEMBERED_LINES)
        self._unmatched: dict[int, Counter[int]] = {}
        self._held: deque[tuple[float, int, str, Shown]] = deque()
        self._main_spoke = -1.0  # never

    def feed(self, rank: int, stream: int, text: str, now: float) -> Shown:
        if rank != self._main:
            return super().feed(rank, stream, text, now)
        self._main_spoke = now
        self._note(self._of_main[stream].feed(text))
        return [(stream, text)]

    def tick(self, now: float) -> Shown:
        shown: Shown = []
        while self._held and self._is_due(self._held[0][0], now):
            _, rank, made, as_shown = self._held.popleft()
            if not self._is_echo(rank, made):
                shown += as_shown
        return shown

    def finish(self) -> Shown:
        for lines in self._of_main.values():
            self._note(lines.finish())
        super().finish()
        return self.tick(float("inf"))

    def in_flood(self) -> Policy:
        """Finding out what the others print differently would take long, and no longer be seen."""
        return Policy(self._label, self._main)

    def _others(self, rank: int, stream: int, lines: list[str], now: float) -> Shown:
        since = 0.0 if now == float("inf") else now
        for line in lines:
            if line.strip() and not self._is_echo(rank, line):
                shown = (stream, self._label(rank) + line.lstrip(_OVERWRITTEN))
                self._held.append((since, rank, line, [shown]))
        return []

    def rich(self, rank: int, output: RichOutput, now: float) -> Shown:
        if rank == self._main and output.kind == "display":
            self._note([_key(output)])
        return super().rich(rank, output, now)

    def _other_rich(self, rank: int, output: RichOutput, now: float) -> Shown:
        if output.kind != "display" or not self._is_echo(rank, _key(output)):
            self._held.append((now, rank, _key(output), super()._other_rich(rank, output, now)))
        return []

    def _is_due(self, since: float, now: float) -> bool:
        """Before rank 0 has said its first word it may only be slow to start."""
        has_fallen_silent = self._main_spoke >= 0 and now >= max(since, self._main_spoke) + HOLD_S
        return has_fallen_silent or now >= since + LONGEST_HOLD_S

    def _note(self, lines: list[str]) -> None:
        for line in lines:
            key = hash(_made(line))
            self._recent.append(key)
            for unmatched in self._unmatched.values():
                unmatched[key] += 1
                if len(unmatched) > _REMEMBERED_LINES:
                    del unmatched[next(iter(unmatched))]

    def _is_echo(self, rank: int, line: str) -> bool:
        """Whether rank 0 has printed this line once more than this rank; counts it as matched then."""
        unmatched = self._unmatched[rank] if rank in self._unmatched else self._first_seen(rank)
        key = hash(_made(line))
        if key not in unmatched:
            return False
        unmatched[key] -= 1
        if not unmatched[key]:
            del unmatched[key]
        return True

    def _first_seen(self, rank: int) -> Counter[int]:
        self._unmatched[rank] = Counter(self._recent)
        return self._unmatched[rank]


def _key(output: RichOutput) -> str:
    """Equal for equal displays, and for no line of text."""
    return f"{output.kind}\0{sorted(output.data.items(), key=str)!r}"


def policy_for(mode: str, label: Callable[[int], str] | None = None, main: int = 0) -> Policy:
    """The policy that the configuration names: `auto`, `all` (also called `ranks`) or `main`.

    Args:
        mode: its name.
        label: makes the prefix of another rank's lines.
        main: the rank that is shown as it is; rank 0 unless a run leaves that out, or it is on another machine.
    """
    kinds: dict[str, type[Policy]] = {"auto": Auto, "all": All, "ranks": All, "main": Policy}
    return kinds[mode](main=main) if label is None else kinds[mode](label, main)
