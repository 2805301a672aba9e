"""How sessions begin and end, in kernels of their own: nothing is ever left behind."""

from __future__ import annotations

import os
import signal
import time

import pytest

from harness import running_kernel, wait_until
from test_faults import gone


def test_a_session_that_cannot_start_is_one_clear_error() -> None:
    with running_kernel() as kernel:
        kernel.ok("import nbaccel, sys\nsys.executable = '/bin/false'")
        assert "LaunchError: the workers could not be started" in kernel.run("nbaccel.Session(2)").error


def test_a_session_outlives_its_zygote() -> None:
    with running_kernel() as kernel:
        kernel.ok("%load_ext nbaccel\nimport os, signal\nfrom nbaccel.launch import zygote")
        kernel.ok("%accelerate start -n 2")
        kernel.ok("%%accelerate\nkept = 1")
        kernel.ok("import time\nos.kill(zygote.current().pid, signal.SIGKILL)\ntime.sleep(1)")
        assert kernel.ok("%%accelerate\nprint('kept' in globals())").text() == "False\n"


def test_a_restart_before_the_workers_are_born_leaves_other_sessions_alone() -> None:
    with running_kernel() as kernel:
        kernel.ok("import nbaccel, os, signal\nfrom nbaccel.launch import zygote")
        kernel.ok("other, one = nbaccel.Session(1), nbaccel.Session(1)\nother.push(kept=1)\nbusy = zygote.current()")
        kernel.ok("os.kill(busy.pid, signal.SIGSTOP)\none._live.restart()\none._live.restart()")
        kernel.ok("os.kill(busy.pid, signal.SIGCONT)")
        assert kernel.value("(one.run(lambda: 5), other['kept'], zygote.current() is busy)") == (5, {0: 1}, True)


@pytest.mark.parametrize(("method", "processes"), [("zygote", 3), ("spawn", 3), ("fork", 4)])
def test_a_killed_kernel_takes_its_session_along(method: str, processes: int) -> None:
    with running_kernel() as kernel:
        kernel.ok("%load_ext nbaccel")
        kernel.ok(f"%accelerate start -n 2 --start-method {method}")
        kernel.start(
            "%%accelerate\nimport ctypes, os, torch\nprint('running', flush=True)\n"
            "if os.environ['RANK'] == '1': ctypes.PyDLL(None).sleep(600)\n__import__('time').sleep(600)"
        )
        while "running" not in str(kernel.client.get_iopub_msg(timeout=60)["content"].get("text")):
            pass
        # a rank's imports may run a short process of their own
        assert wait_until(lambda: len(kernel.children()) == processes, 20), kernel.children()
        below = kernel.children()
        os.kill(kernel.pid, signal.SIGKILL)
        assert wait_until(lambda: gone(below), 5)


def test_a_restarted_kernel_takes_its_session_along() -> None:
    with running_kernel() as kernel:
        kernel.ok("%load_ext nbaccel")
        kernel.ok("%accelerate start -n 2")
        below = kernel.children()
        started = time.monotonic()
        kernel.manager.restart_kernel(now=False)
        assert time.monotonic() - started < 5
        assert wait_until(lambda: gone(below), 5)
