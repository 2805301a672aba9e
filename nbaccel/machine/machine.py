"""What a probe finds: the machine as one frozen value."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """One CUDA GPU that this process may use.

    Attributes:
        index: number among the visible ones, as torch counts.
        visible_id: what names it in CUDA_VISIBLE_DEVICES (an index or a UUID).
        name: product name, empty when unknown.
        memory_bytes: size of its memory, 0 when unknown.
    """

    index: int
    visible_id: str
    name: str = ""
    memory_bytes: int = 0


@dataclass(frozen=True)
class Obstacle:
    """Why GPUs that are there, or seem to be, cannot be used.

    Attributes:
        text: what is the matter, one sentence.
        remedy: what to do.
    """

    text: str
    remedy: str


@dataclass(frozen=True)
class TpuSoftware:
    """What there is to compute on TPUs with, and who does it already; read without importing anything.

    Attributes:
        torch: version of torch, empty if it is not installed.
        torch_xla: version of torch_xla, empty if it is not installed.
        torch_tpu: version of torch_tpu, empty if it is not installed.
        has_libtpu: whether the library that drives the chips is there.
        pjrt_device: what the variable PJRT_DEVICE asks torch_xla for: `TPU`, `CPU`, or empty.
        host_devices: how many devices torch_xla makes of the CPU (CPU_NUM_DEVICES).
        held_by: what has opened the chips in this process, empty if nothing has; one process may own a chip.
    """

    torch: str = ""
    torch_xla: str = ""
    torch_tpu: str = ""
    has_libtpu: bool = False
    pjrt_device: str = ""
    host_devices: int = 1
    held_by: str = ""


@dataclass(frozen=True)
class Machine:
    """What a launch can count on.

    Attributes:
        platform: `kaggle`, `colab`, `databricks`, `sagemaker`, `binder`, `jupyterhub`, `vscode`, `jupyter` or
            `terminal`.
        usable_cores: cores that this process may use (affinity and cgroup quota).
        physical_cores: physical cores among them.
        memory_bytes: main memory that this process may use.
        gpus: GPUs that torch calls CUDA's and can use, CUDA_VISIBLE_DEVICES honoured.
        gpu_obstacle: why there are none though a driver or GPUs are here; None where nothing stands in the way.
        tpu_kind: `v2`, `v3`, `v4`, `v5e`, ..., empty without chips.
        tpu_chips: number of TPU chips, as the PCI bus shows them (of v7x the two halves of each).
        tpu_software: what there is to compute on them with.
        has_mps: true on Apple silicon.
    """

    platform: str = "terminal"
    usable_cores: int = 1
    physical_cores: int = 1
    memory_bytes: int = 0
    gpus: tuple[Gpu, ...] = ()
    tpu_kind: str = ""
    tpu_chips: int = 0
    tpu_software: TpuSoftware = TpuSoftware()
    has_mps: bool = False
    gpu_obstacle: Obstacle | None = None
