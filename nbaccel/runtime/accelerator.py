"""The face of the runtime: each method hands over to the part that knows."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from nbaccel.errors import CallError
from nbaccel.runtime import collectives
from nbaccel.runtime.accumulation import Accumulation
from nbaccel.runtime.bigmodel.loading import get_state_dict_offloaded_model, is_offloaded
from nbaccel.runtime.build import build
from nbaccel.runtime.checkpoint.checkpoints import Checkpoints, Numbering
from nbaccel.runtime.compiling import TorchDynamoPlugin
from nbaccel.runtime.data.loader import PreparedLoader
from nbaccel.runtime.data.skip import skip_first_batches
from nbaccel.runtime.enums import FP8BackendType
from nbaccel.runtime.handlers import (
    AutocastKwargs,
    DataLoaderConfiguration,
    DistributedDataParallelKwargs,
    GradientAccumulationPlugin,
    GradScalerKwargs,
    Handlers,
    InitProcessGroupKwargs,
    ProjectConfiguration,
    completed,
    settings_of,
)
from nbaccel.runtime.joining import joined
from nbaccel.runtime.metrics import gather_for_metrics
from nbaccel.runtime.modules import lies_on_several_devices
from nbaccel.runtime.optimizer import AcceleratedOptimizer
from nbaccel.runtime.options import (
    accumulation_of,
    constructor_layer,
    folder_of,
    loader_settings,
    names_of_trackers,
    one_number,
    refuse_others,
    refuse_two_compilers,
    warn_of_shadowed_flags,
)
from nbaccel.runtime.parallel.ddp import sync_in_backward
from nbaccel.runtime.plugins import (
    FullyShardedDataParallelPlugin,
    ParallelismConfig,
    Plugins,
    TorchTensorParallelPlugin,
)
from nbaccel.runtime.preparation import Preparation
from nbaccel.runtime.profiling import ProfileKwargs, profiled
from nbaccel.runtime.remembering import KwargsHandler
from nbaccel.runtime.saving import save_model, save_object
from nbaccel.runtime.scheduler import AcceleratedScheduler
from nbaccel.runtime.state import AcceleratorState, DistributedType, GradientState
from nbaccel.runtime.tracking.trackers import Trackers
from nbaccel.runtime.unwrap import extract_model_from_parallel

if TYPE_CHECKING:
    from typing_extensions import Self


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
        project_name: name under which trackers file the run.
        log_with: trackers to log with: names such as `tensorboard` or `notebook`, trackers, or a list of these.
        project_config: where checkpoints and logs go.
        fsdp_config: keys of `fsdp_config`, as a mapping, an OmegaConf node, a pydantic model or a dataclass.
        deepspeed_config: keys of `deepspeed_config` in the same ways, or the path of DeepSpeed's own file.
        dynamo_backend: what compiles models when they are prepared, as `inductor`; see `torch.compile`.
        dynamo_plugin: how models are compiled, in place of `dynamo_backend`.
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
        config: the configuration, with the origin of each value: `accelerator.config.explain("mixed_precision")`.

    Raises:
        ConfigError: a value makes no sense; says where it came from.
        PlanError: this machine, or nbaccel so far, cannot do what was asked.
        CallError: an unknown argument, or two that contradict each other.
    """

    def __init__(
        self,
        device_placement: bool = True,
        split_batches: bool | None = None,
        mixed_precision: str | None = None,
        gradient_accumulation_steps: int | None = None,
        cpu: bool | None = None,
        dataloader_config: DataLoaderConfiguration | None = None,
        rng_types: Sequence[str] | None = None,
        project_dir: str | os.PathLike[str] | None = None,
        gradient_accumulation_plugin: GradientAccumulationPlugin | None = None,
        step_scheduler_with_optimizer: bool | None = None,
        kwargs_handlers: Sequence[KwargsHandler] | None = None,
        gpu_ids: str | int | Sequence[int] | None = None,
        project_name: str | None = None,
        log_with: Any = None,
        project_config: ProjectConfiguration | None = None,
        fsdp_config: Any = None,
        fsdp_plugin: FullyShardedDataParallelPlugin | None = None,
        parallelism_config: ParallelismConfig | None = None,
        torch_tp_plugin: TorchTensorParallelPlugin | None = None,
        deepspeed_config: Any = None,
        dynamo_backend: str | None = None,
        dynamo_plugin: TorchDynamoPlugin | None = None,
        **others: Any,
    ) -> None:
        refuse_others(others, type(self))
        plugin = accumulation_of(gradient_accumulation_plugin, dataloader_config)
        handlers = Handlers.of(kwargs_handlers)
        plugins = Plugins(fsdp_plugin, parallelism_config, torch_tp_plugin, dynamo_plugin)
        refuse_two_compilers(dynamo_backend, dynamo_plugin)
        loading = loader_settings(split_batches, dataloader_config)
        given = constructor_layer(
            {
                "mixed_precision": mixed_precision,
                "gradient_accumulation_steps": one_number(gradient_accumulation_steps, plugin),
                "cpu": cpu,
                "gpu_ids": gpu_ids,
                "project_dir": folder_of(project_dir, project_config),
                "project_name": project_name,
                "log_with": names_of_trackers(log_with),
                "step_scheduler_with_optimizer": step_scheduler_with_optimizer,
                "fsdp_config": fsdp_config,
                "deepspeed_config": deepspeed_config,
                "dynamo_backend": dynamo_backend,
            },
            (
                *handlers.settings(),
                *plugins.settings(),
                *settings_of(loading, "the argument dataloader_config="),
                *settings_of(plugin, "the argument gradient_accumulation_plugin="),
                *settings_of(project_config, "the argument project_config="),
            ),
        )
        self._runtime = build(given, handlers, plugins)
        self.config = self._runtime.resolved
        config = self.config.config
        self.dataloader_config = completed(loading, config)
        self.rng_types = list(("generator",) if rng_types is None else rng_types)
        self.device_placement = device_placement
        self.step_scheduler_with_optimizer = config.step_scheduler_with_optimizer
        self.project_dir = config.project_dir
        self._strategy, self._precision, self._world = (
            self._runtime.strategy,
            self._runtime.precision,
            self._runtime.world,
        )
        self._note_place()
        plugin = completed(plugin or GradientAccumulationPlugin(), config)
        plugin.num_steps = config.gradient_accumulation_steps
        self.gradient_state = GradientState(plugin)
        self.gradient_state.sync_gradients = True  # an interrupted run may have left it in mid-window
        self._accumulation = Accumulation(plugin, self.gradient_state)
        self._prepared = Preparation(
            self._runtime,
            self.gradient_state,
            self.dataloader_config,
            self.rng_types,
            device_placement,
            self.step_scheduler_with_optimizer,
        )
        if self.is_main_process:
            warn_of_shadowed_flags(self.config)
        project = self.project_configuration = completed(project_config or ProjectConfiguration(), config)
        project.set_directories(config.project_dir)
        numbering = Numbering(
            project.project_dir,
            project.automatic_checkpoint_naming,
            project.total_limit,
            project.iteration,
            project.save_on_each_node,
        )
        self._checkpoints = Checkpoints(self._runtime, self._prepared, self._accumulation, numbering)
        self._trackers = Trackers(
            log_with or config.log_with, project.logging_dir, self.is_main_process, config.project_name
        )
        self._triggered = False
        self._window = self._strategy.window

    def _note_place(self) -> None:
        """Plain attributes: training loops ask for them in every step."""
        world = self._world
        self.state = AcceleratorState._adopt(
            self._runtime.parts.precision,
            self.config,
            self._strategy.distributed_type,
            self._strategy.mesh,
            self._strategy.plugin,
            dynamo_plugin=self._runtime.dynamo,
            parallelism_config=self.parallelism_config,
            torch_tp_plugin=self._runtime.plugins.tensor_parallel,
        )
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

    def prepare_data_loader(
        self,
        data_loader: DataLoader[Any],
        device_placement: bool | None = None,
        slice_fn_for_dispatch: Callable[..., Any] | None = None,
    ) -> PreparedLoader:
        """Prepare one loader. Raises PlanError if it cannot be shared among processes.

        Args:
            data_loader: the loader.
            device_placement: whether batches go to the device; left out: as the constructor said.
            slice_fn_for_dispatch: cuts pieces out of what the main process has read, see `Settings.slice_fn`.
        """
        return self._prepared.loader(data_loader, device_placement, slice_fn_for_dispatch)

    def prepare_optimizer(self, optimizer: Optimizer, device_placement: bool | None = None) -> AcceleratedOptimizer:
        """Prepare one optimizer."""
        return self._prepared.optimizer(optimizer, device_placement)

    def prepare_scheduler(self, scheduler: LRScheduler) -> AcceleratedScheduler:
        """Prepare one scheduler, after its optimizer."""
        return self._prepared.scheduler(scheduler)

    def skip_first_batches(self, dataloader: DataLoader[Any], num_batches: int = 0) -> DataLoader[Any]:
        """A loader without its first batches, for one pass; it keeps all else of `dataloader`."""
        return skip_first_batches(dataloader, num_batches)

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
        own = self.unwrap_model(model, keep_torch_compile=False) if unwrap else model
        return self._strategy.model_state(own)

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

    @staticmethod
    def trigger_sync_in_backward(model: nn.Module) -> AbstractContextManager[None]:
        """A `with` block around a backward pass that averages gradients though the forward pass was in `no_sync`."""
        return sync_in_backward(model)

    def join_uneven_inputs(
        self, joinables: Sequence[Any], even_batches: bool | None = None
    ) -> AbstractContextManager[None]:
        """A `with` block in which processes may have different numbers of batches (torch.distributed.algorithms.join):
        who is done takes part in the others' collectives until all are.

        Only the collectives of `joinables` are joined: do not gather or reduce in the block.

        Args:
            joinables: prepared models, and optimizers such as torch's ZeroRedundancyOptimizer.
            even_batches: whether prepared loaders fill up their ends within the block; left out: as configured. With
                equally many batches there is nothing to join.
        """
        if not self.use_distributed:
            return nullcontext()
        return joined(self._strategy, joinables, self._dataloaders, self.dataloader_config, even_batches)

    def profile(self, profile_handler: ProfileKwargs | None = None) -> AbstractContextManager[torch.profiler.profile]:
        """A `with` block that is recorded by torch's profiler, which the block gets.

        Args:
            profile_handler: settings; left out: those of `kwargs_handlers`, else torch's defaults. With
                `output_trace_dir` each rank writes `profile_<rank>.json` there, for chrome://tracing or Perfetto.

        Raises:
            CallError: settings that make no sense.
            StateError: there is no trace to write.
        """
        return profiled(profile_handler or self.profile_handler, self.process_index, self.wait_for_everyone)

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
        return self._strategy.clip_grad_norm(self._prepared.unscale(parameters), max_norm, norm_type)

    def clip_grad_value_(self, parameters: torch.Tensor | Iterable[torch.Tensor], clip_value: float) -> None:
        """Limit each gradient's value; see `torch.nn.utils.clip_grad_value_`. Raises StateError as above."""
        self._strategy.clip_grad_value(self._prepared.unscale(parameters), clip_value)

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
            The same structure, or for objects one list. One process: `input_data`, cut off in the same way.
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
        """Write an object on the main process (with `save_on_each_node` on that of each machine).

        A file that was there is replaced only by a complete one.

        Args:
            obj: what to write.
            f: a path, or a file open for binary writing.
            safe_serialization: write safetensors instead of torch's pickle.

        Raises:
            CallError: safetensors of something that is not a mapping from names to tensors.
        """
        if self._checkpoints.keeps:
            save_object(obj, f, safe_serialization)

    def save_model(
        self,
        model: nn.Module,
        save_directory: str | os.PathLike[str],
        max_shard_size: int | str = "10GB",
        safe_serialization: bool = True,
    ) -> None:
        """Write a prepared model's weights, in files of at most this size; all processes call it.

        Args:
            model: the model, which may be offloaded.
            save_directory: folder of the files.
            max_shard_size: bytes, or a text such as `5GB`.
            safe_serialization: safetensors instead of torch's own format.

        Raises:
            CallError: the folder is a file, or the size makes no sense.
            PlanError: FSDP on several machines with `save_on_each_node`.
        """
        self._checkpoints.check_nodes()
        own = self.unwrap_model(model, keep_torch_compile=False)
        state = get_state_dict_offloaded_model(own) if is_offloaded(own) else self.get_state_dict(model)
        if self._checkpoints.keeps:
            save_model(state, save_directory, max_shard_size, safe_serialization)

    # Checkpoints

    def save_state(
        self,
        output_dir: str | os.PathLike[str] | None = None,
        safe_serialization: bool = True,
        *,
        asynchronous: bool = False,
    ) -> Any:
        """Save all that was prepared or registered, so that training can go on from here; all processes call it.

        The folder appears whole or not at all. See `nbaccel.runtime.checkpoint`.

        Args:
            output_dir: the folder; left out with automatic naming: the next number in the project's folder.
            safe_serialization: safetensors for the models; with FSDP they have Accelerate's files of FSDP.
            asynchronous: write in the background; `wait_for_save` waits for it.

        Returns:
            The folder.

        Raises:
            StateError: it cannot be saved.
        """
        return self._checkpoints.save(output_dir, safe_serialization, asynchronous=asynchronous)

    def load_state(
        self, input_dir: str | os.PathLike[str] | None = None, load_kwargs: Any = None, **kwargs: Any
    ) -> None:
        """Go on from a checkpoint; all processes call it.

        Args:
            input_dir: its folder; `latest`, or left out: the newest complete one of the project's folder.
            load_kwargs: arguments of `load_state_dict` of the models.
            kwargs: what load hooks are given.

        Raises:
            StateError: there is none, or it is damaged or does not fit.
        """
        self._checkpoints.load(input_dir, load_kwargs, **kwargs)

    def wait_for_save(self) -> None:
        """Wait until a checkpoint that is written in the background is complete. Raises what went wrong there."""
        self._checkpoints.wait()

    def register_for_checkpointing(self, *objects: Any) -> None:
        """Save and load these with the others. Raises CallError unless they have state_dict and load_state_dict."""
        self._checkpoints.register(*objects)

    def register_save_state_pre_hook(self, hook: Callable[..., None]) -> Any:
        """Call `hook(models, weights, folder)` before a checkpoint is written. Returns a handle with `remove()`."""
        return self._checkpoints.before_saving.add(hook)

    def register_load_state_pre_hook(self, hook: Callable[..., None]) -> Any:
        """Call `hook(models, folder)` before a checkpoint is loaded. Returns a handle with `remove()`."""
        return self._checkpoints.before_loading.add(hook)

    # Tracking

    def init_trackers(self, project_name: str | None = None, config: Any = None, init_kwargs: Any = None) -> None:
        """Begin a run in every tracker of `log_with`.

        Args:
            project_name: its name.
            config: what it was started with.
            init_kwargs: further arguments of the trackers, by their names.
        """
        self._trackers.start(project_name, config, init_kwargs)

    def log(self, values: Any, step: int | None = None, log_kwargs: Any = None) -> None:
        """Log numbers by their names.

        Args:
            values: the numbers; tensors of one element are numbers.
            step: at which step.
            log_kwargs: further arguments of the trackers, by their names.
        """
        self._trackers.log(values, step, log_kwargs)

    def get_tracker(self, name: str, unwrap: bool = False) -> Any:
        """A tracker by its name; on other processes than the main one a silent one. Raises CallError."""
        return self._trackers.get(name, unwrap)

    def end_training(self) -> None:
        """Finish checkpoints and trackers, and take down the process group if this runtime made it."""
        self._checkpoints.wait()
        self._trackers.finish()
        self.state.destroy_process_group()

    def close(self) -> None:
        """End everything: checkpoints, trackers, the process group if this runtime made it, and the shared states.

        The next `Accelerator` of this process begins anew, with any settings; prepared objects can be prepared by it.
        One that was built meanwhile keeps what it uses.
        """
        self._checkpoints.wait()
        self._trackers.finish()
        self.free_memory()
        if AcceleratorState.is_of(self.config):
            self.state.destroy_process_group()
            AcceleratorState._reset_state(reset_partial_state=True)
            GradientState._reset_state()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # What third-party code reads

    fp8_recipe_handler = ao_recipe_handler = te_recipe_handler = msamp_recipe_handler = None
    fp8_enabled = has_fp8_handler = delayed_fp8_autocast = has_lomo_optimizer = False
    fp8_backend = FP8BackendType.NO

    @property
    def ddp_handler(self) -> DistributedDataParallelKwargs:
        """Arguments of DDP; those that are set here count for models that are prepared from then on."""
        return self._runtime.handlers.ddp

    @ddp_handler.setter
    def ddp_handler(self, value: DistributedDataParallelKwargs | None) -> None:
        self._runtime.handlers.ddp = value or DistributedDataParallelKwargs()

    @property
    def profile_handler(self) -> ProfileKwargs:
        """Arguments of the profiler."""
        return self._runtime.handlers.profile

    @profile_handler.setter
    def profile_handler(self, value: ProfileKwargs | None) -> None:
        self._runtime.handlers.profile = value or ProfileKwargs()

    @property
    def autocast_handler(self) -> AutocastKwargs:
        return self._runtime.handlers.autocast

    @property
    def scaler_handler(self) -> GradScalerKwargs:
        return self._runtime.handlers.scaler

    @property
    def init_handler(self) -> InitProcessGroupKwargs:
        return self._runtime.handlers.process_group

    @property
    def native_amp(self) -> bool:
        """Whether models compute in 16 bits."""
        return self.mixed_precision != "no"

    @property
    def multi_device(self) -> bool:
        """Whether several processes train, on devices other than the CPU."""
        return self.use_distributed and self.device.type != "cpu"

    @property
    def should_save_model(self) -> bool:
        """Whether this process takes part in writing a model."""
        return self.is_local_main_process or self.parallelism_config is not None

    @staticmethod
    def verify_device_map(model: nn.Module) -> bool:
        """Whether a model, or a part of it, lies on several devices by a device map."""
        return lies_on_several_devices(model)

    @property
    def trackers(self) -> list[Any]:
        return self._trackers.running

    @property
    def log_with(self) -> list[Any]:
        return list(self._trackers.chosen)

    @property
    def logging_dir(self) -> str | None:
        return self.project_configuration.logging_dir

    @property
    def save_iteration(self) -> int:
        return self._checkpoints.numbering.iteration

    @property
    def _custom_objects(self) -> list[Any]:
        return self._checkpoints.custom

    @property
    def split_batches(self) -> bool:
        return self.dataloader_config.split_batches

    @property
    def even_batches(self) -> bool:
        return self.dataloader_config.even_batches

    @even_batches.setter
    def even_batches(self, value: bool) -> None:
        self.dataloader_config.even_batches = value

    @property
    def dispatch_batches(self) -> bool | None:
        return self.dataloader_config.dispatch_batches

    @property
    def use_seedable_sampler(self) -> bool:
        return self.dataloader_config.use_seedable_sampler

    @property
    def non_blocking(self) -> bool:
        return self.dataloader_config.non_blocking

    @property
    def use_stateful_dataloader(self) -> bool:
        return self.dataloader_config.use_stateful_dataloader

    @property
    def torch_device_mesh(self) -> Any:
        """The device mesh, None where the processes form none."""
        return self._strategy.mesh

    @property
    def is_fsdp2(self) -> bool:
        return self._strategy.distributed_type == "FSDP"

    @property
    def is_composable_parallelism_enabled(self) -> bool:
        return self.is_fsdp2

    @property
    def data_parallel_rank(self) -> int:
        """Number of this process's replica among those of a mesh, 0 where there is one."""
        return self._rank_along("dp_replicate")

    @property
    def data_parallel_shard_rank(self) -> int:
        """Number of this process's part of a replica, 0 where it is whole."""
        return self._rank_along("dp_shard")

    @property
    def tensor_parallel_rank(self) -> int:
        """Number of this process's part of each layer, 0 where it is whole."""
        return self._rank_along("tp")

    def _rank_along(self, axis: str) -> int:
        mesh = self._strategy.mesh
        return mesh.get_local_rank(axis) if axis in (getattr(mesh, "mesh_dim_names", None) or ()) else 0

    @property
    def parallelism_config(self) -> ParallelismConfig | None:
        return self._runtime.plugins.parallelism

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
