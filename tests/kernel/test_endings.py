"""A worker ends as a script does: what it has begun is finished, what it has made is written, what it used is given back."""

from __future__ import annotations

from collections.abc import Iterator
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


IMPATIENT = "((0.1, signal.SIGTERM), (0.2, signal.SIGKILL))"
"""A way to end workers that leaves them no time."""


@pytest.fixture
def impatient(kernel: Kernel) -> Iterator[Kernel]:
    """A kernel that ends its workers by the clock, wherever it goes by one."""
    kernel.ok("import signal\nfrom nbaccel.launch import session, team")
    kernel.ok("kept = team.GOODBYE, team.LATE_GOODBYE, session.GOODBYE")
    kernel.ok(f"team.GOODBYE = team.LATE_GOODBYE = session.GOODBYE = {IMPATIENT}")
    kernel.ok("notebook_launcher(lambda: 1, num_processes=2)")  # what follows is to start fast
    yield kernel
    kernel.ok("team.GOODBYE, team.LATE_GOODBYE, session.GOODBYE = kept")


def test_no_clock_ends_a_thread_after_a_good_end(impatient: Kernel, tmp_path: Path) -> None:
    launch(
        impatient,
        f"import os, threading, time, pathlib\ndef write():\n    time.sleep(2)\n    pathlib.Path({str(tmp_path)!r}, os.environ['RANK']).touch()\n"
        "def work(): threading.Thread(target=write).start()",
    )
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.slow
def test_what_the_timeout_cuts_off_after_a_good_end_is_told(impatient: Kernel) -> None:
    impatient.ok("def work():\n    import atexit, time\n    atexit.register(time.sleep, 600)\n    return 42")
    answer = impatient.ok("print(notebook_launcher(work, num_processes=2, timeout=5))")
    assert answer.text() == "42\n"
    assert "ranks 0 and 1 were ended by the clock, and what threads or exit handlers there had not" in answer.notes()


def test_what_is_cut_off_after_a_session_is_told_in_the_log(impatient: Kernel) -> None:
    impatient.ok(
        "one = nbaccel.Session(1)\none.run(lambda: __import__('atexit').register(__import__('time').sleep, 60))"
    )
    answer = impatient.ok("one.close()")
    assert "rank 0 was ended by the clock" in answer.text("stderr")


SLOW_TO_LEAVE = "def work():\n    import atexit, time\n    atexit.register(time.sleep, 600)\n    return 42"


def test_stop_during_a_long_goodbye_keeps_the_result(kernel: Kernel) -> None:
    kernel.ok(SLOW_TO_LEAVE)
    cell = kernel.start("result = notebook_launcher(work, num_processes=2)\nprint(result)")
    while "Stop ends them now" not in str(kernel.client.get_iopub_msg(timeout=60)["content"].get("data")):
        pass
    kernel.manager.interrupt_kernel()
    assert kernel.finish(cell).text() == "42\n"


def test_a_job_that_is_cancelled_during_a_long_goodbye_is_done(kernel: Kernel) -> None:
    kernel.ok(SLOW_TO_LEAVE)
    kernel.ok("job = nbaccel.submit(work, num_processes=1)")
    assert wait_until(lambda: bool(kernel.value("job.doing(0) == 'done'")), 30)
    assert kernel.value("(job.cancel(), job.result(60), job.state, job.cancelled())") == (True, 42, "done", False)


def test_code_that_swallows_the_interrupt_gets_no_long_goodbye(kernel: Kernel) -> None:
    kernel.ok(
        "def work():\n    import atexit, time\n    atexit.register(time.sleep, 600)\n    print('running', flush=True)\n"
        "    try: time.sleep(600)\n    except KeyboardInterrupt: return 'caught'"
    )
    cell = kernel.start("notebook_launcher(work, num_processes=2)")
    while "running" not in str(kernel.client.get_iopub_msg(timeout=60)["content"].get("text")):
        pass
    kernel.manager.interrupt_kernel()
    assert "KeyboardInterrupt" in kernel.finish(cell).error


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


@pytest.mark.slow
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


@pytest.mark.parametrize("ending", ["sys.exit()", "sys.exit(0)", "exit()", "quit(0)"])
@pytest.mark.parametrize("start_method", ["zygote", "fork"])
def test_a_rank_may_end_itself_before_the_others(kernel: Kernel, ending: str, start_method: str) -> None:
    code = f"import os, sys, time\nif os.environ['RANK'] == '1':\n    {ending}\ntime.sleep(0.3)\nvalue = 'saved'"
    launch(
        kernel,
        "def work():\n    " + code.replace("\n", "\n    ") + "\n    return value",
        start_method=start_method,
    )
    assert kernel.value("result") == ["saved", None]
    answer = kernel.ok(f"%%accelerate -n 2 -o value --start-method {start_method}\nprint('here')\n{code}")
    assert (answer.text(), answer.text("stderr")) == ("here\n", "")
    assert kernel.value("value") == "saved"


def test_who_waits_for_a_rank_that_has_ended_itself_fails_at_once(kernel: Kernel) -> None:
    kernel.ok(
        "def work():\n    import sys\n    import torch, torch.distributed as dist\n"
        "    dist.init_process_group('gloo')\n    dist.all_reduce(torch.ones(1))\n"
        "    if dist.get_rank() == 1: sys.exit()\n    dist.barrier()"
    )
    assert "rank 0 of 2 failed: RuntimeError" in kernel.run("notebook_launcher(work, num_processes=2)").error


def test_an_exit_with_a_code_is_a_failure(kernel: Kernel) -> None:
    answer = kernel.run("%%accelerate -n 2\nimport os, sys\nif os.environ['RANK'] == '1': sys.exit(3)")
    assert "rank 1 of 2 failed: SystemExit: 3" in answer.error
    assert answer.text() + answer.text("stderr") == ""
    kernel.ok("def work(): exit('no data')")
    assert "failed: SystemExit: no data" in kernel.run("notebook_launcher(work, num_processes=2)").error


STREAMS = {
    "closed": "with open(os.devnull, 'w') as file: sys.stdout = sys.stderr = file",
    "taken away": "sys.stdout = sys.stderr = None",
    "no stream": "sys.stdout = sys.stderr = object()",
    "its own closed": "sys.stdout.close(); sys.stderr.close()",
}


@pytest.mark.parametrize("how", STREAMS)
def test_streams_that_were_left_unusable_cost_nothing(kernel: Kernel, how: str) -> None:
    launch(kernel, f"import os, sys\ndef work():\n    print('begins')\n    {STREAMS[how]}\n    return 1")
    assert kernel.value("result") == [1, 1]
    kernel.ok(f"def work():\n    {STREAMS[how]}\n    raise ValueError('mine')")
    assert "ValueError: mine" in kernel.run("notebook_launcher(work, num_processes=2)").error


def test_the_next_cell_of_a_session_prints_again(kernel: Kernel) -> None:
    kernel.ok("%accelerate start -n 1")
    for how in ("closed", "taken away", "its own closed"):
        kernel.ok(f"%%accelerate\nimport os, sys\nkept = 'kept'\n{STREAMS[how]}")
        answer = kernel.ok("%%accelerate\nprint(kept)\nprint('problem', file=sys.stderr)")
        assert (answer.text(), answer.text("stderr")) == ("kept\n", "problem\n")
    kernel.ok("%accelerate stop")
