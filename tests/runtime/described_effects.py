"""What fields and arguments do, seen on the real objects that they reach; for the table of the described surface."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, TensorDataset

from nbaccel.config.launched import resolve_in_worker
from nbaccel.errors import CallError
from nbaccel.machine import Gpu, Machine
from nbaccel.plan import Topology, choose_parts
from nbaccel.runtime.accelerator import Accelerator
from nbaccel.runtime.checkpoint.checkpoints import Checkpoints
from nbaccel.runtime.data.loader import PreparedLoader, prepare_loader
from nbaccel.runtime.data.settings import Share
from nbaccel.runtime.devices.mps import MpsDevice
from nbaccel.runtime.handlers import (
    AutocastKwargs,
    DataLoaderConfiguration,
    GradientAccumulationPlugin,
    GradScalerKwargs,
    ProjectConfiguration,
)
from nbaccel.runtime.options import constructor_layer
from nbaccel.runtime.state import GradientState
from nbaccel.runtime.tracking.base import GeneralTracker
from nbaccel.utils import TorchDynamoPlugin

FOUR_GPUS = Machine(usable_cores=8, physical_cores=4, gpus=tuple(Gpu(index, str(index)) for index in range(4)))


# Accelerator(...)


def device(**arguments: Any) -> str:
    """The device that these arguments mean on a machine with four GPUs."""
    settings = [] if "gpu_ids" in arguments else [Accelerator(**arguments).config]
    found = settings or [resolve_in_worker(constructor_layer(arguments, ()))]
    return choose_parts(found[0].config, FOUR_GPUS, Topology()).device


def strategy_of_four(**arguments: Any) -> str:
    """How four processes would train together."""
    return choose_parts(Accelerator(**arguments).config.config, Machine(4, 4), Topology(0, 4, 0, 4)).strategy


def product(**arguments: Any) -> torch.dtype:
    """Number format of a matrix product in the training's precision."""
    with Accelerator(**arguments).autocast():
        return (torch.ones(2, 2) @ torch.ones(2, 2)).dtype


def windows(loader_end: bool = False, **arguments: Any) -> list[bool]:
    """Which of three micro-batches complete a window."""
    accelerator = Accelerator(**arguments)
    model = accelerator.prepare(nn.Linear(1, 1))
    loader = accelerator.prepare(DataLoader(TensorDataset(torch.arange(3))))
    flags = []
    for _ in loader if loader_end else range(3):
        with accelerator.accumulate(model):
            flags.append(accelerator.sync_gradients)
    return flags


class Notes(GeneralTracker):
    """A tracker that remembers."""

    name = "notes"
    requires_logging_directory = True

    def __init__(self, run_name: str = "", logging_dir: str = "") -> None:
        super().__init__()
        self.run_name, self.logging_dir = run_name, logging_dir
        self.values: list[Any] = []

    def log(self, values: Any, step: int | None = None, **kwargs: Any) -> None:
        self.values.append(dict(values))


def run_of(**arguments: Any) -> Any:
    """The tracker that logs."""
    accelerator = Accelerator(**({"log_with": "notes", "project_dir": "logs"} | arguments))
    accelerator.init_trackers()
    accelerator.log({"loss": 1.0})
    return accelerator.get_tracker("notes")


def logged(**arguments: Any) -> list[Any]:
    """What a tracker was told."""
    accelerator = Accelerator(project_dir="logs", **arguments)
    accelerator.init_trackers()
    accelerator.log({"loss": 1.0})
    return [tracker.values for tracker in accelerator.trackers]


def checkpoints(saves: int = 1, **arguments: Any) -> list[str]:
    """The folders that checkpoints leave, below the working folder; an error where they have no place."""
    accelerator = Accelerator(**arguments)
    try:
        for _ in range(saves):
            accelerator.save_state()
    except CallError as error:
        return [str(error)]
    return sorted(str(path.relative_to(Path.cwd())) for path in Path.cwd().glob("**/checkpoint_*"))


# DataLoaderConfiguration


class Stream(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(5))


class Batch:
    """A batch of a library's own, which notes how it is copied."""

    waits: bool | None = None

    def to(self, device: Any, non_blocking: bool = False) -> Batch:
        self.waits = not non_blocking
        return self


def shares(**fields: Any) -> list[list[int]]:
    """What the second of two processes reads of seven samples in batches of two."""
    return [batch.tolist() for (batch,) in loader_of_two(DataLoader(TensorDataset(torch.arange(7)), 2), **fields)]


def loader_of_two(loader: Any, **fields: Any) -> PreparedLoader:
    """A loader as the second of two processes has it."""
    accelerator = Accelerator(dataloader_config=DataLoaderConfiguration(**fields))
    world = replace(accelerator._runtime.world, rank=1, size=2)
    return prepare_loader(
        loader, world, GradientState(), accelerator._runtime.device, accelerator.dataloader_config, share=Share(1, 2)
    )


def kind_of_two(**fields: Any) -> str:
    """Who reads a stream: each process, or the first for all."""
    return type(loader_of_two(DataLoader(Stream()), **fields)).__name__


def sampler(**fields: Any) -> str:
    """Which sampler shuffles."""
    accelerator = Accelerator(dataloader_config=DataLoaderConfiguration(**fields))
    loader = accelerator.prepare(DataLoader(TensorDataset(torch.arange(4)), shuffle=True))
    found = type(loader.batch_sampler.sampler)
    return "own" if found is RandomSampler else found.__name__


def waits_for_copies(**fields: Any) -> bool | None:
    """Whether a batch is copied to the device before the loader goes on."""
    accelerator = Accelerator(dataloader_config=DataLoaderConfiguration(**fields))
    loader: Any = DataLoader([0, 1], batch_size=2, collate_fn=lambda samples: Batch())
    elsewhere = MpsDevice(torch.device("meta"))
    world = accelerator._runtime.world
    (batch,) = prepare_loader(loader, world, GradientState(), elsewhere, accelerator.dataloader_config)
    return batch.waits


# ProjectConfiguration


def project(**fields: Any) -> Accelerator:
    return Accelerator(project_config=ProjectConfiguration(**fields))


def writes_on_second_machine(**fields: Any) -> bool:
    """Whether the first process of another machine writes what all have."""
    accelerator = project(**fields)
    runtime = replace(accelerator._runtime, world=replace(accelerator._runtime.world, rank=2, size=4, local_rank=0))
    made = Checkpoints(runtime, accelerator._prepared, accelerator._accumulation, accelerator._checkpoints.numbering)
    return made._keeps


# Precision, accumulation, compilation


def autocast(**fields: Any) -> tuple[bool, bool]:
    """Whether autocast computes in 16 bits, and keeps cast weights."""
    with Accelerator(mixed_precision="bf16", kwargs_handlers=[AutocastKwargs(**fields)]).autocast():
        return torch.is_autocast_enabled("cpu"), torch.is_autocast_cache_enabled()


def scaler(**fields: Any) -> torch.amp.GradScaler:
    """The loss scaler of a training in fp16."""
    found = Accelerator(mixed_precision="fp16", kwargs_handlers=[GradScalerKwargs(**fields)]).scaler
    assert found is not None
    return found


def accumulation(**fields: Any) -> Any:
    """What a training is accumulated by."""
    return {"gradient_accumulation_plugin": GradientAccumulationPlugin(**fields)}


def compiled(**fields: Any) -> Any:
    """torch's own description of how a prepared model is compiled; None where it is not."""
    plugin = TorchDynamoPlugin(**fields)
    model: Any = Accelerator(dynamo_plugin=plugin).prepare(nn.Linear(1, 1))
    return getattr(model, "dynamo_ctx", None)


def refuses_graph_breaks(**fields: Any) -> bool:
    """Whether a model that cannot be compiled as one is refused."""

    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            torch._dynamo.graph_break()
            return x + 1

    torch.compiler.reset()
    model = Accelerator(dynamo_plugin=TorchDynamoPlugin(backend="eager", **fields)).prepare(Broken())
    try:
        model(torch.ones(1))
    except torch._dynamo.exc.Unsupported:
        return True
    return False
