"""What fields of the process group, of DDP and of FSDP do, seen in a group of one process."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from nbaccel.runtime import groups
from nbaccel.runtime.accelerator import Accelerator
from nbaccel.runtime.build import STRATEGIES, Site
from nbaccel.runtime.handlers import (
    DistributedDataParallelKwargs,
    InitProcessGroupKwargs,
)
from nbaccel.runtime.parallel.recompute import RecomputedForward
from nbaccel.runtime.plugins import FullyShardedDataParallelPlugin


@contextmanager
def alone_in_a_group() -> Iterator[None]:
    """A process group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def group(of: Callable[[], Any], **fields: Any) -> Any:
    """Make the process group that these settings mean, and look at it."""
    options = Accelerator(kwargs_handlers=[InitProcessGroupKwargs(**fields)]).init_handler.options()
    groups.note_regrouped()
    place = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    os.environ.update(place)
    try:
        assert groups.group_with(options.backend or "gloo", options) is None
        return of()
    finally:
        groups.leave_group()
        groups.note_regrouped()
        for name in place:
            del os.environ[name]


def timeout() -> Any:
    backend: Any = dist.group.WORLD._get_backend(torch.device("cpu"))  # type: ignore[union-attr]
    return backend.options._timeout


def meeting_place(**fields: Any) -> bool:
    """Whether the ranks meet at a file."""
    with tempfile.TemporaryDirectory() as folder:
        fields = {name: value.format(folder) for name, value in fields.items()}
        return group(lambda: (Path(folder) / "meeting").exists(), **fields)


def strategy(name: str, accelerator: Accelerator) -> Any:
    """The strategy that several processes would have, over a group of one."""
    runtime = accelerator._runtime
    parts = replace(runtime.parts, strategy=name, mesh=(("dp_shard", 1),) if name == "fsdp" else ())
    world = replace(runtime.world, backend="gloo")
    site = Site(parts, world, runtime.device, runtime.handlers, runtime.resolved, runtime.plugins)
    return STRATEGIES[name](site)


def joined(**fields: Any) -> Any:
    """A model in torch's DistributedDataParallel."""
    with alone_in_a_group(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        accelerator = Accelerator(kwargs_handlers=[DistributedDataParallelKwargs(**fields)])
        return strategy("ddp", accelerator).wrap(nn.Linear(2, 1))


def warnings_of(make: Callable[..., Any], **fields: Any) -> list[str]:
    """What is said while something is made."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make(**fields)
    return [str(one.message) for one in caught]


def ddp_warnings(**fields: Any) -> bool:
    """Whether torch says that the field has no effect."""
    with alone_in_a_group():
        accelerator = Accelerator(kwargs_handlers=[DistributedDataParallelKwargs(**fields)])
        said = warnings_of(lambda: strategy("ddp", accelerator).wrap(nn.Linear(2, 1)))
    return any("check_reduction" in text for text in said)


class Stack(nn.Module):
    """Two layers, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        self.head = nn.Linear(2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(x))


def sharding(**fields: Any) -> Any:
    """The strategy of a plugin."""
    return strategy("fsdp", Accelerator(fsdp_plugin=FullyShardedDataParallelPlugin(**fields)))


def sharded(look: Callable[[Any], Any], model: Any = None, **fields: Any) -> Any:
    """Look at a model that FSDP has sharded in units of one layer."""
    units = {} if "auto_wrap_policy" in fields else {"transformer_cls_names_to_wrap": ["Linear"]}
    model = Stack() if model is None else model
    with alone_in_a_group():
        return look(sharding(**units | fields).wrap(model))


def in_shards(**fields: Any) -> bool:
    """Whether each rank saves its own part."""
    with alone_in_a_group():
        return bool(sharding(**fields).saves_shards)


def fsdp_says(word: str, **fields: Any) -> bool:
    """Whether somebody who gives a field that fully_shard has no use for is told so."""
    with alone_in_a_group():
        return any(word in text for text in warnings_of(sharding, **fields))


def offloads(**fields: Any) -> str:
    """What fully_shard is told on a GPU."""
    with alone_in_a_group():
        made = sharding(**fields)
        made._world = replace(made._world, device=torch.device("cuda"))
        return type(made._options()["offload_policy"]).__name__


def takes_rank_0(**fields: Any) -> bool:
    """Whether training starts from rank 0's weights."""
    with alone_in_a_group():
        made = sharding(**fields)
        made.wrap(Stack())
        return made._sharding.from_rank_0


def unit_names(model: nn.Module) -> list[str]:
    return [name for name, part in model.named_modules() if isinstance(part, FSDPModule)]


def keeps_parameters(model: Any) -> bool:
    """Whether full parameters stay after the forward pass."""
    model(torch.ones(1, 2))
    return not isinstance(model.layers[0].weight, DTensor)


def prefetches(model: Any) -> bool:
    return bool(model.layers[0]._get_fsdp_state()._states_to_forward_prefetch)


def computes_in(model: Any) -> torch.dtype:
    return model.layers[0](torch.ones(1, 2)).dtype


def recomputes(model: Any) -> bool:
    return isinstance(model.head.forward, RecomputedForward)


def is_sharded(model: Any) -> bool:
    return isinstance(model.head.weight, DTensor)


def weights_of_meta(**fields: Any) -> str:
    """What becomes of a model without weights."""
    with torch.device("meta"):
        model = Stack()
    try:
        return sharded(lambda made: f"{made.head.weight.full_tensor().unique().tolist()}", model, **fields)
    except TypeError as error:
        return type(error).__name__


def sevens(module: nn.Module) -> None:
    for parameter in module.parameters(recurse=False):
        nn.init.constant_(parameter, 7.0)
