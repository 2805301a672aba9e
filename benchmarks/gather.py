"""Time of gathering a nested structure of 20 tensors on two gloo processes, beside Accelerate's: at most half of it."""

from __future__ import annotations

import importlib
import os
import socket
import statistics
import subprocess
import sys
import time

ROUNDS = 200


def measure(package: str) -> float:
    """Median seconds of one gather; runs in each rank."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    accelerator = importlib.import_module(package).Accelerator(cpu=True)
    data = {
        str(number): [torch.randn(8, 4), {"label": torch.randn(8)}, torch.arange(8), torch.tensor(1.0)]
        for number in range(5)
    }
    times = []
    for _ in range(ROUNDS):
        dist.barrier()
        started = time.perf_counter()
        accelerator.gather(data)
        times.append(time.perf_counter() - started)
    dist.barrier()
    dist.destroy_process_group()
    return statistics.median(times[ROUNDS // 10 :])


def run(package: str) -> float:
    """Median seconds on two processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    ranks = []
    for rank in ("0", "1"):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
        environment = {**os.environ, **place, **meeting, "ACCELERATE_USE_CPU": "true"}
        command = [sys.executable, "-W", "ignore", __file__, package]
        ranks.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    return max(float(rank.communicate(timeout=120)[0].splitlines()[-1]) for rank in ranks)


def main() -> None:
    if len(sys.argv) > 1:
        print(measure(sys.argv[1]))
        return
    ours, theirs = run("nbaccel"), run("accelerate")
    print(f"gather of 20 tensors: nbaccel {ours * 1e3:.2f} ms, Accelerate {theirs * 1e3:.2f} ms, {ours / theirs:.2f} x")


if __name__ == "__main__":
    main()
