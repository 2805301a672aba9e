"""A parcel: encoded data as segments, small ones inside the message, large ones in one memory file.

The memory file is written once and mapped copy-on-write by every worker, so that its cost does not grow with the
number of workers and no rank can disturb another.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

INLINE_BYTES = 64 * 1024
"""Parcels up to this size travel inside their message."""
_ALIGNMENT = 64
_WRITE_CHUNK = 1 << 30  # one write call moves at most 2 GiB


class MemoryFile:
    """A file without a name, in memory where the system can; gone when nobody holds a descriptor of it."""

    def __init__(self, descriptor: int | None = None) -> None:
        self._descriptor = _new_memory_file() if descriptor is None else descriptor

    def fileno(self) -> int:
        return self._descriptor

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        self.close()


def _new_memory_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("nbaccel", os.MFD_CLOEXEC)
    descriptor, path = tempfile.mkstemp(prefix="nbaccel-")
    os.unlink(path)
    return descriptor


@dataclass(frozen=True)
class Parcel:
    """Encoded data.

    Attributes:
        segments: offset and size in bytes of each segment.
        buffers: numbers of the segments that are pickle's out-of-band buffers, in order; the last one is the pickle.
        inline: all segments' bytes, None when they lie in the memory file.
        file: the memory file; stripped before a message is sent, its descriptor travels beside it.
        sources: source lines of code without a file, by the file name in its code objects.
    """

    segments: tuple[tuple[int, int], ...]
    buffers: tuple[int, ...]
    inline: bytes | None
    file: MemoryFile | None = None
    sources: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @property
    def size_bytes(self) -> int:
        offset, size = self.segments[-1]
        return offset + size

    def for_message(self) -> Parcel:
        """The parcel without its file, as it is pickled into a message."""
        return replace(self, file=None)

    def descriptors(self) -> tuple[int, ...]:
        """What must travel beside the message."""
        return () if self.file is None else (self.file.fileno(),)

    def with_file(self, descriptors: Sequence[int]) -> Parcel:
        """The parcel on the receiving side; takes over its descriptor if one came."""
        return replace(self, file=MemoryFile(descriptors[0])) if descriptors else self

    def close(self) -> None:
        """Let go of the memory file; what is mapped stays."""
        if self.file is not None:
            self.file.close()

    def open(self) -> list[memoryview]:
        """All segments as writable memory, private to this process."""
        whole = memoryview(bytearray(self.inline) if self.inline is not None else self._mapped())
        return [whole[offset : offset + size] for offset, size in self.segments]

    def _mapped(self) -> mmap.mmap:
        assert self.file is not None, "a large parcel comes with its memory file"
        access = mmap.PROT_READ | mmap.PROT_WRITE
        return mmap.mmap(self.file.fileno(), self.size_bytes, flags=mmap.MAP_PRIVATE, prot=access)


Pieces = Sequence[tuple[int, memoryview]]
"""What is to be written of a segment: offsets inside it, and bytes. What is left out reads as zero and is free."""


def pack(
    segments: Iterable[tuple[int, Pieces]],
    buffers: Sequence[int],
    sources: Sequence[tuple[str, tuple[str, ...]]] = (),
) -> Parcel:
    """Lay out segments (size and pieces) one after the other and write them."""
    placed: list[tuple[int, int]] = []
    writes: list[tuple[int, memoryview]] = []
    end = 0
    for size, pieces in segments:
        placed.append((end, size))
        writes += [(end + offset, view) for offset, view in pieces]
        end += -(-size // _ALIGNMENT) * _ALIGNMENT
    offset, size = placed[-1]
    total = offset + size
    inline, file = (_joined(total, writes), None) if total <= INLINE_BYTES else (None, _memory_file(total, writes))
    return Parcel(tuple(placed), tuple(buffers), inline, file, tuple(sources))


def _joined(total: int, writes: Sequence[tuple[int, memoryview]]) -> bytes:
    whole = bytearray(total)
    for offset, view in writes:
        whole[offset : offset + view.nbytes] = view
    return bytes(whole)


def _memory_file(total: int, writes: Sequence[tuple[int, memoryview]]) -> MemoryFile:
    file = MemoryFile()
    os.ftruncate(file.fileno(), total)
    for offset, view in writes:
        written = 0
        while written < view.nbytes:
            written += os.pwrite(file.fileno(), view[written : written + _WRITE_CHUNK], offset + written)
    return file
