"""Launches on XLA's devices in a real kernel, whose own process never wakes the runtime."""

from __future__ import annotations

import ast
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from harness import Kernel, running_kernel, wait_until

WHO = """
def who(factor=1):
    import torch, torch_xla
    from nbaccel import Accelerator
    from torch_xla import runtime
    accelerator = Accelerator()
    chips = runtime.global_runtime_device_count() if runtime.is_spmd() else 1
    total = accelerator.gather(torch.ones(1, device=accelerator.device) * factor).sum().item()
    return accelerator.device.type, accelerator.num_processes, chips, total
"""


def value(kernel: Kernel, expression: str) -> Any:
    """The value of an expression; this torch's gloo may print lines of its own before it."""
    return ast.literal_eval(kernel.ok(f"print(repr(({expression})))").text().splitlines()[-1])


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    with running_kernel(PJRT_DEVICE="CPU", CPU_NUM_DEVICES="4") as running:
        running.ok("%load_ext nbaccel\nimport nbaccel, sys\nfrom nbaccel import notebook_launcher")
        running.ok(WHO)
        yield running


def test_one_process_then_all_chips_then_one_again_without_a_restart(kernel: Kernel) -> None:
    one = "notebook_launcher(who, distributed_type='XLA', num_processes=1)"
    assert value(kernel, one) == ("xla", 1, 1, 1.0)
    assert value(kernel, "notebook_launcher(who, distributed_type='XLA', xla_spmd=True)") == ("xla", 1, 4, 1.0)
    assert value(kernel, one) == ("xla", 1, 1, 1.0)
    assert value(kernel, "notebook_launcher(who, (2,), distributed_type='XLA')") == ("xla", 4, 1, 8.0)
    assert value(kernel, "notebook_launcher(who, distributed_type='XLA', num_processes=4)") == ("xla", 4, 1, 4.0)
    assert value(kernel, one) == ("xla", 1, 1, 1.0)
    assert value(kernel, "'torch_xla' in sys.modules or 'torch' in sys.modules") is False


def test_a_cell_function_works_in_fresh_interpreters_too(kernel: Kernel) -> None:
    call = "notebook_launcher(who, distributed_type='XLA', xla_spmd=True, start_method='spawn')"
    assert value(kernel, call) == ("xla", 1, 4, 1.0)


def test_a_cell_in_a_session_keeps_its_names(kernel: Kernel) -> None:
    kernel.ok("%accelerate start --distributed_type XLA --xla_spmd")
    kernel.ok("%%accelerate\nimport torch, torch_xla\nweights = torch.arange(4.0, device='xla')")
    answer = kernel.ok("%%accelerate\nprint((weights * 2).sum().item())")
    assert "12.0" in answer.text()
    kernel.ok("%accelerate stop")


def test_a_module_comes_back_trained(kernel: Kernel) -> None:
    kernel.ok("""
import torch
model = torch.nn.Linear(2, 1, bias=False)
torch.nn.init.zeros_(model.weight)
def train():
    from nbaccel import Accelerator
    accelerator = Accelerator()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    prepared, optimizer = accelerator.prepare(model, optimizer)
    accelerator.backward(-prepared(torch.ones(1, 2, device=accelerator.device)).sum())
    optimizer.step()
    return prepared(torch.ones(1, 2, device=accelerator.device))
result = notebook_launcher(train, distributed_type='XLA', num_processes=1)
""")
    assert value(kernel, "model.weight.tolist(), model.weight.device.type") == ([[1.0, 1.0]], "cpu")
    assert value(kernel, "result.device.type, result.item()") == ("cpu", 2.0)


def test_text_of_all_ranks_and_the_error_of_one(kernel: Kernel) -> None:
    kernel.ok("""
def fails():
    import torch_xla
    from nbaccel import Accelerator
    accelerator = Accelerator()
    print(f"here is {accelerator.process_index}", flush=True)
    accelerator.wait_for_everyone()
    if accelerator.process_index == 2:
        raise ValueError(f"no chip for {accelerator.device}")
    accelerator.wait_for_everyone()
""")
    answer = kernel.run("notebook_launcher(fails, distributed_type='XLA', output='all')")
    assert "ValueError: no chip for xla:0" in answer.error
    assert "rank 2 of 4 failed" in answer.error
    missing = [rank for rank in range(4) if f"here is {rank}" not in answer.text()]
    assert not missing, answer.text()


def test_an_interrupt_leaves_nothing_behind(kernel: Kernel) -> None:
    kernel.ok("""
def forever():
    import torch
    from nbaccel import Accelerator
    accelerator = Accelerator()
    print("at work", flush=True)
    while True:
        torch.ones(8, device=accelerator.device).sum().item()
""")
    cell = kernel.start("notebook_launcher(forever, distributed_type='XLA')")
    before = {process.pid for process in kernel.children()}
    while True:
        message = kernel.client.get_iopub_msg(timeout=60)
        if message["msg_type"] == "stream" and "at work" in message["content"]["text"]:
            break
    began = time.monotonic()
    kernel.manager.interrupt_kernel()
    answer = kernel.finish(cell)
    assert "KeyboardInterrupt" in answer.error
    assert time.monotonic() - began < 30
    workers = [process for process in kernel.children() if process.pid not in before]
    assert wait_until(lambda: not any(process.is_running() for process in workers), 10)
    assert value(kernel, "notebook_launcher(who, distributed_type='XLA', num_processes=1)")[0] == "xla"


def test_a_number_of_processes_that_the_chips_cannot_be_shared_by(kernel: Kernel) -> None:
    answer = kernel.run("notebook_launcher(who, distributed_type='XLA', num_processes=3)")
    assert "PlanError: num_processes=3" in answer.error
    assert "Possible: 1, or 4 (all; also if left out)" in answer.error


def test_a_kernel_that_has_used_xla_itself_can_still_launch(fresh_kernel: Kernel) -> None:
    fresh_kernel.ok("import os\nos.environ |= {'PJRT_DEVICE': 'CPU', 'CPU_NUM_DEVICES': '2'}")
    fresh_kernel.ok("from nbaccel import notebook_launcher")
    fresh_kernel.ok("import torch, torch_xla\ntorch.ones(2, device='xla').tolist()")
    fresh_kernel.ok(WHO)
    assert value(fresh_kernel, "notebook_launcher(who, distributed_type='XLA', xla_spmd=True)") == ("xla", 1, 2, 1.0)
    assert value(fresh_kernel, "notebook_launcher(who, distributed_type='XLA')") == ("xla", 2, 1, 2.0)
    answer = fresh_kernel.run("notebook_launcher(who, distributed_type='XLA', start_method='fork')")
    assert "torch_xla is at work in the kernel" in answer.error
    assert "zygote" in answer.error


def test_a_worker_killed_on_a_chip_is_named(kernel: Kernel) -> None:
    kernel.ok(f"""
def dies():
    import os
    from nbaccel import Accelerator
    Accelerator()
    os.kill(os.getpid(), {int(signal.SIGKILL)})
""")
    answer = kernel.run("notebook_launcher(dies, distributed_type='XLA', num_processes=1)")
    assert "WorkerDiedError: rank 0 was killed by SIGKILL" in answer.error
