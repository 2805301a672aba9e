"""Groups of settings that `Accelerator(...)` takes as objects; Accelerate's names, fields and defaults."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field, fields, replace
from datetime import timedelta
from typing import Any, TypeVar

from torch.nn.parallel import DistributedDataParallel

from nbaccel.config import SECTIONS, RunConfig
from nbaccel.errors import CallError
from nbaccel.runtime.enums import DDPCommunicationHookType
from nbaccel.runtime.groups import GroupOptions
from nbaccel.runtime.profiling import ProfileKwargs
from nbaccel.runtime.recipes import NotCarriedOut
from nbaccel.runtime.remembering import KwargsHandler, Remembering

Held = TypeVar("Held", bound="Remembering")

COMPRESSION = ("comm_hook", "comm_wrapper", "comm_state_option")
"""Settings of DDP that are no arguments of torch's class."""


@dataclass
class AutocastKwargs(KwargsHandler):
    """Arguments of `torch.autocast`.

    Attributes:
        enabled: whether to compute in the lower precision at all.
        cache_enabled: whether to keep cast weights within a block; None as torch does.
    """

    enabled: bool = True
    cache_enabled: bool | None = None


@dataclass
class DistributedDataParallelKwargs(KwargsHandler):
    """Arguments of `torch.nn.parallel.DistributedDataParallel`.

    Attributes:
        dim: dimension along which inputs would be scattered.
        broadcast_buffers: send rank 0's buffers to all at each forward pass.
        bucket_cap_mb: size of a bucket of gradients, in MiB.
        find_unused_parameters: look in each step for parameters that got no gradient.
        check_reduction: of no effect in torch any more.
        gradient_as_bucket_view: let gradients live in the buckets.
        static_graph: promise that the graph never changes.
        comm_hook: how gradients are compressed on their way: `no`, `fp16`, `bf16`, `power_sgd`, `batched_power_sgd`.
        comm_wrapper: number format in which the hook's messages travel: `no`, `fp16`, `bf16`.
        comm_state_option: arguments of PowerSGD's state, such as `matrix_approximation_rank`.
    """

    dim: int = 0
    broadcast_buffers: bool = True
    bucket_cap_mb: int = 25
    find_unused_parameters: bool = False
    check_reduction: bool = False
    gradient_as_bucket_view: bool = False
    static_graph: bool = False
    comm_hook: str = DDPCommunicationHookType.NO
    comm_wrapper: str = DDPCommunicationHookType.NO
    comm_state_option: dict[str, Any] | None = None

    def to_dict(self, ignore_keys: Collection[str] = COMPRESSION) -> dict[str, Any]:
        """The fields by name.

        Args:
            ignore_keys: those that are left out; by default those that are no arguments of torch's class.
        """
        return {name: value for name, value in super().to_dict().items() if name not in ignore_keys}

    def to_kwargs(self) -> dict[str, Any]:
        """The arguments of torch's class that differ from their defaults."""
        return {name: value for name, value in super().to_kwargs().items() if name not in COMPRESSION}

    def check(self) -> None:
        """Raises CallError for words about compression that do not exist, or that contradict each other."""
        if self.comm_hook != "no" or self.comm_wrapper != "no" or self.comm_state_option:
            from nbaccel.runtime.compression import check_compression  # slow to import, and rarely needed

            check_compression(self.comm_hook, self.comm_wrapper, self.comm_state_option)

    def register_comm_hook(self, model: DistributedDataParallel) -> None:
        """Compress a model's gradients as these settings say.

        Raises:
            CallError: settings that contradict each other.
            PlanError: this torch cannot do it here.
        """
        self.check()
        if self.comm_hook != "no":
            from nbaccel.runtime.compression import compress_gradients  # slow to import, and rarely needed

            compress_gradients(model, self.comm_hook, self.comm_wrapper, self.comm_state_option)


@dataclass
class GradScalerKwargs(KwargsHandler):
    """Arguments of `torch.amp.GradScaler`, which fp16 uses.

    Attributes:
        init_scale: first factor of the loss.
        growth_factor: the factor's growth after enough good steps.
        backoff_factor: its reduction after a step with infinite gradients.
        growth_interval: how many good steps are enough.
        enabled: whether to scale at all.
    """

    init_scale: float = 65536.0
    growth_factor: float = 2.0
    backoff_factor: float = 0.5
    growth_interval: int = 2000
    enabled: bool = True


@dataclass
class InitProcessGroupKwargs(KwargsHandler):
    """Arguments of `torch.distributed.init_process_group`.

    Attributes:
        backend: the default leaves the choice to nbaccel: nccl for CUDA, gloo for the CPU.
        init_method: where the ranks meet; None for the environment's MASTER_ADDR and MASTER_PORT.
        timeout: how long a collective may wait; None for torch's default.
    """

    backend: str | None = "nccl"
    init_method: str | None = None
    timeout: timedelta | None = None

    def options(self) -> GroupOptions:
        """The same without the default that means "not given"."""
        return GroupOptions(**self.to_kwargs())


@dataclass
class GradientAccumulationPlugin(KwargsHandler):
    """How gradients are accumulated.

    Attributes:
        num_steps: micro-batches per optimizer step; None: as configured.
        adjust_scheduler: taken over from Accelerate, where it changes no learning rate: schedulers count the
            optimizer's steps either way.
        sync_with_dataloader: the last batch of a loader ends a window, even a short one.
        sync_each_batch: average gradients over the processes in each micro-batch; slower, and needs less memory with
            some strategies.
    """

    num_steps: int | None = None
    adjust_scheduler: bool = True
    sync_with_dataloader: bool = True
    sync_each_batch: bool = False


@dataclass
class DataLoaderConfiguration(Remembering):
    """How prepared loaders hand out batches.

    Attributes:
        split_batches: cut each batch of the loader into one piece per process, instead of one batch per process.
        dispatch_batches: rank 0 reads all batches and sends each process its own; None: for streams that are moved to
            the device.
        even_batches: give all processes equally many full batches, with samples from the beginning to fill up.
        use_seedable_sampler: shuffle by a seed that is the same on all processes, another one in each epoch.
        data_seed: that seed; None: drawn.
        non_blocking: copy batches to the device without waiting, if they lie in pinned memory.
        use_stateful_dataloader: use torchdata's StatefulDataLoader.
        already_sharded: the loader hands out this process's share as it is.
        use_configured_sampler: shuffle by the loader's own sampler, which is the default; True refuses a seedable one.
        gradient_accumulation_kwargs: fields of `GradientAccumulationPlugin`, where none is given.

    Raises:
        CallError: both `use_configured_sampler` and `use_seedable_sampler`.
    """

    split_batches: bool = False
    dispatch_batches: bool | None = None
    even_batches: bool = True
    use_seedable_sampler: bool = False
    data_seed: int | None = None
    non_blocking: bool = False
    use_stateful_dataloader: bool = False
    already_sharded: bool = False
    use_configured_sampler: bool = False
    gradient_accumulation_kwargs: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.use_configured_sampler and self.use_seedable_sampler:
            raise CallError(
                "DataLoaderConfiguration(use_configured_sampler=True, use_seedable_sampler=True): the loader's own "
                "sampler and a seedable one cannot both shuffle. Give one of them."
            )
        if self.use_configured_sampler:
            self._given |= {"use_seedable_sampler"}  # above what files and variables say


@dataclass
class ProjectConfiguration(Remembering):
    """Where a project's checkpoints and logs go.

    Attributes:
        project_dir: folder of the project.
        logging_dir: folder of trackers' files; None: the project's.
        automatic_checkpoint_naming: number checkpoints, in `checkpoints/checkpoint_<n>` of the project's folder.
        total_limit: how many numbered checkpoints are kept; None: all.
        iteration: number of the next checkpoint.
        save_on_each_node: write what all processes have on each machine, for folders that machines do not share.
        iteration_checkpoints: another word for `automatic_checkpoint_naming`.
    """

    project_dir: str | None = None
    logging_dir: str | None = None
    automatic_checkpoint_naming: bool = False
    total_limit: int | None = None
    iteration: int = 0
    save_on_each_node: bool = False
    iteration_checkpoints: bool = False

    def __post_init__(self) -> None:
        if self.iteration_checkpoints and not self.automatic_checkpoint_naming:
            self.automatic_checkpoint_naming = True
            self._given |= {"automatic_checkpoint_naming"}
        self.set_directories(self.project_dir)

    def set_directories(self, project_dir: str | os.PathLike[str] | None = None) -> None:
        """Set the project's folder, and the logs' where that has none."""
        self.project_dir = None if project_dir is None else os.fspath(project_dir)
        if self.logging_dir is None:
            self.logging_dir = self.project_dir


@dataclass
class Handlers:
    """The settings of one `Accelerator`, one object of each kind."""

    autocast: AutocastKwargs = field(default_factory=AutocastKwargs)
    ddp: DistributedDataParallelKwargs = field(default_factory=DistributedDataParallelKwargs)
    scaler: GradScalerKwargs = field(default_factory=GradScalerKwargs)
    process_group: InitProcessGroupKwargs = field(default_factory=InitProcessGroupKwargs)
    profile: ProfileKwargs = field(default_factory=ProfileKwargs)

    @classmethod
    def of(cls, given: Iterable[object] | None) -> Handlers:
        """Sort `kwargs_handlers=` by kind.

        Raises:
            CallError: an object of another kind, or two of the same.
            PlanError: a recipe for arithmetic that nbaccel does not have.
        """
        found: dict[str, Any] = {}
        for handler in given or ():
            if isinstance(handler, NotCarriedOut):
                raise handler.refusal("Accelerator(kwargs_handlers=[...])")
            name = _PLACES.get(type(handler))
            if name is None:
                raise CallError(_not_a_handler(handler))
            if name in found:
                raise CallError(f"kwargs_handlers= holds two objects of {type(handler).__name__}. Give one.")
            found[name] = handler
        return cls(**found)

    def settings(self) -> Iterator[tuple[str, object, str]]:
        """What the objects were given: key of the configuration, value, place."""
        for item in fields(self):
            yield from settings_of(getattr(self, item.name), "the argument kwargs_handlers=")

    def completed(self, config: RunConfig) -> Handlers:
        """The same with what the configuration says where the objects were given nothing."""
        held = {item.name: getattr(self, item.name) for item in fields(self)}
        known = {name: completed(one, config) for name, one in held.items() if type(one) in SECTIONS_OF}
        return Handlers(**held | known)


def settings_of(held: Remembering | None, argument: str) -> Iterator[tuple[str, object, str]]:
    """What an object of the constructor was given: key of the configuration, value, place."""
    if held is not None and type(held) in SECTIONS_OF:
        section = SECTIONS_OF[type(held)]
        for name in sorted(held._given & set(section_fields(section))):
            value = getattr(held, name)
            yield f"{section}.{name}", value, f"{argument} ({type(held).__name__}.{name})"


def completed(held: Held, config: RunConfig) -> Held:
    """An object of the constructor, with what the configuration says of its fields."""
    section = SECTIONS_OF[type(held)]
    values = getattr(config, section)
    known = {name: getattr(values, name) for name in section_fields(section)}
    known |= {name: made(known[name]) for name, made in _MADE.get(section, {}).items()}
    return replace(held, **known)  # type: ignore[type-var]


def section_fields(section: str) -> Iterable[str]:
    """Names of the keys of a section."""
    return SECTIONS[section].model_fields


SECTIONS_OF: dict[type, str] = {
    AutocastKwargs: "autocast_config",
    DistributedDataParallelKwargs: "ddp_config",
    GradScalerKwargs: "grad_scaler_config",
    InitProcessGroupKwargs: "process_group_config",
    GradientAccumulationPlugin: "gradient_accumulation_config",
    DataLoaderConfiguration: "dataloader_config",
    ProjectConfiguration: "project_config",
}
"""The section of the configuration whose keys are a class's fields."""

_MADE: dict[str, dict[str, Callable[[Any], Any]]] = {
    "process_group_config": {
        "backend": lambda name: name or "nccl",  # the default, which leaves the choice to nbaccel
        "timeout": lambda seconds: None if seconds is None else timedelta(seconds=seconds),
    }
}

_PLACES: dict[type, str] = {
    AutocastKwargs: "autocast",
    DistributedDataParallelKwargs: "ddp",
    GradScalerKwargs: "scaler",
    InitProcessGroupKwargs: "process_group",
    ProfileKwargs: "profile",
}


def _not_a_handler(handler: object) -> str:
    names = ", ".join(kind.__name__ for kind in _PLACES)
    written = f"{type(handler).__module__}.{type(handler).__name__}"
    return f"kwargs_handlers= holds an object of {written}. Possible: {names}, all from nbaccel."
