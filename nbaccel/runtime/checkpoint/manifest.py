"""What a complete checkpoint consists of, as a file inside it, and whether a folder still agrees with its own."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nbaccel.runtime.checkpoint.files import Record, record_of, write_whole
from nbaccel.runtime.checkpoint.threads import in_threads

FILE = "nbaccel_checkpoint.json"
INDEX = ".metadata"
"""In a folder of shards, the file that says what the others there hold."""
FORMAT = 1
_READERS = 4


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint consists of.

    Attributes:
        files: length and checksum of each file, by its path inside the checkpoint.
        world_size: number of processes that trained.
        step: micro-batches since the last loader ended.
        objects: how many objects of each kind there are: `models`, `optimizers`, ...
        time: when it was written, in ISO form.
        versions: of the software that wrote it.
    """

    files: Mapping[str, Record]
    world_size: int
    step: int = 0
    objects: Mapping[str, int] = field(default_factory=dict)
    time: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        text = json.dumps({"format": FORMAT, **asdict(self)}, indent=1).encode()
        write_whole(folder / FILE, lambda stream: stream.write(text))


def read_manifest(folder: Path) -> Manifest | None:
    """What a folder says of itself; None where nobody wrote a manifest (a checkpoint of Accelerate).

    Raises:
        ValueError: the manifest cannot be read, or comes from a later nbaccel; says why.
    """
    try:
        data = json.loads((folder / FILE).read_bytes())
    except FileNotFoundError:
        return None
    try:
        written = data.pop("format")
        if written > FORMAT:
            raise ValueError(f"{FILE} has format {written}; this nbaccel reads up to {FORMAT}")
        files = {name: Record(**record) for name, record in data.pop("files").items()}
        return Manifest(files=files, **data)
    except (AttributeError, KeyError, TypeError):
        raise ValueError(f"{FILE} does not say what the checkpoint consists of") from None


def trouble_with(folder: Path, *, thorough: bool = True) -> str:
    """Why a folder is no complete checkpoint, empty if it is one.

    Args:
        folder: a checkpoint; one without a manifest is judged by what its files look like.
        thorough: compare checksums, not lengths alone.
    """
    try:
        manifest = read_manifest(folder)
    except (OSError, ValueError) as error:
        return str(error) or FILE
    if manifest is None:
        return _trouble_without_manifest(folder)
    for name, record in manifest.files.items():
        if trouble := _wrong_length(folder / name, name, record.num_bytes):
            return trouble
    if not thorough:
        return ""
    checks = in_threads(lambda item: _wrong_content(folder / item[0], *item), manifest.files.items(), _READERS)
    return next(filter(None, checks), "")


def _wrong_length(path: Path, name: str, num_bytes: int) -> str:
    try:
        found = path.stat().st_size
    except OSError:
        return f"{name} is missing"
    return "" if found == num_bytes else f"{name} has {found:,} bytes instead of {num_bytes:,}"


def _wrong_content(path: Path, name: str, record: Record) -> str:
    try:
        return "" if record_of(path) == record else f"the content of {name} is not what was written"
    except OSError as error:
        return f"{name} cannot be read ({error.strerror})"


def _trouble_without_manifest(folder: Path) -> str:
    if not any(folder.glob("random_states_*.pkl")):
        return "there are no random states in it, which every checkpoint has"
    for path in sorted(folder.iterdir()):
        if any(path.glob("*.distcp")) and not (path / INDEX).is_file():
            return f"{path.name} has no {INDEX}"
        looks_whole = _LOOKS_WHOLE.get(path.suffix)
        if looks_whole is not None and path.is_file() and not looks_whole(path):
            return f"{path.name} is incomplete"
    return ""


def _is_safetensors(path: Path) -> bool:
    with open(path, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > path.stat().st_size:
            return False
        try:
            header = json.loads(stream.read(length))
        except ValueError:
            return False
    ends = [value["data_offsets"][1] for name, value in header.items() if name != "__metadata__"]
    return path.stat().st_size == 8 + length + max(ends, default=0)


_LOOKS_WHOLE: dict[str, Callable[[Path], bool]] = {
    ".safetensors": _is_safetensors,
    ".bin": zipfile.is_zipfile,
    ".pkl": zipfile.is_zipfile,
    ".pt": zipfile.is_zipfile,
}


def records_beside(folder: Path, known: Iterable[str]) -> dict[str, Record]:
    """Records of files that others (hooks, libraries) have put into a folder."""
    mine = set(known)
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    return {name: record_of(folder / name) for name in names if name not in mine}


def versions() -> dict[str, Any]:
    """Of the software that writes."""
    import torch

    from nbaccel import __version__

    return {"nbaccel": __version__, "torch": torch.__version__}
