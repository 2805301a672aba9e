"""Groups of settings that `Accelerator(...)` takes as objects; Accelerate's names, fields and defaults."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import MISSING, dataclass, field, fields
from datetime import timedelta
from typing import Any

from nbaccel.errors import CallError, PlanError
from nbaccel.runtime.groups import GroupOptions


@dataclass
class KwargsHandler:
    """Base of the objects that `kwargs_handlers=` takes."""

    def to_kwargs(self) -> dict[str, Any]:
        """The fields that differ from their defaults."""
        return {
            item.name: getattr(self, item.name)
            for item in fields(self)
            if item.default is MISSING or getattr(self, item.name) != item.default
        }


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
    """

    dim: int = 0
    broadcast_buffers: bool = True
    bucket_cap_mb: int = 25
    find_unused_parameters: bool = False
    check_reduction: bool = False
    gradient_as_bucket_view: bool = False
    static_graph: bool = False


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
class DataLoaderConfiguration:
    """How prepared loaders hand out batches.

    Attributes:
        split_batches: cut each batch of the loader into one piece per process, instead of one batch per process.
        dispatch_batches: True would read all batches in the main process; not supported yet.
        even_batches: give all processes equally many full batches, with samples from the beginning to fill up.
        use_seedable_sampler: not supported yet.
        data_seed: not supported yet.
        non_blocking: copy batches to the device without waiting, if they lie in pinned memory.
        use_stateful_dataloader: not supported yet.

    Raises:
        PlanError: a field has a value that is not supported yet.
    """

    split_batches: bool = False
    dispatch_batches: bool | None = None
    even_batches: bool = True
    use_seedable_sampler: bool = False
    data_seed: int | None = None
    non_blocking: bool = False
    use_stateful_dataloader: bool = False

    def __post_init__(self) -> None:
        for name in ("dispatch_batches", "use_seedable_sampler", "data_seed", "use_stateful_dataloader"):
            value = getattr(self, name)
            if value is not None and value is not False:
                raise PlanError(
                    f"DataLoaderConfiguration({name}={value!r})",
                    "nbaccel cannot do this yet.",
                    "Leave it out: every process reads its own batches, and shuffling is the same on all of them.",
                )


@dataclass
class Handlers:
    """The settings of one `Accelerator`, one object of each kind."""

    autocast: AutocastKwargs = field(default_factory=AutocastKwargs)
    ddp: DistributedDataParallelKwargs = field(default_factory=DistributedDataParallelKwargs)
    scaler: GradScalerKwargs = field(default_factory=GradScalerKwargs)
    process_group: InitProcessGroupKwargs = field(default_factory=InitProcessGroupKwargs)

    @classmethod
    def of(cls, given: Iterable[object] | None) -> Handlers:
        """Sort `kwargs_handlers=` by kind.

        Raises:
            CallError: an object of another kind, or two of the same.
        """
        found: dict[str, Any] = {}
        for handler in given or ():
            name = _PLACES.get(type(handler))
            if name is None:
                raise CallError(_not_a_handler(handler))
            if name in found:
                raise CallError(f"kwargs_handlers= holds two objects of {type(handler).__name__}. Give one.")
            found[name] = handler
        return cls(**found)


_PLACES: dict[type, str] = {
    AutocastKwargs: "autocast",
    DistributedDataParallelKwargs: "ddp",
    GradScalerKwargs: "scaler",
    InitProcessGroupKwargs: "process_group",
}


def _not_a_handler(handler: object) -> str:
    names = ", ".join(kind.__name__ for kind in _PLACES)
    written = f"{type(handler).__module__}.{type(handler).__name__}"
    return f"kwargs_handlers= holds an object of {written}. Possible: {names}, all from nbaccel."
