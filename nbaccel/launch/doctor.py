"""The hang doctor: what each rank does just now, who waits in which collective, and who is missing there.

The stacks come from a signal handler in C, so that they can be had while C code holds the interpreter; what a rank
knows of its collectives comes from its monitor thread, which such a rank cannot run.
"""

from __future__ import annotations

import html
import linecache
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from nbaccel.errors import name_ranks
from nbaccel.launch.run import Run
from nbaccel.launch.worker import Worker
from nbaccel.wire.messages import Collective, Examine, Examined

_PATIENCE_S = 1.0
_MOST_FRAMES = 6
_FRAME = re.compile(r'^  File "(?P<file>.*)", line (?P<line>\d+) in (?P<name>.*)$')
_MACHINERY = ("/nbaccel/", "/IPython/core/", "/torch/distributed/", "/torch/utils/_contextlib.py")


@dataclass(frozen=True)
class Frame:
    """One level of a stack."""

    file: str
    line: int
    name: str

    def text(self, sources: Mapping[str, Sequence[str]]) -> str:
        """In one line, with its source where that is known."""
        lines = sources.get(self.file) or linecache.getlines(self.file)
        source = lines[self.line - 1].strip() if 0 < self.line <= len(lines) else ""
        return f"{_short(self.file)}, line {self.line}, in {self.name}{f':  {source}' if source else ''}"


def _short(file: str) -> str:
    """The end of a path; a cell has no path worth reading."""
    if file.startswith("<ipython-input-") or "ipykernel_" in file:
        return "cell"
    return "/".join(file.split("/")[-3:]) if "site-packages" in file else file


def user_frames(stacks: str) -> list[Frame]:
    """The user's part of the main thread's stack, innermost first, out of what faulthandler wrote."""
    for thread in re.split(r"^(?=(?:Current thread|Thread|Stack) )", stacks, flags=re.MULTILINE):
        frames = [Frame(m["file"], int(m["line"]), m["name"]) for m in map(_FRAME.match, thread.splitlines()) if m]
        if any(frame.file.endswith(("worker/bootstrap.py", "worker/zygote.py", "worker/fresh.py")) for frame in frames):
            return [frame for frame in _above_machinery(frames) if not any(word in frame.file for word in _MACHINERY)]
    return []


def _above_machinery(frames: list[Frame]) -> list[Frame]:
    """Up to where a worker's loop has called the user's code."""
    for number, frame in enumerate(frames):
        if frame.file.endswith(("worker/execute.py", "worker/serve.py")) or frame.name in ("run_code", "run_ast_nodes"):
            return frames[:number]
    return frames


@dataclass(frozen=True)
class RankReport:
    """What one rank does.

    Attributes:
        rank: the rank.
        frames: the user's part of its main thread's stack, innermost first; empty when it runs nothing.
        examined: its collectives; None when its interpreter did not answer.
        busy: whether it runs something.
        finished: whether it has done its part of what others still run.
    """

    rank: int
    frames: tuple[Frame, ...]
    examined: Examined | None
    busy: bool = True
    finished: bool = False

    def waits(self) -> Collective | None:
        """The collective that it has waited in longest."""
        waits = self.examined.waits if self.examined is not None else ()
        return max(waits, key=lambda one: one.waited_s, default=None)


@dataclass(frozen=True, repr=False)
class Report:
    """What all ranks do."""

    ranks: tuple[RankReport, ...]
    sources: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def text(self) -> str:
        """A few lines for each rank, after a conclusion if there is one."""
        lines = [*self.conclusions(), ""] if self.conclusions() else []
        for rank in self.ranks:
            lines.append(f"rank {rank.rank} {self._doing(rank)}")
            lines += [f"    {frame.text(self.sources)}" for frame in rank.frames[:_MOST_FRAMES]]
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self.text())}</pre>"

    def conclusions(self) -> list[str]:
        """Who waits for whom."""
        waiting = {rank.rank: wait for rank in self.ranks if (wait := rank.waits()) is not None}
        if not waiting:
            return []
        group = Counter(wait.group for wait in waiting.values()).most_common(1)[0][0]
        here = {rank: wait for rank, wait in waiting.items() if wait.group == group}
        kinds = {(wait.name, wait.number, wait.shapes) for wait in here.values()}
        if len(kinds) > 1:
            called = "; ".join(f"rank {rank}: {_named(wait)}" for rank, wait in sorted(here.items()))
            return [f"the ranks are in different collectives: {called}"]
        wait = next(iter(here.values()))
        missing = [rank.rank for rank in self.ranks if rank.rank not in here]
        said = f"{name_ranks(list(here))} wait{'s' if len(here) == 1 else ''} in {_named(wait)}"
        if not missing:
            return [f"{said}: it is slow, or the connection is lost"]
        have = "has" if len(missing) == 1 else "have"
        if all(rank.finished for rank in self.ranks if rank.rank in missing):
            return [f"{said}; {name_ranks(missing)} {have} finished without calling it"]
        return [f"{said}; {name_ranks(missing)} {have} not called it"]

    def _doing(self, rank: RankReport) -> str:
        wait = rank.waits()
        if wait is not None:
            return f"waits in {_named(wait)} for {wait.waited_s:.0f} s"
        if not rank.busy:
            return "has finished" if rank.finished else "is idle"
        if rank.examined is None:
            return "is in C code that holds the interpreter" if rank.frames else "does not answer"
        last = max(rank.examined.completed.values(), default=0)
        return f"runs{f' (its last collective was #{last})' if last > 0 else ''}"


def _named(wait: Collective) -> str:
    shapes = ", ".join("x".join(map(str, shape)) or "scalar" for shape in wait.shapes[:3])
    return f"{wait.name} #{wait.number}{f' of {shapes}' if shapes else ''}"


class Examination:
    """Asks all ranks, and waits a moment for what they answer. Belongs to the team's thread."""

    def __init__(self, workers: Sequence[Worker], busy: Mapping[int, Run], now: float) -> None:
        self._workers = [worker for worker in workers if not worker.exited]
        self._finished = frozenset(rank for rank, run in busy.items() if run.answered(rank))
        self._busy = frozenset(busy) - self._finished
        self._deadline = now + _PATIENCE_S
        self._examined: dict[int, Examined] = {}
        self._seen: dict[int, str] = {}
        self.then: list[Callable[[Report], None]] = []
        for worker in self._workers:
            worker.tell_monitor(Examine())
            worker.request_stacks()

    def note(self, rank: int, answer: Examined) -> None:
        self._examined[rank] = answer

    def is_ready(self, now: float) -> bool:
        """Whether all have answered and written their stacks to the end, or it has taken too long."""
        before, self._seen = self._seen, {worker.rank: worker.stacks() for worker in self._workers}
        settled = before == self._seen and all(self._seen.values())
        return now > self._deadline or (settled and len(self._examined) == len(self._workers))

    def finish(self) -> None:
        """Report what is known to all who asked."""
        ranks = tuple(
            RankReport(
                rank=worker.rank,
                frames=tuple(user_frames(worker.stacks())) if worker.rank in self._busy else (),
                examined=self._examined.get(worker.rank),
                busy=worker.rank in self._busy,
                finished=worker.rank in self._finished,
            )
            for worker in self._workers
        )
        sources = {file: lines for answer in self._examined.values() for file, lines in answer.sources.items()}
        for then in self.then:
            then(Report(ranks, sources))
