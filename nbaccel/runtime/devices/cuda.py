"""NVIDIA and AMD GPUs, which torch both calls CUDA."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from nbaccel.runtime.devices.device import Device
from nbaccel.runtime.devices.side_stream import copied_beside


class CudaDevice(Device):
    """One GPU: batches must be copied into its memory."""

    def feed(self, batches: Iterator[Any], non_blocking: bool, ahead: bool = False) -> Iterator[Any]:
        return copied_beside(batches, self.torch_device, non_blocking, ahead)

    @property
    def ids(self) -> list[int] | None:
        return [self.torch_device.index]

    def empty_cache(self) -> None:
        torch.cuda.empty_cache()
