"""Apple silicon."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from nbaccel.runtime.collectives import send_to_device
from nbaccel.runtime.devices.device import Device


class MpsDevice(Device):
    """The GPU of Apple silicon."""

    def feed(self, batches: Iterator[Any], non_blocking: bool, ahead: bool = False) -> Iterator[Any]:
        return map(partial(send_to_device, device=self.torch_device, non_blocking=non_blocking), batches)

    def empty_cache(self) -> None:
        torch.mps.empty_cache()
