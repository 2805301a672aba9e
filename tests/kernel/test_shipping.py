"""What crosses between a real kernel and its workers: trained objects, shared memory, local modules, what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness import Kernel

TRAINING = """
import torch, warnings
from nbaccel import Accelerator
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 1))
optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.5)
kernels = model, optimizer, scheduler, model[0].weight
before = model[0].weight.detach().clone()

def steps(model, optimizer, scheduler, count):
    for _ in range(count):
        model(torch.ones(2, 4)).pow(2).mean().backward()
        optimizer.step(); scheduler.step(); optimizer.zero_grad()

def train(model, optimizer, scheduler):
    accelerator = Accelerator()
    steps(*accelerator.prepare(model, optimizer, scheduler), 4)
    return accelerator.num_processes

def is_home():
    same = model, optimizer, scheduler, model[0].weight
    assert all(mine is own for mine, own in zip(same, kernels, strict=True))
    assert optimizer.param_groups[0]['params'][0] is model[0].weight and scheduler.optimizer is optimizer
    assert not torch.equal(model[0].weight, before)
    assert optimizer.state[model[0].weight]['step'] == 4
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        rate = scheduler.get_last_lr()[0]
        assert rate == optimizer.param_groups[0]['lr'] < 0.1
        steps(model, optimizer, scheduler, 1)
    assert optimizer.state[model[0].weight]['step'] == 5
    return True
"""


def test_arguments_come_home_trained_and_tied(kernel: Kernel) -> None:
    kernel.ok(TRAINING)
    assert kernel.value("notebook_launcher(train, (model, optimizer, scheduler), num_processes=2)") == 2
    assert kernel.value("is_home()")


def test_captured_objects_come_home_trained_and_tied(kernel: Kernel) -> None:
    kernel.ok(TRAINING + "def outer(): return train(model, optimizer, scheduler)")
    assert kernel.value("notebook_launcher(outer, num_processes=2)") == 2
    assert kernel.value("is_home()")


def test_training_goes_on_in_the_next_launch(kernel: Kernel) -> None:
    kernel.ok(TRAINING)
    kernel.ok("for _ in range(2): notebook_launcher(train, (model, optimizer, scheduler), num_processes=1)")
    assert kernel.value("optimizer.state[model[0].weight]['step'].item(), optimizer.param_groups[0]['lr']") == (
        8.0,
        0.1 * 0.5**4,
    )


@pytest.mark.parametrize("outputs", ["model", "model,optimizer,scheduler", "scheduler"])
def test_a_cell_gives_back_the_kernels_own_objects(kernel: Kernel, outputs: str) -> None:
    kernel.ok(TRAINING)
    kernel.ok(
        f"%%accelerate -n 2 -o {outputs}\naccelerator = Accelerator()\n"
        "model, optimizer, scheduler = accelerator.prepare(model, optimizer, scheduler)\n"
        "steps(model, optimizer, scheduler, 4)"
    )
    assert kernel.value("is_home()")


def test_returned_objects_are_the_kernels_own_however_deep(kernel: Kernel) -> None:
    kernel.ok(TRAINING + "def work(model, rest):\n    train(model, *rest)\n    return {'all': [model, {'rest': rest}]}")
    kernel.ok("value = notebook_launcher(work, (model, [optimizer, scheduler]), num_processes=2)")
    assert kernel.value("value['all'][0] is model and value['all'][1]['rest'][0] is optimizer and is_home()")


def test_an_optimizer_made_in_the_cell_belongs_to_the_kernels_model(kernel: Kernel) -> None:
    kernel.ok(TRAINING + "del optimizer, scheduler")
    kernel.ok(
        "%%accelerate -n 2 -o optimizer\noptimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)\n"
        "model(torch.ones(1, 4)).sum().backward()\noptimizer.step()"
    )
    assert kernel.value("optimizer.param_groups[0]['params'][0] is model[0].weight")
    assert kernel.value("not torch.equal(model[0].weight, before)")
    assert kernel.value("list(optimizer.state[model[0].weight]) == ['momentum_buffer']")


def test_other_parameter_groups_are_one_warning(kernel: Kernel) -> None:
    kernel.ok(TRAINING + "def grow(): optimizer.add_param_group({'params': [torch.nn.Parameter(torch.ones(1))]})")
    text = kernel.run("notebook_launcher(grow, num_processes=1)").text("stderr")
    assert text.count("AdamW changed in the workers; its state is not copied back") == 1


MEMORY = """
import numpy as np, os, torch
def inode_of(array):
    address = array.ctypes.data if isinstance(array, np.ndarray) else array.data_ptr()
    with open('/proc/self/maps') as maps:
        for line in maps:
            span, _, _, _, inode, *_ = line.split()
            start, end = (int(part, 16) for part in span.split('-'))
            if start <= address < end:
                return int(inode)
"""


def test_shared_memory_is_not_copied(kernel: Kernel) -> None:
    kernel.ok(MEMORY + "big, tensor = nbaccel.share([np.arange(1_000_000), torch.arange(1_000_000.0)])\n")
    kernel.ok("def where(part): return [inode_of(big), inode_of(part), inode_of(tensor), inode_of(tensor[5:])]")
    kernel.ok("there = notebook_launcher(where, (big[::2],), num_processes=2, return_all=True)")
    assert kernel.value("there == [[inode_of(big)] * 4] * 2 and inode_of(big) > 0")
    kernel.ok("plain = np.arange(1_000_000)\ndef where(): return inode_of(plain)")
    assert kernel.value("notebook_launcher(where, num_processes=1) != inode_of(plain)")


def test_what_workers_do_to_shared_memory_stays_theirs_and_comes_home_on_request(kernel: Kernel) -> None:
    kernel.ok("import numpy as np\nbig = nbaccel.share(np.zeros(100_000))\nbig[7] = 1")
    kernel.ok("%%accelerate -n 2 -o part\nbig += 5\npart = big[5:50_000]")
    assert kernel.value("[float(n) for n in (part[0], part[2], big[5], big[7], len(part))]") == [5, 6, 0, 1, 49_995]


def test_shared_memory_is_given_back(kernel: Kernel) -> None:
    kernel.ok(
        "import gc, os, numpy as np\n"
        "def read(link):\n    try: return os.readlink(link)\n    except OSError: return ''\n"
        "def files():\n"
        "    gc.collect()\n"
        "    links = ['/proc/self/fd/' + name for name in os.listdir('/proc/self/fd')]\n"
        "    return sum('memfd:nbaccel' in read(link) for link in links)\n"
        "before = files()\nlent = nbaccel.share(np.zeros(1000))\n"
        "notebook_launcher(lambda: lent.sum(), num_processes=2)\nduring = files()\ndel lent\nafter = files()"
    )
    assert kernel.value("before == after < during")


def test_memory_of_trained_weights_is_given_back(kernel: Kernel) -> None:
    kernel.ok(
        "import torch, re\nlarge = torch.nn.Linear(2000, 2000)\ndef touch(): return torch.ones(100_000)\n"
        "def mapped():\n    with open('/proc/self/maps') as maps:\n"
        "        spans = [line.split()[0].split('-') for line in maps if 'memfd:nbaccel' in line]\n"
        "    return sum(int(end, 16) - int(start, 16) for start, end in spans)\n"
        "def outer(): return touch(), large.weight.shape\nbefore = mapped()\n"
        "kept = [notebook_launcher(outer, num_processes=1) for _ in range(3)]"
    )
    assert kernel.value("mapped() - before") < 3 * 500_000


def test_functions_reach_the_workers_shell_and_streams(kernel: Kernel) -> None:
    kernel.ok(
        "import sys\nout = sys.stdout\ndef speak():\n    get_ipython().system('echo shell')\n    print('stream', file=out)"
    )
    assert kernel.ok("notebook_launcher(speak, num_processes=1)").text() == "shell\nstream\n"


@pytest.fixture
def beside(kernel: Kernel, tmp_path: Path) -> Path:
    """The folder of the notebook, from which modules can be imported."""
    kernel.ok(
        f"import os, sys\nhome = os.getcwd()\nos.chdir({str(tmp_path)!r})\n'' in sys.path or sys.path.insert(0, '')"
    )
    return tmp_path


def test_a_module_beside_the_notebook_can_be_imported(kernel: Kernel, beside: Path) -> None:
    (beside / "local_net.py").write_text("import torch\nclass Net(torch.nn.Linear):\n    size = 3\n")
    kernel.ok(
        "from local_net import Net\nnet = Net(2, 2)\ndef look(given): return type(given).size, Net is type(given)"
    )
    assert kernel.value("notebook_launcher(look, (net,), num_processes=2)") == (3, True)
    assert kernel.value("type(notebook_launcher(lambda: Net(1, 1), num_processes=1)) is Net")


def test_a_module_that_was_edited_is_seen_by_the_next_run(kernel: Kernel, beside: Path) -> None:
    (beside / "local_edited.py").write_text("def answer(): return 1\n")
    kernel.ok("import local_edited")
    run = "notebook_launcher(lambda: local_edited.answer(), num_processes=2, return_all=True)"
    assert kernel.value(run) == [1, 1]
    (beside / "local_edited.py").write_text("def answer(): return 1 + 1\n")
    assert kernel.value(run) == [2, 2]
    answer = kernel.ok("%%accelerate -n 1\nprint(local_edited.answer())")
    assert answer.text() == "2\n"


def test_functions_of_a_module_that_autoreload_reloads_are_current(kernel: Kernel, beside: Path) -> None:
    source = "import threading\nlock = threading.Lock()\ndef answer():\n    with lock: return {}\nclass Net:\n    def go(self): return {}\n"
    (beside / "local_reloaded.py").write_text(source.format(1, 1))
    kernel.ok("%load_ext autoreload\n%autoreload 2\nfrom local_reloaded import answer, Net\nnet = Net()")
    run = "notebook_launcher(lambda: [answer(), net.go(), Net().go()], num_processes=2)"
    assert kernel.value(run) == [1, 1, 1]
    (beside / "local_reloaded.py").write_text(source.format("1 + 1", "1 + 1"))
    assert kernel.value("[answer(), net.go(), Net().go()]") == [2, 2, 2]
    assert kernel.value(run) == [2, 2, 2]
    kernel.ok("%autoreload 0")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("log = open('/dev/null', 'w')\nnotebook_launcher(lambda: log)", r"`log`, which <lambda>\(\) uses \(a TextIOWrapper\)"),
        ("log = open('/dev/null', 'rb')\nnotebook_launcher(lambda: log)", r"`log`, .* \(a BufferedReader\).*open file"),
        (
            "import multiprocessing, types\nconfig = types.SimpleNamespace(lock=multiprocessing.Lock())\ndef deep(): return lambda: config\nnotebook_launcher(deep)",
            r"`config.lock`, which deep\(\) uses \(a Lock\) cannot be sent: a lock works only inside one process",
        ),
        (
            "import multiprocessing\nends = multiprocessing.Pipe()\nnotebook_launcher(lambda x: x, ([ends],))",
            r"args\[0\]\[0\]\[0\] \(a Connection\) cannot be sent: a connection belongs to one process",
        ),
        ("import sqlite3\nbase = sqlite3.connect(':memory:')\nnotebook_launcher(lambda: base)", "`base`, .* a connection"),
        ("log = open('/dev/null')\n_ = get_ipython().run_cell_magic('accelerate', '-n 1', 'log.read()')", "`log` .* open file"),
    ],
)  # fmt: skip
def test_what_cannot_be_sent_is_named(kernel: Kernel, code: str, words: str) -> None:
    error = kernel.run(code).error
    assert re.search(f"ShipError: {words}", error), error


def test_cached_functions_new_types_and_local_classes_reach_the_workers(kernel: Kernel) -> None:
    kernel.ok(
        "import functools, typing\nbase, hidden = 2, 8\nUserId = typing.NewType('UserId', int)\n"
        "@functools.lru_cache\ndef power(x: UserId): return base ** x\n"
        "def train():\n    class Net:\n        size = hidden\n    return power(UserId(3)), Net.size"
    )
    assert kernel.value("notebook_launcher(train, num_processes=2)") == (8, 8)
    kernel.ok("%accelerate start -n 1")
    assert kernel.ok("%%accelerate\nprint(power(5), train())").text() == "32 (8, 8)\n"
    kernel.ok("base, hidden = 3, 9")
    assert kernel.ok("%%accelerate\nprint(power(2), train())").text() == "9 (8, 9)\n"
    kernel.ok("%accelerate stop")


def test_what_a_run_noted_on_a_model_comes_home(kernel: Kernel) -> None:
    kernel.ok(
        "import torch\nmodel = same = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU())\n"
        "def train(model):\n    model.best = 0.9\n    return model\n"
        "def rebuild(model):\n    model[1] = torch.nn.GELU()\n    return model"
    )
    assert kernel.value("notebook_launcher(train, (model,), num_processes=2) is same, model.best") == (True, 0.9)
    answer = kernel.ok("rebuilt = notebook_launcher(rebuild, (model,), num_processes=2)")
    assert "Sequential has other parts in the workers, of which at most the weights were copied back: 1" in answer.text(
        "stderr"
    )
    assert kernel.value("[type(one[1]).__name__ for one in (rebuilt, model)]") == ["GELU", "ReLU"]
    kernel.ok("%accelerate start -n 1")
    kernel.ok("%%accelerate\nmodel.scores = [1, 2]")
    kernel.ok("%accelerate pull model")
    assert kernel.value("model is same, model.scores") == (True, [1, 2])
    kernel.ok("%accelerate stop")
