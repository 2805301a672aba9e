"""What crosses between `nbaccel test` and its workers: a wish in one file, notes in a file of each worker. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

CHECKS = ("devices", "collectives", "precision", "training step", "data loader", "checkpoint", "random numbers")
"""Names of the checks, in their order."""

NEEDED = frozenset({"devices", "collectives"})
"""Checks without which no later one can work."""

BEGUN, PASSED, FAILED = "begun", "passed", "failed"


@dataclass(frozen=True)
class Wish:
    """What the workers find if all is well.

    Attributes:
        world_size: number of processes.
        device: kind of the device of each.
        mixed_precision: the configured word.
        autocast_dtype: torch's name of the number format of a product under autocast.
        seed: the configured seed, None where there is none.
        timeout_s: how long one check may take.
    """

    world_size: int
    device: str
    mixed_precision: str
    autocast_dtype: str
    seed: int | None
    timeout_s: float

    def write(self, folder: Path) -> None:
        (folder / _WISH).write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, folder: Path) -> Wish:
        return cls(**json.loads((folder / _WISH).read_text()))


@dataclass(frozen=True)
class Note:
    """What a worker says about one check.

    Attributes:
        rank: its number among all processes.
        check: name of the check.
        state: `begun`, `passed` or `failed`.
        text: what was seen.
        seconds: how long it took.
        time_s: monotonic time of the note; comparable between processes of one machine.
        is_finding: whether a check found what is wrong; else something raised an error.
    """

    rank: int
    check: str
    state: str
    text: str
    seconds: float
    time_s: float
    is_finding: bool = False


def append(folder: Path, worker: int, note: Note) -> None:
    """Add a note to the file of this machine's worker of that number."""
    with _file_of(folder, worker).open("a") as file:
        file.write(json.dumps(asdict(note)) + "\n")


def read(folder: Path, workers: int) -> Mapping[int, Sequence[Note]]:
    """The notes of each of this machine's workers; a line that is still being written is left for the next time."""
    return {worker: _notes_in(_file_of(folder, worker)) for worker in range(workers)}


def stacks_file(folder: Path, worker: int) -> Path:
    """Where a worker's stacks are written when a check takes too long."""
    return folder / f"worker{worker}.stacks"


def _notes_in(file: Path) -> list[Note]:
    if not file.exists():
        return []
    lines = file.read_text().splitlines(keepends=True)
    return [Note(**json.loads(line)) for line in lines if line.endswith("\n")]


def _file_of(folder: Path, worker: int) -> Path:
    return folder / f"worker{worker}.jsonl"


_WISH = "wish.json"
