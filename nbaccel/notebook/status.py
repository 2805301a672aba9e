"""What a session's ranks are and do, as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nbaccel.launch import zygote
from nbaccel.launch.session import LiveSession
from nbaccel.look import div, heading, joined, quiet, region, table

_HEADERS = ("rank", "pid", "device", "memory", "doing")


@dataclass(frozen=True)
class Status:
    """A session's state.

    Attributes:
        headline: the session in one line.
        rows: a row for each rank: rank, process id, device, memory of its own, what it does.
        names: names that live in the workers.
        left_out: modules that the zygote does not import ahead, and why.
    """

    headline: str
    rows: Sequence[tuple[str, ...]]
    names: Sequence[str] = ()
    left_out: Mapping[str, str] | None = None

    @classmethod
    def of(cls, live: LiveSession) -> Status:
        """Look at a session now."""
        rows = [
            (str(one.rank), str(one.pid or "-"), one.device, f"{one.memory_bytes / 2**20:.0f} MB", one.doing)
            for one in live.status()
        ]
        running = zygote.current()
        return cls(
            f"session: {live.plan.describe()}",
            rows,
            sorted(live.ledger.there()),
            running.left_out() if running is not None else None,
        )

    def _notes(self) -> list[str]:
        notes = [f"names in the workers: {', '.join(self.names)}"] if self.names else []
        if self.left_out:
            named = ", ".join(f"{name} ({why})" for name, why in self.left_out.items())
            notes.append(f"not imported ahead, workers import it themselves: {named}")
        return notes

    def __repr__(self) -> str:
        table = [_HEADERS, *self.rows]
        widths = [max(len(row[column]) for row in table) for column in range(len(_HEADERS))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table
        ]
        return "\n".join([self.headline, *lines, *self._notes()])

    def _repr_html_(self) -> str:
        notes = [div(quiet(note)) for note in self._notes()]
        return region(joined([heading(self.headline), table(_HEADERS, self.rows), *notes]), label="session")
