"""Reading what ranks have written in the format of torch.distributed.checkpoint, without running what it might hold.

Each process reads for itself what it needs, so that none waits for one that failed.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.planner import ReadItem

from nbaccel.errors import StateError
from nbaccel.runtime.checkpoint.manifest import INDEX
from nbaccel.runtime.checkpoint.reading import load_file_of_torch

Path_ = tuple[str | int, ...]
"""Where a value is among nested mappings and lists."""


class ShardFolder:
    """A folder of shards: any rank reads any part of any tensor from it.

    Args:
        folder: has an index.
        load: arguments of `torch.load`; `weights_only=False` reads every object, and runs what it asks for.

    Raises:
        StateError: the index is damaged or holds objects that it should not, or a file is missing.
    """

    def __init__(self, folder: Path, load: Mapping[str, Any] | None = None) -> None:
        self.folder, self._load = folder, dict(load or {})
        self._metadata = _read_index(folder / INDEX, trusted=self._load.get("weights_only") is False)
        self._check_files()

    @property
    def keys(self) -> Iterable[str]:
        """Names of all values."""
        return self._metadata.state_dict_metadata

    def path(self, key: str) -> Path_:
        """Where a value belongs."""
        known = self._metadata.planner_data or {}
        return tuple(known[key]) if key in known else tuple(key.split(".", 1))

    def shape(self, key: str) -> torch.Size | None:
        """The full shape of a tensor, None for another value."""
        found = self._metadata.state_dict_metadata[key]
        return found.size if isinstance(found, TensorStorageMetadata) else None

    def empty(self, key: str) -> torch.Tensor | None:
        """A tensor on the CPU for the whole value; None for what is no tensor."""
        found = self._metadata.state_dict_metadata[key]
        if not isinstance(found, TensorStorageMetadata):
            return None
        return torch.empty(found.size, dtype=found.properties.dtype)

    def dtype(self, key: str) -> torch.dtype | None:
        """The number format of a tensor, None for another value."""
        found = self._metadata.state_dict_metadata[key]
        return found.properties.dtype if isinstance(found, TensorStorageMetadata) else None

    def fill(self, values: dict[str, Any]) -> None:
        """Read values: tensors in place, of a DTensor this rank's part; others take the place of what is there.

        Raises:
            StateError: a file cannot be read, or holds an object that it should not.
        """
        reader, planner = FileSystemReader(self.folder), _Planner(self.folder, self._load)
        try:
            planner.set_up_planner(values, self._metadata, True)
            plan = planner.finish_plan(planner.create_local_plan())
            reader.set_up_storage_reader(self._metadata, True)
            reader.read_data(reader.prepare_local_plan(plan), planner).wait()
        except (OSError, EOFError, KeyError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
            if isinstance(error, StateError):
                raise
            said = (str(error) or type(error).__name__).splitlines()[0]
            raise StateError(f"{self.folder} cannot be read: {said}. Load another checkpoint.") from None

    def whole(self) -> dict[str, Any]:
        """All values, nested as they were, on the CPU."""
        values: dict[str, Any] = {key: self.empty(key) for key in self.keys}
        self.fill(values)
        return nested((self.path(key), value) for key, value in values.items())

    def _check_files(self) -> None:
        places = (self._metadata.storage_data or {}).values()
        ends: dict[str, int] = {}
        for place in places:
            ends[place.relative_path] = max(ends.get(place.relative_path, 0), place.offset + place.length)
        for name, end in ends.items():
            file = self.folder / name
            if not file.is_file() or file.stat().st_size < end:
                state = "is incomplete" if file.is_file() else "is missing"
                raise StateError(f"{file} {state}. All ranks must have written into this one folder.")


class _Planner(DefaultLoadPlanner):
    """As torch's, but objects that are no tensors are read as other files are."""

    def __init__(self, folder: Path, load: Mapping[str, Any]) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self._folder, self._load = folder, load

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        self.state_dict[read_item.dest_index.fqn] = load_file_of_torch(self._folder, value, **self._load)


def nested(values: Iterable[tuple[Path_, Any]]) -> dict[str, Any]:
    """Mappings and lists that hold values at their places."""
    root: dict[Any, Any] = {}
    for path, value in values:
        here = root
        for key in path[:-1]:
            here = here.setdefault(key, {})
        here[path[-1]] = value
    return {name: _with_lists(value) for name, value in root.items()}


def _with_lists(value: Any) -> Any:
    """Numbers for keys, all of them, are places in a list."""
    if not isinstance(value, dict):
        return value
    inner = {key: _with_lists(part) for key, part in value.items()}
    if inner and all(isinstance(key, int) for key in inner):
        return [inner[key] for key in sorted(inner)]
    return inner


def _read_index(path: Path, trusted: bool) -> Metadata:
    try:
        with open(path, "rb") as stream:
            read: Callable[[], Any] = pickle.Unpickler(stream).load if trusted else _Unpickler(stream).load
            found = read()
    except StateError as error:
        raise StateError(f"{path} {error}") from None
    except Exception as error:  # noqa: BLE001 - a damaged pickle can raise anything
        raise StateError(f"{path} cannot be read: {error}. Load another checkpoint.") from None
    if not isinstance(found, Metadata):
        raise StateError(f"{path} is no index of torch.distributed.checkpoint. Load another checkpoint.")
    return found


class _Unpickler(pickle.Unpickler):
    """Makes what an index consists of, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED or (module in _ALLOWED_MODULES and name in _KINDS):
            return super().find_class(module, name)
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        raise StateError(
            f"holds an object of {module}.{name}, and reading it could run any code. If you trust the file: "
            "load_state(..., load_kwargs={'weights_only': False})."
        )


_ALLOWED_MODULES = ("torch.distributed.checkpoint.metadata", "torch.distributed._shard.sharded_tensor.metadata")
_KINDS = (
    "Metadata", "MetadataIndex", "TensorStorageMetadata", "BytesStorageMetadata", "ChunkStorageMetadata",
    "TensorProperties", "StorageMeta", "_MEM_FORMAT_ENCODING", "MEM_FORMAT_ENCODING",
)  # fmt: skip
_ALLOWED = {
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("collections", "OrderedDict"),
    *((module, name) for module in ("pathlib", "pathlib._local") for name in ("PosixPath", "WindowsPath", "Path")),
}
