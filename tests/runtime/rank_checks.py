"""Checks that run on every rank of a real process group; started by `run_checks` with a folder for the verdicts."""

from __future__ import annotations

import contextlib
import faulthandler
import io
import json
import os
import sys
import traceback
from collections import namedtuple
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import bare_loop
import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR, ReduceLROnPlateau
from torch.utils.data import (
    DataLoader,
    DistributedSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from nbaccel.errors import CallError
from nbaccel.runtime.accelerator import Accelerator
from nbaccel.runtime.handlers import (
    DataLoaderConfiguration,
    DistributedDataParallelKwargs,
    GradientAccumulationPlugin,
    InitProcessGroupKwargs,
    ProjectConfiguration,
)
from nbaccel.runtime.random import set_seed
from nbaccel.runtime.state import DistributedType, PartialState
from nbaccel.state import AcceleratorState
from nbaccel.utils import (
    broadcast,
    broadcast_object_list,
    gather,
    gather_object,
    pad_across_processes,
    reduce,
)

FOLDER = Path(sys.argv[1]) if len(sys.argv) > 1 else Path()
Point = namedtuple("Point", ["x", "y"])
KWARGS = [InitProcessGroupKwargs(timeout=timedelta(seconds=40))]


@dataclass
class Output:
    logits: torch.Tensor
    rest: Any = None


def numbers(count: int, **kwargs: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.arange(count)), **kwargs)


def same_on_all(accelerator: Accelerator, tensor: torch.Tensor) -> bool:
    rows = accelerator.gather(tensor.detach().reshape(1, -1))
    return bool((rows == rows[0]).all())


def check_place() -> None:
    accelerator = Accelerator()
    rank, size = dist.get_rank(), dist.get_world_size()
    assert (accelerator.process_index, accelerator.num_processes) == (rank, size)
    assert accelerator.is_main_process == (rank == 0)
    assert accelerator.is_last_process == (rank == size - 1)
    assert accelerator.distributed_type is DistributedType.MULTI_CPU
    state = PartialState()
    assert (state.backend, state.use_distributed, state.device.type) == ("gloo", True, "cpu")
    assert (state.process_index, state.local_process_index, state.num_processes) == (rank, rank, size)


def check_training(steps: int, samples: int) -> None:
    accelerator = Accelerator(gradient_accumulation_steps=steps)
    ranks = accelerator.num_processes
    losses, weights, rate = bare_loop.train(samples, ranks, steps, epochs=2, seed=11)
    parts = bare_loop.new_parts()
    loader = DataLoader(bare_loop.dataset(samples), bare_loop.BATCH, shuffle=True)
    loader, scheduler, model, optimizer = accelerator.prepare(loader, parts[2], parts[0], parts[1])
    assert isinstance(model, DistributedDataParallel)
    torch.manual_seed(11 + 1000 * accelerator.process_index)  # rank 0's order counts, whatever the others drew
    own = []
    for _ in range(2):
        for x, y in loader:
            with accelerator.accumulate(model):
                loss = torch.nn.functional.mse_loss(model(x), y)
                accelerator.backward(loss)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
            own.append(accelerator.reduce(loss, "mean").item())
    torch.testing.assert_close(torch.tensor(own), torch.tensor(losses), rtol=1e-4, atol=1e-5)
    vector = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    torch.testing.assert_close(vector, weights, rtol=1e-4, atol=1e-5)
    assert abs(scheduler.get_last_lr()[0] - rate) < 1e-9


def check_training_each_batch() -> None:
    check_training(steps=1, samples=50)


def check_training_accumulated() -> None:
    check_training(steps=3, samples=50)


def check_training_fewer_samples_than_ranks_need() -> None:
    check_training(steps=2, samples=5)


def check_metrics_are_exact() -> None:
    for split in (False, True):
        config = DataLoaderConfiguration(split_batches=split)
        accelerator = Accelerator(dataloader_config=config)
        size = 2 * accelerator.num_processes if split else 3
        for count in range(1, 5 * accelerator.num_processes + 3):
            loader = accelerator.prepare_data_loader(numbers(count, batch_size=size))
            seen, objects = [], []
            for (batch,) in loader:
                joined = accelerator.gather_for_metrics({"a": batch, "b": (batch * 2,)})
                assert torch.equal(joined["a"] * 2, joined["b"][0])
                seen += joined["a"].tolist()
                objects += accelerator.gather_for_metrics([str(item) for item in batch.tolist()])
            assert seen == list(range(count)), (split, count, seen)
            assert objects == [str(item) for item in range(count)]


def check_metrics_forced_objects() -> None:
    accelerator = Accelerator()
    loader = accelerator.prepare(numbers(3 * accelerator.num_processes - 1, batch_size=3))
    for (batch,) in loader:
        found = accelerator.gather_for_metrics(list(batch), use_gather_object=True)
        assert [int(item) for item in found] == list(range(3 * accelerator.num_processes - 1))
        found = accelerator.gather_for_metrics({"not": "a list"})
        assert found == [{"not": "a list"}] * accelerator.num_processes


def check_gather() -> None:
    rank, size = dist.get_rank(), dist.get_world_size()
    everyone = torch.arange(size)
    data = {
        "int": torch.tensor([rank, rank]),
        "nested": [torch.tensor(float(rank)), (torch.tensor([[rank % 2 == 0]]),)],
        "point": Point(torch.full((1, 2), rank, dtype=torch.bfloat16), torch.empty(0, 3)),
        "output": Output(torch.full((2, 1), rank, dtype=torch.float16), torch.tensor([rank], dtype=torch.uint8)),
        "strided": torch.arange(6).view(2, 3).t(),
    }
    found = gather(data)
    assert found["int"].tolist() == everyone.repeat_interleave(2).tolist()
    assert found["nested"][0].tolist() == everyone.tolist()
    assert found["nested"][1][0].tolist() == [[number % 2 == 0] for number in range(size)]
    assert found["point"].x.dtype == torch.bfloat16
    assert found["point"].x[:, 1].tolist() == everyone.tolist()
    assert found["point"].y.shape == (0, 3)
    assert found["output"].logits.flatten().tolist() == everyone.repeat_interleave(2).tolist()
    assert found["output"].rest.tolist() == everyone.tolist()
    assert torch.equal(found["strided"], torch.arange(6).view(2, 3).t().repeat(size, 1))
    assert data["int"].tolist() == [rank, rank]
    large = gather([torch.full((400_000,), float(rank)), torch.tensor(rank)])
    assert torch.equal(large[0], everyone.float().repeat_interleave(400_000))
    assert large[1].tolist() == everyone.tolist()
    assert not gather(torch.ones(1, requires_grad=True)).requires_grad


def check_gather_objects() -> None:
    rank, size = dist.get_rank(), dist.get_world_size()
    assert gather_object([rank, str(rank)]) == [item for other in range(size) for item in (other, str(other))]
    assert gather_object({"rank": rank}) == [{"rank": other} for other in range(size)]


def check_reduce() -> None:
    rank, size = dist.get_rank(), dist.get_world_size()
    total = sum(range(size))
    data = {"a": torch.tensor([1.0, rank]), "b": torch.tensor(rank), "c": torch.tensor([rank], dtype=torch.bfloat16)}
    summed = reduce(data, "sum")
    assert [summed["a"].tolist(), summed["b"].item(), summed["c"].item()] == [[size, total], total, total]
    assert data["a"].tolist() == [1.0, rank]
    assert reduce(data)["b"].item() == total / size
    assert reduce(data, "max")["a"].tolist() == [1.0, size - 1]
    assert reduce(data, "none") is data
    assert reduce(data, "sum", scale=0.5)["a"].tolist() == [size / 2, total / 2]
    assert Accelerator().reduce(torch.ones(1)).item() == size


def check_broadcast() -> None:
    rank, size = dist.get_rank(), dist.get_world_size()
    data = [torch.tensor(rank), {"w": torch.nn.Parameter(torch.full((2, 2), float(rank)))}, torch.zeros(4)[::2] + rank]
    assert broadcast(data, from_process=size - 1) is data
    assert data[0].item() == size - 1
    assert data[1]["w"].flatten().tolist() == [size - 1] * 4
    assert data[2].tolist() == [size - 1] * 2
    objects = [rank, {"rank": rank}]
    assert broadcast_object_list(objects, from_process=1) is objects
    assert objects == [1, {"rank": 1}]


def check_padding() -> None:
    rank, size = dist.get_rank(), dist.get_world_size()
    data = [torch.ones(rank + 1, 2), torch.tensor(3.0), torch.ones(1, 1)]
    padded = pad_across_processes(data, pad_index=-1)
    assert padded[0].tolist() == [[1, 1]] * (rank + 1) + [[-1, -1]] * (size - rank - 1)
    assert padded[1] is data[1]
    assert padded[2] is data[2]
    ahead = Accelerator().pad_across_processes(torch.ones(1, rank + 1), dim=-1, pad_first=True)
    assert ahead.tolist() == [[0] * (size - rank - 1) + [1] * (rank + 1)]


def check_wrong_leaves() -> None:
    for call in (gather, reduce, broadcast, pad_across_processes):
        with pytest.raises(CallError, match="str"):
            call([torch.ones(1), "text"])


def check_scheduler_counts() -> None:
    accelerator = Accelerator()
    size = accelerator.num_processes
    for split, expected in ((False, size), (True, 1)):
        config = DataLoaderConfiguration(split_batches=split)
        accelerator = Accelerator(dataloader_config=config)
        model, optimizer, scheduler = accelerator.prepare(*bare_loop.new_parts())
        accelerator.backward(model(torch.ones(1, 6)).sum())
        optimizer.step()
        scheduler.step()
        assert scheduler.last_epoch == expected
    model, optimizer, _ = bare_loop.new_parts()
    accelerator = Accelerator()
    cycle, plateau = OneCycleLR(optimizer, 0.1, total_steps=5), ReduceLROnPlateau(optimizer)
    model, optimizer, cycle, plateau = accelerator.prepare(model, optimizer, cycle, plateau)
    for _ in range(4):
        accelerator.backward(model(torch.ones(1, 6)).sum())
        optimizer.step()
        cycle.step()
        plateau.step(1.0)
    assert cycle.last_epoch == 5
    assert plateau.last_epoch == 4


def check_free_scheduler() -> None:
    accelerator = Accelerator(step_scheduler_with_optimizer=False)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    optimizer, scheduler = accelerator.prepare(optimizer, LambdaLR(optimizer, lambda step: 1.0))
    optimizer.step()
    scheduler.step()
    assert scheduler.last_epoch == 1


def check_mixed_precision() -> None:
    for precision in ("bf16", "fp16"):
        accelerator = Accelerator(mixed_precision=precision)
        parts = bare_loop.new_parts()
        loader = DataLoader(bare_loop.dataset(64), bare_loop.BATCH, shuffle=True)
        model, optimizer, scheduler, loader = accelerator.prepare(*parts, loader)
        first, last = None, None
        for _ in range(6):
            for x, y in loader:
                with accelerator.accumulate(model):
                    prediction = model(x)
                    assert prediction.dtype == torch.float32
                    loss = torch.nn.functional.mse_loss(prediction, y)
                    accelerator.backward(loss)
                    accelerator.clip_grad_norm_(model.parameters(), 5.0)
                    optimizer.step()
                    scheduler.step()
                    optimizer.zero_grad()
                first = first or accelerator.reduce(loss, "mean").item()
                last = accelerator.reduce(loss, "mean").item()
        assert last < first / 2, (precision, first, last)
        assert same_on_all(accelerator, torch.nn.utils.parameters_to_vector(model.parameters()))


def check_skipped_step_on_all() -> None:
    accelerator = Accelerator(mixed_precision="fp16")
    model, optimizer, scheduler = accelerator.prepare(*bare_loop.new_parts())
    factor = float("inf") if accelerator.is_last_process else 1.0  # one rank's overflow reaches all through the mean
    accelerator.backward(model(torch.ones(1, 6)).sum() * factor)
    optimizer.step()
    scheduler.step()
    assert accelerator.optimizer_step_was_skipped
    assert scheduler.last_epoch == 0


def check_no_sync() -> None:
    accelerator = Accelerator(gradient_accumulation_steps=2)
    model, optimizer, _ = accelerator.prepare(*bare_loop.new_parts())
    x = torch.full((1, 6), float(accelerator.process_index + 1))
    with accelerator.accumulate(model):
        accelerator.backward(model(x).sum())
        optimizer.step()
        optimizer.zero_grad()
    weight = next(model.parameters())
    assert not accelerator.sync_gradients
    assert not same_on_all(accelerator, weight.grad)
    with accelerator.accumulate(model):
        accelerator.backward(model(x).sum())
    assert accelerator.sync_gradients
    assert same_on_all(accelerator, weight.grad)
    weight.grad = None
    with accelerator.no_sync(model):
        accelerator.backward(model(x).sum())
    assert not same_on_all(accelerator, weight.grad)


def check_sync_each_batch() -> None:
    plugin = GradientAccumulationPlugin(num_steps=2, sync_each_batch=True)
    accelerator = Accelerator(gradient_accumulation_plugin=plugin)
    model, _, _ = accelerator.prepare(*bare_loop.new_parts())
    with accelerator.accumulate(model):
        accelerator.backward(model(torch.full((1, 6), float(accelerator.process_index))).sum())
    assert not accelerator.sync_gradients
    assert same_on_all(accelerator, next(model.parameters()).grad)


def check_ddp_settings() -> None:
    accelerator = Accelerator(kwargs_handlers=[*KWARGS, DistributedDataParallelKwargs(find_unused_parameters=True)])
    model = torch.nn.ModuleDict({"used": torch.nn.Linear(1, 1), "unused": torch.nn.Linear(1, 1)})
    model.forward = lambda x: model["used"](x)  # type: ignore[method-assign]
    prepared = accelerator.prepare_model(model)
    assert prepared.find_unused_parameters
    for _ in range(2):
        accelerator.backward(prepared(torch.ones(1, 1)).sum())
    assert accelerator.prepare_model(torch.nn.Linear(1, 1), evaluation_mode=True).__class__ is torch.nn.Linear
    frozen = torch.nn.Linear(1, 1).requires_grad_(False)
    assert accelerator.prepare(frozen) is frozen


def check_unwrap() -> None:
    accelerator = Accelerator()
    model = torch.nn.Linear(1, 1)
    prepared = accelerator.prepare(model)
    assert prepared is not model
    assert accelerator.unwrap_model(prepared) is model
    assert accelerator.prepare(prepared) is prepared
    assert accelerator.prepare(model) is prepared
    assert list(accelerator.get_state_dict(prepared)) == ["weight", "bias"]
    again = Accelerator(mixed_precision="bf16").prepare(prepared)  # the cell was run twice
    assert accelerator.unwrap_model(again) is model
    assert again(torch.ones(1, 1)).dtype == torch.float32
    again(torch.ones(1, 1)).sum().backward()


def check_given_generator() -> None:
    rank = dist.get_rank()
    for types, equal in ((None, True), ([], False)):
        accelerator = Accelerator(rng_types=types)
        generator = torch.Generator().manual_seed(rank)
        loader = accelerator.prepare(numbers(30, batch_size=2, shuffle=True, generator=generator))
        own = torch.cat([batch for (batch,) in loader])
        whole = accelerator.gather(own)
        assert (sorted(set(whole.tolist())) == list(range(30))) == equal
    order = [torch.cat([batch for (batch,) in numbers(30, batch_size=2, shuffle=True, generator=generator)])]
    assert len(order) == 1


def check_shared_samplers() -> None:
    accelerator = Accelerator()
    torch.manual_seed(accelerator.process_index)
    loader = accelerator.prepare(numbers(40, batch_size=2, sampler=SubsetRandomSampler(range(10, 40))))
    whole = accelerator.gather_for_metrics(torch.cat([batch for (batch,) in loader]))
    assert sorted(set(whole.tolist())) == list(range(10, 40))
    weighted = WeightedRandomSampler(torch.ones(24), 24, replacement=False)
    loader = accelerator.prepare(numbers(24, batch_size=2, sampler=weighted))
    orders = [torch.cat([batch for (batch,) in loader]) for _ in range(2)]
    assert sorted(accelerator.gather(orders[0]).tolist()) == list(range(24))
    assert not torch.equal(*orders)
    assert weighted.generator is None


def check_global_random_state() -> None:
    accelerator = Accelerator(rng_types=["torch"])
    torch.manual_seed(accelerator.process_index)
    for _ in accelerator.prepare(numbers(2, batch_size=1)):
        pass
    assert same_on_all(accelerator, torch.rand(3))
    set_seed(3, device_specific=True)
    assert not same_on_all(accelerator, torch.rand(3))


def check_ragged_loader() -> None:
    accelerator = Accelerator(dataloader_config=DataLoaderConfiguration(even_batches=False))
    for count in range(1, 14):
        loader = accelerator.prepare(numbers(count, batch_size=2))
        own, ends = [], []
        for (batch,) in loader:
            own += batch.tolist()
            ends.append(accelerator.gradient_state.end_of_dataloader)
        assert ends == [False] * (len(loader) - 1) + [True] * (len(loader) > 0)
        assert sorted(gather_object(own)) == list(range(count))


def check_loader_cut_by_the_user() -> None:
    accelerator = Accelerator()
    data = TensorDataset(torch.arange(12))
    loader = accelerator.prepare(DataLoader(data, batch_size=2, sampler=DistributedSampler(data)))
    orders = []
    for _ in range(2):
        own = torch.cat([batch for (batch,) in loader])
        assert len(own) == 12 // accelerator.num_processes
        whole = accelerator.gather_for_metrics(own)
        assert sorted(whole.tolist()) == list(range(12))
        orders.append(whole.tolist())
    assert orders[0] != orders[1]  # its set_epoch was called
    assert loader.remainder == -1


def check_sampler_of_whole_batches() -> None:
    accelerator = Accelerator()
    batches = torch.utils.data.BatchSampler(torch.utils.data.SequentialSampler(range(24)), 2, drop_last=False)
    data = TensorDataset(torch.arange(24))
    loader = accelerator.prepare(DataLoader(data, sampler=batches, batch_size=None))
    own = [batch.tolist() for (batch,) in loader]
    assert own[0] == [2 * accelerator.process_index, 2 * accelerator.process_index + 1]
    assert sorted(gather_object([item for batch in own for item in batch])) == list(range(24))
    single = accelerator.prepare(DataLoader(data, batch_size=None))
    assert [int(item) for (item,) in single][:2] == [
        accelerator.process_index + k * accelerator.num_processes for k in (0, 1)
    ]


def check_persistent_workers() -> None:
    accelerator = Accelerator()
    original = numbers(8 * accelerator.num_processes, batch_size=2, num_workers=1, persistent_workers=True)
    assert len(list(original)) == 4 * accelerator.num_processes
    loader = accelerator.prepare(original)
    for _ in range(2):
        assert len(list(loader)) == 4


def check_order_of_processes() -> None:
    accelerator = Accelerator()
    for block in (accelerator.main_process_first, accelerator.local_main_process_first):
        token = FOLDER / f"{block.__name__}"
        with block():
            if accelerator.is_main_process:
                token.write_text("here")
            assert token.exists()
    accelerator.wait_for_everyone()


def check_decorators_and_print() -> None:
    accelerator = Accelerator()
    rank = accelerator.process_index
    assert accelerator.on_main_process(lambda: 1)() == (1 if rank == 0 else None)
    assert accelerator.on_local_main_process(lambda: 1)() == (1 if rank == 0 else None)
    assert accelerator.on_last_process(lambda: 1)() == (1 if rank == accelerator.num_processes - 1 else None)
    assert accelerator.on_process(process_index=1)(lambda: 1)() == (1 if rank == 1 else None)
    assert accelerator.on_local_process(local_process_index=1)(lambda: 1)() == (1 if rank == 1 else None)
    with contextlib.redirect_stdout(io.StringIO()) as text:
        accelerator.print("a", "b", sep="-")
        accelerator.state.print("c")
    assert text.getvalue() == ("a-b\nc\n" if rank == 0 else "")


def check_save() -> None:
    accelerator = Accelerator()
    target = FOLDER / f"saved_by_{accelerator.process_index}"
    accelerator.save({"rank": torch.tensor(accelerator.process_index)}, target)
    accelerator.wait_for_everyone()
    assert [path.name for path in FOLDER.glob("saved_by_*")] == ["saved_by_0"]


def check_save_on_each_node() -> None:
    """Each process is a machine of its own; their folders lie side by side."""
    with patch.dict(os.environ, LOCAL_RANK="0", LOCAL_WORLD_SIZE="1"):
        for everywhere in (True, False):
            accelerator = Accelerator(project_config=ProjectConfiguration(save_on_each_node=everywhere))
            assert accelerator.is_local_main_process
            model = accelerator.prepare(torch.nn.Linear(2, 1))
            home = FOLDER / f"each_node_{everywhere}" / str(accelerator.process_index)
            accelerator.save_model(model, home)
            if everywhere or accelerator.is_main_process:
                accelerator.save([accelerator.process_index], home / "own")
                assert torch.load(home / "own") == [accelerator.process_index]
            assert (home / "model.safetensors").is_file() == (everywhere or accelerator.is_main_process)
            accelerator.wait_for_everyone()
    Accelerator()  # all of one machine again


def check_split() -> None:
    accelerator = Accelerator()
    rank, size = accelerator.process_index, accelerator.num_processes
    with accelerator.split_between_processes(list(range(size + 1))) as share:
        assert share == ([0, 1] if rank == 0 else [rank + 1])
    with accelerator.split_between_processes(torch.arange(size + 1), apply_padding=True) as share:
        assert share.tolist() == ([0, 1] if rank == 0 else [rank + 1, size])


def check_trigger() -> None:
    accelerator = Accelerator()
    assert not accelerator.check_trigger()
    if accelerator.is_last_process:
        accelerator.set_trigger()
    assert accelerator.check_trigger()
    assert not accelerator.check_trigger()


def check_second_accelerator() -> None:
    first = Accelerator(gradient_accumulation_steps=4)
    second = Accelerator(mixed_precision="bf16", gradient_accumulation_steps=2, kwargs_handlers=KWARGS)
    assert (first.mixed_precision, second.mixed_precision) == ("no", "bf16")
    assert (first.gradient_accumulation_steps, second.gradient_accumulation_steps) == (4, 2)
    assert AcceleratorState().mixed_precision == "bf16"


def check_zz_leave_and_join() -> None:
    accelerator = Accelerator()
    accelerator.end_training()
    assert not dist.is_initialized()
    assert accelerator.is_main_process == (accelerator.process_index == 0)
    accelerator = Accelerator(kwargs_handlers=KWARGS)
    assert accelerator.gather(torch.tensor(1)).tolist() == [1] * accelerator.num_processes


def main() -> None:
    torch.set_num_threads(1)
    faulthandler.dump_traceback_later(60)
    PartialState(timeout=timedelta(seconds=40))
    found = {}
    for name, check in sorted(globals().items()):
        if name.startswith("check_") and not check.__code__.co_argcount:
            try:
                check()
                found[name] = ""
            except Exception:  # noqa: BLE001 (the verdict carries it to the test)
                found[name] = traceback.format_exc()
                print(name, found[name], sep="\n", flush=True)
    rank = dist.get_rank()
    PartialState().destroy_process_group()
    (FOLDER / f"{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
