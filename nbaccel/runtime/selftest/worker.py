"""Runs the checks one after the other, in step with the other workers, and notes what comes of them."""

from __future__ import annotations

import faulthandler
import math
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from nbaccel.plan import Topology
from nbaccel.runtime.selftest.checks import ALL, Bench, CheckError
from nbaccel.runtime.selftest.notes import BEGUN, FAILED, NEEDED, PASSED, Note, Wish, append, read, stacks_file

_PATIENCE_S = 5.0
"""How long a worker that has failed waits for the others: they may wait for it, in a collective operation."""
_MOST_LINES = 6
"""Of an error's text: torch adds pages of C++ frames to some."""
_ORPHANED_S = 150
"""Nobody watches any more if a check goes on for so long after its time."""

Check = Callable[[Bench], str]


def run_checks(folder: Path, place: Topology, checks: Mapping[str, Check] = ALL) -> int:
    """Run the checks of one worker.

    Args:
        folder: holds the wish, and gets the notes.
        place: which worker this is.
        checks: what to run, by name.

    Returns:
        An exit code: 0 if the worker came to the end, whatever its checks said.
    """
    wish = Wish.read(folder)
    bench = Bench(wish, folder, place)
    with stacks_file(folder, place.local_rank).open("w") as stacks:
        for name, check in checks.items():
            faulthandler.dump_traceback_later(wish.timeout_s, file=stacks)
            signal.alarm(math.ceil(wish.timeout_s) + _ORPHANED_S)
            passed = _run(name, check, bench)
            faulthandler.cancel_dump_traceback_later()
            states = _states_of_all(bench, name, wish.timeout_s if passed else min(_PATIENCE_S, wish.timeout_s))
            if len(states) < place.local_world_size or (name in NEEDED and FAILED in states):
                return 1
        signal.alarm(0)
    bench.close()
    return 0


def _run(name: str, check: Check, bench: Bench) -> bool:
    begun = time.monotonic()

    def note(state: str, text: str = "", is_finding: bool = False) -> None:
        now = time.monotonic()
        said = Note(bench.place.rank, name, state, text, now - begun, now, is_finding)
        append(bench.folder, bench.place.local_rank, said)

    note(BEGUN)
    try:
        text = check(bench)
    except CheckError as error:
        note(FAILED, str(error), is_finding=True)
        return False
    except Exception as error:  # noqa: BLE001  # whatever torch or a driver says is what the user must read
        note(FAILED, "\n".join(f"{type(error).__name__}: {error}".splitlines()[:_MOST_LINES]))
        return False
    note(PASSED, text)
    return True


def _states_of_all(bench: Bench, name: str, patience_s: float) -> list[str]:
    """How the check ended in all workers of this machine that come to its end in time, once all have begun it."""
    deadline = math.inf
    while True:
        said = [note for notes in read(bench.folder, bench.place.local_world_size).values() for note in notes]
        of_check = [note for note in said if note.check == name]
        ended = [note.state for note in of_check if note.state != BEGUN]
        if len(ended) == bench.place.local_world_size or time.monotonic() > deadline:
            return ended
        if len(of_check) - len(ended) == bench.place.local_world_size:
            deadline = min(deadline, time.monotonic() + patience_s)
        time.sleep(0.01)
