"""What goes wrong in a session: its variables survive what they can, and nothing is ever left behind."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from harness import Kernel, running_kernel, wait_until

RUNNING = "nbaccel.notebook.session.running()"


@pytest.fixture(scope="module", params=["zygote", "spawn", "fork"])
def session(request: pytest.FixtureRequest) -> Iterator[Kernel]:
    with running_kernel() as kernel:
        kernel.ok("%load_ext nbaccel\nimport nbaccel")
        kernel.ok(f"%accelerate start -n 2 --start-method {request.param}")
        kernel.ok(
            "%%accelerate\nimport ctypes, os, time, torch, torch.distributed as dist\n"
            "rank = int(os.environ['RANK'])\nkept = 'kept'\ndist.init_process_group()\ndist.barrier()"
        )
        yield kernel


@pytest.fixture(autouse=True)
def with_group(session: Kernel) -> None:
    """Every test finds the names and the process group, even after one that lost them."""
    session.ok(
        "%%accelerate\nimport ctypes, os, time, torch, torch.distributed as dist\nrank = int(os.environ['RANK'])\n"
        "kept = 'kept'\nif not dist.is_initialized(): dist.init_process_group()"
    )


def interrupted(kernel: Kernel, cell: str, after_s: float = 0.3) -> float:
    """Run a cell, interrupt it once it runs. Returns the seconds that this took."""
    running = kernel.start(f"%%accelerate\nif rank == 0: print('running', flush=True)\n{cell}")
    while "running" not in str(kernel.client.get_iopub_msg(timeout=60)["content"].get("text")):
        pass
    time.sleep(after_s)
    started = time.monotonic()
    kernel.manager.interrupt_kernel()
    assert "KeyboardInterrupt" in kernel.finish(running).error
    return time.monotonic() - started


TOTAL = "%%accelerate\nt = torch.tensor(1.0 + rank)\ndist.all_reduce(t)\nprint(t.item())"


@pytest.mark.parametrize(
    "stuck",
    [
        "time.sleep(60)",
        "while True: pass",
        "dist.all_reduce(torch.full((4,), 100.0)) if rank == 0 else time.sleep(60)",
        "dist.barrier() if rank == 1 else time.sleep(60)",
    ],
)
def test_variables_survive_an_interrupt_and_the_next_all_reduce_is_right(session: Kernel, stuck: str) -> None:
    assert interrupted(session, stuck) < 6
    assert session.ok(TOTAL).text() == "3.0\n"
    assert session.ok("%%accelerate\nprint(kept)").text() == "kept\n"


def test_an_interrupt_while_names_are_unpacked_is_not_lost(session: Kernel) -> None:
    session.ok(
        "import time\nclass Slow:\n    def __setstate__(self, state): time.sleep(1.0)\nslow = Slow()\nslow.x = 1"
    )
    running = session.start("%%accelerate\nslow\nfor _ in range(100): time.sleep(0.1)")
    time.sleep(0.6)
    session.manager.interrupt_kernel()
    assert "KeyboardInterrupt" in session.finish(running).error
    assert session.ok("%%accelerate\nprint(kept)").text() == "kept\n"


def test_names_that_did_not_arrive_are_sent_again(session: Kernel) -> None:
    session.ok(
        "import os, tempfile\nflag = tempfile.mktemp()\ndef arrive(flag):\n"
        "    if not os.path.exists(flag): raise OSError('not yet')\n    return 'here'\n"
        "class Late:\n    def __reduce__(self): return arrive, (flag,)\nlate = Late()"
    )
    assert "not yet" in session.run("%%accelerate\nprint(late)").error
    session.ok("open(flag, 'w').close()")
    assert session.ok("%%accelerate\nprint(late)").text() == "here\n"


def test_a_rank_stuck_in_c_costs_the_variables_and_the_session_goes_on(session: Kernel) -> None:
    stuck = "sum(range(10**12)) if rank == 1 else dist.all_reduce(torch.ones(1))"
    assert interrupted(session, stuck) < 6
    assert session.ok("%%accelerate\nprint('kept' in globals())").text() == "False\n"


def test_interrupts_again_and_again(session: Kernel) -> None:
    for _ in range(5):
        interrupted(session, "while True: dist.all_reduce(torch.ones(1))", 0.1)
        assert session.ok(TOTAL).text() == "3.0\n"


def test_a_model_prepared_on_the_old_group_refuses_clearly(session: Kernel) -> None:
    session.ok(
        "%%accelerate\nfrom nbaccel import Accelerator\naccelerator = Accelerator()\ninner = torch.nn.Linear(2, 1)\n"
        "model = accelerator.prepare(inner)\nbare = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 1))\n"
        "model(torch.ones(1, 2)).sum().backward()"
    )
    interrupted(session, "time.sleep(60)")
    for name in ("model", "bare"):
        error = session.run(f"%%accelerate\n{name}(torch.ones(1, 2))").error
        assert "belongs to a process group that was ended" in error
    answer = session.ok(
        "%%accelerate\nmodel = accelerator.prepare(inner)\nmodel(torch.ones(1, 2) * (rank + 1)).sum().backward()\n"
        "print(inner.weight.grad[0, 0].item(), accelerator.reduce(torch.ones(1)).item())"
    )
    assert answer.text() == "2.5 2.0\n"  # on top of the gradient from before


def test_the_group_keeps_the_timeout_that_was_asked_for(session: Kernel) -> None:
    timeout = "dist.group.WORLD._get_backend(torch.device('cpu')).options._timeout"
    session.ok(
        "%%accelerate\nfrom datetime import timedelta\nfrom nbaccel import Accelerator\n"
        "from nbaccel.utils import InitProcessGroupKwargs\n"
        "accelerator = Accelerator(kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(seconds=77))])"
    )
    interrupted(session, "time.sleep(60)")
    assert session.ok(f"%%accelerate\nprint({timeout})").text() == "0:01:17\n"


def test_an_error_on_one_rank_stops_the_others_and_keeps_the_variables(session: Kernel) -> None:
    started = time.monotonic()
    answer = session.run("%%accelerate\nif rank == 1: raise ValueError('mine')\ndist.all_reduce(torch.ones(1))")
    assert "rank 1 of 2 failed: ValueError: mine" in answer.error
    assert time.monotonic() - started < 6
    assert session.ok("%%accelerate\nprint(kept)").text() == "kept\n"
    assert session.ok(TOTAL).text() == "3.0\n"


def test_an_error_on_all_ranks_leaves_group_and_models_as_they_are(session: Kernel) -> None:
    session.ok("%%accelerate\nbare = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 1))")
    assert "NameError" in session.run("%%accelerate\nno_such_name").error
    session.ok("%%accelerate\nbare(torch.ones(1, 2)).sum().backward()")


@pytest.mark.parametrize(
    ("fate", "words"),
    [
        ("os.kill(os.getpid(), 9)", "rank 1 was killed by SIGKILL"),
        ("os._exit(7)", "rank 1 called exit with code 7"),
        ("ctypes.string_at(0)", "rank 1 was killed by SIGSEGV"),
    ],
)
def test_a_rank_that_dies_is_told_and_the_session_starts_afresh(session: Kernel, fate: str, words: str) -> None:
    answer = session.run(f"%%accelerate\nif rank == 1:\n    print('almost there')\n    {fate}\ntime.sleep(60)")
    assert words in answer.error
    assert "almost there" in answer.error
    assert "the variables of its workers are gone" in answer.notes()
    assert session.ok("%%accelerate\nprint('kept' in globals())").text() == "False\n"


def test_a_rank_that_dies_while_idle(session: Kernel) -> None:
    session.ok("%%accelerate\nimport threading\nif rank == 1: threading.Timer(0.3, os._exit, (3,)).start()")
    wait_until(lambda: session.value(f"{RUNNING}.names") == set(), 10)
    first, second = (session.ok("%%accelerate\nprint('kept' in globals())") for _ in range(2))
    assert first.text() == second.text() == "False\n"
    assert "started again (rank 1 is gone): the variables of its workers are gone" in first.notes()
    assert second.notes() == ""


def test_a_group_that_cannot_be_formed_again_is_told_in_the_next_cell(session: Kernel) -> None:
    session.ok("from nbaccel.launch import regrouping\npatience, regrouping._PATIENCE_S = regrouping._PATIENCE_S, -1")
    interrupted(session, "time.sleep(60)")
    wait_until(lambda: session.value(f"{RUNNING}.names") == set(), 10)
    session.ok("regrouping._PATIENCE_S = patience")
    answer = session.ok("%%accelerate\nprint('kept' in globals())")
    assert answer.text() == "False\n"
    assert "did not form their process group again): the variables of its workers are gone" in answer.notes()


def test_a_child_that_floods_does_not_hold_the_session(session: Kernel) -> None:
    session.ok("%%accelerate\nimport subprocess\nchild = subprocess.Popen(['yes'])")
    session.ok("%%accelerate\nchild.kill()\nchild.wait()")
    assert session.ok("%%accelerate\nprint(kept)").text() == "kept\n"


def test_a_timeout_of_a_cell_names_where_each_rank_was(session: Kernel) -> None:
    error = session.run("%%accelerate --timeout 1\nif rank == 1: time.sleep(60)\nelse: dist.barrier()").error
    assert "rank 0 waits in" in error
    assert "rank 1 has not called it" in error
    assert "time.sleep(60)" in error
    assert session.ok("%%accelerate\nprint(kept)").text() == "kept\n"


def test_stopping_while_it_runs_leaves_nothing(session: Kernel) -> None:
    before = len(session.children())
    session.ok("other = nbaccel.Session(2)\njob = other.submit(lambda: __import__('time').sleep(60))")
    session.ok("other.close()")
    assert "the session ended before" in session.run("job.result(10)").error
    assert wait_until(lambda: len(session.children()) <= before + 1, 5)  # the zygote may be new


def test_no_error_is_lost_when_a_run_is_over_at_once(session: Kernel) -> None:
    session.ok(
        "def failing(): no_such_name\n"
        "errors = 0\nother = nbaccel.Session(2)\n"
        "for _ in range(100):\n    try: other.run(failing)\n    except Exception: errors += 1\nother.close()"
    )
    assert session.value("errors") == 100
