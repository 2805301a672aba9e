"""The Accelerator in one process."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import bare_loop
import pytest
import torch
from runtime_ranks import free_port
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR, ReduceLROnPlateau
from torch.utils.data import DataLoader

from nbaccel.errors import CallError, ConfigError, PlanError, StateError
from nbaccel.runtime.accelerator import Accelerator
from nbaccel.runtime.optimizer import AcceleratedOptimizer
from nbaccel.runtime.options import NOT_YET
from nbaccel.runtime.precision.autocast import AutocastForward
from nbaccel.runtime.preparation import Preparation
from nbaccel.runtime.state import AcceleratorState, DistributedType, GradientState, PartialState
from nbaccel.utils import (
    AutocastKwargs,
    DataLoaderConfiguration,
    GradientAccumulationPlugin,
    GradScalerKwargs,
    InitProcessGroupKwargs,
    gather,
    gather_object,
    reduce,
    set_seed,
)


def linear() -> torch.nn.Linear:
    return torch.nn.Linear(2, 1)


def train(accelerator: Accelerator, epochs: int = 2, samples: int = 50) -> tuple[list[float], torch.Tensor, float]:
    loader = DataLoader(bare_loop.dataset(samples), bare_loop.BATCH, shuffle=True)
    model, optimizer, scheduler, loader = accelerator.prepare(*bare_loop.new_parts(), loader)
    torch.manual_seed(11)
    losses = []
    for _ in range(epochs):
        for x, y in loader:
            with accelerator.accumulate(model):
                loss = torch.nn.functional.mse_loss(model(x), y)
                accelerator.backward(loss)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
            losses.append(loss.item())
    weights = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    return losses, weights, scheduler.get_last_lr()[0]


# Training


@pytest.mark.parametrize("steps", [1, 3])
def test_same_numbers_as_bare_torch(steps: int) -> None:
    losses, weights, rate = train(Accelerator(gradient_accumulation_steps=steps))
    expected = bare_loop.train(samples=50, ranks=1, steps=steps, epochs=2, seed=11)
    assert losses == expected[0]
    assert torch.equal(weights, expected[1])
    assert rate == expected[2]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_trains(precision: str) -> None:
    losses, _, _ = train(Accelerator(mixed_precision=precision), epochs=6)
    assert sum(losses[-5:]) < sum(losses[:5]) / 2


def test_windows() -> None:
    accelerator = Accelerator(gradient_accumulation_steps=2)
    model = accelerator.prepare(linear())
    found = []
    for _ in accelerator.prepare(DataLoader(range(5))):  # type: ignore[arg-type]
        with accelerator.accumulate(model):
            found.append(accelerator.sync_gradients)
    assert found == [False, True, False, True, True]  # the end of the loader closes a short window
    assert accelerator.step == 0
    plugin = GradientAccumulationPlugin(num_steps=2, sync_with_dataloader=False)
    accelerator = Accelerator(gradient_accumulation_plugin=plugin)
    found = []
    for _ in accelerator.prepare(DataLoader(range(5))):  # type: ignore[arg-type]
        with accelerator.accumulate():
            found.append(accelerator.sync_gradients)
    assert found == [False, True, False, True, False]
    accelerator.sync_gradients = True
    accelerator.step = 4
    assert (accelerator.sync_gradients, accelerator.step) == (True, 4)


def test_nothing_moves_within_a_window() -> None:
    accelerator = Accelerator(gradient_accumulation_steps=2)
    model, optimizer, scheduler = accelerator.prepare(*bare_loop.new_parts())
    before = copy.deepcopy(model.state_dict())
    with accelerator.accumulate(model):
        loss = model(torch.ones(1, 6)).sum()
        accelerator.backward(loss)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert scheduler.last_epoch == 0
    assert model[2].bias.grad.item() == 0.5


def test_window_of_the_accelerator_itself_after_a_second_one() -> None:
    first = Accelerator(gradient_accumulation_steps=3)
    Accelerator(gradient_accumulation_steps=1)
    with first.accumulate():
        assert not first.sync_gradients


def test_new_accelerator_ends_an_interrupted_window() -> None:
    with Accelerator(gradient_accumulation_steps=3).accumulate():
        pass
    assert Accelerator().sync_gradients


def test_no_sync_and_gather_are_free_alone() -> None:
    accelerator = Accelerator()
    data = {"a": torch.ones(2)}
    with accelerator.no_sync(linear()):
        pass
    assert accelerator.gather(data) is data
    assert accelerator.gather_for_metrics(data) is data
    assert accelerator.pad_across_processes(data) is data
    assert accelerator.reduce(data) is data
    assert accelerator.reduce(data, scale=0.5)["a"].tolist() == [0.5, 0.5]
    assert gather(data) is data
    assert gather_object([1]) == [1]
    assert gather_object("x") == ["x"]
    accelerator.wait_for_everyone()
    with accelerator.main_process_first(), accelerator.split_between_processes([1]) as share:
        assert share == [1]


def test_metrics_of_one_process_are_cut_too() -> None:
    accelerator = Accelerator()
    counts = []
    for batch in accelerator.prepare(DataLoader(range(7), 3)):  # type: ignore[arg-type]
        data = {"losses": batch.float().mean().repeat(3), "mean": batch.float().mean()}
        found = accelerator.gather_for_metrics(data)
        counts.append((len(found["losses"]), found["mean"].ndim, len(accelerator.gather_for_metrics(["a", "b"]))))
    assert counts == [(3, 0, 2), (3, 0, 2), (1, 0, 1)]


def test_trigger() -> None:
    accelerator = Accelerator()
    accelerator.set_trigger()
    assert [accelerator.check_trigger(), accelerator.check_trigger()] == [True, False]


def test_reduction_by_a_wrong_name() -> None:
    with pytest.raises(CallError, match="Did you mean 'mean'"):
        reduce(torch.ones(1), "meann")
    with pytest.raises(CallError, match="sum, mean, max, none"):
        reduce(torch.ones(1), "qqq")


# Preparing


def test_prepare_any_number_in_any_order() -> None:
    accelerator = Accelerator()
    model, optimizer, scheduler = bare_loop.new_parts()
    assert accelerator.prepare(model) is model
    assert accelerator.prepare() == ()
    loader = DataLoader(range(3))  # type: ignore[arg-type]
    other = object()
    found = accelerator.prepare(scheduler, other, loader, optimizer, model)
    assert found[1] is other
    assert found[4] is model
    assert found[0].optimizers == [found[3]]
    assert accelerator.prepare(*found) == found
    assert accelerator.prepare(scheduler, other, loader, optimizer, model) == found
    assert (accelerator._models, accelerator._optimizers) == ([model], [found[3]])
    assert (accelerator._schedulers, accelerator._dataloaders) == ([found[0]], [found[2]])
    assert accelerator.free_memory(model, optimizer) == [None, None]
    assert accelerator._models == []


def test_prepare_one_by_one() -> None:
    accelerator = Accelerator()
    model, optimizer, scheduler = bare_loop.new_parts()
    assert accelerator.prepare_model(model) is model
    prepared = accelerator.prepare_optimizer(optimizer)
    assert prepared.optimizer is optimizer
    assert accelerator.prepare_scheduler(scheduler).optimizers == [prepared]
    assert len(accelerator.prepare_data_loader(DataLoader(range(3)))) == 3  # type: ignore[arg-type]


def test_placements() -> None:
    accelerator = Accelerator()
    model = torch.nn.Linear(1, 1, device="meta")
    assert accelerator.prepare(model, device_placement=[False]) is model
    with pytest.raises(CallError, match="2 values for 1 objects"):
        accelerator.prepare(model, device_placement=[True, False])


def test_model_on_several_devices_is_not_moved() -> None:
    model = torch.nn.Linear(1, 1, device="meta")
    model.hf_device_map = {"a": 0, "b": "cpu"}  # type: ignore[assignment]
    assert Accelerator().prepare(model).weight.device.type == "meta"


def test_model_with_a_part_on_several_devices_is_not_moved() -> None:
    part = torch.nn.Linear(1, 1, device="meta")
    part.hf_device_map = {"a": 0, "b": "cpu"}  # type: ignore[assignment]
    assert Accelerator().prepare(torch.nn.Sequential(part))[0].weight.device.type == "meta"


def test_cell_run_twice_with_another_precision() -> None:
    model, optimizer, scheduler = bare_loop.new_parts()
    first = Accelerator(mixed_precision="bf16")
    prepared = first.prepare(model, optimizer, scheduler)
    second = Accelerator(mixed_precision="no")
    again = second.prepare(*prepared)
    assert again[0] is model
    assert "forward" not in model.__dict__
    assert again[1] is not prepared[1]
    assert (again[1].optimizer, again[2].scheduler) == (optimizer, scheduler)
    assert second.mixed_precision == AcceleratorState().mixed_precision == "no"


def test_scheduler_made_from_the_prepared_optimizer() -> None:
    accelerator = Accelerator()
    optimizer = accelerator.prepare(torch.optim.SGD(linear().parameters(), lr=1.0))
    scheduler = accelerator.prepare(LambdaLR(optimizer, lambda step: 0.5**step))
    optimizer.step()
    scheduler.step()
    assert scheduler.get_last_lr() == [0.5]
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_unwrap() -> None:
    accelerator = Accelerator(mixed_precision="bf16")
    model = linear()
    prepared = accelerator.prepare(model)
    assert isinstance(prepared.forward, AutocastForward)
    assert accelerator.unwrap_model(prepared) is model
    assert isinstance(model.forward, AutocastForward)
    accelerator.unwrap_model(prepared, keep_fp32_wrapper=False)
    assert "forward" not in model.__dict__
    model.forward = lambda x: x  # type: ignore[method-assign]
    replaced = model.forward
    accelerator.free_memory()
    accelerator.prepare(model)
    assert model(torch.ones(1, dtype=torch.bfloat16)).dtype == torch.float32
    accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    assert model.forward is replaced
    accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    compiled = torch.compile(linear(), backend="eager")
    assert accelerator.unwrap_model(compiled) is compiled
    assert accelerator.unwrap_model(compiled, keep_torch_compile=False) is compiled._orig_mod
    around = torch.compile(torch.nn.DataParallel(model), backend="eager")
    assert accelerator.unwrap_model(around) is model


# Precision


def test_outputs_are_float32() -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = linear()

        def forward(self, x: torch.Tensor, scale: float = 1.0) -> dict[str, Any]:
            y = self.inner(x)
            assert y.dtype == torch.bfloat16
            return {"y": y * scale, "n": (1, y.int())}

    accelerator = Accelerator(mixed_precision="bf16")
    model = accelerator.prepare(Model())
    found = model(torch.ones(1, 2), scale=2.0)
    assert found["y"].dtype == torch.float32
    assert found["n"][1].dtype == torch.int32
    twin = copy.deepcopy(model)
    for other in (twin, pickle.loads(pickle.dumps(linear_with(accelerator)))):
        assert other.forward.forward.__self__ is other  # computes with its own weights
    assert "scale" in str(__import__("inspect").signature(model.forward))


def linear_with(accelerator: Accelerator) -> torch.nn.Module:
    return accelerator.prepare_model(linear())


def test_autocast_block() -> None:
    accelerator = Accelerator(mixed_precision="bf16")
    layer = linear()
    with accelerator.autocast():
        assert layer(torch.ones(1, 2)).dtype == torch.bfloat16
    with accelerator.autocast(AutocastKwargs(enabled=False)):
        assert layer(torch.ones(1, 2)).dtype == torch.float32
    with Accelerator(mixed_precision="no").autocast():
        assert layer(torch.ones(1, 2)).dtype == torch.float32
    off = Accelerator(mixed_precision="bf16", kwargs_handlers=[AutocastKwargs(enabled=False)])
    with off.autocast():
        assert layer(torch.ones(1, 2)).dtype == torch.float32


@pytest.mark.parametrize("fused", [False, True])
def test_skipped_step(fused: bool) -> None:
    accelerator = Accelerator(mixed_precision="fp16", kwargs_handlers=[GradScalerKwargs(init_scale=8.0)])
    model = linear()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, fused=fused)
    model, optimizer, scheduler = accelerator.prepare(model, optimizer, LambdaLR(optimizer, lambda step: 0.5**step))
    before = model.weight.detach().clone()
    accelerator.backward(model(torch.full((1, 2), float("inf"))).sum())
    optimizer.step()
    scheduler.step()
    optimizer.zero_grad()
    assert accelerator.optimizer_step_was_skipped
    assert torch.equal(model.weight, before)
    assert scheduler.last_epoch == 0
    assert accelerator.scaler is not None
    assert accelerator.scaler.get_scale() == 4.0
    accelerator.backward(model(torch.ones(1, 2)).sum())
    optimizer.step()
    scheduler.step()
    assert not optimizer.step_was_skipped
    assert not torch.equal(model.weight, before)
    assert scheduler.last_epoch == 1


def test_optimizers_that_share_a_backward_pass_see_one_scale() -> None:
    settings = GradScalerKwargs(init_scale=4.0, growth_interval=1)
    accelerator = Accelerator(mixed_precision="fp16", kwargs_handlers=[settings])
    model = linear()
    pair = [torch.optim.SGD([parameter], lr=1.0) for parameter in model.parameters()]
    model, *pair = accelerator.prepare(model, *pair)
    expected = [parameter.detach() - 1 for parameter in model.parameters()]
    accelerator.backward(model(torch.ones(1, 2)).sum())
    accelerator.clip_grad_value_(model.parameters(), 5.0)
    for optimizer in pair:
        optimizer.step()
    for parameter, value in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.detach(), value)
    pair[0].zero_grad()
    accelerator.backward(model(torch.ones(1, 2)).sum())
    for _ in range(2):  # a second step on the same gradients is the user's business
        pair[0].step()


def test_clipping() -> None:
    for precision in ("no", "fp16"):
        accelerator = Accelerator(mixed_precision=precision, kwargs_handlers=[GradScalerKwargs(init_scale=256.0)])
        model = linear()
        other = linear()
        prepared = accelerator.prepare(model, *(torch.optim.SGD(one.parameters(), lr=1.0) for one in (model, other)))
        accelerator.backward(prepared[0](torch.full((1, 2), 3.0)).sum())
        norm = accelerator.clip_grad_norm_((parameter for parameter in model.parameters()), 1.0)
        assert norm.item() == pytest.approx(19**0.5)
        assert accelerator.clip_grad_norm_(model.weight, 10.0).item() == pytest.approx((18 / 19) ** 0.5, rel=1e-3)
        accelerator.clip_grad_value_(model.parameters(), 0.1)
        assert model.weight.grad is not None
        assert model.weight.grad.tolist() == [[pytest.approx(0.1)] * 2]
        accelerator.unscale_gradients(prepared[1])
        prepared[1].step()


def test_unscaling_all() -> None:
    accelerator = Accelerator(mixed_precision="fp16", kwargs_handlers=[GradScalerKwargs(init_scale=256.0)])
    model = linear()
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=1.0))
    accelerator.backward(model(torch.ones(1, 2)).sum())
    accelerator.unscale_gradients()
    assert model.bias.grad.item() == 1.0
    optimizer.step()


def test_clipping_in_mid_window() -> None:
    accelerator = Accelerator(mixed_precision="fp16", gradient_accumulation_steps=2)
    model = accelerator.prepare(linear())
    with accelerator.accumulate(model):
        accelerator.backward(model(torch.ones(1, 2)).sum())
        with pytest.raises(StateError, match="sync_gradients"):
            accelerator.clip_grad_norm_(model.parameters(), 1.0)


# Optimizer and scheduler


def test_optimizer_is_the_optimizer() -> None:
    raw = torch.optim.AdamW(linear().parameters(), lr=0.1)
    optimizer = Accelerator().prepare(raw)
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert optimizer.param_groups is raw.param_groups
    assert optimizer.state is raw.state
    assert optimizer.defaults is raw.defaults
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))]})
    assert len(raw.param_groups) == 2
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.state, optimizer.defaults, optimizer.param_groups = {}, {"lr": 1.0}, raw.param_groups
    assert (raw.state, raw.defaults) == ({}, {"lr": 1.0})
    assert "lr: 0.1" in repr(optimizer)
    twin = pickle.loads(pickle.dumps(AcceleratedOptimizer(torch.optim.SGD(linear().parameters(), lr=0.5))))
    assert twin.param_groups[0]["lr"] == 0.5
    with pytest.raises(AttributeError):
        _ = optimizer.nonsense


def test_closure() -> None:
    model = linear()
    optimizer = Accelerator().prepare(torch.optim.LBFGS(model.parameters()))

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (model(torch.ones(1, 2)) - 1).square().sum()
        loss.backward()
        return loss

    assert isinstance(optimizer.step(closure), torch.Tensor)
    optimizer = Accelerator(mixed_precision="fp16").prepare(torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(StateError, match="closure"):
        optimizer.step(closure)


def test_a_state_follows_the_model_that_is_prepared_after_its_optimizer() -> None:
    """What the CPU is to a GPU, it is here to torch's meta device."""
    accelerator, meta = Accelerator(), torch.device("meta")
    runtime = replace(accelerator._runtime, world=replace(accelerator._runtime.world, device=meta))
    loaders = accelerator.dataloader_config
    for place, device in ((True, "meta"), (False, "cpu")):
        preparation = Preparation(runtime, accelerator.gradient_state, loaders, (), place, True)
        model = torch.nn.Linear(2, 1, device=meta)
        optimizer = preparation.optimizer(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
        optimizer.state[model.weight]["momentum_buffer"] = torch.ones(1, 2)
        preparation.model(model)
        assert optimizer.state[model.weight]["momentum_buffer"].device.type == device


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_trained_optimizer_is_prepared_before_its_model_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACCELERATE_USE_CPU")
    model = linear()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    accelerator = Accelerator()
    optimizer, model = accelerator.prepare(optimizer, model)
    accelerator.backward(model(torch.ones(1, 2, device=accelerator.device)).sum())
    optimizer.step()
    assert optimizer.state[model.weight]["exp_avg"].device == accelerator.device


def test_modes_of_schedule_free_optimizers() -> None:
    class Modal(torch.optim.SGD):
        mode = ""

        def train(self) -> None:
            self.mode = "train"

        def eval(self) -> None:
            self.mode = "eval"

        def zero_grad(self) -> None:  # type: ignore[override]
            super().zero_grad()

    optimizer = Accelerator().prepare(Modal(linear().parameters(), lr=0.1))
    optimizer.train()
    assert optimizer.mode == "train"
    optimizer.eval()
    assert optimizer.mode == "eval"
    optimizer.zero_grad()
    with pytest.raises(CallError, match="Modal does not take it"):
        optimizer.zero_grad(set_to_none=False)
    plain = AcceleratedOptimizer(torch.optim.SGD(linear().parameters(), lr=0.1))
    plain.train()
    plain.zero_grad(set_to_none=False)


def test_optimizer_state_moves_with_its_parameters() -> None:
    model = linear()
    raw = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for parameter in model.parameters():
        raw.state[parameter]["momentum_buffer"] = torch.ones_like(parameter, dtype=torch.float64, device="meta")
    moved = torch.optim.SGD(torch.nn.Linear(2, 1, device="meta").parameters(), lr=0.1, momentum=0.9)
    for group in moved.param_groups:
        for parameter in group["params"]:
            moved.state[parameter]["momentum_buffer"] = torch.ones(parameter.shape)
    AcceleratedOptimizer(moved, device=torch.device("meta"))
    assert all(state["momentum_buffer"].device.type == "meta" for state in moved.state.values())


def test_schedulers() -> None:
    accelerator = Accelerator()
    raw = torch.optim.SGD(linear().parameters(), lr=1.0)
    plateau, cycle = ReduceLROnPlateau(raw, patience=0, factor=0.5), OneCycleLR(raw, 1.0, total_steps=2)
    optimizer, plateau, cycle = accelerator.prepare(raw, plateau, cycle)
    for _ in range(4):
        optimizer.step()
        cycle.step()  # a fourth step would be one too many for torch
        plateau.step(1.0)
    assert cycle.last_epoch == 2
    assert plateau.num_bad_epochs == 0
    assert pickle.loads(pickle.dumps(plateau)).patience == 0
    with pytest.raises(AttributeError):
        _ = cycle.nonsense


# The constructor


def test_a_value_given_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "7")
    before = dict(os.environ)
    accelerator = Accelerator()
    assert (accelerator.mixed_precision, accelerator.gradient_accumulation_steps) == ("bf16", 7)
    accelerator = Accelerator(mixed_precision="no", gradient_accumulation_steps=2)
    assert (accelerator.mixed_precision, accelerator.gradient_accumulation_steps) == ("no", 2)
    plugin = GradientAccumulationPlugin()
    assert Accelerator(gradient_accumulation_plugin=plugin).gradient_accumulation_steps == 7
    assert plugin.num_steps is None
    assert dict(os.environ) == before


@pytest.mark.parametrize("name", NOT_YET)
def test_arguments_that_are_not_supported(name: str) -> None:
    assert Accelerator(**{name: None})
    with pytest.raises(PlanError, match=f"{name}=.*does not support"):
        Accelerator(**{name: object()})


@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        ({"mixed_precison": "bf16"}, CallError, "Did you mean mixed_precision"),
        ({"fsdp_plugins": 1}, CallError, "Did you mean fsdp_plugin="),
        ({"zzz": None}, CallError, "Possible: device_placement"),
        ({"mixed_precision": "fp17"}, ConfigError, "fp16"),
        ({"mixed_precision": "fp8"}, PlanError, "no fp8"),
        ({"gradient_accumulation_steps": 0}, ConfigError, "whole number from 1"),
        (
            {"gradient_accumulation_steps": 2, "gradient_accumulation_plugin": GradientAccumulationPlugin(num_steps=3)},
            CallError,
            "Give one of them",
        ),
        ({"split_batches": True, "dataloader_config": DataLoaderConfiguration()}, CallError, "there alone"),
        ({"kwargs_handlers": [AutocastKwargs(), AutocastKwargs()]}, CallError, "two objects of AutocastKwargs"),
        ({"kwargs_handlers": [GradientAccumulationPlugin()]}, CallError, "Possible: AutocastKwargs, Distributed"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        Accelerator(**arguments)


def test_settings_that_are_kept() -> None:
    config = DataLoaderConfiguration(split_batches=True, even_batches=False)
    accelerator = Accelerator(dataloader_config=config, split_batches=True, project_dir="runs")
    assert (accelerator.split_batches, accelerator.even_batches) == (True, False)
    assert accelerator.project_dir == "runs"
    assert Accelerator(split_batches=True).split_batches
    assert InitProcessGroupKwargs().to_kwargs() == {}
    accelerator.gradient_accumulation_steps = 5
    assert accelerator.gradient_accumulation_steps == GradientState().num_steps == 5
    with pytest.raises(CallError, match="from 1"):
        accelerator.gradient_accumulation_steps = 0


# States


def test_states() -> None:
    state = PartialState()
    assert state.initialized
    assert (state.num_processes, state.process_index, state.local_process_index) == (1, 0, 0)
    assert (state.is_main_process, state.is_local_main_process, state.is_last_process) == (True, True, True)
    assert (state.distributed_type, state.backend, state.use_distributed) == (DistributedType.NO, None, False)
    assert str(state.distributed_type) == "NO"
    assert PartialState(cpu=True).device.type == "cpu"
    assert AcceleratorState(mixed_precision="bf16").mixed_precision == AcceleratorState().mixed_precision == "bf16"
    assert AcceleratorState._shared_state is PartialState._shared_state
    assert "process 0 of 1" in repr(state)
    AcceleratorState._reset_state()
    assert AcceleratorState().mixed_precision == "no"
    PartialState._reset_state()
    assert PartialState._shared_state == {}
    gradients = GradientState()
    assert (gradients.num_steps, gradients.sync_with_dataloader, gradients.adjust_scheduler) == (1, True, True)
    assert gradients.dataloader_references == [None]
    assert "num_steps=1" in repr(gradients)
    accelerator = Accelerator()
    accelerator.end_training()
    assert accelerator.state.num_processes == 1


def test_split_of_a_dict() -> None:
    from nbaccel.runtime.split import share_of

    class Dataset(list[int]):
        def select(self, indices: list[int]) -> list[int]:
            return [self[index] for index in indices]

    data = {"a": [1, 2, 3], "b": (4, 5, 6), "c": torch.arange(3), "d": Dataset([7, 8, 9])}
    share = share_of(data, 1, 2, pad=True)
    assert (share["a"], share["b"], share["c"].tolist(), share["d"]) == ([3, 3], (6, 6), [2, 2], [9, 9])
    assert data["a"] == [1, 2, 3]
    assert share_of([1], 1, 2) == []
    assert share_of([1], 1, 2, pad=True) == [1]
    assert share_of([], 1, 2, pad=True) == []
    with pytest.raises(CallError, match="differ in length"):
        share_of({"a": [1], "b": [1, 2]}, 0, 2)


def test_seed() -> None:
    import random

    import numpy as np

    def draw() -> list[float]:
        return [random.random(), float(np.random.rand()), torch.rand(1).item()]

    set_seed(2**32 - 1)
    first = draw()
    set_seed(2**32 - 1, device_specific=True)
    assert draw() == first
    set_seed(1, deterministic=True)
    assert torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)


# Writing


def test_save(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    accelerator = Accelerator()
    model = torch.nn.ModuleList([linear(), linear()])
    model[1].weight = model[0].weight  # type: ignore[union-attr]
    accelerator.save(model.state_dict(), tmp_path / "plain")
    accelerator.save(model.state_dict(), str(tmp_path / "safe"), safe_serialization=True)
    with open(tmp_path / "stream", "wb") as stream:
        accelerator.save([1], stream)
    for found in (torch.load(tmp_path / "plain"), load_file(tmp_path / "safe")):
        assert {name: value.tolist() for name, value in found.items()} == {
            name: value.tolist() for name, value in model.state_dict().items()
        }
    assert torch.load(tmp_path / "stream") == [1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plain", "safe", "stream"]
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "plain").stat().st_mode & 0o777 == 0o666 & ~umask


def test_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    accelerator = Accelerator()
    accelerator.save([1], tmp_path / "file")
    with pytest.raises((AttributeError, pickle.PicklingError)):
        accelerator.save([lambda: None], tmp_path / "file")
    assert torch.load(tmp_path / "file") == [1]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("wrong", [[1], {"a": 1}, {1: torch.ones(1)}])
def test_safetensors_of_something_else(wrong: Any, tmp_path: Path) -> None:
    with pytest.raises(CallError, match="mapping from names to tensors"):
        Accelerator().save(wrong, tmp_path / "file", safe_serialization=True)


# Under torchrun

SCRIPT = """
import torch, torch.distributed as dist
from nbaccel.runtime.accelerator import Accelerator
dist.init_process_group("gloo")
accelerator = Accelerator()
total = accelerator.reduce(torch.tensor([accelerator.process_index + 1.0]), "sum").item()
assert (accelerator.num_processes, total) == (2, 3.0)
accelerator.end_training()
assert dist.is_initialized()  # not ours to end
dist.destroy_process_group()
accelerator = Accelerator()
accelerator.print("sum", total, accelerator.gather(torch.tensor(accelerator.local_process_index)).tolist())
accelerator.end_training()
"""


def test_under_torchrun(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-addr", "127.0.0.1", "--master-port", str(free_port()), str(script)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["sum 3.0 [0, 1]"]
