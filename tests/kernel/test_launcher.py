"""`notebook_launcher` in a real kernel, as people really call it."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from harness import Kernel, running_kernel


@pytest.fixture(scope="module")
def cold_kernel() -> Iterator[Kernel]:
    """A kernel that has not even a zygote."""
    with running_kernel() as running:
        running.ok("from nbaccel import notebook_launcher")
        yield running


CLASSES = """
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 1)
    def forward(self, x):
        return self.linear(x)
"""

SIX_OBJECTS = (
    CLASSES
    + """
from dataclasses import dataclass
from torch.utils.data import DataLoader, TensorDataset
from nbaccel import Accelerator

@dataclass
class TrainingConfig:
    epochs: int = 20

class Noise:
    def add(self, x):
        return x + 0.01 * torch.randn_like(x)

torch.manual_seed(0)
x = torch.randn(64, 4)
y = x @ torch.tensor([[1.0], [-2.0], [3.0], [0.5]])
config, model, noise_scheduler = TrainingConfig(), Net(), Noise()
optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
train_dataloader = DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True)
lr_scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 100)
weight_before = model.linear.weight
value_before = weight_before.detach().clone()

def train_loop(config, model, noise_scheduler, optimizer, train_dataloader, lr_scheduler):
    accelerator = Accelerator()
    assert optimizer.param_groups[0]["params"][0] is model.linear.weight
    assert lr_scheduler.optimizer is optimizer
    model, optimizer, train_dataloader, lr_scheduler = accelerator.prepare(
        model, optimizer, train_dataloader, lr_scheduler)
    for epoch in range(config.epochs):
        for inputs, targets in train_dataloader:
            loss = torch.nn.functional.mse_loss(model(noise_scheduler.add(inputs)), targets)
            accelerator.backward(loss)
            optimizer.step()
            lr_scheduler.step()
            optimizer.zero_grad()
    return accelerator.num_processes

args = (config, model, noise_scheduler, optimizer, train_dataloader, lr_scheduler)
"""
)


@pytest.mark.parametrize("processes", [1, 2])
def test_six_objects_from_cells_train_and_the_kernels_model_has_learned(kernel: Kernel, processes: int) -> None:
    kernel.ok(SIX_OBJECTS)
    assert kernel.value(f"notebook_launcher(train_loop, args, num_processes={processes})") == processes
    assert kernel.value("model.linear.weight is weight_before and not torch.equal(weight_before, value_before)")
    assert kernel.value("float(torch.nn.functional.mse_loss(model(x), y)) < 0.05")


def test_models_stay_as_they_are_on_request(kernel: Kernel) -> None:
    kernel.ok(SIX_OBJECTS)
    kernel.ok("notebook_launcher(train_loop, args, num_processes=2, sync_models=False)")
    assert kernel.value("torch.equal(model.linear.weight, value_before)")


def test_a_captured_model_comes_back_trained(kernel: Kernel) -> None:
    kernel.ok(
        CLASSES + "captured = Net()\ndef fill():\n    with torch.no_grad():\n        captured.linear.weight.fill_(3)\n"
    )
    kernel.ok("notebook_launcher(fill, num_processes=2)")
    assert kernel.value("captured.linear.weight.tolist()") == [[3.0] * 4]


def test_a_model_that_changed_its_structure_is_told(kernel: Kernel) -> None:
    kernel.ok(CLASSES + "grown = Net()\ndef grow():\n    grown.linear = torch.nn.Linear(9, 1)\n")
    answer = kernel.run("notebook_launcher(grow, num_processes=1)")
    assert "Net changed its structure in the workers; not copied back: linear.weight" in answer.text("stderr")


def test_a_lambda_returns_its_value(kernel: Kernel) -> None:
    assert kernel.value("notebook_launcher(lambda: 42, num_processes=2)") == 42


def test_all_ranks_values_on_request(kernel: Kernel) -> None:
    kernel.ok("import os\ndef rank(): return int(os.environ['RANK'])")
    assert kernel.value("notebook_launcher(rank, num_processes=3, return_all=True)") == [0, 1, 2]
    assert kernel.value("notebook_launcher(rank, num_processes=3)") == 0


def test_instances_come_home_as_the_notebooks_class(kernel: Kernel) -> None:
    kernel.ok(
        "class Point:\n    def where(self): return helper()\ndef helper(): return 'here'\n"
        "where = Point.where\nback = notebook_launcher(lambda: {'deep': [Point()]}, num_processes=2)['deep'][0]"
    )
    assert kernel.value("isinstance(back, Point) and Point.where is where and back.where() == 'here'")
    kernel.ok("def helper(): return 'there'")
    assert kernel.value("back.where()") == "there"


def test_a_class_of_the_worker_comes_home_even_if_it_was_pickled_there(kernel: Kernel) -> None:
    kernel.ok(
        "def make():\n    import cloudpickle\n    class Local:\n        value = 7\n    cloudpickle.dumps(Local())\n    return Local()"
    )
    assert kernel.value("notebook_launcher(make, num_processes=1).value") == 7


def test_a_helper_that_is_defined_anew_takes_effect(kernel: Kernel) -> None:
    kernel.ok("def helper(): return 1\ndef work(): return helper()")
    assert kernel.value("notebook_launcher(work, num_processes=2)") == 1
    kernel.ok("def helper(): return 2")
    assert kernel.value("notebook_launcher(work, num_processes=2)") == 2


def test_the_environment_and_the_folder_of_the_kernel(kernel: Kernel) -> None:
    kernel.ok(
        "import os, tempfile\nos.environ['HF_TOKEN'] = 'abc'\nhome = os.getcwd()\nos.chdir(tempfile.mkdtemp())\n"
        "open('beside.py', 'w').write('value = 5')\nimport sys\nsys.path.insert(0, '')\n"
        "def look():\n    import beside\n    return os.environ['HF_TOKEN'], os.getcwd() == here, beside.value\nhere = os.getcwd()"
    )
    assert kernel.value("notebook_launcher(look, num_processes=2)") == ("abc", True, 5)
    kernel.ok("open('beside.py', 'w').write('value = 66')")
    assert kernel.value("notebook_launcher(look, num_processes=2)") == ("abc", True, 66)
    kernel.ok("os.chdir(home)")


def test_keyword_arguments(kernel: Kernel) -> None:
    kernel.ok("def add(a, b=1): return a + b")
    assert kernel.value("notebook_launcher(add, (1,), num_processes=1, kwargs={'b': 5})") == 6


def test_a_coroutine_function_is_awaited(kernel: Kernel) -> None:
    kernel.ok("async def later():\n    import asyncio\n    await asyncio.sleep(0.01)\n    return 'done'")
    assert kernel.value("notebook_launcher(later, num_processes=2)") == "done"


def test_workers_start_from_the_kernels_generators(kernel: Kernel) -> None:
    kernel.ok(
        "import random, torch, numpy as np\n"
        "def draw(): return random.random(), float(np.random.rand()), float(torch.rand(()))\n"
        "def seed(n): random.seed(n); np.random.seed(n); torch.manual_seed(n)\n"
        "seed(3); here = draw(); seed(3)\nthere = notebook_launcher(draw, num_processes=2, return_all=True)"
    )
    assert kernel.value("there == [here, here]")


def test_an_explicit_seed_wins(kernel: Kernel) -> None:
    kernel.ok("import torch\ndef draw(): return float(torch.rand(()))\ntorch.manual_seed(1)")
    first, second = kernel.value("[notebook_launcher(draw, num_processes=1, seed=5) for _ in range(2)]")
    assert first == second == kernel.value("(torch.manual_seed(5), draw())[1]")


@pytest.mark.slow
def test_unseeded_launches_never_repeat_the_zygotes_numbers(fresh_kernel: Kernel) -> None:
    fresh_kernel.ok(
        "import nbaccel\ndef draw():\n    import numpy, torch\n    return float(torch.rand(())), float(numpy.random.rand())"
    )
    draws = fresh_kernel.value("[nbaccel.notebook_launcher(draw, num_processes=2, return_all=True) for _ in range(3)]")
    assert all(first == second for first, second in draws)
    assert len({draw for pair in draws for draw in pair}) == 3


def test_threads_follow_the_usable_cores(kernel: Kernel) -> None:
    kernel.ok(
        "import os, torch, nbaccel.machine\ndef threads(): return torch.get_num_threads(), os.environ['OMP_NUM_THREADS']"
    )
    expected = kernel.value("max(1, nbaccel.machine.probe().usable_cores // 2)")
    assert kernel.value("notebook_launcher(threads, num_processes=2)") == (expected, str(expected))


def test_bare_torch_distributed_sees_two_ranks(kernel: Kernel) -> None:
    kernel.ok(
        "def bare():\n    import torch, torch.distributed as dist\n    dist.init_process_group()\n"
        "    t = torch.ones(1); dist.all_reduce(t)\n    return dist.get_rank(), dist.get_world_size(), t.item()"
    )
    for method in ("zygote", "spawn"):
        result = kernel.value(f"notebook_launcher(bare, num_processes=2, return_all=True, start_method={method!r})")
        assert result == [(0, 2, 2.0), (1, 2, 2.0)]


def test_accelerate_itself_sees_two_ranks(kernel: Kernel) -> None:
    kernel.ok(
        "def original():\n    import torch\n    from accelerate import Accelerator\n    a = Accelerator()\n"
        "    total = a.reduce(torch.tensor(1.0))\n    return a.num_processes, a.process_index, total.item(), a.mixed_precision"
    )
    result = kernel.value("notebook_launcher(original, num_processes=2, return_all=True, mixed_precision='bf16')")
    assert result == [(2, 0, 2.0, "bf16"), (2, 1, 2.0, "bf16")]


def test_a_kernel_that_used_threads_and_built_an_accelerator_can_launch(fresh_kernel: Kernel) -> None:
    fresh_kernel.ok(
        "import torch\nfrom nbaccel import Accelerator, notebook_launcher\ntorch.set_num_threads(2)\n"
        "a = torch.randn(1500, 1500, requires_grad=True)\n(a @ a).exp().sum().backward()\naccelerator = Accelerator()\n"
        "def work():\n    from nbaccel import Accelerator\n    import torch\n    b = torch.randn(500, 500, requires_grad=True)\n"
        "    (b @ b).sum().backward()\n    return Accelerator().num_processes"
    )
    assert fresh_kernel.value("notebook_launcher(work, num_processes=2)") == 2


def test_the_kernel_is_as_it_was(kernel: Kernel) -> None:
    kernel.ok(
        "import os, signal, psutil, threading\n"
        "def state(): return ([signal.getsignal(n) for n in (2, 15, 1, 3)], dict(os.environ), len(os.listdir('/proc/self/fd')),\n"
        "    [p.pid for p in psutil.Process().children()], threading.active_count())\n"
        "notebook_launcher(lambda: 1, num_processes=2)\nbefore = state()\n"
        "for _ in range(5): notebook_launcher(lambda: 1, num_processes=2)\nafter = state()"
    )
    assert kernel.value("[a == b for a, b in zip(before, after)]") == [True] * 5


@pytest.mark.slow
def test_a_gigabyte_reaches_two_workers(kernel: Kernel) -> None:
    kernel.ok("import numpy as np\nbig = np.ones(1 << 30, np.uint8)\ndef total(): return int(big[::4096].sum())")
    assert kernel.value("notebook_launcher(total, num_processes=2, return_all=True)") == [1 << 18] * 2
    kernel.ok("del big")


def test_debug_launcher_runs_on_the_cpu(kernel: Kernel) -> None:
    kernel.ok(
        "def check():\n    from nbaccel import Accelerator\n    a = Accelerator()\n    print(a.device, a.num_processes)"
    )
    answer = kernel.ok("nbaccel.debug_launcher(check)")
    assert answer.text() == "cpu 2\n"


def test_inline_runs_in_the_kernel_itself(kernel: Kernel) -> None:
    kernel.ok("import os\ndef where(): return os.getpid(), os.environ['WORLD_SIZE']")
    assert kernel.value("notebook_launcher(where, start_method='inline') == (os.getpid(), '1')")
    assert kernel.value("'WORLD_SIZE' in os.environ") is False


def test_restarts_tell_the_attempt(kernel: Kernel) -> None:
    kernel.ok(
        "import os\ndef flaky():\n    attempt = int(os.environ['TORCHELASTIC_RESTART_COUNT'])\n"
        "    if attempt < 2: raise RuntimeError('not yet')\n    return attempt"
    )
    answer = kernel.ok("print(notebook_launcher(flaky, num_processes=2, max_restarts=2))")
    assert answer.text() == "2\n"
    assert re.search(r"attempt 1 of 3 failed \(ranks? .* of 2 failed: RuntimeError: not yet\)", answer.notes())


@pytest.mark.parametrize("output", ["auto", "all", "main"])
def test_the_first_rank_of_another_machine_is_shown_there_as_it_is(kernel: Kernel, output: str) -> None:
    kernel.ok(
        "def speak(fails):\n    print('I am', os.environ['RANK'])\n    if fails: raise ValueError('wrong')\nimport os"
    )
    there = f"num_processes=4, num_nodes=2, node_rank=1, master_addr='127.0.0.1', use_port=29555, output={output!r}"
    answer = kernel.ok(f"notebook_launcher(speak, (False,), {there})")
    assert answer.text() == "I am 2\n" + ("" if output == "main" else "[3] I am 3\n")
    assert (
        "ranks 2 and 3 of 4 failed: ValueError: wrong"
        in kernel.run(f"notebook_launcher(speak, (True,), {there})").error
    )


def test_labels_of_other_ranks_can_be_chosen(kernel: Kernel) -> None:
    kernel.ok("import os\ndef speak(): print('I am', os.environ['RANK'])")
    answer = kernel.ok("notebook_launcher(speak, num_processes=2, log_line_prefix_template='<${rank}> ')")
    assert answer.text() == "I am 0\n<1> I am 1\n"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("notebook_launcher(42)", "CallError.*needs a function to run, not 42"),
        ("notebook_launcher(lambda x: x, {'x': 1})", "CallError.*go into kwargs="),
        ("notebook_launcher(lambda x: x, 'abc')", "CallError.*must be a tuple"),
        ("notebook_launcher(lambda x: x, 5, params={'x': 1})", "CallError.*must be a tuple"),
        ("notebook_launcher(lambda: 1, kwargs=[1])", "CallError.*must be a dict"),
        ("notebook_launcher(lambda x: x)", "CallError.*missing a required argument: 'x'"),
        ("notebook_launcher(lambda: 1, mixed_precision='fp17')", "ConfigError.*Possible: no, bf16, fp16, fp8"),
        ("notebook_launcher(lambda: 1, num_processes=-1)", "ConfigError.*num_processes=-1.*a whole number from 1"),
        ("notebook_launcher(lambda: 1, gpu_ids='7')", "PlanError"),
        ("notebook_launcher(lambda: 1, rdzv_backend='etcd')", "ConfigError.*static, c10d"),
        ("notebook_launcher(lambda: 1, rdzv_conf={'a': 1})", "ConfigError.*rdzv_conf"),
        ("notebook_launcher(lambda: 1, rdzv_endpoint='nowhere')", "ConfigError.*host:port"),
        ("notebook_launcher(lambda: 1, num_nodes=2, num_processes=2)", "PlanError.*master_addr"),
        ("notebook_launcher(lambda: 1, num_machines=2, num_processes=2)", "PlanError.*master_addr"),
        ("notebook_launcher(lambda: 1, num_nodes=2, num_machines=3)", "CallError.*num_machines=3 are one setting"),
        ("import threading\nlock = threading.Lock()\nnotebook_launcher(lambda: lock)", "ShipError.*`lock`"),
        ("notebook_launcher(lambda x: x, (i for i in [1]))", "CallError.*must be a tuple"),
        ("notebook_launcher(lambda x: x, ((i for i in [1]),))", r"ShipError.*args\[0\] \(a generator\)"),
    ],
)
def test_bad_input_is_one_clear_error_before_any_process(cold_kernel: Kernel, code: str, words: str) -> None:
    answer = cold_kernel.run(code)
    assert re.search(words, answer.error), answer.error
    assert cold_kernel.children() == []


def test_a_launch_inside_a_worker_is_refused(kernel: Kernel) -> None:
    kernel.ok("def nested(): return notebook_launcher(lambda: 1)")
    assert (
        "StateError: this code runs in a worker already"
        in kernel.run("notebook_launcher(nested, num_processes=1)").error
    )


def test_a_result_that_cannot_be_sent_is_named(kernel: Kernel) -> None:
    answer = kernel.run("import threading\nnotebook_launcher(lambda: {'lock': threading.Lock()}, num_processes=2)")
    assert "the value returned by <lambda>()['lock'] (a lock) cannot be sent" in answer.error
