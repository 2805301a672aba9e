"""A parcel: encoded data as segments, small ones inside the message, large ones in memory files.

A memory file is written once and mapped copy-on-write by every worker, so that its cost does not grow with the
number of workers and no rank can disturb another. Segments may also lie in files that others own (`wire.shared`):
those are mapped like the rest and never written.
"""

from __future__ import annotations

import mmap
import os
import pickle
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

INLINE_BYTES = 64 * 1024
"""Parcels up to this size travel inside their message."""
MOST_SHARED = 240
"""Shared files in one parcel: a message carries at most 253 descriptors on Linux, a few of which are the parcel's."""
_ALIGNMENT = 64
_WRITE_CHUNK = 1 << 30  # one write call moves at most 2 GiB
# where it can be told not to, a mapping holds no descriptor of its own: kept results must not use them up
_MAP_OPTIONS: dict[str, Any] = {"trackfd": False} if sys.version_info >= (3, 13) else {}


class MemoryFile:
    """A file without a name, in memory where the system can; gone when nobody holds a descriptor of it."""

    def __init__(self, descriptor: int | None = None) -> None:
        self._descriptor = _new_memory_file() if descriptor is None else descriptor

    def fileno(self) -> int:
        return self._descriptor

    def write(self, size: int, writes: Iterable[tuple[int, memoryview]]) -> None:
        """Make the file as large as `size` bytes and write views at offsets; what is left out reads as zero."""
        os.ftruncate(self._descriptor, size)
        for offset, view in writes:
            written = 0
            while written < view.nbytes:
                written += os.pwrite(self._descriptor, view[written : written + _WRITE_CHUNK], offset + written)

    def mapped(self, *, private: bool) -> mmap.mmap:
        """The whole file as writable memory; what is written there stays private, or goes into the file."""
        flags = mmap.MAP_PRIVATE if private else mmap.MAP_SHARED
        access = mmap.PROT_READ | mmap.PROT_WRITE
        size = os.fstat(self._descriptor).st_size
        return mmap.mmap(self._descriptor, size, flags=flags, prot=access, **_MAP_OPTIONS)

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


class Segment(NamedTuple):
    """Where some bytes of a parcel lie: number of the memory, offset and size there."""

    memory: int
    offset: int
    size: int


@dataclass(frozen=True)
class Parcel:
    """Encoded data.

    Attributes:
        segments: where the data lies; memories are the inline bytes or the parcel's own files, then the shared ones.
        buffers: numbers of the segments that are pickle's out-of-band buffers, in order; the last one is the pickle.
        inline: all bytes that are the parcel's own, None when they lie in files.
        num_files: number of the parcel's own files.
        written_bytes: bytes that were written for this parcel, without what reads as zero or lies in shared files.
        files: its own files; stripped before a message is sent, their descriptors travel beside it.
        shared: files that belong to others; they travel in the same way.
        sources: source lines of code without a file, by the file name in its code objects.
    """

    segments: tuple[Segment, ...]
    buffers: tuple[int, ...]
    inline: bytes | None
    num_files: int = 0
    written_bytes: int = 0
    files: tuple[MemoryFile, ...] = ()
    shared: tuple[MemoryFile, ...] = ()
    sources: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @property
    def file(self) -> MemoryFile | None:
        """The first of the parcel's own files, None where it has none."""
        return self.files[0] if self.files else None

    def for_message(self) -> Parcel:
        """The parcel without its files, as it is pickled into a message."""
        return replace(self, files=(), shared=())

    def descriptors(self) -> tuple[int, ...]:
        """What must travel beside the message."""
        return tuple(file.fileno() for file in (*self.files, *self.shared))

    def with_file(self, descriptors: Sequence[int]) -> Parcel:
        """The parcel on the receiving side; takes over the descriptors that came."""
        if not descriptors:
            return self
        files = tuple(map(MemoryFile, descriptors))
        return replace(self, files=files[: self.num_files], shared=files[self.num_files :])

    def close(self) -> None:
        """Let go of the parcel's own files; what is mapped stays, and so do shared files."""
        for file in self.files:
            file.close()

    def open(self) -> list[memoryview]:
        """All segments as writable memory, private to this process."""
        own = [self.inline] if self.inline is not None else [file.mapped(private=True) for file in self.files]
        whole = [memoryview(bytearray(memory) if isinstance(memory, bytes) else memory) for memory in own]
        whole += [memoryview(file.mapped(private=True)) for file in self.shared]
        return [whole[memory][offset : offset + size] for memory, offset, size in self.segments]


Pieces = Sequence[tuple[int, memoryview]]
"""What is to be written of a segment: offsets inside it, and bytes. What is left out reads as zero and is free."""


class Layout:
    """Collects the segments of a parcel, then lays them out one after the other and writes them."""

    def __init__(self) -> None:
        self._own: list[tuple[int, int, int, Callable[[], Pieces]]] = []
        self._lent: list[tuple[int, Segment]] = []
        self._shared: list[MemoryFile] = []
        self._part = 0

    def add(self, size: int, pieces: Callable[[], Pieces]) -> int:
        """Add a segment that must be written. Its pieces are asked for at the end. Returns its number."""
        number = len(self._own) + len(self._lent)
        self._own.append((number, self._part, size, pieces))
        return number

    def add_shared(self, file: MemoryFile, offset: int, size: int) -> int:
        """Add a segment that lies in a shared file. Returns its number. Raises PicklingError: too many files."""
        if file not in self._shared:
            if len(self._shared) == MOST_SHARED:
                raise pickle.PicklingError(
                    f"it holds results of more than {MOST_SHARED} calls of nbaccel.share; "
                    "share several arrays in one call: nbaccel.share([...])"
                )
            self._shared.append(file)
        number = len(self._own) + len(self._lent)
        self._lent.append((number, Segment(self._shared.index(file), offset, size)))
        return number

    def begin_part(self) -> None:
        """What is added from here on lies in a file of its own, whose memory is given back without the others'."""
        self._part += 1

    def parcel(self, buffers: Sequence[int], sources: Sequence[tuple[str, tuple[str, ...]]] = ()) -> Parcel:
        """Write what was added, the pickle last."""
        is_inline = sum(size for _, _, size, _ in self._own) <= INLINE_BYTES
        memories: dict[int, _Memory] = {}
        placed: dict[int, Segment] = {}
        for number, part, size, pieces in self._own:
            memory = memories.setdefault(0 if is_inline else part, _Memory(len(memories)))
            placed[number] = memory.place(size, pieces())
        for number, segment in self._lent:
            placed[number] = segment._replace(memory=len(memories) + segment.memory)
        return Parcel(
            tuple(placed[number] for number in range(len(placed))),
            tuple(buffers),
            memories[0].as_bytes() if is_inline else None,
            0 if is_inline else len(memories),
            sum(memory.written_bytes for memory in memories.values()),
            () if is_inline else tuple(memory.as_file() for memory in memories.values()),
            tuple(self._shared),
            tuple(sources),
        )


class _Memory:
    """Segments that lie one after the other."""

    def __init__(self, number: int) -> None:
        self._number, self._end, self._size = number, 0, 0
        self._writes: list[tuple[int, memoryview]] = []

    def place(self, size: int, pieces: Pieces) -> Segment:
        start = self._end
        self._writes += [(start + offset, view) for offset, view in pieces]
        self._size = start + size
        self._end = start + -(-size // _ALIGNMENT) * _ALIGNMENT
        return Segment(self._number, start, size)

    @property
    def written_bytes(self) -> int:
        return sum(view.nbytes for _, view in self._writes)

    def as_bytes(self) -> bytes:
        whole = bytearray(self._size)
        for offset, view in self._writes:
            whole[offset : offset + view.nbytes] = view
        return bytes(whole)

    def as_file(self) -> MemoryFile:
        file = MemoryFile()
        file.write(max(self._size, 1), self._writes)  # a file without bytes cannot be mapped
        return file
