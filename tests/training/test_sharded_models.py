"""FSDP from a real kernel: what the ranks hold in parts comes home whole."""

from __future__ import annotations

import pytest

from harness import Kernel

TRAINING = """
import torch
from nbaccel import Accelerator
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 1))
optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
weight, before = model[0].weight, model[0].weight.detach().clone()

def train(model, optimizer):
    accelerator = Accelerator(fsdp_config={'fsdp_version': 2})
    model, optimizer = accelerator.prepare(model, optimizer)
    for _ in range(4):
        accelerator.backward(model(torch.ones(2, 4)).pow(2).mean())
        optimizer.step(); optimizer.zero_grad()
    full = accelerator.get_state_dict(model)
    accelerator.end_training()
    return full, model, {'inside': optimizer}

def train_new():
    model = torch.nn.Linear(3, 2)
    Accelerator(fsdp_config={'fsdp_version': 2}).prepare(model)
    return model, model.weight

def fail_on(rank):
    import os
    train_new()
    if int(os.environ['RANK']) == rank:
        raise ValueError('on purpose')
"""


@pytest.fixture(scope="module")
def session(kernel: Kernel) -> Kernel:
    kernel.ok(TRAINING)
    kernel.ok("%accelerate start -n 2 --cpu")
    kernel.ok(
        "%%accelerate\nimport torch\nfrom nbaccel import Accelerator\ntorch.manual_seed(0)\n"
        "accelerator = Accelerator(fsdp_config={'fsdp_version': 2})\n"
        "net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 1))\n"
        "adam = torch.optim.Adam(net.parameters())\nnet, adam = accelerator.prepare(net, adam)\n"
        "accelerator.backward(net(torch.ones(1, 4)).sum())\nadam.step()\nvalue = net(torch.ones(1, 4)).item()"
    )
    return kernel


def test_a_sharded_model_and_its_optimizer_come_home_in_place(kernel: Kernel) -> None:
    kernel.ok(TRAINING)
    kernel.ok("full, same, rest = nbaccel.notebook_launcher(train, (model, optimizer), num_processes=2, use_cpu=True)")
    assert kernel.value("same is model and rest['inside'] is optimizer and weight is model[0].weight")
    assert kernel.value("torch.equal(weight, full['0.weight']) and not torch.equal(weight, before)")
    assert kernel.value("optimizer.state[weight]['step'].item(), tuple(optimizer.state[weight]['exp_avg'].shape)") == (
        4.0,
        (8, 4),
    )
    kernel.ok("model(torch.ones(1, 4)).sum().backward(); optimizer.step()")


def test_a_model_made_in_the_workers_comes_home_as_its_own_class(kernel: Kernel) -> None:
    kernel.ok(TRAINING + "made, own = nbaccel.notebook_launcher(train_new, num_processes=2, use_cpu=True)")
    assert kernel.value("type(made) is torch.nn.Linear and made.weight is own and tuple(own.shape) == (2, 3)")
    kernel.ok("made(torch.ones(1, 3)).sum().backward()")


@pytest.mark.parametrize("rank", [0, 1])
def test_a_failing_rank_leaves_nobody_waiting(kernel: Kernel, rank: int) -> None:
    kernel.ok(TRAINING)
    error = kernel.run(f"nbaccel.notebook_launcher(fail_on, ({rank},), num_processes=2, use_cpu=True)").error
    assert f"rank {rank} of 2 failed: ValueError: on purpose" in error


def test_a_session_gives_models_back(session: Kernel) -> None:
    session.ok("%%accelerate -o net,adam,value\npass")
    assert session.value("type(net) is torch.nn.Sequential and adam.param_groups[0]['params'][0] is net[0].weight")
    assert session.value("net(torch.ones(1, 4)).item() == value and adam.state[net[0].weight]['step'].item() == 1")


def test_an_error_on_one_rank_costs_no_model(session: Kernel) -> None:
    assert "ZeroDivisionError" in session.run("%%accelerate\nif accelerator.is_main_process: 1 / 0").error
    session.ok("%%accelerate\nassert net(torch.ones(1, 4)).item() == value")


def test_what_parts_cannot_be_joined(session: Kernel) -> None:
    session.ok("%%accelerate --ranks 0\nprint('one rank alone waits for nobody')")
    error = session.run("%%accelerate --ranks 0 -o net\npass").error
    assert "a part of the outputs (a DTensor) cannot be sent: its parts lie on several ranks" in error
    error = session.run("%%accelerate -o loose\nloose = net[0].weight.detach()").error
    assert "it belongs to no prepared model or optimizer. Give back tensor.full_tensor()" in error


def test_after_an_interrupt_the_model_says_what_to_do(session: Kernel) -> None:
    running = session.start("%%accelerate\nimport time\nprint('running', flush=True)\ntime.sleep(60)")
    while "running" not in str(session.client.get_iopub_msg(timeout=60)["content"].get("text")):
        pass
    session.manager.interrupt_kernel()
    assert "KeyboardInterrupt" in session.finish(running).error
    assert "build it again, load the last checkpoint" in session.run("%%accelerate\nnet(torch.ones(1, 4))").error
    assert "Build the model and its optimizer again" in session.run("%%accelerate\naccelerator.prepare(net)").error
    session.ok("%%accelerate\nnet = accelerator.prepare(torch.nn.Linear(4, 1))\nnet(torch.ones(1, 4))")
