"""TPU chips by torch_xla, which notes operations and compiles them together: somebody must say where a step ends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from nbaccel.runtime.collectives import send_to_device
from nbaccel.runtime.devices.device import Device
from nbaccel.runtime.nested import leaves_of, with_leaves
from nbaccel.runtime.xla.compiles import CompileWatch
from nbaccel.runtime.xla.cutting import BatchCutting


class XlaDevice(Device):
    """One chip, or with SPMD all of them; the runtime has begun already."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        from torch_xla import runtime

        self._cutting = BatchCutting() if runtime.is_spmd() else None

    def feed(self, batches: Iterator[Any], non_blocking: bool, ahead: bool = False) -> Iterator[Any]:
        import torch_xla

        torch_xla.sync()  # before each batch, the first after a resumption, too: the random state counts them
        watch = CompileWatch()
        waiting: list[Any] = []
        for batch in batches:
            waiting.append(self._sent(batch, non_blocking))
            if len(waiting) > ahead:
                ready = waiting.pop(0)
                yield ready
                torch_xla.sync()  # the step is over: compile and run what was noted
                watch.note(ready)
        for ready in waiting:
            yield ready
            torch_xla.sync()

    def _sent(self, batch: Any, non_blocking: bool) -> Any:
        """The batch on its way; all tensors of it in one transfer, each in parts where several chips work on it."""
        from torch_xla.core import xla_model

        leaves = leaves_of(batch)
        if any(_moves_itself(leaf) for leaf in leaves):
            return send_to_device(batch, self.torch_device, non_blocking)
        here = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.device.type == "cpu"]
        if not here:
            return batch
        there = iter(xla_model.send_cpu_data_to_device(here, self.torch_device, self._cutting))
        chosen = {id(leaf) for leaf in here}
        return with_leaves(batch, iter([next(there) if id(leaf) in chosen else leaf for leaf in leaves]))

    def empty_cache(self) -> None:
        import torch_xla

        torch_xla.sync()  # what was noted and is not needed any more holds tensors


def _moves_itself(leaf: Any) -> bool:
    return not isinstance(leaf, torch.Tensor) and callable(getattr(leaf, "to", None))
