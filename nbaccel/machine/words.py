"""What exists, in words."""

from __future__ import annotations

from collections.abc import Iterator

from nbaccel.machine.machine import Machine


def describe_devices(machine: Machine) -> list[str]:
    """One line per device; a machine without any has its CPU."""
    return list(_devices(machine)) or ["cpu"]


def _devices(machine: Machine) -> Iterator[str]:
    for gpu in machine.gpus:
        size = f", {in_gib(gpu.memory_bytes)}" if gpu.memory_bytes else ""
        yield f"cuda:{gpu.index}  {gpu.name or 'GPU'}{size} (CUDA_VISIBLE_DEVICES={gpu.visible_id})"
    if machine.tpu_chips:
        yield f"tpu  {machine.tpu_kind}, {machine.tpu_chips} chip{'s' if machine.tpu_chips > 1 else ''}"
    if machine.has_mps:
        yield "mps"


def in_gib(size_bytes: int) -> str:
    """A size as people write it."""
    return f"{size_bytes / 2**30:.1f} GiB"
