"""The face of the runtime: each method hands over to the part that knows."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import IO, Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from nbaccel.errors import CallError
from nbaccel.runtime import collectives
from nbaccel.runtime.accumulation import Accumulation
from nbaccel.runtime.build import build
from nbaccel.runtime.data.loader import PreparedLoader
from nbaccel.runtime.handlers import (
    AutocastKwargs,
    DataLoaderConfiguration,
    GradientAccumulationPlugin,
    Handlers,
    KwargsHandler,
)
from nbaccel.runtime.metrics import gather_for_metrics
from nbaccel.runtime.optimizer import AcceleratedOptimizer
from nbaccel.runtime.options import given_settings, loader_settings, refuse_others
from nbaccel.runtime.preparation import Preparation
from nbaccel.runtime.saving import save_object
from nbaccel.runtime.scheduler import AcceleratedScheduler
from nbaccel.runtime.state import AcceleratorState, DistributedType, GradientState
from nbaccel.runtime.unwrap import extract_model_from_parallel


class Accelerator:
    """Trains the same loop on one device or many; the interface of Hugging Face Accelerate's class of this name.

    Every argument that is left out comes from the launch, the environment, or the defaults. A second object with
    other settings in the same process is fine.

    Args:
        device_placement: move models, optimizer states and batches to the device.
        split_batches: cut each batch into one piece per process, instead of one batch per process.
        mixed_precision: `no`, `bf16` or `fp16`; a prepared model's 16-bit outputs are handed out as float32.
        gradient_accumulation_steps: micro-batches per optimizer step.
        cpu: True trains on the CPU even if there are other devices.
        dataloader_config: how prepared loaders hand out batches.
        rng_types: which random states are taken over from rank 0 when a pass over a loader begins: `generator` (the
            one given to a loader or sampler; the default), `torch`, `cuda`.
        project_dir: folder for what a run writes.
        gradient_accumulation_plugin: how gradients are accumulated.
        step_scheduler_with_optimizer: False lets schedulers move by 1 at each call.
        kwargs_handlers: objects with settings of the parts, one of each kind.
        gpu_ids: GPUs to train on, by their index among the visible ones.
        others: Accelerate's other arguments, which must be None.

    Attributes:
        device: the torch device of this process.
        num_processes: number of processes.
        process_index: rank of this process among all, from 0.
        local_process_index: rank of this process on its machine, from 0.
        is_main_process: true for rank 0.
        is_local_main_process: true for the first process of each machine.
        is_last_process: true for the last rank.
        use_distributed: true with more than one process.
        mixed_precision: `no`, `bf16` or `fp16`.
        state: what all objects of `AcceleratorState` show.
        gradient_state: what all objects of `GradientState` show.

    Raises:
        ConfigError: a value makes no sense; says where it came from.
        PlanError: this machine, or nbaccel so far, cannot do what was asked.
        CallError: an unknown argument, or two that contradict each other.
    """

    def __init__(
        self,
        device_placement: bool = True,
        split_batches: bool = False,
        mixed_precision: str | None = None,
        gradient_accumulation_steps: int | None = None,
        cpu: bool | None = None,
        dataloader_config: DataLoaderConfiguration | None = None,
        rng_types: Sequence[str] | None = None,
        project_dir: str | os.PathLike[str] | None = None,
        gradient_accumulation_plugin: GradientAccumulationPlugin | None = None,
        step_scheduler_with_optimizer: bool = True,
        kwargs_handlers: Sequence[KwargsHandler] | None = None,
        gpu_ids: str | int | Sequence[int] | None = None,
        **others: Any,
    ) -> None:
        refuse_others(others, type(self))
        plugin = gradient_accumulation_plugin
        handlers = Handlers.of(kwargs_handlers)
        self.dataloader_config = loader_settings(split_batches, dataloader_config)
        self.rng_types = list(("generator",) if rng_types is None else rng_types)
        self.device_placement = device_placement
        self.step_scheduler_with_optimizer = step_scheduler_with_optimizer
        self.project_dir = project_dir
        given = given_settings(mixed_precision, gradient_accumulation_steps, plugin, cpu, gpu_ids)
        self._runtime = build(given, handlers)
        self._strategy, self._precision, self._world = (
            self._runtime.strategy,
            self._runtime.precision,
            self._runtime.world,
        )
        self._note_place()
        steps = self._runtime.config.gradient_accumulation_steps
        plugin = replace(plugin or GradientAccumulationPlugin(), num_steps=steps)
        self.gradient_state = GradientState(plugin)
        self.gradient_state.sync_gradients = True  # an interrupted run may have left it in mid-window
        self._accumulation = Accumulation(plugin, self.gradient_state)
        self._prepared = Preparation(
            self._runtime,
            self.gradient_state,
            self.dataloader_config,
            self.rng_types,
            device_placement,
            step_scheduler_with_optimizer,
        )
        self._triggered = False
        self._window = self._strategy.window

    def _note_place(self) -> None:
        """Plain attributes: training loops ask for them in every step."""
        world = self._world
        self.state = AcceleratorState._adopt(self._runtime.parts.precision)
        self.mixed_precision = self._runtime.parts.precision
        self.distributed_type: DistributedType = self.state.distributed_type
        self.device = world.device
        self.num_processes = world.size
        self.process_index = world.rank
        self.local_process_index = world.local_rank
        self.is_main_process = world.rank == 0
        self.is_local_main_process = world.local_rank == 0
        self.is_last_process = world.rank == world.size - 1
        self.use_distributed = world.size > 1

    # Preparing

    def prepare(self, *args: Any, device_placement: Sequence[bool | None] | None = None) -> Any:
        """Make models, optimizers, loaders and schedulers part of the training, in any number and order.

        Args:
            args: the objects; what is none of these passes through. Preparing an object again changes nothing.
            device_placement: for each object whether to move it to the device; left out: as the constructor said.

        Returns:
            The objects in the same order; a single one is not put into a tuple.

        Raises:
            PlanError: a loader cannot be shared among processes.
            CallError: there are not as many placements as objects.
        """
        prepared = self._prepared.all_of(args, device_placement)
        return prepared[0] if len(prepared) == 1 else prepared

    def prepare_model(
        self, model: nn.Module, device_placement: bool | None = None, evaluation_mode: bool = False
    ) -> nn.Module:
        """Prepare one model; with `evaluation_mode` it is not joined with the other processes."""
        return self._prepared.model(model, device_placement, evaluation_mode)

    def prepare_data_loader(self, data_loader: DataLoader[Any], device_placement: bool | None = None) -> PreparedLoader:
        """Prepare one loader. Raises PlanError if it cannot be shared among processes."""
        return self._prepared.loader(data_loader, device_placement)

    def prepare_optimizer(self, optimizer: Optimizer, device_placement: bool | None = None) -> AcceleratedOptimizer:
        """Prepare one optimizer."""
        return self._prepared.optimizer(optimizer, device_placement)

    def prepare_scheduler(self, scheduler: LRScheduler) -> AcceleratedScheduler:
        """Prepare one scheduler, after its optimizer."""
        return self._prepared.scheduler(scheduler)

    def unwrap_model(
        self, model: nn.Module, keep_fp32_wrapper: bool = True, keep_torch_compile: bool = True
    ) -> nn.Module:
        """The user's own module inside a prepared one.

        Args:
            model: a prepared model.
            keep_fp32_wrapper: leave the mixed precision forward pass in place; False gives the model its own back.
            keep_torch_compile: leave a compiled model compiled.
        """
        return extract_model_from_parallel(model, keep_fp32_wrapper, keep_torch_compile)

    def get_state_dict(self, model: nn.Module, unwrap: bool = True) -> dict[str, Any]:
        """The weights of a prepared model, named as in the user's own module."""
        return (self.unwrap_model(model) if unwrap else model).state_dict()

    def free_memory(self, *objects: Any) -> list[None]:
        """Forget prepared objects and give their memory back.

        Args:
            objects: what the caller is about to overwrite: `model = accelerator.free_memory(model)`.

        Returns:
            One None for each of the objects.
        """
        count = len(objects)
        del objects
        self._prepared.clear()
        self._accumulation.step = 0
        gc.collect()
        self._runtime.device.empty_cache()
        return [None] * count

    clear = free_memory

    # Training

    def backward(self, loss: torch.Tensor, **kwargs: Any) -> None:
        """The backward pass of one micro-batch: the loss is divided by their number, and scaled for fp16.

        Args:
            loss: a tensor of one element.
            kwargs: arguments of `Tensor.backward`.
        """
        steps = self._accumulation.num_steps
        self._precision.backward(loss if steps == 1 else loss / steps, **kwargs)

    def accumulate(self, *models: nn.Module) -> AbstractContextManager[None]:
        """A `with` block around one micro-batch; optimizers and schedulers act only where it completes a window.

        Args:
            models: prepared models whose gradients are averaged over the processes once per window.
        """
        return self._window(self._accumulation, models)

    def no_sync(self, model: nn.Module) -> AbstractContextManager[None]:
        """A `with` block in which gradients stay on their process."""
        return self._strategy.no_sync(model)

    def autocast(self, autocast_handler: AutocastKwargs | None = None) -> AbstractContextManager[Any]:
        """A `with` block that computes in the precision of the training, for code outside the model's forward pass."""
        return self._precision.autocast(autocast_handler)

    def clip_grad_norm_(
        self, parameters: torch.Tensor | Iterable[torch.Tensor], max_norm: float, norm_type: float = 2.0
    ) -> torch.Tensor:
        """Scale gradients down to a total norm; see `torch.nn.utils.clip_grad_norm_`.

        Returns:
            The norm before.

        Raises:
            StateError: fp16 in the middle of an accumulation window.
        """
        return nn.utils.clip_grad_norm_(self._prepared.unscale(parameters), max_norm, norm_type=norm_type)

    def clip_grad_value_(self, parameters: torch.Tensor | Iterable[torch.Tensor], clip_value: float) -> None:
        """Limit each gradient's value; see `torch.nn.utils.clip_grad_value_`. Raises StateError as above."""
        nn.utils.clip_grad_value_(self._prepared.unscale(parameters), clip_value)

    def unscale_gradients(self, optimizer: AcceleratedOptimizer | Sequence[AcceleratedOptimizer] | None = None) -> None:
        """Bring gradients of the given or of all optimizers to their true size (fp16). Raises StateError as above."""
        chosen = self._optimizers if optimizer is None else optimizer
        for one in [chosen] if isinstance(chosen, Optimizer) else chosen:
            self._prepared.unscale(parameter for group in one.param_groups for parameter in group["params"])

    @property
    def sync_gradients(self) -> bool:
        """Whether gradients are complete: the current micro-batch ends a window."""
        return self.gradient_state.sync_gradients

    @sync_gradients.setter
    def sync_gradients(self, value: bool) -> None:
        self.gradient_state.sync_gradients = value

    @property
    def gradient_accumulation_steps(self) -> int:
        """Micro-batches per optimizer step."""
        return self._accumulation.num_steps

    @gradient_accumulation_steps.setter
    def gradient_accumulation_steps(self, value: int) -> None:
        if value < 1:
            raise CallError(f"gradient_accumulation_steps = {value}: possible is a whole number from 1.")
        self._accumulation.num_steps = value
        self.gradient_state.plugin.num_steps = value

    @property
    def step(self) -> int:
        """Micro-batches since the last loader ended."""
        return self._accumulation.step

    @step.setter
    def step(self, value: int) -> None:
        self._accumulation.step = value

    @property
    def optimizer_step_was_skipped(self) -> bool:
        """Whether a prepared optimizer left its last step out because of infinite gradients (fp16)."""
        return any(optimizer.step_was_skipped for optimizer in self._optimizers)

    @property
    def scaler(self) -> torch.amp.GradScaler | None:
        """The loss scaler of fp16, else None."""
        return self._precision.scaler

    # Talking to the other processes

    def gather(self, tensor: Any) -> Any:
        """Concatenate every rank's tensors along dimension 0; see `nbaccel.utils.gather`."""
        return collectives.gather(tensor, world=self._world)

    def gather_for_metrics(self, input_data: Any, use_gather_object: bool = False) -> Any:
        """Join all processes' results of one batch, without the samples that only filled up the last round.

        Args:
            input_data: nested tensors with samples along dimension 0, or picklable objects.
            use_gather_object: send tensors as objects, too (for those whose sizes differ).

        Returns:
            The same structure, or for objects one list. One process: `input_data` itself.
        """
        return gather_for_metrics(input_data, self._world, self.gradient_state.position, use_gather_object)

    def reduce(self, tensor: Any, reduction: str = "sum", scale: float = 1.0) -> Any:
        """Combine every rank's tensors elementwise; see `nbaccel.utils.reduce`."""
        return collectives.reduce(tensor, reduction, scale, world=self._world)

    def pad_across_processes(self, tensor: Any, dim: int = 0, pad_index: float = 0, pad_first: bool = False) -> Any:
        """Pad to the greatest size of any rank; see `nbaccel.utils.pad_across_processes`."""
        return collectives.pad_across_processes(tensor, dim, pad_index, pad_first, world=self._world)

    def set_trigger(self) -> None:
        """Make the next `check_trigger` of all processes true."""
        self._triggered = True

    def check_trigger(self) -> bool:
        """Whether any process called `set_trigger` since the last check. All processes must ask together."""
        flag = torch.tensor(int(self._triggered), device=self.device)
        self._triggered = False
        return bool(collectives.reduce(flag, "max", world=self._world))

    def wait_for_everyone(self) -> None:
        """Block until every process is here."""
        self._world.barrier()

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print once per machine."""
        if self.is_local_main_process:
            print(*args, **kwargs)

    def main_process_first(self) -> AbstractContextManager[None]:
        """A `with` block that the main process runs before all others, as for a download."""
        return self.state.main_process_first()

    def local_main_process_first(self) -> AbstractContextManager[None]:
        """A `with` block that the first process of each machine runs before its neighbours."""
        return self.state.local_main_process_first()

    def split_between_processes(self, inputs: Any, apply_padding: bool = False) -> AbstractContextManager[Any]:
        """A `with` block that gets this process's share of the inputs; see `PartialState.split_between_processes`."""
        return self.state.split_between_processes(inputs, apply_padding)

    def on_main_process(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Decorator: only the main process runs the function, others return None."""
        return self.state.on_main_process(function)

    def on_local_main_process(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Decorator: only the first process of each machine runs the function."""
        return self.state.on_local_main_process(function)

    def on_last_process(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Decorator: only the last process runs the function."""
        return self.state.on_last_process(function)

    def on_process(self, function: Callable[..., Any] | None = None, process_index: int | None = None) -> Any:
        """Decorator: only one rank runs the function."""
        return self.state.on_process(function, process_index)

    def on_local_process(
        self, function: Callable[..., Any] | None = None, local_process_index: int | None = None
    ) -> Any:
        """Decorator: only one rank of each machine runs the function."""
        return self.state.on_local_process(function, local_process_index)

    # Writing and ending

    def save(self, obj: Any, f: str | os.PathLike[str] | IO[bytes], safe_serialization: bool = False) -> None:
        """Write an object on the main process; a file that was there is replaced only by a complete one.

        Args:
            obj: what to write.
            f: a path, or a file open for binary writing.
            safe_serialization: write safetensors instead of torch's pickle.

        Raises:
            CallError: safetensors of something that is not a mapping from names to tensors.
        """
        if self.is_main_process:
            save_object(obj, f, safe_serialization)

    def end_training(self) -> None:
        """Take down the process group, if this runtime made it (a session of workers keeps its own)."""
        self.state.destroy_process_group()

    # What third-party code reads

    @property
    def split_batches(self) -> bool:
        return self.dataloader_config.split_batches

    @property
    def even_batches(self) -> bool:
        return self.dataloader_config.even_batches

    @property
    def _models(self) -> list[nn.Module]:
        return self._prepared.models

    @property
    def _optimizers(self) -> list[AcceleratedOptimizer]:
        return self._prepared.optimizers

    @property
    def _schedulers(self) -> list[AcceleratedScheduler]:
        return self._prepared.schedulers

    @property
    def _dataloaders(self) -> list[PreparedLoader]:
        return self._prepared.loaders
