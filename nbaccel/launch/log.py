"""All text of a rank: in memory while it is little, in a file as soon as it is much."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import tempfile
import time
from pathlib import Path
from typing import BinaryIO

import psutil

MEMORY_CHARACTERS = 256 << 10
MOST_FOLDERS = 20

_FOLDER_NAME = re.compile(r"\d{8}-\d{6}-\d+-\d+")
"""Time, process and number of the job."""


class Log:
    """Everything that one rank printed, both streams in their order.

    Args:
        folder: makes the file when the text grows too long for memory.
        rank: whose text this is.
        memory_characters: so much is kept in memory.

    Attributes:
        path: the file that holds the whole text, None while memory does.
        problem: why the text is no longer kept, None while it is. A full disk must not stop a run.
    """

    def __init__(self, folder: LogFolder, rank: int, memory_characters: int = MEMORY_CHARACTERS) -> None:
        self.path: Path | None = None
        self.problem: str | None = None
        self._folder, self._rank = folder, rank
        self._room = memory_characters
        self._kept: list[str] = []
        self._file: BinaryIO | None = None
        self._is_closed = False

    def append(self, stream: int, text: str) -> None:
        """Text that the rank printed on a stream. Does nothing once there was a problem or the log was closed."""
        if self._is_closed or self.problem is not None:
            return
        self._room -= len(text)
        if self._room >= 0:
            self._kept.append(text)
        else:
            self._write_or_give_up(text)

    def to_disk(self) -> None:
        """The cell does not show all of it: keep the whole where it can be read."""
        if self.path is None and not self._is_closed and self.problem is None:
            self._room = -1
            self._write_or_give_up("")

    def _write_or_give_up(self, text: str) -> None:
        try:
            self._write(text)
        except OSError as error:
            self.problem = f"the text of rank {self._rank} is not kept any further: {error}"
            self._close_file()

    def text(self) -> str:
        """The whole text."""
        kept = self._kept  # first: another thread may put it into the file meanwhile
        return "".join(kept) if self.path is None else self.path.read_bytes().decode("utf-8", "replace")

    def tail(self, characters: int) -> str:
        """The last so many characters at most."""
        kept = self._kept
        text = "".join(kept) if self.path is None else _last_bytes(self.path, 4 * characters).decode("utf-8", "ignore")
        return text[max(len(text) - characters, 0) :]

    def close(self) -> None:
        """No more text will come; what there is stays readable."""
        self._is_closed = True
        self._close_file()

    def _write(self, text: str) -> None:
        if self._file is None:
            self._move_to_file()
        assert self._file is not None
        _write_all(self._file, text)

    def _move_to_file(self) -> None:
        path = self._folder.make() / f"rank-{self._rank}.log"
        self._file = path.open("ab", buffering=0)
        _write_all(self._file, "".join(self._kept))
        self.path = path
        self._kept = []

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _write_all(file: BinaryIO, text: str) -> None:
    data = memoryview(text.encode("utf-8", "backslashreplace"))
    while data:
        data = data[file.write(data) :]


def _last_bytes(path: Path, num_bytes: int) -> bytes:
    with path.open("rb") as file:
        file.seek(max(file.seek(0, os.SEEK_END) - num_bytes, 0))
        return file.read()


class LogFolder:
    """The folder of one job's files; made when the first of them is needed, for this user's eyes only.

    Args:
        job: number of the job in this process.
        parent: holds the folders of all users; the system's folder for temporary files.

    Attributes:
        path: the folder, None while there is none.
    """

    def __init__(self, job: int, parent: Path | None = None) -> None:
        self.path: Path | None = None
        self._job = job
        self._parent = parent

    def make(self) -> Path:
        """The folder; made if there is none, and then the oldest ones of jobs whose process has ended are removed."""
        if self.path is None:
            home = _home(Path(tempfile.gettempdir()) if self._parent is None else self._parent)
            path = home / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}-{self._job}"
            path.mkdir(mode=0o700, exist_ok=True)
            self.path = path
            _prune(home)
        return self.path


def _home(parent: Path) -> Path:
    """This user's folder. Anybody may have put something of that name into a folder that all users share."""
    name = f"nbaccel-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        (parent / name).mkdir(mode=0o700)
    for home in (parent / name, *sorted(parent.glob(f"{name}-*"))):
        if _is_own(home):
            return home
    return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=parent))


def _is_own(folder: Path) -> bool:
    """Whether this is a folder, no link to one, that belongs to this user and that nobody else can write to."""
    status = folder.lstat()
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077


def _prune(home: Path) -> None:
    """Remove all but the newest folders, never one of a process that is alive."""
    names = sorted(path.name for path in home.iterdir() if _FOLDER_NAME.fullmatch(path.name))
    for name in names[:-MOST_FOLDERS]:
        if not psutil.pid_exists(int(name.split("-")[2])):
            shutil.rmtree(home / name, ignore_errors=True)
