"""Checks of FSDP that run on every rank of a real process group: `python fsdp_checks.py folder name name ...`."""

from __future__ import annotations

import faulthandler
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from runtime_ranks import verdict
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, ShardingStrategy
from torch.distributed.tensor import DTensor

from nbaccel.errors import CallError, PlanError, ShipError, StateError
from nbaccel.runtime.accelerator import Accelerator
from nbaccel.runtime.parallel import registry
from nbaccel.runtime.parallel.homecoming import Homecoming
from nbaccel.runtime.parallel.recompute import RecomputedForward
from nbaccel.runtime.plugins import FullyShardedDataParallelPlugin, ParallelismConfig
from nbaccel.runtime.state import DistributedType, GradientState, PartialState

FOLDER = Path(sys.argv[1]) if len(sys.argv) > 1 else Path()
LINEARS = {
    "fsdp_version": 2,
    "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
    "fsdp_transformer_layer_cls_to_wrap": "Linear",
}
BATCH, BATCHES = 4, 12


class Tied(torch.nn.Module):
    """Two layers share one weight, and one weight is frozen."""

    _no_split_modules = ("Linear",)

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(6, 6), torch.nn.Linear(6, 6)
        self.last = torch.nn.Linear(6, 1)
        self.second.weight = self.first.weight
        self.last.bias.requires_grad_(False)
        self.register_buffer("offset", torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.tanh(self.second(torch.tanh(self.first(x))))) + self.offset


def new_parts(**changes: Any) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(7)
    model = Tied()
    groups = [{"params": [model.first.weight], "lr": 0.05}, {"params": [*model.parameters()][1:]}]
    return model, torch.optim.AdamW(groups, lr=0.02, **changes)


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(BATCH * BATCHES, 6, generator=generator)
    return list(zip(x.split(BATCH), x.sum(1, keepdim=True).split(BATCH), strict=True))


def warm_up(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    x, y = batches()[0]
    for _ in range(2):
        torch.nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()


def reference(ranks: int, steps: int) -> tuple[list[float], torch.nn.Module, torch.optim.Optimizer]:
    """What one process does with all ranks' batches."""
    model, optimizer = new_parts()
    warm_up(model, optimizer)
    data, losses = batches(), []
    for number, start in enumerate(range(0, BATCHES, ranks), 1):
        x, y = (torch.cat(parts) for parts in zip(*data[start : start + ranks], strict=True))
        loss = torch.nn.functional.mse_loss(model(x), y)
        (loss / steps).backward()
        losses.append(loss.item())
        if number % steps == 0:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            torch.nn.utils.clip_grad_value_(model.parameters(), 0.3)
            optimizer.step()
            optimizer.zero_grad()
    return losses, model, optimizer


def train(accelerator: Accelerator, model: Any, optimizer: Any) -> list[float]:
    rank, ranks, data, losses = accelerator.process_index, accelerator.num_processes, batches(), []
    for start in range(0, BATCHES, ranks):
        with accelerator.accumulate(model):
            x, y = data[start + rank]
            output = model(x)
            assert output.dtype == torch.float32
            loss = torch.nn.functional.mse_loss(output, y)
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                norm = accelerator.clip_grad_norm_(model.parameters(), 0.5)
                assert type(norm) is torch.Tensor
                norms = accelerator.gather(norm.reshape(1))
                assert (norms == norms[0]).all()
                accelerator.clip_grad_value_(model.parameters(), 0.3)
            optimizer.step()
            optimizer.zero_grad()
        losses.append(accelerator.reduce(loss.detach(), "mean").item())
    return losses


def compare(accelerator: Accelerator, steps: int, tolerance: float = 1e-5) -> Any:
    """Train with optimizers that have a state already, and compare everything with one process."""
    losses, weights, states = reference(accelerator.num_processes, steps)
    model, optimizer = new_parts()
    warm_up(model, optimizer)
    if accelerator.process_index:  # rank 0's weights and states count
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 1
    optimizer, model = accelerator.prepare(optimizer, model)
    own = train(accelerator, model, optimizer)
    torch.testing.assert_close(torch.tensor(own), torch.tensor(losses), rtol=tolerance, atol=tolerance)
    full = accelerator.get_state_dict(model)
    held = accelerator._strategy.optimizer_state(model, optimizer.optimizer)
    if not accelerator.is_main_process:
        assert not full
        assert not held
        return model, optimizer, full, held
    assert {name: tensor.device.type for name, tensor in full.items()} == dict.fromkeys(weights.state_dict(), "cpu")
    for name, tensor in weights.state_dict().items():
        torch.testing.assert_close(full[name], tensor, rtol=tolerance, atol=tolerance)
    for number, values in states.state_dict()["state"].items():
        for name, value in values.items():
            torch.testing.assert_close(held["state"][number][name], value, rtol=tolerance, atol=tolerance)
    return model, optimizer, full, held


def fsdp(**config: Any) -> Accelerator:
    arguments = {name: config.pop(name) for name in ("mixed_precision", "fsdp_plugin") if name in config}
    steps = config.pop("steps", 2)
    given = None if "fsdp_plugin" in arguments else LINEARS | config
    return Accelerator(gradient_accumulation_steps=steps, fsdp_config=given, **arguments)


def check_equals_one_process() -> None:
    accelerator = fsdp()
    assert accelerator.distributed_type is DistributedType.FSDP
    assert accelerator.torch_device_mesh.mesh_dim_names == ("dp_shard",)
    model, _, full, held = compare(accelerator, 2)
    assert isinstance(model, FSDPModule)
    assert isinstance(model.last, FSDPModule)
    assert not isinstance(model.first, FSDPModule)  # it shares its weight, and must stay tied
    assert model.first.weight is model.second.weight
    assert not model.last.bias.requires_grad
    assert accelerator.prepare(model) is model
    assert accelerator.unwrap_model(model) is model
    assert GradientState().sync_gradients
    load_again(accelerator, full, held)


def load_again(accelerator: Accelerator, full: Any, held: Any) -> None:
    strategy = accelerator._strategy
    model, optimizer = accelerator.prepare(*new_parts())
    strategy.load_model_state(model, full)
    strategy.load_optimizer_state(model, optimizer.optimizer, held)
    again = strategy.model_state(model), strategy.optimizer_state(model, optimizer.optimizer)
    for name in full:
        assert torch.equal(again[0][name], full[name])
    if accelerator.is_main_process:
        assert again[1]["param_groups"] == held["param_groups"]
        for number, values in held["state"].items():
            assert all(torch.equal(again[1]["state"][number][name], value) for name, value in values.items())
    wrong = {name: value for name, value in full.items() if name != "offset"} | {"other": torch.ones(1)}
    with pytest.raises(CallError, match=r"missing: offset; not of this model: other|missing: first"):
        strategy.load_model_state(model, wrong)
    with pytest.raises(CallError, match="parameter groups of \\[1\\]"):
        strategy.load_optimizer_state(model, optimizer.optimizer, {"state": {}, "param_groups": [{"params": [0]}]})


def check_bf16() -> None:
    model, *_ = compare(fsdp(mixed_precision="bf16"), 2, tolerance=0.1)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def check_fp16_skips_on_all() -> None:
    accelerator = fsdp(mixed_precision="fp16", steps=1)
    model, optimizer = accelerator.prepare(*new_parts())
    factor = float("inf") if accelerator.is_last_process else 1.0
    accelerator.backward(model(torch.ones(1, 6)).sum() * factor)
    optimizer.step()
    assert accelerator.optimizer_step_was_skipped
    optimizer.zero_grad()
    accelerator.backward(model(torch.ones(1, 6)).sum())
    accelerator.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    assert not accelerator.optimizer_step_was_skipped


def check_16_bit_weights_are_trained_in_float32() -> None:
    for precision in ("bf16", "fp16"):
        accelerator = fsdp(mixed_precision=precision, steps=1)
        model, optimizer = new_parts()
        model.to(torch.bfloat16)
        model.first.bias.data = model.first.bias.data.float()  # of another format than the rest of its unit
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()  # with states in 16 bits, too
        optimizer.zero_grad()
        start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        model, optimizer = accelerator.prepare(model, optimizer)
        frozen = model.last.bias
        assert frozen.dtype == torch.bfloat16
        assert {one.dtype for one in model.parameters() if one is not frozen} == {torch.float32}
        for group in optimizer.param_groups:
            group["lr"] = 1e-5  # a step that a 16-bit number is too coarse for
        accelerator.backward(model(torch.ones(1, 6)).sum() / 9)
        optimizer.step()
        state = accelerator._strategy.optimizer_state(model, optimizer.optimizer)
        trained = accelerator.get_state_dict(model)
        accelerator._strategy.load_model_state(model, start)  # rank 0's, in 16 bits
        again = accelerator.get_state_dict(model)
        if accelerator.is_main_process:
            assert 0 < (trained["first.weight"] - start["first.weight"]).abs().mean() < 1e-4
            assert state["state"][0]["exp_avg"].dtype == torch.float32
            assert all(torch.equal(again[name], start[name].to(again[name].dtype)) for name in start)


def check_ignored_modules_train_beside_sharded_ones() -> None:
    """`foreach` is what torch takes by itself on GPUs."""
    for precision, way in (("no", "foreach"), ("no", "fused"), ("fp16", "foreach"), ("fp16", "fused")):
        accelerator = fsdp(mixed_precision=precision, steps=1, fsdp_ignored_modules="last")
        model, optimizer = accelerator.prepare(*new_parts(**{way: True}))
        held = accelerator._strategy.optimizer_state(model, optimizer.optimizer)
        if accelerator.is_main_process:
            held["param_groups"][1][way] = True  # as a checkpoint of another training may have it
        accelerator._strategy.load_optimizer_state(model, optimizer.optimizer, held)
        before = model.last.weight.detach().clone()
        for is_skipped in (True, False) if precision == "fp16" else (False,):
            factor = float("inf") if is_skipped and accelerator.is_last_process else 1.0
            accelerator.backward(model(torch.ones(1, 6) * (accelerator.process_index + 1)).sum() * factor)
            optimizer.step()
            optimizer.zero_grad()
            assert accelerator.optimizer_step_was_skipped == is_skipped
        own = model.last.weight.detach()
        assert not torch.equal(own, before)
        assert all(torch.equal(one, own) for one in accelerator.gather(own[None]))


def check_ignored_modules_on_rank_0_alone() -> None:
    accelerator = fsdp(steps=1, fsdp_ignored_modules="last")
    with torch.device("cpu" if accelerator.is_main_process else "meta"):
        model, _ = new_parts()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model, optimizer = accelerator.prepare(model, optimizer)
    accelerator.backward(model(torch.ones(1, 6) * (accelerator.process_index + 1)).sum())
    optimizer.step()
    own = model.last.weight.detach()
    assert all(torch.equal(one, own) for one in accelerator.gather(own[None]))


def check_variants() -> None:
    for config in (
        {"fsdp_sharding_strategy": "SHARD_GRAD_OP", "fsdp_state_dict_type": "FULL_STATE_DICT"},
        {"fsdp_reshard_after_forward": False, "fsdp_forward_prefetch": True, "fsdp_offload_params": True},
        {"fsdp_activation_checkpointing": True, "fsdp_activation_checkpointing_offload": True},
        {"fsdp_ignored_modules": "last"},
        {"fsdp_auto_wrap_policy": "SIZE_BASED_WRAP", "fsdp_min_num_params": 7},
    ):
        model, *_ = compare(fsdp(**config), 2)
        parts = {type(part) for part in model.modules()}
        units = [name for name, part in model.named_modules() if isinstance(part, FSDPModule)]
        assert "" in units, parts
        if "fsdp_ignored_modules" in config:
            assert type(model.last.weight) is torch.nn.Parameter
        if "fsdp_min_num_params" in config:
            assert units == ["", "last"]
        if "fsdp_activation_checkpointing" in config:
            assert isinstance(model.last.forward, RecomputedForward)


def check_no_sync() -> None:
    accelerator = fsdp(steps=1)
    model, _ = accelerator.prepare(*new_parts())
    x = torch.full((1, 6), float(accelerator.process_index + 1))
    with accelerator.no_sync(model):
        accelerator.backward(model(x).sum())
    assert model.last.weight.grad is None  # it waits, whole, on its process
    accelerator.backward(model(x).sum())
    assert isinstance(model.last.weight.grad, DTensor)
    with accelerator.no_sync(torch.nn.Linear(1, 1)):
        pass
    with pytest.raises(RuntimeError), accelerator.accumulate(model):  # in the middle of a pass
        model(torch.ones(1, 7))
    accelerator.backward(model(x).sum())


def check_plugin() -> None:
    plugin = FullyShardedDataParallelPlugin(
        sharding_strategy=ShardingStrategy.SHARD_GRAD_OP,
        auto_wrap_policy=lambda module: isinstance(module, torch.nn.Linear),
        mixed_precision_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16, output_dtype=torch.float32),
    )
    model, *_ = compare(fsdp(fsdp_plugin=plugin), 2, tolerance=0.1)
    assert isinstance(model.last, FSDPModule)


def check_weights_on_rank_0_alone() -> None:
    accelerator = fsdp(steps=1)
    with torch.device("cpu" if accelerator.is_main_process else "meta"):
        torch.manual_seed(3)
        model = torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.BatchNorm1d(6), torch.nn.Linear(6, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model, optimizer = accelerator.prepare(model, optimizer)
    torch.manual_seed(3)
    own = torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.BatchNorm1d(6), torch.nn.Linear(6, 1))
    full = accelerator.get_state_dict(model)
    assert all(torch.equal(full[name], value) for name, value in own.state_dict().items() if name in full)
    accelerator.backward(model(torch.randn(4, 6)).sum())
    optimizer.step()


def check_meta_is_refused() -> None:
    accelerator = fsdp(fsdp_cpu_ram_efficient_loading=False)
    with torch.device("meta"):
        model = torch.nn.Linear(2, 1)
    words = "no weights on rank 0" if accelerator.is_main_process else "fsdp_cpu_ram_efficient_loading to true"
    with pytest.raises(CallError, match=words):
        accelerator.prepare_model(model)
    plugin = FullyShardedDataParallelPlugin(param_init_fn=lambda part: [one.data.fill_(2) for one in part.parameters()])
    model = fsdp(fsdp_plugin=plugin).prepare(model)
    assert model(torch.ones(1, 2)).item() == 6


def check_other_settings_are_refused() -> None:
    accelerator = fsdp()
    model, _ = accelerator.prepare(*new_parts())
    assert fsdp().prepare(model) is model
    with pytest.raises(StateError, match="sharded already, with other settings"):
        fsdp(mixed_precision="bf16").prepare(model)
    with pytest.raises(StateError, match="does not use FSDP"):
        Accelerator().prepare(model)
    with pytest.raises(CallError, match="possible is a number above 0"):
        accelerator.clip_grad_norm_(model.parameters(), 1.0, norm_type=0)
    accelerator.backward(model(torch.ones(1, 6)).sum())
    greatest = accelerator.clip_grad_norm_(model.parameters(), 1e9, norm_type=float("inf"))
    grads = [parameter.grad.full_tensor().abs().max() for parameter in model.parameters() if parameter.grad is not None]
    assert torch.equal(greatest, torch.stack(grads).max())
    assert accelerator.clip_grad_norm_([], 1.0) == 0


def check_sharded_states() -> None:
    accelerator = fsdp(steps=1, fsdp_state_dict_type="SHARDED_STATE_DICT")
    strategy = accelerator._strategy
    assert strategy.saves_shards
    model, optimizer = accelerator.prepare(torch.nn.Linear(5, 3), None)
    optimizer = accelerator.prepare(torch.optim.Adam(model.parameters()))
    assert not strategy.optimizer_state(model, optimizer.optimizer, full=False)["state"]  # none is made up
    accelerator.backward(model(torch.ones(1, 5)).sum())
    optimizer.step()
    state = strategy.model_state(model, full=False)
    assert isinstance(state["weight"], DTensor)
    other = accelerator.prepare(torch.nn.Linear(5, 3))
    second = accelerator.prepare(torch.optim.Adam(other.parameters()))
    strategy.load_model_state(other, state, full=False)
    strategy.load_optimizer_state(
        other, second.optimizer, strategy.optimizer_state(model, optimizer.optimizer, full=False), full=False
    )
    assert torch.equal(other.weight.full_tensor(), model.weight.full_tensor())
    assert torch.equal(
        second.state[other.weight]["exp_avg"].full_tensor(), optimizer.state[model.weight]["exp_avg"].full_tensor()
    )


def check_homecoming() -> None:
    accelerator = fsdp(steps=1)
    model = accelerator.prepare(torch.nn.Linear(5, 3))
    loose = model.weight.detach()
    is_first = accelerator.is_main_process
    made = Homecoming(101).together((lambda full: full(model.weight)) if is_first else None)
    expected = model.weight.full_tensor()
    assert made is None if not is_first else torch.equal(made, expected)
    if is_first:
        with pytest.raises(ShipError, match="belongs to no prepared model"):
            Homecoming(102).together(lambda full: full(loose))
        Homecoming(103).tell_failed()
        assert Homecoming(103).together(None) is None
    else:
        assert Homecoming(102).together(None) is None
        with pytest.raises(ShipError, match="one of them has failed"):
            Homecoming(103).together(lambda full: full(model.weight))
    number = registry.entry_of(model).number
    if is_first:
        with pytest.raises(ShipError, match="some ranks have no such model"):
            Homecoming(104).together(lambda full: full(model.weight))
    else:
        registry._Known.entries = tuple(one for one in registry._Known.entries if one.number != number)
        with pytest.raises(ShipError, match="some ranks have no such model"):
            Homecoming(104).together(None)


def check_unevenly_meshed() -> None:
    with pytest.raises(PlanError, match="a mesh of 3 processes"):
        Accelerator(fsdp_config=LINEARS, parallelism_config=ParallelismConfig(dp_shard_size=3))
    with pytest.raises(PlanError, match=r"tp_size=2.*comes next"):
        Accelerator(parallelism_config=ParallelismConfig(tp_size=2))


def check_zz_lost_group() -> None:
    accelerator = fsdp()
    model = accelerator.prepare(torch.nn.Linear(2, 1))
    accelerator.end_training()
    with pytest.raises(StateError, match="process group that has ended"):
        accelerator._strategy.model_state(model)
    with pytest.raises(StateError, match="Build the model and its optimizer again"):
        fsdp().prepare(model)
    assert not list(registry.entries())


def check_hybrid() -> None:
    """On four ranks of two machines."""
    accelerator = fsdp(fsdp_sharding_strategy="HYBRID_SHARD", steps=1)
    mesh = accelerator.torch_device_mesh
    assert (mesh.mesh_dim_names, tuple(mesh.mesh.shape)) == (("dp_replicate", "dp_shard"), (2, 2))
    compare(accelerator, 1)


def check_mesh_of_sizes() -> None:
    """On four ranks of two machines."""
    sizes = ParallelismConfig(dp_replicate_size=2, dp_shard_size=2)
    accelerator = Accelerator(fsdp_config=LINEARS, parallelism_config=sizes)
    assert accelerator.torch_device_mesh.size() == 4
    assert accelerator.parallelism_config is sizes
    mesh = sizes.build_device_mesh("cpu")
    assert sizes.get_device_mesh() is mesh
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer versions of torch want joined axes to be kept by their makers
        assert mesh["dp"].size() == 4


def main() -> None:
    torch.set_num_threads(1)
    faulthandler.dump_traceback_later(80)
    PartialState()
    rank = PartialState().process_index
    found = {name: verdict(globals()[name]) for name in sys.argv[2:]}
    PartialState().destroy_process_group()
    (FOLDER / f"{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
