"""Copies of a state in CPU memory, so that training can go on while they are written."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from nbaccel.runtime.checkpoint.store import Part


class Staging:
    """Holds copies; their memory is used again by the next ones."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, int], torch.Tensor] = {}

    def copies_of(self, parts: Sequence[Part]) -> list[Part]:
        """The same parts with values that nobody else changes. Returns when all copies are there."""
        devices: set[torch.device] = set()
        kept: dict[tuple[str, int], torch.Tensor] = {}
        copied = [replace(part, state=_copied(part.state, self._copier(part.name, kept, devices))) for part in parts]
        self._buffers = kept
        for device in devices:
            torch.cuda.synchronize(device)
        return copied

    def forget(self) -> None:
        """Give the memory back."""
        self._buffers = {}

    def _copier(
        self, name: str, kept: dict[tuple[str, int], torch.Tensor], devices: set[torch.device]
    ) -> Callable[[torch.Tensor], torch.Tensor]:
        known: dict[Any, torch.Tensor] = {}

        def copied(tensor: torch.Tensor) -> torch.Tensor:
            source = tensor.detach()
            if source.layout != torch.strided:
                return source.cpu().clone()
            identity = (source.device, source.data_ptr(), source.dtype, source.shape, source.stride())
            if source.nbytes and identity in known:  # tied ones stay tied
                return known[identity]
            place = (name, len(known))
            buffer = self._buffers.get(place)
            on_cuda = source.device.type == "cuda"
            if buffer is None or buffer.shape != source.shape or buffer.dtype != source.dtype:
                buffer = torch.empty(source.shape, dtype=source.dtype, pin_memory=on_cuda)
            buffer.copy_(source, non_blocking=on_cuda)
            if on_cuda:
                devices.add(source.device)
            known[identity if source.nbytes else place] = kept[place] = buffer
            return buffer

        return copied


def _copied(value: Any, copy_tensor: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        return copy_tensor(value)
    if type(value) is dict:
        return {name: _copied(inner, copy_tensor) for name, inner in value.items()}
    if isinstance(value, dict):  # a state dict of torch: ordered, with attributes
        twin = copy.copy(value)
        for name, inner in value.items():
            twin[name] = _copied(inner, copy_tensor)
        return twin
    if type(value) in (list, tuple):
        return type(value)(_copied(inner, copy_tensor) for inner in value)
    return copy.deepcopy(value)
