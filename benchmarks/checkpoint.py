"""Saving the state of a training of about 1 GB, beside a bare save of the same tensors by safetensors and torch.

    python benchmarks/checkpoint.py [--mb 1000] [--rounds 5]

The bare save is measured as people write it, and once more with the data on the disk before it counts as done
(fsync), as nbaccel's is. Prints medians in seconds and ratios.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from nbaccel.runtime.accelerator import Accelerator
from nbaccel.runtime.checkpoint.checkpoints import Checkpoints, Numbering

WIDTH = 2048


def training(num_mb: int) -> tuple[Accelerator, torch.nn.Module, torch.optim.Optimizer]:
    """A model with AdamW: a third of the state is weights."""
    accelerator = Accelerator(cpu=True)
    layers = max(1, round(num_mb * 1e6 / 3 / (WIDTH * WIDTH * 4)))
    model = torch.nn.Sequential(*(torch.nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(layers)))
    optimizer = torch.optim.AdamW(model.parameters())
    model, optimizer = accelerator.prepare(model, optimizer)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    return accelerator, model, optimizer


def bare(model: torch.nn.Module, optimizer: torch.optim.Optimizer, folder: Path, *, sync: bool) -> None:
    folder.mkdir()
    save_file(model.state_dict(), folder / "model.safetensors")
    torch.save(optimizer.state_dict(), folder / "optimizer.bin")
    if sync:
        for path in folder.iterdir():
            with open(path, "rb") as stream:
                os.fsync(stream.fileno())


def timed(
    work: Callable[[Path], object], home: Path, after: Callable[[], object] = lambda: None
) -> tuple[float, float]:
    """Seconds until it returned, and until all was done."""
    folder = home / "state"
    shutil.rmtree(folder, ignore_errors=True)
    os.sync()
    started = time.perf_counter()
    work(folder)
    returned = time.perf_counter() - started
    after()
    return returned, time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--mb", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path)
    wish = parser.parse_args()
    accelerator, model, optimizer = training(wish.mb)
    checkpoints = Checkpoints(accelerator._runtime, accelerator._prepared, accelerator._accumulation, Numbering())
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(dir=wish.folder) as name:
        home = Path(name)
        for _ in range(wish.rounds + 1):  # the first one warms up
            times = {
                "bare": timed(lambda folder: bare(model, optimizer, folder, sync=False), home)[1],
                "bare, on the disk": timed(lambda folder: bare(model, optimizer, folder, sync=True), home)[1],
                "save_state": timed(checkpoints.save, home)[1],
            }
            blocked, whole = timed(
                lambda folder: checkpoints.save(folder, asynchronous=True), home, after=checkpoints.wait
            )
            times |= {"asynchronous, blocked": blocked, "asynchronous, whole": whole}
            for what, seconds in times.items():
                found.setdefault(what, []).append(seconds)
    medians = {what: statistics.median(seconds[1:]) for what, seconds in found.items()}
    print(f"{wish.mb} MB, {wish.rounds} rounds, medians in s; ratio to the bare save, and to the one on the disk")
    for what, seconds in medians.items():
        print(
            f"{what:24} {seconds:7.2f} {seconds / medians['bare']:6.2f} {seconds / medians['bare, on the disk']:6.2f}"
        )
    print(f"asynchronous blocks {medians['asynchronous, blocked'] / medians['save_state']:.2f} of save_state")


if __name__ == "__main__":
    main()
