"""What a step costs over bare DDP on two processes: nbaccel beside Accelerate, in the same workers, in turns.

    python benchmarks/ddp.py

Four linear layers of 512, batch 64 per process, gloo on the CPU. Prints medians in microseconds and ratios.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

from nbaccel import notebook_launcher

ROUNDS = 60
STEPS = 10
WIDTH, BATCH = 512, 64


def measure() -> dict[str, list[float]]:
    """Microseconds per step on rank 0, by contender and round."""
    import torch
    from accelerate import Accelerator as Peer
    from torch.nn.parallel import DistributedDataParallel

    from nbaccel import Accelerator

    warnings.filterwarnings("ignore")
    x, y = torch.randn(BATCH, WIDTH), torch.randn(BATCH, WIDTH)

    def parts() -> tuple[Any, Any]:
        torch.manual_seed(0)
        model = torch.nn.Sequential(*(torch.nn.Linear(WIDTH, WIDTH) for _ in range(4)))
        return model, torch.optim.SGD(model.parameters(), lr=1e-3)

    def bare() -> Callable[[], None]:
        model, optimizer = parts()
        wrapped = DistributedDataParallel(model)

        def step() -> None:
            torch.nn.functional.mse_loss(wrapped(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()

        return step

    def accelerated(accelerator: Any) -> Callable[[], None]:
        model, optimizer = accelerator.prepare(*parts())

        def step() -> None:
            with accelerator.accumulate(model):
                accelerator.backward(torch.nn.functional.mse_loss(model(x), y))
                optimizer.step()
                optimizer.zero_grad()

        return step

    own = Accelerator(cpu=True)
    steps = {"bare DDP": bare(), "nbaccel": accelerated(own), "accelerate": accelerated(Peer(cpu=True))}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(ROUNDS + 5):
        for name, step in steps.items():
            own.wait_for_everyone()
            start = time.perf_counter()
            for _ in range(STEPS):
                step()
            if number >= 5:
                times[name].append((time.perf_counter() - start) / STEPS * 1e6)
    return times


def main() -> None:
    times = notebook_launcher(measure, num_processes=2)
    bare = times["bare DDP"]
    print(f"{'two processes':<16}{'us a step':>12}{'ratio':>9}")
    for name, values in times.items():
        ratio = statistics.median(value / one for value, one in zip(values, bare, strict=True))
        print(f"{name:<16}{statistics.median(values):>12.0f}{ratio:>9.3f}")


if __name__ == "__main__":
    main()
