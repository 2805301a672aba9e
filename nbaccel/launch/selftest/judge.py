"""What the workers' notes mean. Pure: values in, values out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from nbaccel.errors import describe_exit, name_ranks
from nbaccel.launch.selftest.report import START, Result
from nbaccel.runtime.selftest.notes import BEGUN, FAILED, PASSED, Note

Said = Mapping[int, Sequence[Note]]
"""The notes of each of this machine's workers."""

START_LIMIT_S = 120.0
"""Importing torch may take a minute where the disk is slow."""

_AT_ONCE_S = 1.0
"""Errors of several ranks within this time have a cause in common; a later one mostly follows from the first."""


def finished(check: str, said: Said, begun_s: float) -> Result | None:
    """What came of a check that all workers have brought to an end, None while one of them has not.

    Args:
        check: its name.
        said: the notes so far.
        begun_s: when the workers were started, in monotonic time.
    """
    if check == START:
        first = [notes[0].time_s - begun_s for notes in said.values() if notes]
        text = f"{len(said)} worker{'s' if len(said) > 1 else ''}"
        return Result(START, PASSED, max(first), text) if len(first) == len(said) else None
    ended = _ends(check, said)
    if len(ended) < len(said):
        return None
    seconds = max(note.seconds for note in ended)
    if any(note.state == FAILED for note in ended):
        return Result(check, FAILED, seconds, _failures(ended))
    return Result(check, PASSED, seconds, "\n".join(_merged({note.rank: note.text for note in ended if note.text})))


def unfinished(checks: Sequence[str], said: Said, reason: str, remedy: str, seconds: float) -> list[Result]:
    """What there is to say of the checks that not all workers have brought to an end.

    Args:
        checks: their names, in order.
        said: all notes.
        reason: why no more will come: who died, or hangs; empty if the workers ended on their own.
        remedy: what to do about that.
        seconds: since when nothing has come.
    """
    results = []
    for number, check in enumerate(checks):
        told = reason if number == 0 else ""
        text = "\n".join(filter(None, [told, _failures(_ends(check, said), culprit_known=bool(reason))]))
        results.append(Result(check, FAILED, seconds, text, remedy if told else "") if text else Result(check))
    return results


def _ends(check: str, said: Said) -> list[Note]:
    return [note for notes in said.values() for note in notes if note.check == check and note.state != BEGUN]


def _failures(ended: Sequence[Note], *, culprit_known: bool = False) -> str:
    """Who failed how; what only followed from it is not told in full."""
    failed = sorted((note for note in ended if note.state == FAILED), key=lambda note: note.time_s)
    if not failed:
        return ""
    limit_s = failed[0].time_s + _AT_ONCE_S
    followed = [note for note in failed if not note.is_finding and (culprit_known or note.time_s > limit_s)]
    told = {note.rank: note.text for note in failed if note not in followed}
    lines = _merged(told, always_named=True)
    if followed:
        lines.append(f"{name_ranks([note.rank for note in followed])} failed because of that")
    return "\n".join(lines)


def _merged(texts: Mapping[int, str], *, always_named: bool = False) -> list[str]:
    """Texts of ranks, equal ones once."""
    ranks: dict[str, list[int]] = {}
    for rank, text in texts.items():
        ranks.setdefault(text, []).append(rank)
    if len(ranks) == 1 and not always_named:
        return list(ranks)
    return [f"{name_ranks(same)}: {text}" for text, same in ranks.items()]


def late_workers(said: Said, now_s: float, begun_s: float, timeout_s: float) -> list[int]:
    """This machine's workers that have been at one check, or at coming to life, for too long."""
    late = []
    for worker, notes in said.items():
        since, limit = (notes[-1].time_s, timeout_s) if notes else (begun_s, max(START_LIMIT_S, timeout_s))
        is_at_work = not notes or notes[-1].state == BEGUN
        if is_at_work and now_s - since > limit:
            late.append(worker)
    return late


_FRAME = re.compile(r'^  File "(?P<file>.*)", line (?P<line>\d+) in (?P<name>.*)$', re.MULTILINE)
_IN_TORCH = "/torch/distributed/"
_IN_CHECKS = "/selftest/checks.py"


def why_late(stacks: Mapping[int, str], timeout_s: float) -> str:
    """Which ranks hang, and which only wait for them.

    Args:
        stacks: by rank what faulthandler wrote of its threads, the innermost frames first.
        timeout_s: how long they had.
    """
    frames = {rank: _checking_thread(text) for rank, text in stacks.items()}
    waiting = {rank: found[0]["name"] for rank, found in frames.items() if found and _IN_TORCH in found[0]["file"]}
    hanging = [rank for rank in frames if rank not in waiting]
    lines = [f"rank {rank} came to no end within {timeout_s:g} s{_where(frames[rank])}" for rank in hanging]
    if waiting:
        operations = ", ".join(sorted(set(waiting.values())))
        said = f"{name_ranks(list(waiting))} wait{'s' if len(waiting) == 1 else ''} in {operations}"
        lines.append(said if hanging else f"{said} since {timeout_s:g} s: the ranks do not reach each other")
    return "\n".join(lines)


def _checking_thread(text: str) -> list[re.Match[str]]:
    """The frames of the thread that runs the checks."""
    threads = re.split(r"^(?=(?:Current thread|Thread) )", text, flags=re.MULTILINE)
    return list(_FRAME.finditer(next((thread for thread in threads if _IN_CHECKS in thread), "")))


def _where(frames: Sequence[re.Match[str]]) -> str:
    """The innermost frame, and the check that has led there."""
    if not frames:
        return ""
    outermost = [frame for frame in frames if _IN_CHECKS in frame["file"]][-1]
    innermost = frames[0]
    return f": {outermost['name']} has led to {innermost['name']} ({innermost['file']}:{innermost['line']})"


_ROOT_CAUSE = re.compile(r"Root Cause.*?rank\s*:\s*(\d+).*?exitcode\s*:\s*(-?\d+)", re.DOTALL)
_OF_THE_LAUNCHER = re.compile(r"^[A-Z]\d{4} .*torch/distributed/elastic/", re.MULTILINE)


def why_over(output: str, said: Said) -> str:
    """Who ended before its time: as torch's launcher reports it, else who was last at work. Empty if nobody did.

    Args:
        output: what the launcher and its workers printed.
        said: all notes.
    """
    found = _ROOT_CAUSE.search(output)
    silent = {
        notes[-1].rank if notes else worker for worker, notes in said.items() if not notes or notes[-1].state == BEGUN
    }
    if found is not None and int(found[1]) in silent:
        return f"rank {found[1]} {describe_exit(int(found[2]))}"
    failed = any(note.state == FAILED for notes in said.values() for note in notes)
    if not silent or failed:
        return ""
    return (
        f"{name_ranks(list(silent))} ended without a word" if any(said.values()) else "the workers never came to life"
    )


def of_the_workers(output: str, most_lines: int) -> str:
    """The last lines that the workers printed, without what torch's launcher says of their ends."""
    begin = _OF_THE_LAUNCHER.search(output)
    own = output[: begin.start()] if begin is not None else output
    return "\n".join(own.rstrip().splitlines()[-most_lines:])
