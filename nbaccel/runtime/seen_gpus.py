"""The GPUs that torch itself finds; it has the last word: files of the driver tell only what should be there."""

from __future__ import annotations

from dataclasses import replace

import torch

from nbaccel.machine import Gpu, Machine, Obstacle


def as_torch_sees(machine: Machine, planned_for_cpu: bool) -> Machine:
    """The machine with the GPUs that torch finds. For the process that trains: asking may wake the driver.

    Args:
        machine: what was found without torch.
        planned_for_cpu: the launch counted its workers for the CPU; they would crowd on GPUs that it did not find.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    known = len(machine.gpus)
    if count and not known and planned_for_cpu:
        text = f"the launch found no GPU and has planned for the CPU, but torch finds GPUs ({count})."
        return replace(machine, gpu_obstacle=Obstacle(text, "Run `nbaccel doctor`, or launch with torchrun."))
    if count == known:
        return machine
    if count:
        unknown = tuple(Gpu(index, str(index)) for index in range(known, count))
        return replace(machine, gpus=machine.gpus[:count] + unknown, gpu_obstacle=None)
    text = f"torch {torch.__version__} cannot use this machine's GPUs ({known}): {_reason()}."
    remedy = "Install a torch for this driver: https://pytorch.org/get-started/locally, or set use_cpu."
    return replace(machine, gpus=(), gpu_obstacle=Obstacle(text, remedy))


def _reason() -> str:
    """What torch says of it, in one line."""
    try:
        torch.cuda.init()
    except (AssertionError, RuntimeError) as error:
        return str(error).strip().partition("\n")[0].rstrip(".")
    return "it finds none"
