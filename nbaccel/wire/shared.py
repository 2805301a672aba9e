"""Shared regions: arrays and tensors that lie in memory files and travel to workers without a copy.

`share` copies arrays into a region once. What the kernel later writes there goes into the file; workers map the file
copy-on-write when they get it. A region lives as long as an array or tensor in this process uses its memory.
"""

from __future__ import annotations

import copy
import ctypes
import mmap
import sys
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nbaccel.errors import CallError
from nbaccel.wire.parcel import MemoryFile

_ALIGNMENT = 64
_POSSIBLE = (
    "It takes numpy arrays of numbers, tensors on the CPU, and lists, tuples and dicts of them; "
    "share the arrays inside an object and put the results back."
)


@dataclass(frozen=True)
class _Region:
    start: int
    size: int
    file: MemoryFile


_regions: dict[int, _Region] = {}
"""Regions of this process by their address. Entries go with the mapping, see `_open_region`."""


def find(address: int, size: int) -> tuple[MemoryFile, int] | None:
    """The file in which some memory lies, and its offset there; None if it lies in no region."""
    for region in list(_regions.values()):
        if region.start <= address and address + size <= region.start + region.size:
            return region.file, address - region.start
    return None


def any_regions() -> bool:
    """Whether this process has a region at all."""
    return bool(_regions)


def extent(address: int, itemsize: int, shape: Sequence[int], strides: Sequence[int]) -> tuple[int, int]:
    """First and last address (exclusive) of an array with at least one element. Strides are in bytes."""
    spans = [(size - 1) * stride for size, stride in zip(shape, strides, strict=True)]
    low = address + sum(span for span in spans if span < 0)
    return low, address + itemsize + sum(span for span in spans if span > 0)


def share(value: Any) -> Any:
    """Copy arrays and tensors into shared memory, from where they reach workers without being copied again.

    Views and slices of the result travel without a copy, too. Workers see what the kernel has written there until a
    page is first changed by them; what they write stays theirs.

    Args:
        value: a numpy array, a tensor on the CPU, or lists, tuples and dicts of them, however nested. Numbers,
            strings and None in these are left as they are.

    Returns:
        The same structure, whose arrays and tensors lie in shared memory; what shared memory before does so still,
        and what `share` returned before is returned as it is.

    Raises:
        CallError: the value, or something in it, is of another kind.
    """
    if isinstance(value, _PLAIN):
        raise _refused(value, "")
    leaves: dict[int, _Leaf] = {}
    _collect(value, "", leaves)
    blocks = _blocks([leaf for leaf in leaves.values() if leaf.must_move()])
    moved: dict[int, Any] = {}
    if blocks:
        memory = _open_region(blocks)
        for block in blocks:
            moved.update(block.rebuilt(memory))
    return _rebuilt(value, moved)


_PLAIN = (type(None), bool, int, float, complex, str, bytes)


def _collect(value: Any, path: str, leaves: dict[int, _Leaf]) -> None:
    if isinstance(value, _PLAIN):
        return
    if isinstance(value, dict | list | tuple):
        for key, child in _items(value):
            _collect(child, f"{path}[{key!r}]", leaves)
        return
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    if numpy is not None and type(value) in (numpy.ndarray, numpy.memmap) and not value.dtype.hasobject:
        leaves[id(value)] = _ArrayLeaf(value)
    elif torch is not None and type(value) in (torch.Tensor, torch.nn.Parameter) and _is_movable(value, torch):
        leaves[id(value)] = _TensorLeaf(value)
    else:
        raise _refused(value, path)


def _items(value: Any) -> Iterator[tuple[Any, Any]]:
    yield from value.items() if isinstance(value, dict) else enumerate(value)


def _is_movable(tensor: Any, torch: Any) -> bool:
    return tensor.device.type == "cpu" and tensor.layout is torch.strided and tensor.is_leaf and not tensor.is_quantized


def _refused(value: Any, path: str) -> CallError:
    kind = type(value).__name__
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    if torch is not None and isinstance(value, torch.Tensor):
        made = "" if value.is_leaf else ", computed with gradients: detach() it"
        kind = f"{kind} on {value.device}, {value.layout}{made}"
    elif numpy is not None and isinstance(value, numpy.ndarray):
        kind = f"{kind} of dtype {value.dtype}"
    place = f" (at {path})" if path else ""
    return CallError(f"nbaccel.share cannot share a {kind}{place}. {_POSSIBLE}")


def _rebuilt(value: Any, moved: Mapping[int, Any]) -> Any:
    if id(value) in moved:
        return moved[id(value)]
    if isinstance(value, tuple):
        children = [_rebuilt(child, moved) for child in value]
        return type(value)(*children) if hasattr(value, "_fields") else type(value)(children)
    if isinstance(value, dict | list):
        result: Any = copy.copy(value)  # of its own class, with its own attributes
        for key, child in _items(value):
            result[key] = _rebuilt(child, moved)
        return result
    return value


class _Leaf:
    """An array or a tensor: where its bytes lie, and how to make the like of it over other memory.

    Attributes:
        value: what the user gave.
        source: what is copied: that, or a dense copy of it.
        low: address of its first byte.
        high: address behind its last byte.
        nbytes: bytes of its elements.
    """

    def __init__(self, value: Any, source: Any) -> None:
        self.value = value
        self._look_at(source)

    def _look_at(self, source: Any) -> None:
        self.source = source
        address, itemsize, strides = self._place(source)
        self.is_empty = 0 in source.shape
        self.low, self.high = (address, address) if self.is_empty else extent(address, itemsize, source.shape, strides)
        self.nbytes = source.nbytes
        self._address = address

    def must_move(self) -> bool:
        """Whether it has bytes outside all regions."""
        return not self.is_empty and find(self.low, self.high - self.low) is None

    def make_dense(self) -> None:
        """Copy a view with gaps that nobody shares: the gaps need not travel."""
        if self.nbytes < self.high - self.low:
            self._look_at(self._dense(self.source))

    def _place(self, source: Any) -> tuple[int, int, Sequence[int]]:
        """Address of the first element, bytes of an element, strides in bytes."""
        raise NotImplementedError

    def _dense(self, source: Any) -> Any:
        raise NotImplementedError

    def over(self, memory: memoryview, offset: int, storages: dict[str, Any]) -> Any:
        """The like of it over a block's memory, its first element at `offset`; `storages` is the block's own."""
        raise NotImplementedError

    def offset_from(self, start: int) -> int:
        return self._address - start


class _ArrayLeaf(_Leaf):
    def __init__(self, array: Any) -> None:
        super().__init__(array, array)

    def _place(self, source: Any) -> tuple[int, int, Sequence[int]]:
        return source.ctypes.data, source.itemsize, source.strides

    def _dense(self, source: Any) -> Any:
        return source.copy(order="K")

    def over(self, memory: memoryview, offset: int, storages: dict[str, Any]) -> Any:
        source = self.source
        writeable = self.value.flags.writeable
        return array_over(memory, source.dtype, source.shape, offset, source.strides, writeable)


class _TensorLeaf(_Leaf):
    def __init__(self, tensor: Any) -> None:
        source = tensor.detach().resolve_conj().resolve_neg()
        # a storage is counted in elements: one that begins between two must be copied by itself
        super().__init__(tensor, source.clone() if source.data_ptr() % source.element_size() else source)

    def _place(self, source: Any) -> tuple[int, int, Sequence[int]]:
        size = source.element_size()
        return source.data_ptr(), size, [stride * size for stride in source.stride()]

    def _dense(self, source: Any) -> Any:
        return source.clone()

    def over(self, memory: memoryview, offset: int, storages: dict[str, Any]) -> Any:
        torch = sys.modules["torch"]
        if "torch" not in storages:
            storages["torch"] = torch.frombuffer(memory, dtype=torch.uint8).untyped_storage()
        source = self.source
        place = offset // source.element_size(), source.shape, source.stride()
        tensor = torch.empty(0, dtype=source.dtype).set_(storages["torch"], *place)
        if isinstance(self.value, torch.nn.Parameter):
            return torch.nn.Parameter(tensor, self.value.requires_grad)
        return tensor.requires_grad_(self.value.requires_grad)


class _Block:
    """Memory that is copied as a whole: what leaves that overlap show."""

    def __init__(self, first: _Leaf) -> None:
        self.leaves = [first]
        self.low, self.high = first.low, first.high
        self.offset = 0

    def take(self, leaf: _Leaf) -> None:
        self.leaves.append(leaf)
        self.high = max(self.high, leaf.high)

    def close(self, end: int) -> int:
        """Find its place behind `end` of the region; returns its own end."""
        if len(self.leaves) == 1:
            self.leaves[0].make_dense()
            self.low, self.high = self.leaves[0].low, self.leaves[0].high
        # elements keep their alignment, whichever of the overlapping leaves begins first
        self.offset = -(-end // _ALIGNMENT) * _ALIGNMENT + self.low % _ALIGNMENT
        return self.offset + self.high - self.low

    def piece(self) -> tuple[int, memoryview]:
        return self.offset, memory_at(self.low, self.high - self.low)

    def rebuilt(self, memory: memoryview) -> Iterator[tuple[int, Any]]:
        start = self.offset - self.low % _ALIGNMENT
        mine = memory[start : self.offset + self.high - self.low]
        storages: dict[str, Any] = {}
        for leaf in self.leaves:
            offset = leaf.offset_from(self.low) + self.low % _ALIGNMENT
            yield id(leaf.value), leaf.over(mine, offset, storages)


def _blocks(leaves: Sequence[_Leaf]) -> list[_Block]:
    blocks: list[_Block] = []
    for leaf in sorted(leaves, key=lambda leaf: leaf.low):
        if blocks and leaf.low < blocks[-1].high:
            blocks[-1].take(leaf)
        else:
            blocks.append(_Block(leaf))
    end = 0
    for block in blocks:
        end = block.close(end)
    return blocks


def _open_region(blocks: Sequence[_Block]) -> memoryview:
    file = MemoryFile()
    last = blocks[-1]
    file.write(last.offset + last.high - last.low, (block.piece() for block in blocks))
    mapping: mmap.mmap = file.mapped(private=False)
    region = _Region(ctypes.addressof(ctypes.c_char.from_buffer(mapping)), len(mapping), file)
    _regions[region.start] = region
    # arrays hold the mapping, the mapping's end takes the region from the list, and with it goes the file
    weakref.finalize(mapping, _forget, region).atexit = False
    return memoryview(mapping)


def _forget(region: _Region) -> None:
    if _regions.get(region.start) is region:
        del _regions[region.start]


def memory_at(address: int, size: int) -> memoryview:
    """Memory of this process; whoever asks keeps alive what lies there."""
    return memoryview((ctypes.c_char * size).from_address(address)).cast("B")


def array_over(
    memory: memoryview, dtype: Any, shape: Sequence[int], offset: int, strides: Sequence[int], writeable: bool
) -> Any:
    """A numpy array over memory, its first element at `offset`."""
    array = sys.modules["numpy"].ndarray(shape, dtype, memory, offset, strides)
    array.flags.writeable = writeable
    return array
