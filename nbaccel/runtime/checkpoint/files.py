"""Files that are on the disk when they are closed, with a checksum of what was written."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from typing_extensions import Self

from nbaccel.runtime.checkpoint.threads import started

_CHUNK_BYTES = 16 << 20
_WORTH_A_THREAD_BYTES = 1 << 18
_SYNC_EVERY_BYTES = 64 << 20
_sync_data = getattr(os, "fdatasync", os.fsync)


@dataclass(frozen=True)
class Record:
    """What a complete file looks like.

    Attributes:
        num_bytes: its length.
        crc32: the checksum of zlib, as eight hexadecimal digits.
    """

    num_bytes: int
    crc32: str


class CheckedFile:
    """A new file, open for writing, as the `with` block that makes it; what is written goes to the disk on the way.

    The checksum is computed, and the disk waited for, in threads: neither needs Python's lock.

    Args:
        path: where; a file that is there is overwritten.

    Attributes:
        record: its length and checksum, once it is closed.
    """

    record: Record

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), 0o666)
        self._num_bytes, self._crc, self._unsynced = 0, 0, 0
        self._syncing: Future[None] | None = None

    def write(self, data: Any) -> int:
        """Append bytes. Raises OSError when the disk is full."""
        view = memoryview(data).cast("B")
        for start in range(0, len(view), _CHUNK_BYTES):
            self._append(view[start : start + _CHUNK_BYTES])
        return len(view)

    def flush(self) -> None:
        """Nothing is held back."""

    def _append(self, piece: memoryview) -> None:
        if len(piece) < _WORTH_A_THREAD_BYTES:
            _write_all(self._descriptor, piece)
            self._crc = zlib.crc32(piece, self._crc)
        else:
            checking = started(zlib.crc32, piece, self._crc)
            try:
                _write_all(self._descriptor, piece)
            finally:
                self._crc = checking.result()  # the memory is the caller's again when this returns
        self._num_bytes += len(piece)
        self._unsynced += len(piece)
        if self._unsynced >= _SYNC_EVERY_BYTES and (self._syncing is None or self._syncing.done()):
            self._unsynced = 0
            self._syncing = started(_sync_data, self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._syncing is not None:
                wait([self._syncing])
            if kind is None:
                if self._syncing is not None:
                    self._syncing.result()
                os.fsync(self._descriptor)
        finally:
            os.close(self._descriptor)
        self.record = Record(self._num_bytes, f"{self._crc:08x}")


def _write_all(descriptor: int, piece: memoryview) -> None:
    while len(piece):
        piece = piece[os.write(descriptor, piece) :]


def write_checked(path: Path, write: Callable[[Any], Any]) -> Record:
    """Make a file.

    Args:
        path: where.
        write: is given the open file.
    """
    with CheckedFile(path) as stream:
        write(stream)
    return stream.record


def write_whole(path: Path, write: Callable[[Any], Any]) -> Record:
    """Make a file, or replace one, so that there is never half of it.

    Args:
        path: where.
        write: is given the open file.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        record = write_checked(unfinished, write)
        os.replace(unfinished, path)
    except BaseException:
        with suppress(FileNotFoundError):
            unfinished.unlink()
        raise
    sync_folder(path.parent)
    return record


def record_of(path: Path) -> Record:
    """Read a file to its end."""
    crc, num_bytes = 0, 0
    with open(path, "rb", buffering=0) as stream:
        buffer = memoryview(bytearray(_CHUNK_BYTES))
        while count := stream.readinto(buffer):
            crc = zlib.crc32(buffer[:count], crc)
            num_bytes += count
    return Record(num_bytes, f"{crc:08x}")


def sync_folder(folder: Path) -> None:
    """Make the names in a folder last; a system that cannot do it does it by itself."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
