"""The prepared loader: batches of this process on its device, and a flag at the last one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator
from itertools import islice
from typing import Any

from torch.utils.data import DataLoader, DistributedSampler, IterableDataset

from nbaccel.errors import PlanError
from nbaccel.runtime.data.shard import BatchSamplerShard
from nbaccel.runtime.data.shuffle import Sync, generator_of, share_shuffling
from nbaccel.runtime.devices.device import Device
from nbaccel.runtime.handlers import DataLoaderConfiguration
from nbaccel.runtime.state import GradientState, Position
from nbaccel.runtime.world import World


class PreparedLoader(DataLoader[Any]):
    """A DataLoader that hands out one process's batches; all else it knows it passes on from the original.

    Args:
        base: a loader that makes this process's batches, on the CPU.
        original: the user's loader.
        gradients: is told where each pass stands.
        device: where batches go; None leaves them where they are.
        non_blocking: do not wait for copies from pinned memory.
        sync: called when a pass begins.

    Attributes:
        base_dataloader: the loader that makes this process's batches.
        original: the user's loader.
        iteration: number of the next pass, from 0; samplers and datasets with `set_epoch` are told.
        position: where the last pass stands.
    """

    def __init__(  # composition: the base class is there for isinstance
        self,
        base: DataLoader[Any],
        original: DataLoader[Any],
        gradients: GradientState,
        device: Device | None = None,
        non_blocking: bool = False,
        sync: Callable[[], None] = lambda: None,
    ) -> None:
        self.base_dataloader, self.original = base, original
        self.iteration = 0
        self.position = Position(self)
        self._gradients = gradients
        self._feed = device.feed if device is not None else _untouched
        self._non_blocking = non_blocking
        self._sync = sync

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # a generator closes itself when a loop breaks
        self._sync()
        self.set_epoch(self.iteration)
        position = self.position = Position(self, self._remainder())
        self._gradients.begin_pass(position)
        try:
            batches = self._feed(iter(self.base_dataloader), self._non_blocking)
            length = self._known_length()
            if length is None:
                yield from _with_look_ahead(batches, position)
            else:
                yield from islice(batches, max(length - 1, 0))
                position.end = True
                yield from batches
        finally:
            self._gradients.finish_pass(position)
        self.iteration += 1

    def __len__(self) -> int:
        """Batches of this process. Raises TypeError if nobody knows."""
        return len(self.base_dataloader)

    @property
    def end_of_dataloader(self) -> bool:
        """True from the last batch of a pass on."""
        return self.position.end

    @property
    def remainder(self) -> int:
        """Samples in the last round of batches over all processes; 0 if it is full, -1 if nobody knows."""
        return self.position.remainder

    @property
    def total_batch_size(self) -> int | None:
        """Samples per round of batches over all processes; None if batches differ in size."""
        source = _source_of(self.base_dataloader)
        size = getattr(source, "batch_size", None)
        if size is None or getattr(source, "split_batches", False):
            return size
        return int(size * getattr(source, "num_processes", 1))

    @property
    def total_dataset_length(self) -> int:
        """Samples in the whole dataset. Raises TypeError if nobody knows."""
        return len(self.original.dataset)  # type: ignore[arg-type]  # map-style datasets mostly have a length

    def set_epoch(self, epoch: int) -> None:
        """Make the next pass number `epoch`, and tell whatever shuffles by epochs."""
        self.iteration = epoch
        owner: Any = _source_of(self.base_dataloader)
        while owner is not None:
            if hasattr(owner, "set_epoch"):
                owner.set_epoch(epoch)
                return
            owner = _inner(owner)
        if hasattr(self.original.dataset, "set_epoch"):
            self.original.dataset.set_epoch(epoch)

    def _known_length(self) -> int | None:
        """Number of batches, where it can be trusted."""
        base = self.base_dataloader
        if isinstance(base.dataset, IterableDataset) or type(base).__iter__ is not DataLoader.__iter__:
            return None
        try:
            return len(base)
        except TypeError:
            return None

    def _remainder(self) -> int:
        source = _source_of(self.base_dataloader)
        total = self.total_batch_size
        if total is None or getattr(source, "drop_last", False) or _is_sharded(source):
            return -1
        try:
            return len(source.sampler) % total
        except (AttributeError, TypeError):
            return -1

    def __getattr__(self, name: str) -> Any:
        if name == "base_dataloader":  # not there yet, while unpickling
            raise AttributeError(name)
        return getattr(self.base_dataloader, name)


def prepare_loader(
    loader: DataLoader[Any],
    world: World,
    gradients: GradientState,
    device: Device | None = None,
    config: DataLoaderConfiguration | None = None,
    rng_types: Collection[str] = ("generator",),
) -> PreparedLoader:
    """Make a loader hand out this process's batches.

    Args:
        loader: any DataLoader; never changed. One that was prepared before is prepared afresh.
        world: who shares the batches.
        gradients: is told where each pass stands.
        device: where batches go; None leaves them where they are.
        config: how batches are shared.
        rng_types: which random states are made equal when a pass begins.

    Raises:
        PlanError: an iterable dataset on several processes, or batches that cannot be split.
    """
    config = config or DataLoaderConfiguration()
    original = loader.original if isinstance(loader, PreparedLoader) else loader
    base = _sharded(original, world, config, "generator" in rng_types) if world.size > 1 else original
    generators = [original.generator, generator_of(_source_of(original))]
    sync = Sync(rng_types, [generator for generator in generators if generator is not None], world)
    return PreparedLoader(base, original, gradients, device, config.non_blocking, sync)


def _sharded(loader: DataLoader[Any], world: World, config: DataLoaderConfiguration, shared: bool) -> DataLoader[Any]:
    if isinstance(loader.dataset, IterableDataset):
        raise PlanError(
            f"preparing a loader over {type(loader.dataset).__name__} for {world.size} processes",
            "nbaccel cannot share out iterable datasets yet.",
            "Use a map-style dataset (one with __getitem__ and __len__).",
        )
    source = _source_of(loader)
    if _is_sharded(source):
        return loader  # the user cut it already
    if shared:
        source = share_shuffling(source, world)
    shard = BatchSamplerShard(source, world.size, world.rank, config.split_batches, config.even_batches)
    twin = copy.copy(loader)  # keeps collate function, workers and whatever a subclass adds
    twin.__dict__[_slot_of(loader)] = shard  # torch forbids it by assignment, for those who already iterate
    twin.__dict__["_iterator"] = None  # persistent workers of the original serve the original
    return twin


def _slot_of(loader: DataLoader[Any]) -> str:
    """Where torch looks for the indices of a batch."""
    return "sampler" if loader.batch_sampler is None else "batch_sampler"


def _source_of(loader: DataLoader[Any]) -> Any:
    return getattr(loader, _slot_of(loader))


def _is_sharded(source: Any) -> bool:
    """Whether a sampler already yields one process's share."""
    while source is not None:
        if isinstance(source, DistributedSampler):
            return source.num_replicas > 1
        source = _inner(source)
    return False


def _inner(source: Any) -> Any:
    """The sampler that a sampler draws from, None if there is none."""
    found = getattr(source, "batch_sampler", None)
    return getattr(source, "sampler", None) if found is None else found


def _untouched(batches: Iterator[Any], non_blocking: bool) -> Iterator[Any]:
    return batches


def _with_look_ahead(batches: Iterator[Any], position: Position) -> Iterator[Any]:
    """Fetches one batch more than it hands out: the only way to know the last one of a stream."""
    try:
        batch = next(batches)
    except StopIteration:
        return
    for following in batches:
        yield batch
        batch = following
    position.end = True
    yield batch
