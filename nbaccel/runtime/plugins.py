"""The plugins that `Accelerator(...)` takes as objects; Accelerate's names, fields and defaults."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

from nbaccel.errors import CallError, PlanError
from nbaccel.runtime.compiling import TorchDynamoPlugin
from nbaccel.runtime.fsdp_plugin import FullyShardedDataParallelPlugin as FullyShardedDataParallelPlugin
from nbaccel.runtime.fsdp_plugin import Held
from nbaccel.runtime.remembering import Remembering


class _Plugin(Protocol):
    def settings(self) -> Iterator[Held]: ...


@dataclass
class TorchTensorParallelPlugin(Remembering):
    """Tensor parallelism; not supported yet with more than one rank.

    Attributes:
        tp_size: ranks that share each layer.
        torch_device_mesh: the mesh; nbaccel makes its own.
        tensor_parallel_degree: another word for `tp_size`.
        parallelize_plan: how each layer is cut, by its name.

    Raises:
        CallError: both words for the number of ranks, with different numbers.
    """

    tp_size: int = 1
    torch_device_mesh: Any = None
    tensor_parallel_degree: int | None = None
    parallelize_plan: Any = None

    def __post_init__(self) -> None:
        degree = self.tensor_parallel_degree
        if degree is None:
            self.tensor_parallel_degree = self.tp_size
        elif "tp_size" in self._given and self.tp_size != degree:
            raise CallError(
                f"TorchTensorParallelPlugin(tp_size={self.tp_size}, tensor_parallel_degree={degree}): both are the "
                "number of ranks that share each layer. Give one of them."
            )
        else:
            self.tp_size = degree

    def settings(self) -> Iterator[Held]:
        """What it says in the words of the configuration.

        Raises:
            PlanError: it says how layers are cut.
        """
        if self.parallelize_plan is not None:
            raise PlanError(
                f"{type(self).__name__}(parallelize_plan=...)",
                "nbaccel has no tensor parallelism yet; it comes next.",
                "Leave the plugin out; data parallel training (DDP) and FSDP are possible.",
            )
        name = "tensor_parallel_degree" if "tensor_parallel_degree" in self._given else "tp_size"
        place = f"the argument torch_tp_plugin= ({type(self).__name__}.{name})"
        yield "parallelism_config.parallelism_config_tp_size", self.tp_size, place


@dataclass
class TorchTensorParallelConfig:
    """Settings of tensor parallelism.

    Attributes:
        enable_async_tp: overlap its communication with matrix products.
    """

    enable_async_tp: bool = False


@dataclass
class TorchContextParallelConfig:
    """Settings of context parallelism.

    Attributes:
        cp_comm_strategy: `allgather` or `alltoall`.
    """

    cp_comm_strategy: str | None = None


@dataclass
class DeepSpeedSequenceParallelConfig:
    """Settings of sequence parallelism.

    Attributes:
        sp_seq_length: length of sequences.
        sp_seq_length_is_variable: whether it changes.
        sp_attn_implementation: attention's kernel.
    """

    sp_seq_length: int | None = None
    sp_seq_length_is_variable: bool | None = None
    sp_attn_implementation: str | None = None


@dataclass
class ParallelismConfig(Remembering):
    """Sizes of the mesh's axes, whose product is the number of processes; left out: as configured.

    Attributes:
        dp_replicate_size: replicas of the model.
        dp_shard_size: ranks over which each replica is sharded.
        tp_size: tensor parallel ranks.
        cp_size: context parallel ranks.
        cp_backend: who splits contexts.
        sp_size: sequence parallel ranks.
        sp_backend: who splits sequences.
        tp_handler: settings of tensor parallelism.
        cp_handler: settings of context parallelism.
        sp_handler: settings of sequence parallelism.
    """

    dp_replicate_size: int | None = None
    dp_shard_size: int | None = None
    tp_size: int | None = None
    cp_size: int | None = None
    cp_backend: str | None = None
    sp_size: int | None = None
    sp_backend: str | None = None
    tp_handler: TorchTensorParallelConfig | None = None
    cp_handler: TorchContextParallelConfig | None = None
    sp_handler: DeepSpeedSequenceParallelConfig | None = None
    device_mesh: Any = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for axis in _AXES:
            size = getattr(self, f"{axis}_size")
            if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 1):
                raise CallError(f"ParallelismConfig({axis}_size={size!r}): possible is a whole number from 1.")
        if self._size("cp") > 1 and self._size("sp") > 1:
            raise CallError(
                f"ParallelismConfig(cp_size={self.cp_size}, sp_size={self.sp_size}): context and sequence parallelism "
                "exclude each other. Leave one at 1."
            )
        if self._size("dp_replicate") > 1 and self._size("dp_shard") == 1 and max(map(self._size, ("tp", "cp"))) > 1:
            raise CallError(
                f"ParallelismConfig(dp_replicate_size={self.dp_replicate_size}) with tp_size or cp_size above 1: "
                "replicas must be sharded then. Use dp_shard_size instead, or both."
            )

    def settings(self) -> Iterator[Held]:
        """What it says in the words of the configuration."""
        for name in ("dp_replicate_size", "dp_shard_size", "tp_size", "cp_size", "sp_size", "cp_backend", "sp_backend"):
            value = getattr(self, name)
            if value is not None:
                place = f"the argument parallelism_config= (ParallelismConfig.{name})"
                yield f"parallelism_config.parallelism_config_{name}", value, place

    def _size(self, axis: str) -> int:
        return getattr(self, f"{axis}_size") or 1

    @property
    def total_size(self) -> int:
        """Processes of the whole mesh."""
        return self.data_parallel_size * self.non_data_parallel_size

    @property
    def data_parallel_size(self) -> int:
        """Processes with different samples."""
        return self._size("dp_replicate") * self._size("dp_shard")

    @property
    def non_data_parallel_size(self) -> int:
        """Processes that share samples."""
        return self._size("tp") * self._size("cp") * self._size("sp")

    @property
    def dp_replicate_enabled(self) -> bool:
        return self._size("dp_replicate") > 1

    @property
    def dp_shard_enabled(self) -> bool:
        return self._size("dp_shard") > 1

    @property
    def tp_enabled(self) -> bool:
        return self._size("tp") > 1

    @property
    def cp_enabled(self) -> bool:
        return self._size("cp") > 1

    @property
    def sp_enabled(self) -> bool:
        return self._size("sp") > 1

    @property
    def active_mesh_dims(self) -> list[str]:
        """Axes of more than one process, outermost first."""
        return [axis for axis in _AXES if self._size(axis) > 1]

    @property
    def dp_dim_names(self) -> list[str]:
        """Active axes along which samples differ."""
        return self._active("dp_replicate", "dp_shard")

    @property
    def non_dp_dim_names(self) -> list[str]:
        """Active axes along which they do not."""
        return self._active("cp", "sp", "tp")

    @property
    def dp_shard_cp_dim_names(self) -> list[str]:
        """Active axes over which parameters are sharded."""
        return self._active("dp_shard", "cp")

    @property
    def dp_cp_dim_names(self) -> list[str]:
        """Active axes over which losses are averaged."""
        return self._active("dp_replicate", "dp_shard", "cp")

    @property
    def fsdp_dim_names(self) -> list[str]:
        """Names of the axes, some of them joined into one, that FSDP works on."""
        shards = ["dp_shard_cp"] if self.dp_shard_cp_dim_names else []
        return [*self._active("dp_replicate"), *shards]

    def _active(self, *axes: str) -> list[str]:
        return [axis for axis in axes if self._size(axis) > 1]

    def build_device_mesh(self, device_type: str) -> Any:
        """The mesh over all processes, with the joined axes `dp`, `dp_shard_cp` and `dp_cp` where they are.

        Args:
            device_type: `cpu` or `cuda`.

        Returns:
            None if no axis has more than one process.

        Raises:
            PlanError: the sizes are not those of the processes.
        """
        from torch.distributed.device_mesh import init_device_mesh

        axes = self.active_mesh_dims
        if not axes:
            return None
        self._check_total(_world_size())
        mesh = init_device_mesh(device_type, tuple(map(self._size, axes)), mesh_dim_names=tuple(axes))
        for name, parts in (
            ("dp", self.dp_dim_names),
            ("dp_shard_cp", self.dp_shard_cp_dim_names),
            ("dp_cp", self.dp_cp_dim_names),
        ):
            if parts:
                mesh[tuple(parts)]._flatten(name)
        self.device_mesh = mesh
        return mesh

    def get_device_mesh(self, device_type: str | None = None) -> Any:
        """The mesh, which is made at the first call if `device_type` is given."""
        if self.device_mesh is None and device_type is not None:
            return self.build_device_mesh(device_type)
        return self.device_mesh

    def to_json(self) -> dict[str, Any]:
        """Its fields as plain values."""
        names = [one.name for one in fields(self) if one.init]
        return {name: _plain(getattr(self, name)) for name in names}

    def _check_total(self, processes: int) -> None:
        if self.total_size != processes:
            sizes = " x ".join(f"{axis}_size={self._size(axis)}" for axis in self.active_mesh_dims)
            raise PlanError(
                f"ParallelismConfig({sizes})",
                f"that is a mesh of {self.total_size} processes, and there are {processes}.",
                f"Use sizes whose product is {processes}, or {self.total_size} processes.",
            )


_AXES = ("dp_replicate", "dp_shard", "cp", "sp", "tp")
"""The mesh's axes, outermost first."""


def _world_size() -> int:
    import torch.distributed as dist

    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _plain(value: Any) -> Any:
    return dict(vars(value)) if hasattr(value, "__dataclass_fields__") else value


@dataclass(frozen=True)
class Plugins:
    """The plugins of one `Accelerator`.

    Attributes:
        fsdp: how FSDP shards.
        parallelism: sizes of the mesh.
        tensor_parallel: tensor parallelism in its older form.
        dynamo: how models are compiled.
    """

    fsdp: FullyShardedDataParallelPlugin | None = None
    parallelism: ParallelismConfig | None = None
    tensor_parallel: TorchTensorParallelPlugin | None = None
    dynamo: TorchDynamoPlugin | None = None

    def __post_init__(self) -> None:
        for name, (argument, kind) in _ARGUMENTS.items():
            value = getattr(self, name)
            if value is not None and not isinstance(value, kind):
                raise CallError(
                    f"Accelerator({argument}={value!r}): possible is a {kind.__name__} of nbaccel.utils, or None."
                )

    def settings(self) -> Iterator[Held]:
        """What they say in the words of the configuration."""
        plugin: _Plugin | None
        for plugin in (self.fsdp, self.parallelism, self.tensor_parallel, self.dynamo):
            if plugin is not None:
                yield from plugin.settings()


_ARGUMENTS: dict[str, tuple[str, type]] = {
    "fsdp": ("fsdp_plugin", FullyShardedDataParallelPlugin),
    "parallelism": ("parallelism_config", ParallelismConfig),
    "tensor_parallel": ("torch_tp_plugin", TorchTensorParallelPlugin),
    "dynamo": ("dynamo_plugin", TorchDynamoPlugin),
}
