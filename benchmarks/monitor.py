"""What watching a run costs: the loop that logs, and the kernel that draws.

    python benchmarks/monitor.py [ranks] [seconds]

How it measures: a real kernel runs the same loop on `ranks` workers, first without and then with a monitor. In each
step a rank calls `accelerator.log` and then sleeps until the next thousandth of a second is due, as a device would keep
it waiting; as in Accelerate, the main rank's numbers are those that travel. The loop's cost is the processor time of
the worker's threads for each step, against one that logs nothing, as a share of the millisecond that a step has. The
kernel's cost is the processor time of its process, against a run without a monitor, as a share of one core. The budgets
are those that nbaccel was built to; nothing fails when one is missed.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "kernel"))

from harness import Kernel, running_kernel

SETUP = """
import time, resource
from nbaccel import notebook_launcher

def train(seconds, logs):
    from nbaccel import Accelerator
    accelerator = Accelerator()
    log = accelerator.log if logs else (lambda values, step: None)
    begun, used, step = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - begun < seconds:
        log({"train/loss": 1 / (step + 1), "lr": 1e-3}, step=step)
        step += 1
        ahead = begun + step / 1000 - time.perf_counter()
        if ahead > 0:
            time.sleep(ahead)
    return step, time.process_time() - used

def cost(monitor, logs=True):
    used = resource.getrusage(resource.RUSAGE_SELF)
    begun = time.perf_counter()
    ranks = notebook_launcher(train, (SECONDS, logs), num_processes=RANKS, monitor=monitor, return_all=True)
    took, now = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF)
    busy = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
    return took, busy, ranks

cost("always")  # the first one imports ipywidgets
"""


def measured(kernel: Kernel, monitor: str, *, logs: bool = True) -> tuple[float, float, list[tuple[int, float]]]:
    """Seconds that the run took, seconds of the kernel's processor time, steps and processor time of each rank."""
    text = kernel.ok(f"print(repr(cost({monitor!r}, {logs})))").text()
    took_s, busy_s, ranks = ast.literal_eval(text.strip().splitlines()[-1])
    return took_s, busy_s, ranks


def per_step_us(ranks: list[tuple[int, float]]) -> float:
    """Processor time of a step of the rank that logs."""
    steps, used_s = ranks[0]
    return used_s / steps * 1e6


def main() -> None:
    ranks = int(sys.argv[1]) if len(sys.argv) > 1 else 8
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 15.0
    with running_kernel(NBACCEL_MONITOR="never") as kernel:
        kernel.ok(f"RANKS, SECONDS = {ranks}, {seconds}\n{SETUP}")
        silent = measured(kernel, "never", logs=False)
        quiet = measured(kernel, "never")
        watched = measured(kernel, "always")
    print(f"{ranks} ranks, {watched[2][0][0] / seconds:.0f} log calls a second each, {seconds:.0f} s")
    print(f"a step of rank 0:   {per_step_us(silent[2]):6.1f} us without log, {per_step_us(watched[2]):.1f} us with it")
    loop = (per_step_us(watched[2]) - per_step_us(silent[2])) / 1000
    print(f"the training loop:  {loop:6.2%} of a step of 1 ms (budget 1%)")
    share = (watched[1] - quiet[1]) / watched[0]
    print(f"the kernel:         {share:6.2%} of a core for the monitor, {quiet[1] / quiet[0]:.2%} without (budget 5%)")


if __name__ == "__main__":
    main()
