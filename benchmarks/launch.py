"""How long a launch takes and what a worker weighs, beside the peers in the same run.

    python benchmarks/launch.py [rounds]

Each contender works in a Python process of its own that plays the kernel; rounds are interleaved, medians are shown.
The function that is launched makes a process group and adds up a tensor over two workers.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

WORKERS = 2


def all_reduce() -> float:
    import torch
    import torch.distributed as dist

    if not dist.is_initialized():
        dist.init_process_group("gloo")
    total = torch.ones(1)
    dist.all_reduce(total)
    return total.item()


def own_memory_mb() -> float:
    import torch  # noqa: F401 - so that a worker that shares nothing shows what it costs

    with open("/proc/self/smaps_rollup") as file:
        sizes = dict(line.split(":") for line in file if line.startswith("Private"))
    return sum(int(size.split()[0]) for size in sizes.values()) / 1024


def through_nbaccel(function: Callable[[], Any], **options: Any) -> list[Any]:
    from nbaccel import notebook_launcher

    return notebook_launcher(function, num_processes=WORKERS, return_all=True, **options)


def through_spawn(function: Callable[[], Any]) -> list[Any]:
    return through_nbaccel(function, start_method="spawn")


def through_accelerate(function: Callable[[], Any]) -> None:
    import signal

    from accelerate import notebook_launcher

    notebook_launcher(function, num_processes=WORKERS, use_port=str(free_port()))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)  # it leaves its own handlers behind


def through_torchrunx(function: Callable[[], Any]) -> list[Any]:
    import torchrunx

    launcher = torchrunx.Launcher(hostnames=["localhost"], workers_per_host=WORKERS, backend="gloo")
    return launcher.run(function).results["localhost"]


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


CONTENDERS: dict[str, Callable[[Callable[[], Any]], Any]] = {
    "nbaccel": through_nbaccel,
    "nbaccel, spawn": through_spawn,
    "accelerate": through_accelerate,
    "torchrunx": through_torchrunx,
}


# What is measured. Each runs in a process of its own and prints one JSON line.


def settle() -> None:
    """Let the zygote finish what it does in the background."""
    time.sleep(4)


def warm(contender: str, rounds: int, prepare: Callable[[], None] | None = None) -> list[float]:
    """Seconds of launches after a first one."""
    launch = CONTENDERS[contender]
    if prepare is not None:
        prepare()
    launch(all_reduce)
    if contender == "nbaccel":
        settle()
        launch(all_reduce)
    return [timed(lambda: launch(all_reduce)) for _ in range(rounds)]


def cold(contender: str, rounds: int) -> list[float]:
    """Seconds of the first launch in a process; one round."""
    return [timed(lambda: CONTENDERS[contender](all_reduce))]


def cold_after_load_ext(contender: str, rounds: int) -> list[float]:
    """Seconds of the first launch once `%load_ext` has had time to warm the zygote."""
    from nbaccel import launch
    from nbaccel.launch import call, job  # noqa: F401 - what the extension imports in the background

    launch.warm()
    settle()
    return cold(contender, rounds)


def after_threads(contender: str, rounds: int) -> list[float]:
    """Warm launches after the kernel has multiplied large matrices with several torch threads."""

    def multiply() -> None:
        import torch

        torch.set_num_threads(max(2, torch.get_num_threads()))
        (torch.randn(1500, 1500) @ torch.randn(1500, 1500)).exp().sum()

    return warm(contender, rounds, multiply)


def after_imports(contender: str, rounds: int) -> list[float]:
    """Warm launches of a function that uses sklearn and pandas, which the kernel has imported."""

    def imports() -> None:
        import pandas  # noqa: F401
        import sklearn.ensemble  # noqa: F401

    def use() -> float:
        import pandas
        import sklearn.ensemble

        assert pandas.DataFrame
        assert sklearn.ensemble
        return all_reduce()

    imports()
    launch = CONTENDERS[contender]
    launch(use)
    if contender == "nbaccel":
        settle()
        launch(use)
    return [timed(lambda: launch(use)) for _ in range(rounds)]


def with_gigabyte(contender: str, rounds: int) -> list[float]:
    """Warm launches of a function that captures a gigabyte."""
    import numpy as np

    big = np.ones(1 << 30, np.uint8)

    def use() -> int:
        return int(big[:: 1 << 20].sum())

    launch = CONTENDERS[contender]
    launch(use)
    return [timed(lambda: launch(use)) for _ in range(max(3, rounds // 4))]


def memory(contender: str, rounds: int) -> list[float]:
    """Megabytes that a worker has to itself."""
    launch = CONTENDERS[contender]
    launch(own_memory_mb)
    settle()
    return list(launch(own_memory_mb) or [])


def session_ready(contender: str, rounds: int) -> list[float]:
    """Seconds until ipyparallel's engines have added up a tensor."""
    import ipyparallel

    def first() -> None:
        cluster.start_and_connect_sync().broadcast_view(targets="all").apply_sync(import_torch)

    cluster = ipyparallel.Cluster(n=WORKERS, log_level=40)
    try:
        return [timed(first)]
    finally:
        cluster.stop_cluster_sync()


def import_torch() -> str:
    import torch

    return torch.__version__


def imports(contender: str, rounds: int) -> list[float]:
    """Seconds to import the package in a fresh interpreter."""
    code = f"import time; t = time.perf_counter(); import {contender}; print(time.perf_counter() - t)"
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(5)]
    return [float(run.stdout) for run in runs]


def load_ext(contender: str, rounds: int) -> list[float]:
    """Seconds of `%load_ext nbaccel` in IPython."""
    code = (
        "import time; from IPython.core.interactiveshell import InteractiveShell as S; s = S.instance();"
        "t = time.perf_counter(); s.run_line_magic('load_ext', 'nbaccel'); print(time.perf_counter() - t)"
    )
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(5)]
    return [float(run.stdout.split()[-1]) for run in runs]


TABLE: list[tuple[str, str, Callable[[str, int], list[float]], list[str]]] = [
    ("warm launch and all-reduce", "s", warm, ["nbaccel", "accelerate", "nbaccel, spawn", "torchrunx"]),
    ("the same after torch threads ran", "s", after_threads, ["nbaccel", "accelerate"]),
    ("the same using sklearn and pandas", "s", after_imports, ["nbaccel", "accelerate"]),
    ("warm launch capturing 1 GB", "s", with_gigabyte, ["nbaccel", "accelerate"]),
    ("first launch in a process", "s", cold, ["nbaccel", "accelerate", "nbaccel, spawn", "torchrunx"]),
    ("first launch after %load_ext", "s", cold_after_load_ext, ["nbaccel"]),
    ("first engines ready", "s", session_ready, ["ipyparallel"]),
    ("own memory of a worker", "MB", memory, ["nbaccel", "nbaccel, spawn", "torchrunx"]),
    ("import", "s", imports, ["nbaccel", "accelerate"]),
    ("%load_ext", "s", load_ext, ["nbaccel"]),
]
SLOW = ("nbaccel, spawn", "torchrunx")
PATIENCE_S = 120


def timed(run: Callable[[], Any]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


@contextmanager
def quiet() -> Iterator[None]:
    """Workers' words do not belong into the table."""
    kept = os.dup(1)
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 1)
        try:
            yield
        finally:
            os.dup2(kept, 1)


def measure(what: str, contender: str, rounds: int) -> list[float] | None:
    """Run one measurement in a process of its own; None if it does not end."""
    command = [sys.executable, os.path.abspath(__file__), "--one", what, contender, str(rounds)]
    try:
        with tempfile.TemporaryDirectory() as folder:  # a contender leaves its logs where it runs
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=PATIENCE_S, start_new_session=True, cwd=folder
            )
    except subprocess.TimeoutExpired:
        return None
    if done.returncode:
        raise SystemExit(f"{what} of {contender} failed:\n{done.stderr}")
    return list(json.loads(done.stdout.splitlines()[-1]))


def main(rounds: int) -> None:
    print(f"{os.cpu_count()} cores, {WORKERS} workers, medians of {rounds} rounds (3 of the slow ones)\n")
    print(f"{'':36}{'median':>10}{'worst':>10}   to nbaccel")
    for title, unit, what, contenders in TABLE:
        print(title)
        reference = None
        for contender in contenders:
            values = measure(what.__name__, contender, 3 if contender in SLOW else rounds)
            if not values:
                print(f"    {contender:32}{'hangs':>10}")
                continue
            median = statistics.median(values)
            reference = reference or median
            row = f"    {contender:32}{median:9.3f}{unit:>3}{max(values):8.3f}"
            print(f"{row}   {median / reference:8.1f} x", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        with quiet():
            outcome = globals()[sys.argv[2]](sys.argv[3], int(sys.argv[4]))
        print(json.dumps(outcome))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
