"""Writing each rank's part of a state in the format of torch.distributed.checkpoint, in three steps.

All ranks agree on who writes what (on the training's thread); each writes its file (on any thread, talking to nobody);
the main process writes the index, once all files are there.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import MetadataIndex, StorageMeta
from torch.distributed.checkpoint.planner import SavePlan

from nbaccel.runtime.checkpoint.agreement import together
from nbaccel.runtime.checkpoint.files import Record, sync_folder, write_checked
from nbaccel.runtime.checkpoint.manifest import INDEX
from nbaccel.runtime.checkpoint.store import Part
from nbaccel.runtime.world import World


@dataclass(frozen=True)
class ShardRecord(Record):
    """What a complete file of shards looks like.

    Attributes:
        places: where in it each value begins, and its length, in bytes.
    """

    places: Mapping[MetadataIndex, tuple[int, int]] = field(default_factory=dict)

    @property
    def plain(self) -> Record:
        return Record(self.num_bytes, self.crc32)


@dataclass(frozen=True)
class ShardPart(Part):
    """One rank's file; its state is a list of values, each with its index: tensors, and bytes of other objects."""

    def write(self, folder: Path) -> ShardRecord:
        path = folder / self.name
        path.parent.mkdir(parents=True, exist_ok=True)
        places: dict[MetadataIndex, tuple[int, int]] = {}
        record = write_checked(path, lambda stream: self._write_values(stream, places))
        sync_folder(path.parent)
        return ShardRecord(record.num_bytes, record.crc32, places)

    def _write_values(self, stream: Any, places: dict[MetadataIndex, tuple[int, int]]) -> None:
        counting: Any = _Counting(stream)
        for index, value in self.state:
            start = counting.num_bytes
            if isinstance(value, torch.Tensor):
                torch.save(_alone(value), counting)
            else:
                counting.write(value)
            places[index] = (start, counting.num_bytes - start)


@dataclass(frozen=True)
class IndexPart(Part):
    """The index of one folder; its state says what there is, and `write_index` adds where."""

    def write_index(self, folder: Path, records: Mapping[str, Record]) -> Record:
        """Write it, onto the disk.

        Args:
            folder: the checkpoint.
            records: of all ranks' files.
        """
        home = PurePosixPath(self.name).parent
        places = {
            index: _StorageInfo(PurePosixPath(name).name, *place)
            for name, record in records.items()
            if isinstance(record, ShardRecord) and PurePosixPath(name).parent == home
            for index, place in record.places.items()
        }
        whole = replace(self.state, storage_data=places, storage_meta=StorageMeta())
        (folder / home).mkdir(parents=True, exist_ok=True)
        record = write_checked(folder / self.name, lambda stream: pickle.dump(whole, stream))
        sync_folder(folder / home)
        return record


class _Counting:
    """A stream that knows how much was written."""

    def __init__(self, stream: Any) -> None:
        self._stream, self.num_bytes = stream, 0

    def write(self, data: Any) -> int:
        count: int = self._stream.write(data)
        self.num_bytes += count
        return count

    def flush(self) -> None:
        """Nothing is held back."""


def _alone(tensor: torch.Tensor) -> torch.Tensor:
    """On the CPU, with nothing else in its memory, as torch.save writes all of it."""
    here = tensor.detach().cpu()
    return here if here.untyped_storage().nbytes() == here.nbytes else here.clone()


class Planned:
    """Who writes what of a state: values that several ranks have are written by one of them.

    Args:
        folder: name of a folder in the checkpoint.
        state: nested mappings and lists of tensors, DTensors and other values; of one form on all ranks.
        world: who saves together. All ranks make this together.
        doing: for the error, if one of them cannot.

    Raises:
        StateError: it failed on another rank.
    """

    def __init__(self, folder: str, state: dict[str, Any], world: World, doing: str) -> None:
        self._folder, self._rank = folder, world.rank
        self._planner = DefaultSavePlanner()

        def local() -> SavePlan:
            self._planner.set_up_planner(state, is_coordinator=world.rank == 0)
            return self._planner.create_local_plan()

        plans, self._index = self._planner.create_global_plan(together(local, world, doing))
        self._plan = self._planner.finish_plan(plans[world.rank])

    def parts(self) -> Iterator[Part]:
        """What this rank writes: at most one file of values, and on rank 0 the index."""
        if self._plan.items:
            values = [(item.index, _value(self._planner.resolve_data(item))) for item in self._plan.items]
            yield ShardPart(f"{self._folder}/__{self._rank}_0.distcp", values)
        if self._rank == 0:
            yield IndexPart(f"{self._folder}/{INDEX}", self._index)


def _value(found: Any) -> Any:
    return found if isinstance(found, torch.Tensor) else found.getvalue()
