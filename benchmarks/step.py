"""What a training step costs over a bare torch loop: nbaccel beside Accelerate and Lightning Fabric, in one run.

    python benchmarks/step.py

One CPU process, one thread, Linear(16, 1), batch 4: so little work that the wrappers are what is measured.
"""

from __future__ import annotations

import gc
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, TensorDataset

ROUNDS = 200
STEPS = 50
BATCHES = 500

Measured = dict[str, list[float]]


def parts(optimizer_class: type[torch.optim.Optimizer]) -> tuple[Any, ...]:
    """A fresh model with optimizer and scheduler, and one batch."""
    torch.manual_seed(0)
    model = torch.nn.Linear(16, 1)
    optimizer = optimizer_class(model.parameters(), lr=1e-3)  # type: ignore[call-arg]
    return model, optimizer, LambdaLR(optimizer, lambda step: 0.999**step), torch.randn(4, 16), torch.randn(4, 1)


def bare_loop(optimizer_class: type[torch.optim.Optimizer]) -> Callable[[int], None]:
    model, optimizer, scheduler, x, y = parts(optimizer_class)

    def run(steps: int) -> None:
        for _ in range(steps):
            torch.nn.functional.mse_loss(model(x), y).backward()
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()

    return run


def accelerated_loop(accelerator: Any, optimizer_class: type[torch.optim.Optimizer]) -> Callable[[int], None]:
    model, optimizer, scheduler, x, y = parts(optimizer_class)
    model, optimizer, scheduler = accelerator.prepare(model, optimizer, scheduler)

    def run(steps: int) -> None:
        for _ in range(steps):
            with accelerator.accumulate(model):
                accelerator.backward(torch.nn.functional.mse_loss(model(x), y))
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()

    return run


def fabric_loop(fabric: Any, optimizer_class: type[torch.optim.Optimizer]) -> Callable[[int], None]:
    model, optimizer, scheduler, x, y = parts(optimizer_class)
    model, optimizer = fabric.setup(model, optimizer)

    def run(steps: int) -> None:
        for _ in range(steps):
            fabric.backward(torch.nn.functional.mse_loss(model(x), y))
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()

    return run


def optimizer_loop(optimizer: Any) -> Callable[[int], None]:
    def run(steps: int) -> None:
        for _ in range(steps):
            optimizer.step()

    return run


def optimizers(own: Any, peer: Any) -> dict[str, Callable[[int], None]]:
    """Each one's optimizer of a model without gradients: next to nothing but the wrapper."""
    return {
        "bare": optimizer_loop(parts(torch.optim.SGD)[1]),
        "nbaccel": optimizer_loop(own.prepare(*parts(torch.optim.SGD)[:2])[1]),
        "accelerate": optimizer_loop(peer.prepare(*parts(torch.optim.SGD)[:2])[1]),
    }


def loader() -> DataLoader[Any]:
    columns = torch.randn(BATCHES, 3)
    return DataLoader(TensorDataset(columns[:, 0], columns[:, 1], columns[:, 2]), batch_size=1)


def loader_loop(batches: Any) -> Callable[[int], None]:
    def run(steps: int) -> None:
        for _ in batches:
            pass

    return run


def gather_loop(gather: Callable[[Any], Any]) -> Callable[[int], None]:
    data = {"logits": torch.randn(4, 2), "labels": [torch.zeros(4), (torch.ones(4), torch.ones(4))]}

    def run(steps: int) -> None:
        for _ in range(steps):
            gather(data)

    return run


def measure(runs: dict[str, Callable[[int], None]], steps: int) -> Measured:
    """Microseconds per step in many short interleaved rounds, so that what else the machine does hits all alike."""
    times: Measured = {name: [] for name in runs}
    for run in runs.values():
        run(steps)
    gc.collect()
    gc.disable()
    for _ in range(ROUNDS):
        for name, run in runs.items():
            start = time.perf_counter()
            run(steps)
            times[name].append((time.perf_counter() - start) / steps * 1e6)
    gc.enable()
    return times


def rows(title: str, times: Measured) -> Iterator[str]:
    """One line per contender: median, what it adds to the bare loop in the same round, and the ratio."""
    for name, values in times.items():
        pairs = list(zip(values, times["bare"], strict=True))
        added = statistics.median(value - bare for value, bare in pairs)
        ratio = statistics.median(value / bare for value, bare in pairs)
        yield f"{title:<24}{name:<12}{statistics.median(values):>10.2f}{added:>+10.2f}{ratio:>9.2f}"


def main() -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    from accelerate import Accelerator as Peer
    from lightning_fabric import Fabric

    from nbaccel.runtime.accelerator import Accelerator

    own, peer, fabric = Accelerator(cpu=True), Peer(cpu=True), Fabric(accelerator="cpu")
    print(f"{'what':<24}{'who':<12}{'us':>10}{'added us':>10}{'ratio':>9}")
    for optimizer_class in (torch.optim.SGD, torch.optim.AdamW):
        loops = {
            "bare": bare_loop(optimizer_class),
            "nbaccel": accelerated_loop(own, optimizer_class),
            "accelerate": accelerated_loop(peer, optimizer_class),
            "fabric": fabric_loop(fabric, optimizer_class),
        }
        print(*rows(f"step, {optimizer_class.__name__}", measure(loops, STEPS)), sep="\n")
    print(*rows("optimizer.step", measure(optimizers(own, peer), STEPS)), sep="\n")
    loaders = {"bare": loader(), "nbaccel": own.prepare(loader()), "accelerate": peer.prepare(loader())}
    loops = {name: loader_loop(batches) for name, batches in loaders.items()}
    print(*rows("batch of 3 tensors", measure(loops, BATCHES)), sep="\n")
    loops = {"bare": gather_loop(lambda data: data), "nbaccel": gather_loop(own.gather)}
    loops["accelerate"] = gather_loop(peer.gather)
    print(*rows("gather, one process", measure(loops, STEPS)), sep="\n")


if __name__ == "__main__":
    main()
