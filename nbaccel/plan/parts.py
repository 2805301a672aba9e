"""Which parts the runtime of one process is made of: device, strategy, precision, collective backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nbaccel.config import RunConfig
from nbaccel.errors import PlanError
from nbaccel.machine import Gpu, Machine, Obstacle
from nbaccel.plan.chips import TPU_DEVICES, choose_tpu
from nbaccel.plan.support import refuse_unsupported


@dataclass(frozen=True)
class Topology:
    """Position of one process among all.

    Attributes:
        rank: number of this process among all, from 0.
        world_size: number of processes.
        local_rank: number of this process on its machine, from 0.
        local_world_size: number of processes on its machine.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1


@dataclass(frozen=True)
class Parts:
    """Names of the parts that `runtime.build` makes objects of.

    Attributes:
        device: torch's name of the device of this process (`cpu`, `cuda:1`, `mps`, `xla:0`, `tpu`).
        strategy: `single`, `ddp`, `fsdp`, `xla` (a process per chip) or `spmd` (one for all).
        precision: `no`, `bf16` or `fp16`.
        backend: torch.distributed's backend, None for one process.
        mesh: names and sizes of the device mesh's axes, outermost first; empty where there is none.
        downcast: whether the model itself becomes bfloat16, on a TPU with bf16.
    """

    device: str
    strategy: str
    precision: str
    backend: str | None
    mesh: tuple[tuple[str, int], ...] = ()
    downcast: bool = False


def topology_of(environ: Mapping[str, str]) -> Topology:
    """Reads the position that a launcher (ours, torchrun, Accelerate's) put into the environment."""

    def number(name: str, default: int) -> int:
        return int(environ.get(name, default))

    world_size = number("WORLD_SIZE", 1)
    rank = number("RANK", 0)
    return Topology(rank, world_size, number("LOCAL_RANK", rank), number("LOCAL_WORLD_SIZE", world_size))


def choose_device(config: RunConfig, machine: Machine) -> str:
    """Kind of the device to train on: the best that exists, or the CPU on request."""
    if config.use_cpu or config.distributed_type == "MULTI_CPU":
        return "cpu"
    tpu = None if config.distributed_type == "MULTI_GPU" or config.gpu_ids is not None else choose_tpu(config, machine)
    if tpu is not None:
        return tpu
    if machine.gpus:
        return "cuda"
    if config.gpu_ids is not None:
        wish = f"gpu_ids={_shown(config.gpu_ids)}"
        raise _no_gpu(machine, wish, "Leave gpu_ids out, or set use_cpu.", "gpu_ids")
    if config.distributed_type == "MULTI_GPU":
        wish = "distributed_type='MULTI_GPU'"
        raise _no_gpu(machine, wish, "Use MULTI_CPU, or set use_cpu.", "distributed_type")
    return "mps" if machine.has_mps else "cpu"


def _no_gpu(machine: Machine, wish: str, remedy: str, key: str) -> PlanError:
    known = machine.gpu_obstacle or Obstacle("this machine has no CUDA GPU.", remedy)
    return PlanError(wish, known.text, known.remedy, key)


def chosen_gpus(config: RunConfig, machine: Machine) -> Sequence[Gpu]:
    """The GPUs to train on, in the order in which they were asked for. Raises PlanError for one that is not there."""
    if config.gpu_ids is None or config.gpu_ids == "all":
        return machine.gpus
    wish = f"gpu_ids={','.join(map(str, config.gpu_ids))}"
    possible = f"Visible here: 0 to {len(machine.gpus) - 1}."
    for index in config.gpu_ids:
        if not 0 <= index < len(machine.gpus):
            raise PlanError(wish, f"there is no GPU {index}.", possible, "gpu_ids")
    if len(set(config.gpu_ids)) < len(config.gpu_ids) or not config.gpu_ids:
        raise PlanError(wish, "each GPU must be named once, and at least one.", possible, "gpu_ids")
    return [machine.gpus[index] for index in config.gpu_ids]


def check_precision(config: RunConfig, device: str) -> str:
    """The precision, if the device can compute in it."""
    if config.mixed_precision == "fp8":
        raise PlanError(
            "mixed_precision='fp8'",
            f"nbaccel has no fp8 arithmetic for the device {device!r}.",
            "Possible here: no, bf16, fp16.",
            "mixed_precision",
        )
    if config.mixed_precision == "fp16" and device in TPU_DEVICES:
        raise PlanError(
            "mixed_precision='fp16'",
            "TPUs compute in bfloat16, which needs no loss scaling.",
            "Use mixed_precision='bf16' (or 'no').",
            "mixed_precision",
        )
    return config.mixed_precision


def choose_parts(config: RunConfig, machine: Machine, topology: Topology) -> Parts:
    """Decide what the runtime of this process is made of. Pure.

    Raises:
        PlanError: the device cannot do what the configuration asks for.
    """
    refuse_unsupported(config)
    kind = choose_device(config, machine)
    several = topology.world_size > 1
    if kind == "mps" and several:
        raise PlanError(f"{topology.world_size} processes on mps", "it is one device.", "Use one, or use_cpu=True.")
    strategy, mesh = _choose_strategy(config, kind, topology)
    precision = check_precision(config, kind)
    return Parts(
        device=_device_of(kind, config, machine, topology),
        strategy=strategy,
        precision=precision,
        backend=_BACKENDS.get(kind, "gloo") if several else None,
        mesh=mesh,
        downcast=config.downcast_bf16 and precision == "bf16" and kind in TPU_DEVICES,
    )


_BACKENDS = {"cuda": "nccl", "tpu": "tpu_dist"}
"""Of the process group; on the device xla gradients go by XLA's own ways, all else by gloo."""


def _device_of(kind: str, config: RunConfig, machine: Machine, topology: Topology) -> str:
    if kind == "cuda":
        return _cuda_device(config, machine, topology)
    return "xla:0" if kind == "xla" else kind  # torch_tpu binds a process to its chip: its device has no number


def _choose_strategy(config: RunConfig, kind: str, topology: Topology) -> tuple[str, tuple[tuple[str, int], ...]]:
    """The strategy and its mesh. One process alone has nobody to share parameters with: it trains as without FSDP."""
    _check_mesh(config, topology.world_size)
    if kind == "xla":
        return _choose_on_xla(config, topology)
    if topology.world_size == 1:
        _check_alone(config, kind)
        return "single", ()
    replicas, shards = _replicas_and_shards(config, topology)
    if config.distributed_type != "FSDP" or shards == 1:
        return "ddp", ()
    return "fsdp", (*((("dp_replicate", replicas),) if replicas > 1 else ()), ("dp_shard", shards))


def _choose_on_xla(config: RunConfig, topology: Topology) -> tuple[str, tuple[tuple[str, int], ...]]:
    """XLA knows two ways: a process per chip, and one process for all. Sharding belongs to the second."""
    shards = config.distributed_type == "FSDP"
    if shards:
        _refuse_on_xla(config)
    if (config.xla_spmd or shards) and topology.world_size == 1:
        return "spmd", ()
    if shards:
        raise PlanError(
            f"distributed_type='FSDP' in {topology.world_size} processes on a TPU",
            "torch_xla shards parameters from one process that drives all chips.",
            "Launch it with nbaccel, or start one process.",
            "distributed_type",
        )
    return "xla", ()


def _refuse_on_xla(config: RunConfig) -> None:
    """What FSDP cannot do where XLA's compiler shards; a model that needs it would run out of memory."""
    for name in ("fsdp_offload_params", "fsdp_activation_checkpointing"):
        if getattr(config.fsdp_config, name):
            raise PlanError(
                f"fsdp_config.{name}=True", "there is no such thing on a TPU.", "Leave it out.", f"fsdp_config.{name}"
            )


def _check_alone(config: RunConfig, kind: str) -> None:
    if config.distributed_type == "FSDP" and config.fsdp_config.fsdp_offload_params and kind != "cpu":
        raise PlanError(
            "fsdp_config.fsdp_offload_params=True",
            "one process alone does not shard, and so does not offload.",
            "Use num_processes=2 or more, or leave it out.",
            "fsdp_config.fsdp_offload_params",
        )


def _replicas_and_shards(config: RunConfig, topology: Topology) -> tuple[int, int]:
    mesh, size = config.parallelism_config, topology.world_size
    replicas, shards = mesh.parallelism_config_dp_replicate_size, mesh.parallelism_config_dp_shard_size
    if replicas * shards > 1:
        return replicas, shards
    kind = sharding_strategy(config)
    if kind == "NO_SHARD":
        return size, 1
    if kind.startswith("HYBRID_SHARD") and size % topology.local_world_size == 0:
        return size // topology.local_world_size, topology.local_world_size
    return 1, size


def sharding_strategy(config: RunConfig) -> str:
    """What FSDP shards; Accelerate's older files say it in `fsdp_reshard_after_forward`."""
    told = config.fsdp_config.fsdp_sharding_strategy
    word = config.fsdp_config.fsdp_reshard_after_forward
    if isinstance(word, bool) or word == told:
        return told
    if told != "FULL_SHARD":
        raise PlanError(
            f"fsdp_config.fsdp_reshard_after_forward={word}",
            f"fsdp_sharding_strategy says {told}.",
            "Give one of them; true or false says whether full parameters are freed after the forward pass.",
            "fsdp_config.fsdp_reshard_after_forward",
        )
    return word


def _check_mesh(config: RunConfig, processes: int) -> None:
    mesh = config.parallelism_config
    replicas, shards = mesh.parallelism_config_dp_replicate_size, mesh.parallelism_config_dp_shard_size
    name = "shard" if shards > 1 else "replicate"
    key = f"parallelism_config.parallelism_config_dp_{name}_size"
    wish = f"dp_replicate_size={replicas}, dp_shard_size={shards} (parallelism_config)"
    if replicas * shards not in (1, processes):
        raise PlanError(
            wish,
            f"that is a mesh of {replicas * shards} processes, and there are {processes}.",
            f"Use sizes whose product is {processes}, or {replicas * shards} processes.",
            key,
        )
    if shards > 1 and config.distributed_type != "FSDP":
        kind = config.distributed_type or "data parallel training"
        raise PlanError(wish, f"{kind} does not shard.", "Set distributed_type: FSDP, or leave dp_shard_size out.", key)


def _cuda_device(config: RunConfig, machine: Machine, topology: Topology) -> str:
    gpus = chosen_gpus(config, machine)
    return f"cuda:{gpus[topology.local_rank % len(gpus)].index}"


def _shown(gpu_ids: object) -> str:
    return gpu_ids if isinstance(gpu_ids, str) else ",".join(map(str, gpu_ids))  # type: ignore[call-overload]
