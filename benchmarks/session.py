"""What sessions, output, restarts and many launches cost, beside ipyparallel and a bare zygote in the same run.

    python benchmarks/session.py [rounds]

How it measures: each line comes from a process of its own that plays the kernel, in a folder of its own that is removed
afterwards with all logs. The two magics and the restarts run in real kernels; the magics are timed inside of theirs.
Medians and worst cases of `rounds` are shown (ten times as many of what takes milliseconds, three of what takes
seconds), each after a first one that is not counted. Figures of one block are compared as nbaccel's to the other's.
Of a million lines, nbaccel hands the first and last ones to the standard output that collects them and writes all to a
file; ipyparallel collects all. The bare zygote is multiprocessing's fork server with torch preloaded: its eight
processes do nothing, where nbaccel's workers have pipes, channels, an environment and generators to set up.
The budgets are those that nbaccel was built to; nothing fails when one is missed.
"""

from __future__ import annotations

import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch import WORKERS, all_reduce, quiet, settle, timed

MANY_WORKERS = 8
BIG_BYTES = 256 << 20
LINES = 1_000_000
LAUNCHES = 50
FEW = 3
PATIENCE_S = 90


# What runs on the workers.


def nothing() -> None:
    pass


def print_lines() -> None:
    for number in range(LINES):
        print("step", number)


def wait_for_a_peer() -> None:
    all_reduce()
    print("running", flush=True)
    if os.environ["RANK"] != "0":
        time.sleep(600)
    all_reduce()


# Round trips. Each of these functions runs in a process of its own and returns seconds, or lines per second.


def times(rounds: int, run: Callable[[], Any]) -> list[float]:
    """Seconds of some runs after a first one."""
    run()
    return [timed(run) for _ in range(rounds)]


@contextmanager
def engines(count: int = WORKERS) -> Iterator[Any]:
    """A view of all engines of an ipyparallel cluster."""
    import ipyparallel

    cluster = ipyparallel.Cluster(n=count, log_level=40)
    try:
        yield cluster.start_and_connect_sync()[:]
    finally:
        cluster.stop_cluster_sync()


def function_in_session(rounds: int) -> list[float]:
    from nbaccel import Session

    with Session(WORKERS) as session:
        return times(10 * rounds, lambda: session.run(nothing))


def function_in_engines(rounds: int) -> list[float]:
    with engines() as view:
        return times(10 * rounds, lambda: view.apply_sync(nothing))


def execute_in_engines(rounds: int) -> list[float]:
    with engines() as view:
        return times(10 * rounds, lambda: view.execute("pass", block=True))


def cell_in_session(rounds: int) -> list[float]:
    with kernel() as run:
        run(f"%load_ext nbaccel\n%accelerate start -n {WORKERS}")
        return run_magic(run, "accelerate", "", 10 * rounds)


def cell_in_engines(rounds: int) -> list[float]:
    with kernel() as run:
        run(f"import ipyparallel\ncluster = ipyparallel.Cluster(n={WORKERS}, log_level=40)")
        run("cluster.start_and_connect_sync()[:].activate()")
        try:
            return run_magic(run, "px", "--block", 10 * rounds)
        finally:
            run("cluster.stop_cluster_sync()")


def run_magic(run: Callable[[str], str], magic: str, line: str, rounds: int) -> list[float]:
    """Times an empty cell inside a kernel."""
    run(f"import sys\nsys.path.append({str(Path(__file__).parent)!r})\nimport json, session")
    timing = f"session.times({rounds}, lambda: get_ipython().run_cell_magic({magic!r}, {line!r}, 'pass'))"
    return list(json.loads(run(f"print(json.dumps({timing}))").splitlines()[-1]))


@contextmanager
def kernel() -> Iterator[Callable[[str], str]]:
    """A real kernel; what is given runs a cell in it and returns what that printed."""
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel()
    try:
        yield lambda code: printed(client, code)
    finally:
        client.stop_channels()
        manager.shutdown_kernel()
        manager.cleanup_resources()


def printed(client: Any, code: str) -> str:
    texts: list[str] = []

    def take(message: dict[str, Any]) -> None:
        texts.append(message["content"].get("text", ""))

    reply = client.execute_interactive(code, output_hook=take, timeout=PATIENCE_S)["content"]
    if reply["status"] != "ok":
        raise RuntimeError(f"{reply['ename']}: {reply['evalue']}")
    return "".join(texts)


# Data and text.


def push_to_session(rounds: int) -> list[float]:
    import numpy as np

    from nbaccel import Session

    big = np.ones(BIG_BYTES, np.uint8)
    with Session(WORKERS) as session:
        taken = times(FEW, lambda: session.push(big=big))
        assert session.run(size_of_big, return_all=True) == [BIG_BYTES] * WORKERS
    return taken


def size_of_big() -> int:
    return int(sys.modules["__main__"].big.sum())


def push_to_engines(rounds: int) -> list[float]:
    import numpy as np

    big = np.ones(BIG_BYTES, np.uint8)
    with engines() as view:
        taken = times(FEW, lambda: view.push({"big": big}, block=True))
        assert view["int(big.sum())"] == [BIG_BYTES] * WORKERS
    return taken


def lines_of_rank(rounds: int) -> list[float]:
    from nbaccel import notebook_launcher

    def launch() -> float:
        shown = io.StringIO()
        with redirect_stdout(shown):
            taken = timed(lambda: notebook_launcher(print_lines, num_processes=1, output="main"))
        assert shown.getvalue().endswith(f"step {LINES - 1}\n")
        return taken

    notebook_launcher(nothing, num_processes=1)
    return [LINES / launch() for _ in range(FEW)]


def lines_of_engine(rounds: int) -> list[float]:
    code = f"for number in range({LINES}): print('step', number)"
    with engines(1) as view:

        def run() -> None:
            result = view.execute(code, block=True)
            result.wait_for_output()
            assert result.stdout[0].endswith(f"step {LINES - 1}\n")

        view.execute("pass", block=True)
        return [LINES / timed(run)]


# Launches, restarts, stops.


def launch_of_many(rounds: int) -> list[float]:
    from nbaccel import notebook_launcher

    launch = lambda: notebook_launcher(nothing, num_processes=MANY_WORKERS)  # noqa: E731
    launch()
    settle()
    return times(rounds, launch)


def bare_zygote(rounds: int) -> list[float]:
    import multiprocessing

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "__main__"])

    def launch() -> None:
        processes = [context.Process(target=nothing) for _ in range(MANY_WORKERS)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()

    launch()
    settle()
    return times(rounds, launch)


def session_start(rounds: int) -> list[float]:
    from nbaccel import Session

    def start() -> float:
        began = time.perf_counter()
        with Session(WORKERS) as session:
            session.run(nothing)
            return time.perf_counter() - began

    start()
    settle()
    return [start() for _ in range(rounds)]


def stop_in_all_reduce(rounds: int) -> list[float]:
    from nbaccel import Session

    with Session(WORKERS) as session:

        def stop() -> float:
            job = session.submit(wait_for_a_peer)
            while not all("running" in job.logs(rank) for rank in job.ranks):
                time.sleep(0.01)
            time.sleep(0.1)
            began = time.perf_counter()
            job.stop()
            assert session.run(all_reduce) == WORKERS
            return time.perf_counter() - began

        stop()
        return [stop() for _ in range(rounds)]


def restart_with_session(rounds: int) -> list[float]:
    return restarts(f"%load_ext nbaccel\n%accelerate start -n {WORKERS}", "%%accelerate\npass")


def restart_without(rounds: int) -> list[float]:
    return restarts("pass", "pass")


def restarts(*cells: str) -> list[float]:
    """Seconds of graceful restarts of a kernel in which these cells have run."""
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel()

    def restart() -> float:
        for cell in cells:
            printed(client, cell)
        taken = timed(lambda: manager.restart_kernel(now=False))
        client.wait_for_ready(timeout=PATIENCE_S)
        return taken

    try:
        return [restart() for _ in range(FEW)]
    finally:
        client.stop_channels()
        manager.shutdown_kernel()
        manager.cleanup_resources()


def growth(rounds: int) -> list[float]:
    """What fifty launches leave behind: descriptors, threads, shared memory, megabytes."""
    import numpy as np

    from nbaccel import notebook_launcher

    data = np.ones(1 << 20)

    def use() -> tuple[float, float]:
        return all_reduce(), float(data.sum())

    for _ in range(LAUNCHES // 5):
        notebook_launcher(use, num_processes=WORKERS)
    settle()
    before = possessions()
    for _ in range(LAUNCHES):
        notebook_launcher(use, num_processes=WORKERS)
    settle()
    return [after - earlier for after, earlier in zip(possessions(), before, strict=True)]


def possessions() -> list[float]:
    import gc
    import threading

    import psutil

    gc.collect()
    process = psutil.Process()
    names = [os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    shared = sum(name.startswith(("/memfd:", "/dev/shm")) for name in names) + len(process.children(recursive=True))
    return [len(names), threading.active_count(), shared, process.memory_info().rss / 1e6]


# The table.


@dataclass(frozen=True)
class Block:
    """Measurements that belong together; the first one is nbaccel's.

    Attributes:
        title: what is measured.
        unit: of the figures.
        measured: by whom, and the function that measures.
        budget: what nbaccel was built to.
        by_difference: whether figures are compared by their difference, not by their ratio.
    """

    title: str
    unit: str
    measured: dict[str, Callable[[int], list[float]]]
    budget: str = ""
    by_difference: bool = False


TABLE = (
    Block(
        "an empty function in a session",
        "ms",
        {"nbaccel, Session.run": function_in_session, "ipyparallel, apply_sync": function_in_engines},
        "at most 1.0 ms and 0.3 x",
    ),
    Block(
        "an empty cell in a session",
        "ms",
        {
            "nbaccel, %%accelerate": cell_in_session,
            "ipyparallel, %%px": cell_in_engines,
            "ipyparallel, execute": execute_in_engines,
        },
        "at most 1.0 ms and 0.3 x",
    ),
    Block(
        "256 MB pushed to the workers",
        "s",
        {"nbaccel": push_to_session, "ipyparallel": push_to_engines},
        "at most 0.1 x",
    ),
    Block(
        f"warm launch of {MANY_WORKERS} workers",
        "s",
        {"nbaccel": launch_of_many, "bare zygote": bare_zygote},
        "at most 1.3 x",
    ),
    Block(
        "a million lines from one rank",
        "lines/s",
        {"nbaccel": lines_of_rank, "ipyparallel": lines_of_engine},
        "at least 200,000 lines/s",
    ),
    Block(
        "graceful restart of a kernel",
        "s",
        {"with nbaccel and a session": restart_with_session, "without": restart_without},
        "at most 0.3 s more",
        by_difference=True,
    ),
    Block("a session from its start to its first answer", "s", {"nbaccel": session_start}),
    Block("a stop in an all-reduce until the next answer", "s", {"nbaccel": stop_in_all_reduce}),
)
GROWTH = ("descriptors", "threads", "shared memory and processes", "MB of memory")


def measure(what: Callable[[int], list[float]], rounds: int) -> list[float] | None:
    """Run one measurement in a process and a folder of its own; None if it does not end."""
    command = [sys.executable, os.path.abspath(__file__), "--one", what.__name__, str(rounds)]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        places = {"TMPDIR": folder, "IPYTHONDIR": f"{folder}/ipython", "JUPYTER_RUNTIME_DIR": f"{folder}/runtime"}
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, cwd=folder,
            env=os.environ | places,
        )  # fmt: skip
        try:
            out, problems = process.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            end(process)
            return None
    if process.returncode:
        raise SystemExit(f"{what.__name__} failed:\n{problems}")
    return list(json.loads(out.splitlines()[-1]))


def end(process: subprocess.Popen[str]) -> None:
    """Kill a measurement and all that it started."""
    import psutil

    for one in (*psutil.Process(process.pid).children(recursive=True), process):
        one.kill()
    process.communicate()


def figure(value: float, unit: str) -> str:
    if unit == "lines/s":
        return f"{value:,.0f}"
    return f"{1000 * value if unit == 'ms' else value:.3f}"


def compared(nbaccel: float, other: float, block: Block) -> str:
    return f"{nbaccel - other:+.3f} {block.unit}" if block.by_difference else f"{nbaccel / other:.2f} x"


def show(block: Block, rounds: int) -> None:
    print(f"{block.title:76}{block.budget}")
    reference = None
    for contender, what in block.measured.items():
        values = measure(what, rounds)
        if not values:
            print(f"    {contender:28}{'hangs':>10}", flush=True)
            continue
        median, worst = statistics.median(values), min(values) if block.unit == "lines/s" else max(values)
        said = "" if reference is None else compared(reference, median, block)
        reference = median if reference is None else reference
        row = f"    {contender:28}{figure(median, block.unit):>10} {block.unit:8}{figure(worst, block.unit):>10}"
        print(f"{row}   {said:>12}", flush=True)


def main(rounds: int) -> None:
    print(f"{os.cpu_count()} cores, {WORKERS} workers, medians of {rounds} rounds (see the file's first lines)\n")
    print(f"{'':32}{'median':>10} {'':8}{'worst':>10}   {'nbaccel is':>12}        budget")
    for block in TABLE:
        show(block, rounds)
    print(f"{f'what {LAUNCHES} launches leave behind':76}no growth, less than 5 MB")
    for name, value in zip(GROWTH, measure(growth, rounds) or (), strict=False):
        print(f"    {name:28}{value:>10.{1 if 'MB' in name else 0}f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        with quiet():
            outcome = globals()[sys.argv[2]](int(sys.argv[3]))
        print(json.dumps(outcome))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
