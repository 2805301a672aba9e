"""What differs from device to device. The base class is the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch


class Device:
    """The CPU: batches are there already.

    Args:
        device: the torch device of this process.
    """

    def __init__(self, device: torch.device) -> None:
        self.torch_device = device

    def feed(self, batches: Iterator[Any], non_blocking: bool, ahead: bool = False) -> Iterator[Any]:
        """The same batches, on this device.

        Args:
            batches: as the loader makes them.
            non_blocking: do not wait for copies from pinned memory.
            ahead: a batch may be taken before the one in front of it is handed out.
        """
        return batches

    @property
    def ids(self) -> list[int] | None:
        """What DistributedDataParallel calls `device_ids`."""
        return None

    def empty_cache(self) -> None:
        """Give memory that no tensor uses back to the system."""
