"""NVIDIA and AMD GPUs, which torch both calls CUDA."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from nbaccel.runtime.collectives import send_to_device
from nbaccel.runtime.devices.device import Device


class CudaDevice(Device):
    """One GPU: batches must be copied into its memory."""

    def feed(self, batches: Iterator[Any], non_blocking: bool) -> Iterator[Any]:
        return map(partial(send_to_device, device=self.torch_device, non_blocking=non_blocking), batches)

    @property
    def ids(self) -> list[int] | None:
        return [self.torch_device.index]

    def empty_cache(self) -> None:
        torch.cuda.empty_cache()
