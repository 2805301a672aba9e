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
class Machine:
    """What a launch can count on.

    Attributes:
        platform: `kaggle`, `colab`, `databricks`, `sagemaker`, `binder`, `jupyterhub`, `vscode`, `jupyter` or
            `terminal`.
        usable_cores: cores that this process may use (affinity and cgroup quota).
        physical_cores: physical cores among them.
        memory_bytes: main memory that this process may use.
        gpus: CUDA GPUs, CUDA_VISIBLE_DEVICES honoured.
        tpu_kind: `v2`, `v3`, `v4`, `v5e`, ..., empty without chips.
        tpu_chips: number of TPU chips.
        has_mps: true on Apple silicon.
    """

    platform: str = "terminal"
    usable_cores: int = 1
    physical_cores: int = 1
    memory_bytes: int = 0
    gpus: tuple[Gpu, ...] = ()
    tpu_kind: str = ""
    tpu_chips: int = 0
    has_mps: bool = False
