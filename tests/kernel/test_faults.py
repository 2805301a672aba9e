"""What goes wrong in a real kernel, and what is left behind: nothing."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from harness import Kernel, running_kernel, wait_until


def gone(processes: list[psutil.Process]) -> bool:
    return not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)


def settled(kernel: Kernel) -> bool:
    """Only the zygote is below the kernel."""
    return wait_until(lambda: len(kernel.children()) == 1, 5)


@pytest.mark.parametrize(
    ("fate", "words"),
    [
        ("os.kill(os.getpid(), 9)", "rank 1 was killed by SIGKILL"),
        ("__import__('ctypes').string_at(0)", "rank 1 was killed by SIGSEGV: a crash in C code"),
        ("os._exit(7)", "rank 1 called exit with code 7"),
        ("os.abort()", "rank 1 was killed by SIGABRT"),
    ],
)
@pytest.mark.parametrize("method", ["zygote", "spawn", "fork"])
def test_a_rank_that_dies_is_told_with_its_last_output(kernel: Kernel, method: str, fate: str, words: str) -> None:
    answer = kernel.run(
        f"%%accelerate -n 2 --start-method {method}\nimport os, time\nif os.environ['RANK'] == '1':\n"
        f"    print('almost there')\n    {fate}\ntime.sleep(60)"
    )
    assert words in answer.error
    assert "almost there" in answer.error
    assert "_nbaccel" not in answer.error
    assert settled(kernel)


def test_a_peer_of_a_killed_rank_does_not_hide_the_cause(kernel: Kernel) -> None:
    answer = kernel.run(
        "%%accelerate -n 2\nimport os, torch, torch.distributed as dist\ndist.init_process_group()\n"
        "dist.all_reduce(torch.ones(1))\nif os.environ['RANK'] == '1': os.kill(os.getpid(), 9)\ndist.all_reduce(torch.ones(1))"
    )
    assert "rank 1 was killed by SIGKILL" in answer.error


def test_a_rank_that_raises_stops_one_that_waits_in_a_collective(kernel: Kernel) -> None:
    started = time.monotonic()
    answer = kernel.run(
        "%%accelerate -n 2\nimport os, torch, torch.distributed as dist\ndist.init_process_group()\n"
        "if os.environ['RANK'] == '1': raise ValueError('mine')\ndist.all_reduce(torch.ones(1))"
    )
    assert "rank 1 of 2 failed: ValueError: mine" in answer.error
    assert time.monotonic() - started < 10
    assert settled(kernel)


@pytest.mark.parametrize(
    "stuck",
    [
        "time.sleep(60)",
        "while True: pass",
        "dist.all_reduce(torch.ones(1)) if rank else time.sleep(60)",
        "ctypes.CDLL(None).sleep(60)",
        "ctypes.PyDLL(None).sleep(60)",
    ],
)
@pytest.mark.parametrize("method", ["zygote", "spawn", "fork"])
def test_interrupt_ends_everything_soon(kernel: Kernel, method: str, stuck: str) -> None:
    cell = kernel.start(
        f"%%accelerate -n 2 --start-method {method}\nimport ctypes, os, time, torch, torch.distributed as dist\n"
        "dist.init_process_group()\ndist.barrier()\nrank = int(os.environ['RANK'])\n"
        f"if rank == 0: print('running', flush=True)\n{stuck}"
    )
    while "running" not in str(kernel.client.get_iopub_msg(timeout=60)["content"].get("text")):
        pass
    time.sleep(0.2)
    started = time.monotonic()
    kernel.manager.interrupt_kernel()
    answer = kernel.finish(cell)
    assert time.monotonic() - started < 6
    assert "KeyboardInterrupt" in answer.error
    assert settled(kernel)
    assert kernel.value("1 + 1") == 2


def test_an_interrupt_during_the_cold_start(fresh_kernel: Kernel) -> None:
    cell = fresh_kernel.start("import nbaccel, os\nprint('go')\nnbaccel.notebook_launcher(lambda: 1, num_processes=2)")
    time.sleep(1.0)
    fresh_kernel.manager.interrupt_kernel()
    fresh_kernel.finish(cell)
    assert fresh_kernel.value("nbaccel.notebook_launcher(lambda: 5, num_processes=2)") == 5


def test_a_timeout_ends_the_run_and_names_who_was_not_done(kernel: Kernel) -> None:
    answer = kernel.run("%%accelerate -n 2 --timeout 1\nimport os, time\nif os.environ['RANK'] == '1': time.sleep(60)")
    assert "RunTimeoutError" in answer.error
    assert "rank 1 had not finished" in answer.error
    assert settled(kernel)


LATE = """
from nbaccel.launch import doctor
patience, doctor._PATIENCE_S = doctor._PATIENCE_S, 30.0
def late(at, fails):  # a rank that does not show its stack is looked at for long
    import signal, time
    signal.signal(signal.SIGRTMIN, signal.SIG_IGN)
    time.sleep(max(0.0, at - time.monotonic()))
    if fails: raise ValueError("its own error")
    return 42
try: print(notebook_launcher(late, (time.monotonic() + 5.0, {fails}), num_processes=2, timeout=3.0))
finally: doctor._PATIENCE_S = patience
"""


@pytest.mark.slow
@pytest.mark.parametrize("fails", [False, True])
def test_what_comes_while_the_late_ranks_are_looked_at_counts(kernel: Kernel, fails: bool) -> None:
    kernel.ok("import time\nnotebook_launcher(lambda: 1, num_processes=2)")  # what follows is to start fast
    answer = kernel.run(LATE.replace("{fails}", str(fails)))
    assert ("WorkerError" in answer.error and "its own error" in answer.error) if fails else answer.text() == "42\n"
    assert settled(kernel)


def test_a_timeout_before_the_workers_are_born_leaves_the_zygote_alone(kernel: Kernel) -> None:
    kernel.ok("import os, signal\nfrom nbaccel.launch import zygote\nbusy = zygote.shared()")
    kernel.ok("notebook_launcher(lambda: 1)\nos.kill(busy.pid, signal.SIGSTOP)")
    error = kernel.run("notebook_launcher(print, num_processes=2, timeout=0.2)").error
    kernel.ok("os.kill(busy.pid, signal.SIGCONT)")
    assert "RunTimeoutError" in error
    assert "ranks 0 and 1 had not finished" in error
    assert kernel.value("(zygote.current() is busy, notebook_launcher(lambda: 5, num_processes=2))") == (True, 5)
    assert settled(kernel)


def test_the_next_launch_after_the_zygote_died(kernel: Kernel) -> None:
    for _ in range(2):
        kernel.ok("from nbaccel.launch import zygote\nimport os, signal\nos.kill(zygote.current().pid, signal.SIGKILL)")
        assert kernel.value("notebook_launcher(lambda: 1, num_processes=2)") == 1


def test_children_of_workers_end_with_them(kernel: Kernel) -> None:
    kernel.ok("%%accelerate -n 2\nimport subprocess\nsubprocess.Popen(['sleep', '600'])\nNone")
    assert settled(kernel)


@pytest.mark.parametrize("method", ["zygote", "spawn", "fork"])
def test_a_killed_kernel_leaves_nothing_behind(method: str) -> None:
    with running_kernel() as kernel:
        kernel.ok("%load_ext nbaccel")
        kernel.start(
            f"%%accelerate -n 2 --start-method {method}\nimport ctypes, os, subprocess, torch\n"
            "from torch.utils.data import DataLoader\nsubprocess.Popen(['sleep', '600'])\n"
            "class Slow(torch.utils.data.Dataset):\n    def __len__(self): return 100\n"
            "    def __getitem__(self, n): __import__('time').sleep(600)\n"
            "loader = iter(DataLoader(Slow(), num_workers=2))\nprint('running', flush=True)\n"
            "if os.environ['RANK'] == '1': ctypes.PyDLL(None).sleep(600)\nnext(loader)"
        )
        while "running" not in str(kernel.client.get_iopub_msg(timeout=60)["content"].get("text")):
            pass
        time.sleep(1.0)
        below = kernel.children()
        assert len(below) >= 6
        os.kill(kernel.pid, signal.SIGKILL)
        assert wait_until(lambda: gone(below), 5)


def test_a_restart_leaves_nothing_behind_and_is_not_slowed() -> None:
    with running_kernel() as kernel:
        kernel.ok("%load_ext nbaccel\nimport nbaccel")
        kernel.ok("nbaccel.notebook_launcher(lambda: 1, num_processes=2)")
        below = kernel.children()
        started = time.monotonic()
        kernel.manager.restart_kernel(now=False)
        assert time.monotonic() - started < 5
        assert wait_until(lambda: gone(below), 5)


def test_two_notebooks_at_once_do_not_meet(kernel: Kernel) -> None:
    reduce_ranks = (
        "def total():\n    import torch, torch.distributed as dist\n    dist.init_process_group()\n"
        "    t = torch.tensor(float(base + dist.get_rank())); dist.all_reduce(t)\n    return t.item()"
    )
    with running_kernel() as other:
        other.ok("from nbaccel import notebook_launcher")
        kernel.ok(f"base = 10\n{reduce_ranks}")
        other.ok(f"base = 20\n{reduce_ranks}")
        loop = "print([notebook_launcher(total, num_processes=2) for _ in range(5)])"
        cells = [(one, one.start(loop)) for one in (kernel, other)]
        texts = [one.finish(cell).text() for one, cell in cells]
        assert texts == [f"{[21.0] * 5}\n", f"{[41.0] * 5}\n"]


def test_fifty_launches_leave_nothing_behind(kernel: Kernel) -> None:
    kernel.ok(
        "import gc, os, psutil, threading\n"
        "def state():\n    gc.collect()\n    p = psutil.Process()\n"
        "    return len(os.listdir('/proc/self/fd')), threading.active_count(), len(p.children()), p.memory_info().rss / 2**20\n"
        "import numpy as np\nbig = np.zeros(1 << 20)\ndef work(): return big\n"
        "def fails(): raise ValueError\n"
        "def once():\n    notebook_launcher(work, num_processes=2)\n    try: notebook_launcher(fails, num_processes=2)\n"
        "    except Exception: pass\n"
        "for _ in range(5): once()\nbefore = state()\nfor _ in range(25): once()\nafter = state()"
    )
    before, after = kernel.value("(before, after)")
    assert before[:3] == after[:3]
    assert after[3] - before[3] < 10


@pytest.mark.parametrize("how", ["threading.Thread(target=go)", "multiprocessing.dummy.Process(target=go)"])
def test_launching_from_a_thread(kernel: Kernel, how: str) -> None:
    kernel.ok(
        "import threading, multiprocessing.dummy\nout = []\ndef go(): out.append(notebook_launcher(lambda: 3, num_processes=2))\n"
        f"t = {how}; t.start(); t.join()"
    )
    assert kernel.value("out") == [3]


def test_a_run_that_a_widget_started_is_stopped_like_any_other(fresh_kernel: Kernel, tmp_path: Path) -> None:
    began = tmp_path / "began"
    fresh_kernel.ok(
        f"import ipywidgets, nbaccel, pathlib, time\nseen = []\nbegan = {str(began)!r}\n"
        "def work():\n    pathlib.Path(began).touch()\n    time.sleep(60)\ndef go(_):\n"
        "    seen.append(nbaccel.notebook_launcher(lambda: 'first', num_processes=2))\n"
        "    try: nbaccel.notebook_launcher(work, num_processes=2)\n"
        "    except KeyboardInterrupt: seen.append('stopped')\nbutton = ipywidgets.Button()\nbutton.on_click(go)"
    )
    click = {
        "comm_id": fresh_kernel.value("button.model_id"),
        "data": {"method": "custom", "content": {"event": "click"}},
    }
    fresh_kernel.client.shell_channel.send(fresh_kernel.client.session.msg("comm_msg", click))
    assert wait_until(began.exists, 30)
    fresh_kernel.manager.interrupt_kernel()
    assert settled(fresh_kernel)
    assert fresh_kernel.value("seen") == ["first", "stopped"]


def test_stop_is_heard_before_the_workers_are_born(fresh_kernel: Kernel) -> None:
    fresh_kernel.ok(
        "from nbaccel import notebook_launcher\nimport pathlib, tempfile\nseen = pathlib.Path(tempfile.mkdtemp())"
    )
    fresh_kernel.ok("def work():\n    import os, time\n    time.sleep(3)\n    (seen / os.environ['RANK']).touch()")
    cell = fresh_kernel.start("notebook_launcher(work, num_processes=2, start_method='spawn')")
    time.sleep(0.6)
    fresh_kernel.manager.interrupt_kernel()
    assert "KeyboardInterrupt" in fresh_kernel.finish(cell).error
    time.sleep(4)
    assert fresh_kernel.value("list(seen.iterdir())") == []


def test_a_hung_zygote_does_not_hold_the_cell(kernel: Kernel) -> None:
    kernel.ok(
        "import os, signal\nfrom nbaccel.launch import zygote\nhung = zygote.current()\nos.kill(hung.pid, signal.SIGSTOP)"
    )
    cell = kernel.start("notebook_launcher(lambda: 1, num_processes=2)")
    time.sleep(1)
    kernel.manager.interrupt_kernel()
    assert "KeyboardInterrupt" in kernel.finish(cell, 20).error
    kernel.ok("os.kill(hung.pid, signal.SIGCONT)")
    assert kernel.value("notebook_launcher(lambda: 1, num_processes=2)") == 1
    assert settled(kernel)


WITHOUT_FORKS = """
import os, resource
if os.getuid() == 0: os.setuid(54321)  # the limit does not bind root
resource.setrlimit(resource.RLIMIT_NPROC, (0, resource.getrlimit(resource.RLIMIT_NPROC)[1]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the limit of a running process is read")
def test_a_fork_that_the_system_refuses_is_told_and_costs_nobody_else(tmp_path: Path) -> None:
    (tmp_path / "without_forks.py").write_text(WITHOUT_FORKS)
    with running_kernel(PYTHONPATH=f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}") as kernel:
        kernel.ok(
            "import nbaccel, os, time\nfrom nbaccel.launch import zygote\ndef work():\n"
            f"    while not os.path.exists({str(tmp_path / 'end')!r}): time.sleep(0.05)\n    return 5\n"
            "busy = zygote.shared()\njob = nbaccel.submit(work, num_processes=1)"
        )
        assert wait_until(lambda: len(kernel.children()) == 2, 30)
        limits = Path(f"/proc/{kernel.value('busy.pid')}/limits")
        kernel.ok("busy.import_ahead(['without_forks'])")
        assert wait_until(lambda: bool(re.search(r"Max processes +0 ", limits.read_text())), 60)
        for launch in ("nbaccel.notebook_launcher(print, num_processes=2)", "nbaccel.Session(2)"):
            error = kernel.run(launch).error
            assert "LaunchError: the workers could not be started." in error
            assert "The system refused to make another process: Resource temporarily unavailable" in error
        kernel.ok("busy.import_ahead(['this'])")
        assert wait_until(lambda: "could not try out what to import ahead" in kernel.value("busy.log()"), 30)
        (tmp_path / "end").touch()
        assert kernel.value("(job.result(30), zygote.current() is busy)") == (5, True)


def test_a_rank_that_interrupts_itself_has_failed(kernel: Kernel) -> None:
    kernel.ok("def stops(): raise KeyboardInterrupt('enough')")
    assert (
        "WorkerError: rank 0 of 1 failed: KeyboardInterrupt: enough"
        in kernel.run("notebook_launcher(stops, num_processes=1)").error
    )


def test_a_display_that_cannot_be_read_here_is_told_and_the_run_goes_on(kernel: Kernel) -> None:
    answer = kernel.ok(
        "%%accelerate -n 1\nfrom IPython.display import display\nclass OnlyThere: pass\n"
        "display({'text/plain': 'x', 'a': OnlyThere()}, raw=True)\nprint('went on')"
    )
    assert "went on" in answer.text()
    assert "something that rank 0 wanted to show cannot be shown here" in answer.text("stderr")
    assert settled(kernel)


def test_a_broken_repr_is_shown_and_the_cell_goes_on(kernel: Kernel) -> None:
    answer = kernel.ok(
        "%%accelerate -n 1 -o after\nfrom IPython.display import display\nclass Bad:\n"
        "    def _repr_html_(self): raise ValueError('broken repr')\ndisplay(Bad())\nafter = 5"
    )
    assert "broken repr" in answer.text() + answer.text("stderr")
    assert kernel.value("after") == 5


def test_an_exception_that_cannot_say_what_it_is_is_told(kernel: Kernel) -> None:
    kernel.ok(
        "class Bad(RuntimeError):\n    def __str__(self): raise LookupError\n    __repr__ = __str__\n"
        "def fails():\n    raise Bad"
    )
    error = kernel.run("notebook_launcher(fails, num_processes=1)").error
    assert "rank 0 of 1 failed: Bad: <its __str__() raised LookupError>" in error
    assert "raise Bad" in re.sub(r"\x1b\[[\d;]*m", "", error)


def test_a_child_that_floods_does_not_hold_the_cell(kernel: Kernel) -> None:
    started = time.monotonic()
    kernel.ok("%%accelerate -n 1 --output main\nimport subprocess\nsubprocess.Popen(['yes'])\nNone")
    assert time.monotonic() - started < 20
    assert settled(kernel)


def test_a_kernel_with_many_open_files_can_launch(fresh_kernel: Kernel) -> None:
    fresh_kernel.ok(
        "import os, resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))\n"
        "held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1500)]\nfrom nbaccel import notebook_launcher"
    )
    assert fresh_kernel.value("notebook_launcher(lambda: 1, num_processes=2)") == 1


def test_the_data_of_a_failed_run_is_let_go(kernel: Kernel) -> None:
    kernel.ok("import numpy as np, os\nlarge = np.zeros(1 << 22)\ndef fails(): raise ValueError(large.sum())")
    kernel.run("notebook_launcher(fails, num_processes=2)")
    links = "[os.readlink(f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd') if os.path.exists(f'/proc/self/fd/{n}')]"
    assert kernel.value(f"[link for link in {links} if 'memfd' in link]") == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("interpreter", "words"),
    [
        ("/bin/false", "LaunchError: the workers could not be started"),
        ("/no/such/python", "LaunchError: the zygote could not be started.*No such file"),
    ],
)
def test_an_interpreter_that_does_not_start_is_one_clear_error(
    fresh_kernel: Kernel, interpreter: str, words: str
) -> None:
    fresh_kernel.ok(
        f"import sys\nfrom nbaccel import notebook_launcher\nkept, sys.executable = sys.executable, {interpreter!r}"
    )
    assert re.search(words, fresh_kernel.run("notebook_launcher(lambda: 1, num_processes=2)").error)
    assert (
        fresh_kernel.value("(setattr(sys, 'executable', kept), notebook_launcher(lambda: 1, num_processes=2))[1]") == 1
    )
