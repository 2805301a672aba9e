"""A worker ends as a script does: what it has begun is finished, what it has made is written, what it used is given back."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import Kernel, wait_until

START_METHODS = ("zygote", "spawn")
SHARED_MEMORY = Path("/dev/shm")


def launch(kernel: Kernel, code: str, **options: object) -> None:
    """Run the function `work` of a cell on two ranks; its value becomes the kernel's `result`."""
    kernel.ok(code)
    words = "".join(f", {name}={value!r}" for name, value in options.items())
    kernel.ok(f"result = notebook_launcher(work, num_processes=2, return_all=True{words})")


@pytest.mark.parametrize("start_method", START_METHODS)
def test_a_thread_that_is_no_daemon_finishes(kernel: Kernel, tmp_path: Path, start_method: str) -> None:
    launch(
        kernel,
        f"import os, threading, time, pathlib\ndef write():\n    time.sleep(0.5)\n    pathlib.Path({str(tmp_path)!r}, os.environ['RANK']).write_text('done')\n"
        "def work(): threading.Thread(target=write).start()",
        start_method=start_method,
    )
    assert [path.read_text() for path in sorted(tmp_path.iterdir())] == ["done", "done"]


@pytest.mark.parametrize("start_method", START_METHODS)
def test_an_asynchronous_checkpoint_is_complete(kernel: Kernel, tmp_path: Path, start_method: str) -> None:
    launch(
        kernel,
        "def work():\n    import torch, torch.distributed as dist, torch.distributed.checkpoint as checkpoint\n"
        f"    dist.init_process_group()\n    checkpoint.async_save({{'weight': torch.ones(5_000_000)}}, checkpoint_id={str(tmp_path)!r})",
        start_method=start_method,
    )
    assert (tmp_path / ".metadata").exists()
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) > 5_000_000 * 4


def test_an_exit_handler_may_take_its_time(kernel: Kernel, tmp_path: Path) -> None:
    launch(
        kernel,
        f"import atexit, os, time, pathlib\ndef leave():\n    time.sleep(3)\n    pathlib.Path({str(tmp_path)!r}, os.environ['RANK']).touch()\n"
        "def work(): atexit.register(leave)",
    )
    assert len(list(tmp_path.iterdir())) == 2


def test_a_long_goodbye_is_explained(kernel: Kernel) -> None:
    answer = kernel.ok(
        "%%accelerate -n 2\nimport atexit, os, time\nif os.environ['RANK'] == '1': atexit.register(time.sleep, 4)"
    )
    assert "the code has come to its end; rank 1 still waits for threads or exit handlers" in answer.notes()


def test_what_was_written_to_a_file_that_is_still_open_is_kept(kernel: Kernel, tmp_path: Path) -> None:
    kernel.ok(f"%%accelerate -n 1\nlog = open({str(tmp_path / 'log.txt')!r}, 'w')\nlog.write('step 1')")
    assert (tmp_path / "log.txt").read_text() == "step 1"


@pytest.mark.parametrize("start_method", START_METHODS)
def test_a_temporary_folder_that_nobody_removed_is_removed(kernel: Kernel, start_method: str) -> None:
    launch(
        kernel,
        "def work():\n    import tempfile\n    global folder\n    folder = tempfile.TemporaryDirectory()\n    return folder.name",
        start_method=start_method,
    )
    assert [name for name in kernel.value("result") if Path(name).exists()] == []


@pytest.mark.parametrize("package", ["multiprocessing", "multiprocess"])
def test_a_manager_that_nobody_shut_down_leaves_no_socket(kernel: Kernel, package: str) -> None:
    launch(
        kernel,
        f"def work():\n    import {package}\n    global manager\n    manager = {package}.get_context('fork').Manager()\n    return manager.address",
    )
    assert [address for address in kernel.value("result") if Path(address).parent.exists()] == []


def test_shared_memory_that_nobody_unlinked_is_given_back(kernel: Kernel) -> None:
    launch(
        kernel,
        "def work():\n    from multiprocessing import shared_memory\n    return shared_memory.SharedMemory(create=True, size=64).name",
    )
    names = kernel.value("result")
    assert wait_until(lambda: not any((SHARED_MEMORY / name).exists() for name in names), 2), names


def test_an_executor_that_nobody_shut_down_does_not_delay_the_end(kernel: Kernel) -> None:
    launch(
        kernel,
        "import multiprocessing, time\nfrom concurrent.futures import ProcessPoolExecutor\ndef work():\n    global executor\n"
        "    executor = ProcessPoolExecutor(2, multiprocessing.get_context('fork'))\n    return list(executor.map(abs, [-1, -2])), time.time()",
    )
    assert kernel.value("[value for value, _ in result]") == [[1, 2], [1, 2]]
    took_s = kernel.value(
        "(lambda before: time.time() - max(end for _, end in before))(notebook_launcher(work, num_processes=2, return_all=True))"
    )
    assert took_s < 1.5


def test_a_library_that_was_imported_ahead_has_read_the_kernels_environment(fresh_kernel: Kernel) -> None:
    fresh_kernel.ok("%load_ext nbaccel\nimport os, sys, nbaccel")
    fresh_kernel.ok("nbaccel.notebook_launcher(lambda: None)")  # the zygote is there, with the environment of before
    fresh_kernel.ok("os.environ['HF_HUB_OFFLINE'] = '1'\nimport huggingface_hub.constants")
    ahead = "nbaccel.notebook_launcher(lambda: 'huggingface_hub.constants' in sys.modules)"
    assert wait_until(lambda: bool(fresh_kernel.value(ahead)), 30)
    fresh_kernel.ok(
        "def offline():\n    import huggingface_hub.constants\n    return huggingface_hub.constants.HF_HUB_OFFLINE"
    )
    assert fresh_kernel.value("(offline(), nbaccel.notebook_launcher(offline))") == (True, True)


def test_ending_the_training_before_the_model_goes_never_hangs(kernel: Kernel) -> None:
    kernel.ok(
        "import torch\nfrom nbaccel import Accelerator\ndef work():\n    accelerator = Accelerator()\n"
        "    model, x = accelerator.prepare(torch.nn.Linear(4, 1)), torch.randn(8, 4)\n"
        "    for _ in range(5): accelerator.backward(model(x).mean())\n"
        "    accelerator.gather(x)\n    accelerator.end_training()\n"
        "for _ in range(15): notebook_launcher(work, num_processes=2, timeout=20)"
    )
