"""Kills a process that saves without pause, many times, and looks after each kill for a complete checkpoint.

    python benchmarks/kill_saves.py --kills 200

Half of the victims number their checkpoints (and keep two), half write over one folder. Every checkpoint that a
victim has reported must be found again, or a later one.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import signal
import tempfile
import time
import warnings
from pathlib import Path

import torch

from nbaccel.runtime.accelerator import Accelerator
from nbaccel.runtime.checkpoint.checkpoints import Checkpoints, Numbering

LONGEST_S = 0.4


def training(folder: Path, automatic: bool) -> tuple[torch.nn.Module, Checkpoints]:
    accelerator = Accelerator(cpu=True)
    model = accelerator.prepare(torch.nn.Linear(200, 200, bias=False))
    optimizer = accelerator.prepare(torch.optim.AdamW(model.parameters()))
    model(torch.ones(1, 200)).sum().backward()
    optimizer.step()
    numbering = Numbering(str(folder), automatic=automatic, limit=2)
    return model, Checkpoints(accelerator._runtime, accelerator._prepared, accelerator._accumulation, numbering)


def save_for_ever(folder: Path, automatic: bool, asynchronous: bool, last: int, report: int) -> None:
    model, checkpoints = training(folder, automatic)
    for count in itertools.count(last + 1):
        torch.nn.init.constant_(model.weight, float(count))
        checkpoints.save(None if automatic else folder / "state", asynchronous=asynchronous)
        if asynchronous:
            checkpoints.wait()
        os.write(report, f"{count}\n".encode())


def found_in(model: torch.nn.Module, checkpoints: Checkpoints, folder: Path, automatic: bool) -> int:
    """Number of the newest complete checkpoint; its values must be whole."""
    checkpoints.load(None if automatic else folder / "state")
    values = model.weight.unique()
    assert len(values) == 1, f"a torn model: {values}"
    return int(values)


def one_kill(number: int, folder: Path, last: int) -> int:
    """Start a victim, kill it, and return the last number that it has reported."""
    reader, writer = os.pipe()
    victim = os.fork()
    if not victim:
        try:
            save_for_ever(folder, number % 2 == 0, number % 4 > 1, last, writer)
        finally:
            os._exit(1)
    os.close(writer)
    with open(reader, "rb") as reports:
        first = reports.readline()
        assert first, "the victim ended before it had saved"
        time.sleep(random.random() * LONGEST_S)
        os.kill(victim, signal.SIGKILL)
        reported = [first, *reports]
    os.waitpid(victim, 0)
    return max(int(line) for line in reported if line.endswith(b"\n"))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--folder", type=Path)
    wish = parser.parse_args()
    torch.set_num_threads(1)  # a forked process cannot use the threads of its parent
    with tempfile.TemporaryDirectory() as spare:
        home = wish.folder or Path(spare)
        survivors = {automatic: training(home / str(automatic), automatic) for automatic in (True, False)}
        last = {True: 0, False: 0}
        damaged = 0
        for number in range(wish.kills):
            automatic = number % 2 == 0
            folder = home / str(automatic)
            reported = one_kill(number, folder, last[automatic])
            with warnings.catch_warnings(record=True) as notes:
                warnings.simplefilter("always")
                found = found_in(*survivors[automatic], folder, automatic)
            damaged += len([note for note in notes if "left out" in str(note.message)])
            assert found in (reported, reported + 1), f"kill {number}: reported {reported}, found {found}"
            last[automatic] = found
    saves = sum(last.values())
    print(f"{wish.kills} kills during {saves} saves: none lost, none torn, {damaged} incomplete ones left out")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
