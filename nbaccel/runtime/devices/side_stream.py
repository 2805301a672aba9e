"""Copies to a CUDA device beside its computations."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import torch

from nbaccel.runtime.collectives import send_to_device
from nbaccel.runtime.nested import leaves_of


def copied_beside(batches: Iterator[Any], device: torch.device, non_blocking: bool, ahead: bool) -> Iterator[Any]:
    """The same batches on a device; the copy runs on a stream of its own while earlier steps still compute.

    Args:
        batches: batches in host memory.
        device: where to.
        non_blocking: do not wait for copies from pinned memory.
        ahead: start the next batch's copy before a batch is handed out.
    """
    side = stream_of(device)
    waiting: list[tuple[Any, torch.cuda.Event | None]] = []
    for batch in batches:
        waiting.append(_started(batch, device, non_blocking, side))
        if len(waiting) > ahead:
            yield _handed_out(*waiting.pop(0), device)
    for entry in waiting:
        yield _handed_out(*entry, device)


@cache
def stream_of(device: torch.device) -> torch.cuda.Stream:
    """The one side stream of a device: memory of a batch is used again only for batches on the same stream."""
    return torch.cuda.Stream(device)


def _started(
    batch: Any, device: torch.device, non_blocking: bool, side: torch.cuda.Stream
) -> tuple[Any, torch.cuda.Event | None]:
    """The batch on its way, and what tells that it has arrived."""
    if any(_cannot_be_kept(leaf) for leaf in leaves_of(batch)):
        return send_to_device(batch, device, non_blocking), None
    with torch.cuda.stream(side):
        moved = send_to_device(batch, device, non_blocking)
        return moved, side.record_event()


def _cannot_be_kept(leaf: Any) -> bool:
    """Whether its memory could not be kept until it is used: `record_stream` takes plain strided tensors alone."""
    if isinstance(leaf, torch.Tensor):
        return leaf.layout != torch.strided or leaf.is_nested
    return callable(getattr(leaf, "to", None))


def _handed_out(batch: Any, arrived: torch.cuda.Event | None, device: torch.device) -> Any:
    if arrived is None:
        return batch
    user = torch.cuda.current_stream(device)
    user.wait_event(arrived)
    for leaf in leaves_of(batch):
        if isinstance(leaf, torch.Tensor) and leaf.is_cuda:
            leaf.record_stream(user)  # its memory belongs to the side stream, which must not take it back before
    return batch
