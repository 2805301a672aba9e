"""The hang doctor in a real kernel: it must name who is missing, whatever the ranks are stuck in."""

from __future__ import annotations

from harness import Kernel

GROUP = "import ctypes, os, time, torch, torch.distributed as dist\ndist.init_process_group()\nrank = dist.get_rank()\ndist.barrier()\n"


def test_a_rank_that_skips_a_barrier_is_named_and_the_run_goes_on(kernel: Kernel) -> None:
    answer = kernel.ok(
        f"%%accelerate -n 2 --hang-after 1\n{GROUP}if rank == 1: time.sleep(4)\ndist.barrier()\nprint('over')"
    )
    said = answer.notes()
    assert "rank 0 waits in barrier #2; rank 1 has not called it" in said
    assert "time.sleep(4)" in said
    assert said.count("has not called it") == 1
    assert "over" in answer.text()


def test_a_rank_that_holds_the_interpreter_in_c_is_named_with_its_stack(kernel: Kernel) -> None:
    answer = kernel.run(
        f"%%accelerate -n 2 --hang-after 1 --timeout 6\n{GROUP}def stuck(): sum(range(10**12))\nif rank == 1: stuck()\ndist.all_reduce(torch.ones(3))"
    )
    said = answer.notes()
    assert "rank 0 waits in all_reduce #2 of 3; rank 1 has not called it" in said
    assert "rank 1 is in C code that holds the interpreter" in said
    assert "in stuck" in said
    assert "RunTimeoutError" in answer.error
    assert "rank 1 has not called it" in answer.error


def test_ranks_in_different_collectives_are_told_apart(kernel: Kernel) -> None:
    answer = kernel.run(
        f"%%accelerate -n 2 --hang-after 1 --timeout 4\n{GROUP}if rank == 0: dist.all_reduce(torch.ones(2))\nelse: dist.broadcast(torch.ones(5), 0)"
    )
    assert (
        "the ranks are in different collectives: rank 0: all_reduce #2 of 2; rank 1: broadcast #2 of 5"
        in answer.notes()
    )


def test_collectives_of_ddp_are_seen(kernel: Kernel) -> None:
    answer = kernel.run(
        f"%%accelerate -n 2 --hang-after 1 --timeout 5\n{GROUP}model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 1))\n"
        "out = model(torch.ones(1, 2)).sum()\nif rank == 0: out.backward()\nelse: time.sleep(60)"
    )
    assert "rank 1 has not called it" in answer.notes()


def test_a_long_epoch_is_no_hang(kernel: Kernel) -> None:
    answer = kernel.ok(
        f"%%accelerate -n 2 --hang-after 0.5\n{GROUP}for _ in range(20):\n    time.sleep(0.1)\n    dist.all_reduce(torch.ones(1))"
    )
    assert answer.notes() == ""


def test_a_rank_that_still_starts_can_be_asked(kernel: Kernel) -> None:
    kernel.ok("import time\njob, said = nbaccel.submit(lambda: 5, num_processes=1, start_method='spawn'), []")
    kernel.ok("while not job.pids(): time.sleep(0.001)\njob.examine(said.append)")
    assert kernel.value("job.result(60)") == 5
    assert kernel.value("len(said)") == 1


def test_stacks_at_any_time(kernel: Kernel) -> None:
    kernel.ok("%accelerate start -n 2")
    kernel.ok("%%accelerate --ranks 1 --background nap\nimport time\ndef napping():\n    time.sleep(30)\nnapping()")
    said = kernel.ok("import time\ntime.sleep(0.3)\n%accelerate stacks").text()
    assert "rank 0 is idle" in said
    assert "rank 1 runs" in said
    assert "in napping:  time.sleep(30)" in said
    kernel.ok("nap.cancel()\n%accelerate stop")
