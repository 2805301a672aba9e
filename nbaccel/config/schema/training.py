"""The keys that stand for fields of the objects that `Accelerator(...)` takes."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from nbaccel.config.schema.key import Section, key

Factor = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class DataloaderConfig(Section):
    """Fields of `DataLoaderConfiguration`."""

    split_batches: bool = key(False, "Cut each batch into one piece per process.")
    dispatch_batches: bool | None = key(None, "Rank 0 reads all batches; left out: for iterable data sets.")
    even_batches: bool = key(True, "Give all processes equally many full batches.")
    use_seedable_sampler: bool = key(False, "Shuffle by a seed that is the same on all processes.")
    data_seed: int | None = key(None, "That seed.")
    non_blocking: bool = key(False, "Copy pinned batches to the device without waiting.")
    use_stateful_dataloader: bool = key(False, "Use torchdata's StatefulDataLoader.")
    already_sharded: bool = key(False, "Loaders hand out this process's share as they are.")


class GradientAccumulationConfig(Section):
    """Fields of `GradientAccumulationPlugin`, beside `gradient_accumulation_steps`."""

    adjust_scheduler: bool = key(True, "Let schedulers count as Accelerate's do.")
    sync_with_dataloader: bool = key(True, "A loader's last batch ends a window.")
    sync_each_batch: bool = key(False, "Average gradients in each micro-batch.")


class AutocastConfig(Section):
    """Fields of `AutocastKwargs`."""

    enabled: bool = key(True, "Compute in the lower precision.", flag="--autocast-enabled")
    cache_enabled: bool | None = key(None, "Keep cast weights within a block.", flag="--autocast-cache-enabled")


class GradScalerConfig(Section):
    """Fields of `GradScalerKwargs`."""

    init_scale: Factor = key(65536.0, "First factor of the loss.", flag="--scaler-init-scale")
    growth_factor: Annotated[float, Field(gt=1, allow_inf_nan=False)] = key(
        2.0, "Its growth after good steps.", flag="--scaler-growth-factor"
    )
    backoff_factor: Annotated[float, Field(gt=0, lt=1)] = key(
        0.5, "Its reduction after infinite gradients.", flag="--scaler-backoff-factor",
        possible="a number between 0 and 1",
    )  # fmt: skip
    growth_interval: Annotated[int, Field(ge=1)] = key(2000, "How many good steps.", flag="--scaler-growth-interval")
    enabled: bool = key(True, "Scale at all.", flag="--scaler-enabled")


CommHook = Literal["no", "fp16", "bf16", "power_sgd", "batched_power_sgd"]


def _nothing(value: object) -> object:
    return "no" if value is None or value == "" else value


class DdpConfig(Section):
    """Fields of `DistributedDataParallelKwargs`."""

    dim: int = key(0, "Dimension along which inputs are scattered.", flag="--ddp-dim")
    broadcast_buffers: bool = key(True, "Send rank 0's buffers at each forward pass.", flag="--ddp-broadcast-buffers")
    bucket_cap_mb: Annotated[int, Field(ge=1)] = key(
        25, "Size of a bucket of gradients in MiB.", flag="--ddp-bucket-cap-mb"
    )
    find_unused_parameters: bool = key(
        False, "Look for parameters without gradient in each step.", flag="--ddp-find-unused-parameters"
    )
    check_reduction: bool = key(False, "Of no effect in torch any more.", flag="--ddp-check-reduction")
    gradient_as_bucket_view: bool = key(
        False, "Let gradients live in the buckets.", flag="--ddp-gradient-as-bucket-view"
    )
    static_graph: bool = key(False, "Promise that the graph never changes.", flag="--ddp-static-graph")
    comm_hook: Annotated[CommHook, BeforeValidator(_nothing)] = key(
        "no", "How gradients are compressed on their way.", flag="--ddp-comm-hook"
    )
    comm_wrapper: Annotated[Literal["no", "fp16", "bf16"], BeforeValidator(_nothing)] = key(
        "no", "Number format in which a hook's messages travel.", flag="--ddp-comm-wrapper"
    )
    comm_state_option: dict[str, Any] | None = key(
        None, "Arguments of PowerSGD's state, as matrix_approximation_rank.", flag="--ddp-comm-state-option"
    )


def _seconds(value: Any) -> Any:
    return value.total_seconds() if isinstance(value, timedelta) else value


class ProcessGroupConfig(Section):
    """Fields of `InitProcessGroupKwargs`."""

    backend: Literal["nccl", "gloo", "mpi", "ucc", "xccl", "hccl"] | None = key(
        None, "torch.distributed's backend; left out: nccl for CUDA, gloo for the CPU.", flag="--backend"
    )
    init_method: Annotated[str, Field(pattern=r"^[a-z0-9]+://")] | None = key(
        None, "Where the ranks meet.", possible="a URL such as tcp://host:port, file:///path, env://"
    )
    timeout: Annotated[Annotated[float, Field(gt=0, allow_inf_nan=False)] | None, BeforeValidator(_seconds)] = key(
        None, "Seconds that a collective may wait.", flag="--process-group-timeout",
        possible="seconds, a number above 0",
    )  # fmt: skip


class ProjectConfig(Section):
    """Fields of `ProjectConfiguration`, beside `project_dir`."""

    logging_dir: str | None = key(None, "Folder of trackers' files; left out: project_dir.", possible="a folder")
    automatic_checkpoint_naming: bool = key(False, "Number checkpoints.")
    total_limit: Annotated[int, Field(ge=1)] | None = key(
        None, "Checkpoints that are kept.", possible="a whole number from 1"
    )
    iteration: Annotated[int, Field(ge=0)] = key(0, "Number of the next checkpoint.")
    save_on_each_node: bool = key(False, "Save on each machine.")
