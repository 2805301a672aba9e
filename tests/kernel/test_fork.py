"""`start_method="fork"` in a real kernel: copies of it, and the check that a copy can live."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import Kernel, wait_until


def test_workers_have_the_kernels_names_and_modules(fresh_kernel: Kernel) -> None:
    fresh_kernel.ok("%load_ext nbaccel\nimport nbaccel, threading\nheld = threading.Lock()\nvalue = 5")
    answer = fresh_kernel.ok(
        "%%accelerate -n 2 --start-method fork\nimport builtins\nprint(globals()['val' + 'ue'], globals()['he' + 'ld'])"
    )
    assert answer.text().startswith("5 <unlocked _thread.lock")


@pytest.mark.slow
def test_plots_displays_and_errors_are_as_with_other_workers(fresh_kernel: Kernel) -> None:
    fresh_kernel.ok("%load_ext nbaccel\n%matplotlib inline\nimport matplotlib.pyplot as plt")
    answer = fresh_kernel.ok(
        "%%accelerate -n 2 --start-method fork\nprint('before')\nplt.plot([1])\nplt.show()\nprint('after')\n7"
    )
    assert answer.order() == ["stream", "display_data", "stream", "display_data"]
    assert (
        "ZeroDivisionError: division by zero" in fresh_kernel.run("%%accelerate -n 2 --start-method fork\n1 / 0").error
    )
    assert fresh_kernel.value("1 + 1") == 2


def test_threads_of_torch_in_the_kernel_do_no_harm(fresh_kernel: Kernel) -> None:
    fresh_kernel.ok(
        "import torch, nbaccel\nw = torch.ones(512, 512, requires_grad=True)\n(torch.ones(2048, 512) @ w).exp().sum().backward()\n"
        "def work():\n    import torch\n    v = torch.ones(512, 512, requires_grad=True)\n    (torch.ones(2048, 512) @ v).exp().sum().backward()\n    return float(v.grad[0, 0] > 0)"
    )
    assert fresh_kernel.value(
        "nbaccel.notebook_launcher(work, num_processes=2, start_method='fork', return_all=True)"
    ) == [1.0, 1.0]


@pytest.mark.slow
def test_a_copy_that_hangs_is_told_before_the_launch(fresh_kernel: Kernel) -> None:
    fresh_kernel.ok("import nbaccel, os, time, torch\nos.register_at_fork(after_in_child=lambda: time.sleep(60))")
    error = fresh_kernel.run("nbaccel.notebook_launcher(print, num_processes=2, start_method='fork')").error
    assert "PlanError: start_method='fork': in a copy of the kernel torch's operators do not come back" in error
    assert fresh_kernel.children() == []


def test_a_device_in_use_is_told_before_the_launch(fresh_kernel: Kernel) -> None:
    fresh_kernel.ok(
        "import nbaccel, tempfile, torch\nfrom nbaccel.launch import forking\nopened = tempfile.NamedTemporaryFile()\n"
        "forking._DEVICES[opened.name] = 'CUDA'"
    )
    error = fresh_kernel.run("nbaccel.notebook_launcher(print, num_processes=2, start_method='fork')").error
    assert "CUDA is in use in the kernel; of what the kernel has imported, torch may have woken it" in error


def test_a_launch_by_fork_leaves_the_zygote_of_the_others_alone(fresh_kernel: Kernel) -> None:
    fresh_kernel.ok(
        "%load_ext nbaccel\nfrom nbaccel import notebook_launcher\nnotebook_launcher(lambda: 1, num_processes=1)"
    )
    assert wait_until(lambda: len(fresh_kernel.children()) == 1, 10)
    before = [one.pid for one in fresh_kernel.children()]
    fresh_kernel.ok("notebook_launcher(lambda: 1, num_processes=2, start_method='fork')")
    assert wait_until(lambda: [one.pid for one in fresh_kernel.children()] == before, 5)


def test_a_fork_waits_for_an_import_in_another_thread(fresh_kernel: Kernel, tmp_path: Path) -> None:
    (tmp_path / "slow_to_import.py").write_text("import time\ntime.sleep(1.5)\nready = True\n")
    fresh_kernel.ok(
        f"import nbaccel, sys, threading, time\nsys.path.insert(0, {str(tmp_path)!r})\n"
        "def there():\n    import slow_to_import\n    return slow_to_import.ready\n"
        "importing = threading.Thread(target=__import__, args=('slow_to_import',))\nimporting.start()\ntime.sleep(0.2)"
    )
    assert fresh_kernel.value("nbaccel.notebook_launcher(there, num_processes=1, start_method='fork')") is True


@pytest.mark.parametrize("package", ["multiprocessing", "multiprocess"])
def test_children_of_the_kernel_are_left_alone(fresh_kernel: Kernel, package: str) -> None:
    fresh_kernel.ok(
        f"import nbaccel, {package}, time\npool = {package}.Pool(2)\nresult = pool.map_async(time.sleep, [1.5, 1.5])\n"
        "running = [one.pid for one in pool._pool]"
    )
    answer = fresh_kernel.ok("nbaccel.notebook_launcher(lambda: 1, num_processes=2, start_method='fork')")
    assert answer.text("stderr") == ""
    assert fresh_kernel.value("(result.get(20), [one.pid for one in pool._pool] == running)") == ([None, None], True)
    fresh_kernel.ok("pool.terminate()")
