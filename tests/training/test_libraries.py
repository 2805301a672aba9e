"""Training code that was written for other libraries, and knows nothing of nbaccel, runs unchanged in its workers."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import Kernel, wait_until

SHARED_MEMORY = Path("/dev/shm")
GONE_WITHIN_S = 10
"""torch's shared-memory manager itself waits 2 s for further clients; a probe of what to import ahead takes its time."""


@pytest.fixture(autouse=True)
def _nothing_is_left(kernel: Kernel) -> Iterator[None]:
    """After each test: no process below the kernel but the zygote, no block of shared memory more than before."""
    before = shared_memory()
    yield
    assert wait_until(lambda: len(kernel.children()) == 1, GONE_WITHIN_S), kernel.children()
    assert wait_until(lambda: shared_memory() <= before, GONE_WITHIN_S), shared_memory() - before


def shared_memory() -> set[str]:
    """Names of the system's blocks of shared memory."""
    return {path.name for path in SHARED_MEMORY.iterdir()} if SHARED_MEMORY.is_dir() else set()


def run_on_two(kernel: Kernel, code: str, call: str) -> tuple[list[str], list[str]]:
    """Run a cell, then one that launches a function of it on two ranks and keeps what they return as `first, second`.

    Returns:
        The lines of standard output and of standard error of the launch.
    """
    kernel.ok(code)
    answer = kernel.ok(f"first, second = notebook_launcher({call}, num_processes=2, return_all=True)")
    return answer.text().splitlines(), answer.text("stderr").splitlines()


TORCH = """
import os
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

def main():
    dist.init_process_group()
    torch.manual_seed(dist.get_rank())  # DDP itself must make the weights equal
    model = DistributedDataParallel(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 4, generator=generator)
    data = TensorDataset(x, x.sum(1, keepdim=True))
    sampler = DistributedSampler(data, seed=1)
    loader = DataLoader(data, batch_size=8, sampler=sampler)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    losses = []
    for epoch in range(5):
        sampler.set_epoch(epoch)
        for inputs, targets in loader:
            loss = torch.nn.functional.mse_loss(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        dist.all_reduce(loss)
        losses.append(loss.item())
    ranks = [torch.empty(1) for _ in range(dist.get_world_size())]
    dist.all_gather(ranks, torch.tensor([float(dist.get_rank())]))
    weights = [weight.tolist() for weight in model.parameters()]
    result = dict(world=dist.get_world_size(), steps=len(loader), losses=losses, ranks=[int(rank) for rank in ranks], weights=weights)
    dist.destroy_process_group()
    return result
"""


def test_a_bare_torch_function_with_ddp_trains(kernel: Kernel) -> None:
    run_on_two(kernel, TORCH, "main")
    assert kernel.value("first == second")
    assert kernel.value("(first['world'], first['steps'], first['ranks'])") == (2, 4, [0, 1])
    assert kernel.value("first['losses'][-1] < 0.3 * first['losses'][0]")


def test_a_group_that_is_destroyed_before_its_model_never_hangs(kernel: Kernel) -> None:
    kernel.ok(TORCH)  # torch may wait for gloo's threads with Python's lock held: one run in five, once all is warm
    kernel.ok("for _ in range(15): notebook_launcher(main, num_processes=2, timeout=20)")


def test_a_bare_torch_cell_with_ddp_trains(kernel: Kernel) -> None:
    kernel.ok("torch_result = None\n" + TORCH)
    kernel.ok("%%accelerate -n 2 -o torch_result\ntorch_result = main()")
    assert kernel.value("torch_result['ranks']") == [0, 1]
    assert kernel.value("torch_result['losses'][-1] < 0.3 * torch_result['losses'][0]")


ACCELERATE = """
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.utils.data import DataLoader, TensorDataset

def train():
    accelerator = Accelerator(gradient_accumulation_steps=2)
    set_seed(3)
    x = torch.randn(37, 4)  # does not divide by the batches, nor by the ranks
    y = (x.sum(1) > 0).long()
    model = torch.nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    loader = DataLoader(TensorDataset(x, y), batch_size=5, shuffle=True)
    evaluation = DataLoader(TensorDataset(x, y), batch_size=5)
    model, optimizer, loader, evaluation = accelerator.prepare(model, optimizer, loader, evaluation)
    losses = []
    for epoch in range(6):
        for inputs, labels in loader:
            with accelerator.accumulate(model):
                loss = torch.nn.functional.cross_entropy(model(inputs), labels)
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
        losses.append(accelerator.reduce(loss, "mean").item())
    right, seen = 0, 0
    for inputs, labels in evaluation:
        with torch.no_grad():
            guesses = model(inputs).argmax(1)
        guesses, labels = accelerator.gather_for_metrics((guesses, labels))
        right, seen = right + int((guesses == labels).sum()), seen + len(labels)
    accelerator.print("right:", right)
    weights = [weight.tolist() for weight in accelerator.unwrap_model(model).parameters()]
    accelerator.end_training()
    return dict(world=accelerator.num_processes, seen=seen, right=right, losses=losses, weights=weights)
"""


def test_a_function_of_accelerate_trains(kernel: Kernel) -> None:
    stdout, _ = run_on_two(kernel, ACCELERATE, "train")
    assert kernel.value("first == second")
    assert kernel.value("(first['world'], first['seen'])") == (2, 37)
    assert kernel.value("first['losses'][-1] < first['losses'][0] and first['right'] > 30")
    assert stdout == ["right: " + str(kernel.value("first['right']"))]


FABRIC = """
import torch
from lightning_fabric import Fabric
from torch.utils.data import DataLoader, TensorDataset

def main():
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp")
    fabric.launch()
    fabric.seed_everything(5)
    x = torch.randn(64, 4)
    with fabric.init_module():
        model = torch.nn.Linear(4, 1)
    model, optimizer = fabric.setup(model, torch.optim.SGD(model.parameters(), lr=0.2))
    loader = fabric.setup_dataloaders(DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), batch_size=8, shuffle=True))
    losses = []
    for epoch in range(5):
        for inputs, targets in loader:
            loss = torch.nn.functional.mse_loss(model(inputs), targets)
            optimizer.zero_grad()
            fabric.backward(loss)
            optimizer.step()
        losses.append(fabric.all_reduce(loss.detach()).item())
    fabric.barrier()
    weights = [weight.tolist() for weight in model.parameters()]
    fabric.print("trained")
    return dict(rank=fabric.global_rank, world=fabric.world_size, steps=len(loader), losses=losses, weights=weights)
"""


def test_a_function_of_lightning_fabric_trains(kernel: Kernel) -> None:
    stdout, _ = run_on_two(kernel, FABRIC, "main")
    assert stdout == ["trained"]
    assert kernel.value("(first.pop('rank'), second.pop('rank'))") == (0, 1)
    assert kernel.value("first == second")
    assert kernel.value("(first['world'], first['steps'])") == (2, 4)
    assert kernel.value("first['losses'][-1] < 0.3 * first['losses'][0]")


TRAINER = """
import tempfile
import torch

def train():
    from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments, set_seed
    set_seed(0)
    model = BertForSequenceClassification(BertConfig(
        vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=16, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, num_labels=2))
    rows = torch.randint(4, 32, (64, 8))
    data = [{"input_ids": row, "labels": (row[0] > 17).long()} for row in rows]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, use_cpu=True, report_to=[], per_device_train_batch_size=8, num_train_epochs=5,
            learning_rate=1e-2, logging_steps=4, save_strategy="no")
        trainer = Trainer(model=model, args=arguments, train_dataset=data, eval_dataset=data)
        trainer.train()
        accuracy = float((trainer.predict(data).predictions.argmax(1) == [int(one["labels"]) for one in data]).mean())
    return dict(
        world=arguments.world_size, main=trainer.is_world_process_zero(), steps=trainer.state.global_step, accuracy=accuracy,
        losses=[entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        weights=[weight.tolist() for weight in model.parameters()])
"""


def test_the_trainer_of_transformers_trains_and_its_progress_does_no_harm(kernel: Kernel) -> None:
    stdout, stderr = run_on_two(kernel, TRAINER, "train")
    assert kernel.value("(first.pop('main'), second.pop('main'))") == (True, False)
    assert kernel.value("first == second")
    assert kernel.value("(first['world'], first['steps'])") == (2, 20)
    losses = kernel.value("first['losses']")
    assert len(losses) == 5
    assert losses[-1] < 0.5 * losses[0]
    assert kernel.value("first['accuracy']") > 0.9
    told = [ast.literal_eval(line) for line in stdout]  # whole lines, each once, and nothing else
    assert [float(entry["loss"]) for entry in told if "loss" in entry] == pytest.approx(losses, rel=1e-3)
    bars = "\n".join(stderr)
    assert "100%" in bars
    assert "20/20" in bars
    assert not any(line.startswith("[1]") and "it/s" in line for line in stderr), "only rank 0 shows a bar"


@pytest.mark.parametrize("package", ["multiprocessing", "multiprocess"])
def test_a_pool_in_a_worker_runs_functions_of_the_notebook(kernel: Kernel, package: str) -> None:
    kernel.ok(
        f"import {package}\nimport os\ndef square(n): return n * n + offset\noffset = 1\n"
        f"def pooled():\n    with {package}.get_context('fork').Pool(2) as pool:\n"
        "        return pool.map(square, range(6)), os.getpid() not in pool.map(process, range(4))\n"
        "def process(_): return os.getpid()"
    )
    expected = ([1, 2, 5, 10, 17, 26], True)
    assert kernel.value("notebook_launcher(pooled, num_processes=2, return_all=True)") == [expected, expected]


def test_multiprocess_sends_lambdas_to_fresh_interpreters(kernel: Kernel) -> None:
    kernel.ok(
        "import multiprocess\ndef pooled():\n    with multiprocess.get_context('spawn').Pool(2) as pool:\n"
        "        return pool.map(lambda n: n * n, range(4))"
    )
    assert kernel.value("notebook_launcher(pooled, num_processes=2, return_all=True)") == [[0, 1, 4, 9]] * 2


@pytest.mark.parametrize("package", ["multiprocessing", "multiprocess"])
def test_a_pool_that_nobody_closed_does_not_outlive_its_worker(kernel: Kernel, package: str) -> None:
    kernel.ok(
        f"def pooled():\n    import {package}\n    global pool\n    pool = {package}.get_context('fork').Pool(2)\n"
        "    return pool.map(abs, [-1, -2])"
    )
    assert kernel.value("notebook_launcher(pooled, num_processes=2)") == [1, 2]


LOADERS = """
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

class Squares(Dataset):
    def __len__(self):
        return 32
    def __getitem__(self, index):
        return torch.tensor([index, index * index, get_worker_info().id])

def wake_torchs_threads():
    weight = torch.randn(800, 800, requires_grad=True)
    (weight @ weight).exp().sum().backward()

def load(persistent):
    wake_torchs_threads()
    loader = DataLoader(Squares(), batch_size=4, num_workers=2, persistent_workers=persistent)
    epochs = [torch.cat(list(loader)) for _ in range(2)]
    return [(rows[:, 1].tolist() == [n * n for n in range(32)], rows[:, 2].unique().tolist()) for rows in epochs]
"""


@pytest.mark.parametrize("persistent", [False, True])
def test_the_workers_of_a_data_loader_serve_two_epochs(kernel: Kernel, persistent: bool) -> None:
    kernel.ok(LOADERS)
    result = kernel.value(f"notebook_launcher(load, ({persistent},), num_processes=2, return_all=True)")
    assert result == [[(True, [0, 1])] * 2] * 2


def test_a_data_loader_that_is_left_in_the_middle_leaves_nothing(kernel: Kernel) -> None:
    kernel.ok(LOADERS)
    answer = kernel.ok(
        "%%accelerate -n 2\nwake_torchs_threads()\nloader = DataLoader(Squares(), batch_size=4, num_workers=2, persistent_workers=True)\n"
        "batches = iter(loader)\nprint(next(batches)[:, 0].tolist())"
    )
    assert (answer.text(), answer.text("stderr")) == ("[0, 1, 2, 3]\n", "")


def test_a_data_loader_that_shares_through_files_leaves_nothing(kernel: Kernel) -> None:
    kernel.ok(
        LOADERS + "\ndef load_through_files():\n    import torch.multiprocessing\n"
        "    torch.multiprocessing.set_sharing_strategy('file_system')\n    return load(False)"
    )
    assert kernel.value("notebook_launcher(load_through_files, num_processes=2)") == [(True, [0, 1])] * 2


def test_an_error_in_a_data_loaders_worker_is_told_once(kernel: Kernel) -> None:
    kernel.ok(
        LOADERS
        + "\nclass Bad(Squares):\n    def __getitem__(self, index):\n        raise ValueError(f'sample {index} is bad')\n"
        "def fail(): return list(DataLoader(Bad(), batch_size=4, num_workers=2))"
    )
    error = kernel.run("notebook_launcher(fail, num_processes=2)").error
    assert "ranks 0 and 1 of 2 failed: ValueError: Caught ValueError in DataLoader worker process 0." in error
    assert "sample 0 is bad" in error


JOBLIB = """
import os
import numpy as np
from joblib import Parallel, delayed
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import KFold

def score(x, y, train, test):
    weights = np.linalg.lstsq(x[train], y[train] - 0.5)[0]
    return os.getpid(), float(np.mean((x[test] @ weights > 0) == y[test]))

def work():
    x = np.random.default_rng(int(os.environ["RANK"])).normal(size=(40_000, 5))  # large enough to travel as a mapped file
    y = x[:, 0] + x[:, 1] > 0
    folds = Parallel(n_jobs=2)(delayed(score)(x, y, *fold) for fold in KFold(4).split(x))
    forest = RandomForestClassifier(8, max_depth=8, n_jobs=2).fit(x, y)
    return os.getpid() not in [process for process, _ in folds], min(value for _, value in folds) > 0.95, forest.score(x, y) > 0.9
"""


def test_jobs_of_joblib_and_scikit_learn_run_in_a_worker(kernel: Kernel) -> None:
    stdout, stderr = run_on_two(kernel, JOBLIB, "work")
    assert kernel.value("[first, second]") == [(True, True, True)] * 2
    assert (stdout, stderr) == ([], [])


def test_a_widget_that_is_made_in_a_worker_is_shown_as_text(kernel: Kernel) -> None:
    kernel.ok("from tqdm.notebook import tqdm\ndef work(): return sum(tqdm(range(5)))")
    answer = kernel.ok("total = notebook_launcher(work, num_processes=2)")
    assert kernel.value("total") == 10
    assert [list(data) for data in answer.displays] == [["text/plain"]] * len(answer.displays)
