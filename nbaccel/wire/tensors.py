"""Tensors on the wire: a storage becomes a segment, so that views and tied weights still share it on the other side.

Only the bytes that some tensor shows are written: a small view of a large storage costs what it shows. torch is used
here if the process has imported it already (else there can be no tensor) and is never imported.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from nbaccel.wire.parcel import Layout, MemoryFile, Pieces
from nbaccel.wire.shared import memory_at


class Storages:
    """Collects the storages that are met in one encoding.

    Args:
        torch: the module; None if the process has not imported it.
        by_number: stands in the pickle for "the storage over the segment with this number".
        layout: takes the segments.
        find: the shared file in which some memory lies, and its offset there.
    """

    def __init__(
        self,
        torch: ModuleType | None,
        by_number: Callable[[int], Any],
        layout: Layout,
        find: Callable[[int, int], tuple[MemoryFile, int] | None],
    ) -> None:
        self._by_number, self._layout, self._find = by_number, layout, find
        # a torch that is still being imported by another thread has no tensors yet
        self.torch: Any = torch if hasattr(torch, "optim") and hasattr(torch, "Generator") else None
        # torch's own way for float8 and the like wants a typed storage back, and these dtypes have none
        self._new_dtypes = self.torch.storage._new_dtypes() if self.torch is not None else set()
        self._numbers: dict[int, int] = {}
        self._copies: dict[int, Any] = {}
        self._kept: list[Any] = []
        self._shown: dict[int, list[tuple[int, int]]] = {}

    def reduce_tensor(self, tensor: Any) -> Any:
        """Notes what a CPU tensor shows of its storage; brings a tensor of another device to the CPU."""
        if tensor.layout is not self.torch.strided or tensor.device.type == "meta":
            return NotImplemented
        if tensor.device.type != "cpu":
            if type(tensor) not in (self.torch.Tensor, self.torch.nn.Parameter):
                return NotImplemented
            return _on_cpu, (tensor.detach().cpu(), type(tensor), tensor.requires_grad)
        self._note_shown(tensor)
        if tensor.dtype in self._new_dtypes and type(tensor) is self.torch.Tensor:
            place = tensor.storage_offset(), tuple(tensor.shape), tensor.stride()
            return _strided, (self._of_tensor(tensor.untyped_storage()), tensor.dtype, *place, tensor.requires_grad)
        return NotImplemented

    def _note_shown(self, tensor: Any) -> None:
        try:
            storage = tensor.untyped_storage()
            key = storage._cdata
            offset, shape, strides = tensor.storage_offset(), tensor.shape, tensor.stride()
        except (RuntimeError, NotImplementedError, ValueError):
            return  # no storage of its own (a wrapper, whose parts are met later; a lazy parameter)
        spans = self._shown.setdefault(key, [])
        self._kept.append(storage)
        if tensor.numel():
            last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
            spans.append((offset * tensor.element_size(), (last + 1) * tensor.element_size()))

    def reduce_storage(self, storage: Any) -> Any:
        """Reduces a storage to the number of its segment, a typed one (of a tensor) to that and a dtype."""
        if isinstance(storage, self.torch.TypedStorage):
            return _typed, (self._of_tensor(storage._untyped_storage), storage.dtype)
        storage = self._on_cpu(storage)
        number = self._number(storage)
        self._shown.setdefault(storage._cdata, []).append((0, storage.nbytes()))  # met by itself: all of it counts
        return self._by_number, (number,)

    def _of_tensor(self, storage: Any) -> _OfTensor:
        return _OfTensor(self._by_number, self._number(storage))

    def _on_cpu(self, storage: Any) -> Any:
        """A storage that can be read; one of a device is copied once, so that what shares it goes on doing so."""
        if storage.device.type == "cpu":
            return storage
        key = storage._cdata
        if key not in self._copies:
            self._kept.append(storage)
            self._copies[key] = storage.cpu()
        return self._copies[key]

    def _number(self, storage: Any) -> int:
        storage = self._on_cpu(storage)
        key = storage._cdata
        if key not in self._numbers:
            self._kept.append(storage)
            place = self._find(storage.data_ptr(), storage.nbytes()) if storage.nbytes() else None
            if place is not None:
                self._numbers[key] = self._layout.add_shared(*place, storage.nbytes())
            else:
                spans = self._shown.setdefault(key, [(0, storage.nbytes())])
                self._numbers[key] = self._layout.add(storage.nbytes(), lambda: _shown_bytes(storage, spans))
        return self._numbers[key]


def _shown_bytes(storage: Any, spans: list[tuple[int, int]]) -> Pieces:
    start_of = storage.data_ptr()
    return [(start, memory_at(start_of + start, end - start)) for start, end in _merged(spans)]


class _OfTensor:
    """Stands for a storage of which a tensor shows a part; a storage that is met by itself counts as a whole."""

    def __init__(self, by_number: Callable[[int], Any], number: int) -> None:
        self._by_number, self._number = by_number, number

    def __reduce__(self) -> Any:
        return self._by_number, (self._number,)


def _merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def storage_from(segment: memoryview) -> Any:
    """A torch storage over a segment's memory, without a copy."""
    torch = sys.modules["torch"]
    if not segment.nbytes:
        return torch.UntypedStorage(0)
    return torch.frombuffer(segment, dtype=torch.uint8).untyped_storage()


def _typed(untyped: Any, dtype: Any) -> Any:
    return sys.modules["torch"].storage.TypedStorage(wrap_storage=untyped, dtype=dtype, _internal=True)


def _strided(storage: Any, dtype: Any, offset: int, shape: Any, strides: Any, requires_grad: bool) -> Any:
    empty = sys.modules["torch"].empty(0, dtype=dtype)
    return empty.set_(storage, offset, shape, strides).requires_grad_(requires_grad)


def _on_cpu(tensor: Any, kind: type, requires_grad: bool) -> Any:
    if kind is sys.modules["torch"].nn.Parameter:
        return kind(tensor, requires_grad)
    return tensor.requires_grad_(requires_grad)


def reduce_generator(generator: Any) -> Any:
    """Older versions of torch cannot pickle a generator; its state says all."""
    return _generator, (str(generator.device), bytes(generator.get_state().tolist()), generator.initial_seed())


def _generator(device: str, state: bytes, seed: int) -> Any:
    torch = sys.modules["torch"]
    generator = torch.Generator(device if device == "cpu" or torch.cuda.is_available() else "cpu")
    generator.manual_seed(seed)
    if str(generator.device) == device:
        generator.set_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))
    return generator


def retie_scheduler(scheduler: Any) -> None:
    """Tells a scheduler's optimizer again to note its steps: pickling drops that, and torch then warns for nothing."""
    optimizer = getattr(scheduler, "optimizer", None)
    if optimizer is None or hasattr(optimizer.step, "_wrapped_by_lr_sched"):
        return
    step = type(optimizer).step

    @functools.wraps(step)
    def noted(*args: Any, **kwargs: Any) -> Any:
        optimizer._opt_called = True
        return step(optimizer, *args, **kwargs)

    noted._wrapped_by_lr_sched = True  # type: ignore[attr-defined]
    optimizer.step = noted


def module_state(module: Any) -> dict[str, Any]:
    """A module's parameters and buffers on the CPU, by name, and which of its parts are in training mode."""
    return {
        "tensors": {name: tensor.detach().cpu() for name, tensor in named_tensors(module).items()},
        "training": [part.training for part in module.modules()],
    }


def named_tensors(module: Any) -> dict[str, Any]:
    """Parameters and buffers that have a shape yet, by name."""
    is_lazy = sys.modules["torch"].nn.parameter.is_lazy
    named = [*module.named_parameters(), *module.named_buffers()]
    return {name: tensor for name, tensor in named if not is_lazy(tensor)}


def load_module_state(module: Any, state: Mapping[str, Any]) -> list[str]:
    """Copy a state into a module in place.

    Returns:
        Names that do not fit: in one of the two only, or with another shape. They are left alone.
    """
    mine = named_tensors(module)
    theirs = state["tensors"]
    fitting = {name for name in mine.keys() & theirs.keys() if mine[name].shape == theirs[name].shape}
    with sys.modules["torch"].no_grad():
        for name in fitting:
            mine[name].copy_(theirs[name])
    parts = list(module.modules())
    if len(parts) == len(state["training"]):
        for part, training in zip(parts, state["training"], strict=True):
            part.training = training
    return sorted((mine.keys() | theirs.keys()) - fitting)


def is_sharded(value: Any) -> bool:
    """Whether a state holds tensors of which this process has only a part."""
    if isinstance(value, Mapping):
        return any(map(is_sharded, value.values()))
    if isinstance(value, list | tuple):
        return any(map(is_sharded, value))
    return hasattr(value, "full_tensor") or type(value).__name__ == "ShardedTensor"
