"""Checks of compression, compiling, joining, profiling and closing on every rank of a real process group."""

from __future__ import annotations

import copy
import faulthandler
import json
import os
import sys
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from runtime_ranks import verdict
from torch import nn
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from nbaccel.errors import CallError, ConfigError, PlanError
from nbaccel.runtime.accelerator import Accelerator
from nbaccel.runtime.compiling import TorchDynamoPlugin
from nbaccel.runtime.handlers import DataLoaderConfiguration, DistributedDataParallelKwargs
from nbaccel.runtime.modules import has_compiled_regions
from nbaccel.runtime.plugins import FullyShardedDataParallelPlugin
from nbaccel.runtime.profiling import ProfileKwargs
from nbaccel.runtime.state import AcceleratorState, DistributedType, GradientState, PartialState

FOLDER = Path(sys.argv[1]) if len(sys.argv) > 1 else Path()


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.relu(self.inner(x))


class Stack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.head = nn.Linear(16, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def new_model() -> Stack:
    torch.manual_seed(3)
    return Stack()


def own_batch(rows: int = 8) -> torch.Tensor:
    return torch.randn(rows, 16, generator=torch.Generator().manual_seed(dist.get_rank()))


def gradients(accelerator: Accelerator, model: Any, passes: int = 1) -> torch.Tensor:
    """Of the mean square over all ranks' rows."""
    for _ in range(passes):
        model.zero_grad()
        accelerator.backward(model(own_batch()).pow(2).mean())
    parameters = [parameter.grad for parameter in model.parameters()]
    return torch.cat([getattr(grad, "full_tensor", lambda grad=grad: grad)().flatten() for grad in parameters])


def expected() -> torch.Tensor:
    model = new_model()
    seeds = range(dist.get_world_size())
    rows = [torch.randn(8, 16, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    model(torch.cat(rows)).pow(2).mean().backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])


def with_ddp(**fields: Any) -> Accelerator:
    return Accelerator(kwargs_handlers=[DistributedDataParallelKwargs(**fields)])


def same_on_all(tensor: torch.Tensor) -> bool:
    everyone = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(everyone, tensor.contiguous())
    return all(torch.equal(one, everyone[0]) for one in everyone)


# DDP's arguments


def check_arguments_of_ddp() -> None:
    fields: dict[str, Any] = {
        "dim": 1,
        "broadcast_buffers": False,
        "bucket_cap_mb": 7,
        "find_unused_parameters": True,
        "gradient_as_bucket_view": True,
        "static_graph": True,
    }
    model = with_ddp(**fields).prepare(new_model())
    assert (model.dim, model.broadcast_buffers, model.find_unused_parameters) == (1, False, True)
    assert (model.bucket_bytes_cap, model.gradient_as_bucket_view, model.static_graph) == (7 * 2**20, True, True)
    with pytest.warns(FutureWarning, match="check_reduction"):
        with_ddp(check_reduction=True).prepare(new_model())


def check_arguments_of_ddp_by_configuration() -> None:
    os.environ |= {"NBACCEL_DDP_COMM_HOOK": "fp16", "NBACCEL_DDP_BUCKET_CAP_MB": "3"}
    try:
        accelerator = Accelerator()
        assert accelerator.ddp_handler.comm_hook == "fp16"
        model = accelerator.prepare(new_model())
        assert model.bucket_bytes_cap == 3 * 2**20
        assert 0 < (gradients(accelerator, model) - expected()).abs().max() < 1e-2
    finally:
        del os.environ["NBACCEL_DDP_COMM_HOOK"], os.environ["NBACCEL_DDP_BUCKET_CAP_MB"]


def check_arguments_of_ddp_set_later() -> None:
    accelerator = Accelerator()
    accelerator.ddp_handler = DistributedDataParallelKwargs(find_unused_parameters=True)
    assert accelerator.prepare(new_model()).find_unused_parameters
    accelerator.ddp_handler = None
    assert not accelerator.prepare(new_model()).find_unused_parameters


def check_compression_to_16_bits() -> None:
    exact = expected()
    for word, most in (("fp16", 2e-3), ("bf16", 2e-2)):
        accelerator = with_ddp(comm_hook=word)
        found = gradients(accelerator, accelerator.prepare(new_model()))
        off = (found - exact).abs().max().item()
        assert 0 < off < most, (word, off)
        assert same_on_all(found)


def check_compression_by_power_sgd() -> None:
    exact = expected()
    for wrapper in ("no", "fp16", "bf16"):
        options = {"matrix_approximation_rank": 2, "start_powerSGD_iter": 2, "min_compression_rate": 1}
        accelerator = with_ddp(comm_hook="power_sgd", comm_wrapper=wrapper, comm_state_option=options)
        model = accelerator.prepare(new_model())
        before = gradients(accelerator, model)
        torch.testing.assert_close(before, exact, rtol=0.05, atol=0.02)
        compressed = gradients(accelerator, model, passes=3)
        assert (compressed - exact).abs().max() > 1e-3  # of rank 2
        assert torch.nn.functional.cosine_similarity(compressed, exact, dim=0) > 0.6
        assert same_on_all(compressed)


def check_compression_that_torch_has_broken() -> None:
    accelerator = with_ddp(comm_hook="batched_power_sgd", comm_state_option={"start_powerSGD_iter": 2})
    try:
        model = accelerator.prepare(new_model())
    except PlanError as error:
        assert "Use comm_hook='power_sgd'" in str(error)  # noqa: PT017 - with other versions of torch it works
    else:
        assert same_on_all(gradients(accelerator, model, passes=4))


def check_compression_words() -> None:
    for fields, words in (
        ({"comm_hook": "fp8"}, "Possible: no, fp16, bf16, power_sgd"),
        ({"comm_wrapper": "fp16"}, "nothing to wrap"),
        ({"comm_hook": "fp16", "comm_state_option": {"random_seed": 1}}, "settings of power_sgd"),
        ({"comm_hook": "power_sgd", "comm_state_option": {"rank": 1}}, "Possible: matrix_approximation_rank"),
    ):
        with pytest.raises((CallError, ConfigError), match=words):
            with_ddp(**fields)
    with pytest.raises(CallError, match=r"comm_wrapper='int8'.*no, fp16, bf16"):
        DistributedDataParallelKwargs(comm_hook="fp16", comm_wrapper="int8").check()
    with pytest.raises(CallError, match="comm_hook='int8'"):
        DistributedDataParallelKwargs(comm_hook="int8").register_comm_hook(Accelerator().prepare(new_model()))


# Compiling


def check_compiled_ddp() -> None:
    for regional in (False, True):
        plugin = TorchDynamoPlugin(backend="aot_eager", use_regional_compilation=regional)
        accelerator = Accelerator(dynamo_plugin=plugin, gradient_accumulation_steps=2)
        own = new_model()
        model = accelerator.prepare(own)
        assert isinstance(model, DistributedDataParallel)
        assert has_compiled_regions(model)
        with accelerator.accumulate(model):
            accelerator.backward(model(own_batch()).pow(2).mean())
        vector = torch.cat([one.grad.flatten() for one in own.parameters() if one.grad is not None])
        assert not same_on_all(vector)  # a window is open
        with accelerator.accumulate(model):
            accelerator.backward(model(own_batch()).pow(2).mean())
        vector = torch.cat([one.grad.flatten() for one in own.parameters() if one.grad is not None])
        torch.testing.assert_close(vector, expected(), rtol=1e-4, atol=1e-6)
        assert accelerator.unwrap_model(model, keep_torch_compile=False) is own
        assert accelerator.get_state_dict(model).keys() == own.state_dict().keys()
        target = FOLDER / f"compiled_{regional}"
        accelerator.save_state(target)
        with torch.no_grad():
            own.head.weight.zero_()
        accelerator.load_state(target)
        assert own.head.weight.abs().sum() > 0


def check_compiled_fsdp() -> None:
    for regional in (False, True):
        accelerator = Accelerator(
            fsdp_plugin=FullyShardedDataParallelPlugin(
                auto_wrap_policy="TRANSFORMER_BASED_WRAP", transformer_cls_names_to_wrap=["Block"]
            ),
            dynamo_plugin=TorchDynamoPlugin(backend="aot_eager", use_regional_compilation=regional),
        )
        own = new_model()
        names = own.state_dict().keys()
        model = accelerator.prepare(own)
        assert model is own
        assert has_compiled_regions(model)
        torch.testing.assert_close(gradients(accelerator, model), expected(), rtol=1e-4, atol=1e-6)
        assert model.state_dict().keys() == names


# Uneven inputs


class Numbers(IterableDataset[int]):
    def __iter__(self) -> Any:
        return iter(range(8))


def uneven_loader(accelerator: Accelerator, **options: Any) -> Any:
    size = dist.get_world_size()
    data = TensorDataset(torch.arange(4 * size - 2.0).reshape(-1, 1))  # the last rank lacks a batch
    return accelerator.prepare(DataLoader(data, batch_size=2, **options))


def check_join() -> None:
    accelerator = Accelerator()
    assert accelerator.even_batches
    model, loader = accelerator.prepare(nn.Linear(1, 1, bias=False)), uneven_loader(accelerator)
    assert len(loader) == 2
    optimizer = accelerator.prepare(torch.optim.SGD(model.parameters(), lr=1e-3))
    passes = 0
    with accelerator.join_uneven_inputs([model], even_batches=False):
        assert len(loader) == (1 if accelerator.is_last_process else 2)
        for (x,) in loader:
            accelerator.backward(model(x).mean())
            optimizer.step()
            optimizer.zero_grad()
            passes += 1
    assert passes == (1 if accelerator.is_last_process else 2)
    assert same_on_all(model.module.weight.detach())
    assert len(loader) == 2
    assert not model._join_config.enable


def check_join_that_is_not_needed() -> None:
    accelerator = Accelerator()
    model, loader = accelerator.prepare(nn.Linear(1, 1, bias=False)), uneven_loader(accelerator)
    with accelerator.join_uneven_inputs([model]):
        assert not model._join_config.enable
        assert [len(x) for (x,) in loader] == [2, 2]
    accelerator.even_batches = False
    ragged = uneven_loader(accelerator)
    with accelerator.join_uneven_inputs([model]):
        assert model._join_config.enable
        for (x,) in ragged:
            accelerator.backward(model(x).mean())
    with accelerator.join_uneven_inputs([model], even_batches=True):
        assert not model._join_config.enable
        assert [len(x) for (x,) in ragged] == [2, 2]
    sharded = Accelerator(dataloader_config=DataLoaderConfiguration(already_sharded=True))
    with sharded.join_uneven_inputs([model]):
        assert model._join_config.enable
        for _ in range(1 + dist.get_rank()):
            sharded.backward(model(torch.ones(1, 1)).mean())


def check_join_of_an_optimizer() -> None:
    accelerator = Accelerator()
    model = accelerator.prepare(nn.Linear(1, 1))
    inner = ZeroRedundancyOptimizer(model.parameters(), torch.optim.SGD, lr=0.1)
    optimizer = accelerator.prepare(inner)
    with accelerator.join_uneven_inputs([model, optimizer], even_batches=False):
        assert inner._join_config.enable
        for _ in range(1 + dist.get_rank()):
            accelerator.backward(model(torch.ones(1, 1)).mean())
            optimizer.step()
            optimizer.zero_grad()
    assert same_on_all(model.module.weight.detach())


def check_join_without_effect() -> None:
    accelerator = Accelerator()
    stream = accelerator.prepare(DataLoader(Numbers(), batch_size=2))
    model = accelerator.prepare(nn.Linear(1, 1))
    with pytest.warns(UserWarning, match="loader of a stream"), accelerator.join_uneven_inputs([model], True):
        assert len(list(stream)) == 2 * 2 // dist.get_world_size()
    with pytest.warns(UserWarning, match="only models that train by DDP"), accelerator.join_uneven_inputs([]):
        pass
    sharded = Accelerator(fsdp_plugin=FullyShardedDataParallelPlugin())
    with pytest.warns(UserWarning, match="only models that train by DDP"), sharded.join_uneven_inputs([model]):
        pass


def check_pieces_of_dispatched_batches() -> None:
    def last_rows_first(batch: Any, piece: slice, process_index: int, num_processes: int) -> Any:
        rows = batch.flip(0)
        return rows[piece]

    accelerator = Accelerator(dataloader_config=DataLoaderConfiguration(dispatch_batches=True))
    loader = accelerator.prepare_data_loader(
        DataLoader(torch.arange(4 * dist.get_world_size()), batch_size=4),  # type: ignore[arg-type]
        slice_fn_for_dispatch=last_rows_first,
    )
    high = 4 * (dist.get_world_size() - dist.get_rank())
    assert [batch.tolist() for batch in loader] == [[high - 1, high - 2, high - 3, high - 4]]


def check_groups_of_ones_own() -> None:
    group = dist.new_group()
    PartialState().destroy_process_group(group)
    assert dist.is_initialized()
    assert group not in dist.distributed_c10d._world.pg_map


def check_sync_in_backward() -> None:
    accelerator = Accelerator()
    model = accelerator.prepare(new_model())
    with accelerator.no_sync(model):
        loss = model(own_batch()).pow(2).mean()
    with accelerator.trigger_sync_in_backward(model):
        accelerator.backward(loss)
    vector = torch.cat([one.grad.flatten() for one in model.parameters()])
    torch.testing.assert_close(vector, expected(), rtol=1e-4, atol=1e-6)
    assert model.require_backward_grad_sync


# Profiling


def check_profile() -> None:
    target = FOLDER / "traces"
    accelerator = Accelerator(kwargs_handlers=[ProfileKwargs(output_trace_dir=target, record_shapes=True)])
    model = accelerator.prepare(new_model())
    with accelerator.profile() as profiler:
        accelerator.backward(model(own_batch()).mean())
    assert "aten::linear" in {event.key for event in profiler.key_averages()}
    names = sorted(path.name for path in target.iterdir())  # all are there when any rank goes on
    assert names == [f"profile_{rank}.json" for rank in range(dist.get_world_size())]
    trace = json.loads((target / f"profile_{dist.get_rank()}.json").read_text())
    assert any(event.get("name") == "aten::linear" for event in trace["traceEvents"])


# Closing, and what is asked of an accelerator


def check_close() -> None:
    before = dict(os.environ)
    first = Accelerator(mixed_precision="bf16", gradient_accumulation_steps=4)
    own = new_model()
    model = first.prepare(own)
    assert first.multi_device is False
    later = Accelerator(gradient_accumulation_steps=2)
    first.close()  # a later one is there and keeps the states
    assert dist.is_initialized()
    assert later.gather(torch.tensor(1)).tolist() == [1] * later.num_processes
    assert AcceleratorState().mixed_precision == "no"
    later.close()
    assert AcceleratorState._shared_state == GradientState._shared_state == {}
    assert dict(os.environ) == before
    with Accelerator(fsdp_plugin=FullyShardedDataParallelPlugin()) as sharded:
        assert sharded.distributed_type is DistributedType.FSDP
        assert AcceleratorState().is_fsdp2
        torch.testing.assert_close(gradients(sharded, sharded.prepare(new_model())), expected(), rtol=1e-4, atol=1e-6)
    plain = Accelerator()
    assert (plain.distributed_type, plain.mixed_precision) == (DistributedType.MULTI_CPU, "no")
    again = plain.prepare(model)
    assert again.module is own
    torch.testing.assert_close(gradients(plain, again), expected(), rtol=1e-4, atol=1e-6)


def check_ranks_along_the_mesh() -> None:
    accelerator = Accelerator()
    assert (accelerator.data_parallel_rank, accelerator.data_parallel_shard_rank) == (0, 0)
    sharded = Accelerator(fsdp_plugin=FullyShardedDataParallelPlugin())
    assert sharded.data_parallel_shard_rank == dist.get_rank()
    assert (sharded.data_parallel_rank, sharded.tensor_parallel_rank) == (0, 0)


def main() -> None:
    torch.set_num_threads(1)
    faulthandler.dump_traceback_later(200)
    state = PartialState(timeout=timedelta(seconds=60))
    rank = state.process_index
    checks = {name: check for name, check in sorted(globals().items()) if name.startswith("check_")}
    chosen = copy.copy(sys.argv[2:]) or list(checks)
    found = {}
    for name in sorted(chosen):
        with warnings.catch_warnings():
            found[name] = verdict(checks[name])
    PartialState().destroy_process_group()
    (FOLDER / f"{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
