"""Which parts the runtime of one process is made of: device, strategy, precision, collective backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nbaccel.config import RunConfig
from nbaccel.errors import PlanError
from nbaccel.machine import Gpu, Machine


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
        device: torch's name of the device of this process (`cpu`, `cuda:1`, `mps`).
        strategy: `single` or `ddp`.
        precision: `no`, `bf16` or `fp16`.
        backend: torch.distributed's backend, None for one process.
    """

    device: str
    strategy: str
    precision: str
    backend: str | None


def topology_of(environ: Mapping[str, str]) -> Topology:
    """Reads the position that a launcher (ours, torchrun, Accelerate's) put into the environment."""

    def number(name: str, default: int) -> int:
        return int(environ.get(name, default))

    world_size = number("WORLD_SIZE", 1)
    rank = number("RANK", 0)
    return Topology(rank, world_size, number("LOCAL_RANK", rank), number("LOCAL_WORLD_SIZE", world_size))


def choose_device(config: RunConfig, machine: Machine) -> str:
    """Kind of the device to train on: the best that exists, or the CPU on request."""
    if config.use_cpu:
        return "cpu"
    if machine.gpus:
        return "cuda"
    if config.gpu_ids is not None:
        raise PlanError(f"gpu_ids={_shown(config.gpu_ids)}", "this machine has no CUDA GPU.", "Leave gpu_ids out.")
    return "mps" if machine.has_mps else "cpu"


def chosen_gpus(config: RunConfig, machine: Machine) -> Sequence[Gpu]:
    """The GPUs to train on, in the order in which they were asked for. Raises PlanError for one that is not there."""
    if config.gpu_ids is None or config.gpu_ids == "all":
        return machine.gpus
    wish = f"gpu_ids={','.join(map(str, config.gpu_ids))}"
    possible = f"Visible here: 0 to {len(machine.gpus) - 1}."
    for index in config.gpu_ids:
        if not 0 <= index < len(machine.gpus):
            raise PlanError(wish, f"there is no GPU {index}.", possible)
    if len(set(config.gpu_ids)) < len(config.gpu_ids) or not config.gpu_ids:
        raise PlanError(wish, "each GPU must be named once, and at least one.", possible)
    return [machine.gpus[index] for index in config.gpu_ids]


def check_precision(config: RunConfig, device: str) -> str:
    """The precision, if the device can compute in it."""
    if config.mixed_precision == "fp8":
        raise PlanError(
            "mixed_precision='fp8'",
            f"nbaccel has no fp8 arithmetic for the device {device!r}.",
            "Possible here: no, bf16, fp16.",
        )
    return config.mixed_precision


def choose_parts(config: RunConfig, machine: Machine, topology: Topology) -> Parts:
    """Decide what the runtime of this process is made of. Pure.

    Raises:
        PlanError: the device cannot do what the configuration asks for.
    """
    kind = choose_device(config, machine)
    several = topology.world_size > 1
    if kind == "mps" and several:
        raise PlanError(f"{topology.world_size} processes on mps", "it is one device.", "Use one, or use_cpu=True.")
    return Parts(
        device=_cuda_device(config, machine, topology) if kind == "cuda" else kind,
        strategy="ddp" if several else "single",
        precision=check_precision(config, kind),
        backend=("nccl" if kind == "cuda" else "gloo") if several else None,
    )


def _cuda_device(config: RunConfig, machine: Machine, topology: Topology) -> str:
    gpus = chosen_gpus(config, machine)
    return f"cuda:{gpus[topology.local_rank % len(gpus)].index}"


def _shown(gpu_ids: object) -> str:
    return gpu_ids if isinstance(gpu_ids, str) else ",".join(map(str, gpu_ids))  # type: ignore[call-overload]
