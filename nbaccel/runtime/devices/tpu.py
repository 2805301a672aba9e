"""TPU chips by torch_tpu: one process per chip, and the operators run as they are called."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from nbaccel.runtime.collectives import send_to_device
from nbaccel.runtime.devices.device import Device


class TpuDevice(Device):
    """One chip."""

    def feed(self, batches: Iterator[Any], non_blocking: bool, ahead: bool = False) -> Iterator[Any]:
        return map(partial(send_to_device, device=self.torch_device, non_blocking=non_blocking), batches)
