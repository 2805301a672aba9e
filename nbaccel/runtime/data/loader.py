"""Makes a loader hand out one process's batches."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler

from nbaccel.errors import PlanError
from nbaccel.runtime.build import DEVICES
from nbaccel.runtime.collectives import broadcast
from nbaccel.runtime.data.dispatch import DataLoaderDispatcher
from nbaccel.runtime.data.prepared import PreparedLoader
from nbaccel.runtime.data.samplers import get_sampler, is_sharded, source_of, twin_of, with_sampler, with_source
from nbaccel.runtime.data.seedable import SeedableRandomSampler
from nbaccel.runtime.data.settings import Settings, Share, Slice
from nbaccel.runtime.data.shard import BatchSamplerShard
from nbaccel.runtime.data.shuffle import Sync, generator_of, share_shuffling
from nbaccel.runtime.data.stateful import stateful
from nbaccel.runtime.data.stream import IterableDatasetShard, own_part
from nbaccel.runtime.devices.device import Device
from nbaccel.runtime.handlers import DataLoaderConfiguration
from nbaccel.runtime.state import GradientState
from nbaccel.runtime.world import World, current_world

__all__ = ["PreparedLoader", "prepare_data_loader", "prepare_loader"]


def prepare_loader(
    loader: DataLoader[Any],
    world: World,
    gradients: GradientState,
    device: Device | None = None,
    config: DataLoaderConfiguration | Settings | None = None,
    rng_types: Collection[str] = ("generator",),
    share: Share | None = None,
) -> PreparedLoader:
    """Make a loader hand out this process's batches.

    Args:
        loader: any DataLoader; never changed. One that was prepared before is prepared afresh.
        world: who shares the batches.
        gradients: is told where each pass stands.
        device: where batches go; None leaves them where they are.
        config: how batches are shared.
        rng_types: which random states are made equal when a pass begins.
        share: whose batches; None for one share per process.

    Raises:
        PlanError: batches that cannot be shared in the way that was asked for.
        MissingExtraError: a package that was asked for is not installed.
    """
    settings = Settings.of(config or DataLoaderConfiguration())
    original = loader.original if isinstance(loader, PreparedLoader) else loader
    share = share or Share(world.rank, world.size)
    dispatched = _is_dispatched(original, world, share, settings, device)
    generators = [original.generator, generator_of(source_of(original)), getattr(original.dataset, "generator", None)]
    own = [generator for generator in generators if isinstance(generator, torch.Generator)]
    base = _seeded(original, world, settings) if settings.use_seedable_sampler else original
    if not dispatched and share.size > 1 and not settings.already_sharded:
        base = _shared(base, world, share, settings, "generator" in rng_types)
    if settings.use_stateful_dataloader:
        base = stateful(base)
    kind = DataLoaderDispatcher if dispatched else PreparedLoader
    return kind(base, original, gradients, share, settings, Sync(rng_types, own, world), device)


def _is_dispatched(
    loader: DataLoader[Any], world: World, share: Share, settings: Settings, device: Device | None
) -> bool:
    """Whether rank 0 reads for all."""
    wanted, everyone = settings.dispatch_batches, Share(world.rank, world.size)
    if wanted and device is None:
        raise PlanError(
            "dispatch_batches=True",
            "batches that the main process reads for all are handed out on the device, and placement is off.",
            "Use device_placement=True (put_on_device=True), or dispatch_batches=False.",
        )
    if wanted and share != everyone:
        raise PlanError(
            "dispatch_batches=True",
            f"there are {share.size} shares of the data for {world.size} processes.",
            "Use dispatch_batches=False, with which each process reads its own batches.",
        )
    if wanted is None:
        wanted = device is not None and isinstance(loader.dataset, IterableDataset) and share == everyone
    return wanted and world.size > 1 and not settings.already_sharded


def _seeded(loader: DataLoader[Any], world: World, settings: Settings) -> DataLoader[Any]:
    """The same loader, shuffling by a seed that all processes share."""
    sampler = get_sampler(loader)
    if not isinstance(sampler, RandomSampler) or isinstance(sampler, SeedableRandomSampler):
        return loader
    seed = settings.data_seed
    if seed is None:
        seed = int(broadcast(torch.tensor(torch.initial_seed() % 2**62), world=world))
    seedable = SeedableRandomSampler(sampler.data_source, sampler.replacement, sampler._num_samples, data_seed=seed)
    return with_source(loader, with_sampler(source_of(loader), seedable))


def _shared(
    loader: DataLoader[Any], world: World, share: Share, settings: Settings, shuffled_alike: bool
) -> DataLoader[Any]:
    """A loader of one share of the batches."""
    if isinstance(loader.dataset, IterableDataset):
        return _shared_stream(loader, share, settings)
    source = source_of(loader)
    if is_sharded(source):
        return loader  # the user cut it already
    if shuffled_alike and not isinstance(get_sampler(loader), SeedableRandomSampler):
        source = share_shuffling(source, world)
    return with_source(
        loader, BatchSamplerShard(source, share.size, share.rank, settings.split_batches, settings.even_batches)
    )


def _shared_stream(loader: DataLoader[Any], share: Share, settings: Settings) -> DataLoader[Any]:
    part = None if settings.split_batches else own_part(loader.dataset, share.size, share.rank)
    if part is not None:
        return twin_of(loader, dataset=part)
    size = 1 if loader.batch_size is None else loader.batch_size  # 1: what the stream yields is a batch already
    split = settings.split_batches
    shard = IterableDatasetShard(loader.dataset, size, loader.drop_last, share.size, share.rank, split)
    if not split or loader.batch_size is None:
        return twin_of(loader, dataset=shard)
    piece = size // share.size
    batches = BatchSampler(loader.sampler, piece, loader.drop_last)
    return twin_of(loader, dataset=shard, batch_size=piece, batch_sampler=batches)


def prepare_data_loader(
    dataloader: DataLoader[Any],
    device: torch.device | None = None,
    num_processes: int | None = None,
    process_index: int | None = None,
    split_batches: bool = False,
    put_on_device: bool = False,
    rng_types: Sequence[str] | None = None,
    dispatch_batches: bool | None = None,
    even_batches: bool = True,
    slice_fn_for_dispatch: Slice | None = None,
    use_seedable_sampler: bool = False,
    data_seed: int | None = None,
    non_blocking: bool = False,
    use_stateful_dataloader: bool = False,
    torch_device_mesh: Any = None,
    already_sharded: bool = False,
) -> PreparedLoader:
    """Make a loader hand out one process's batches, without an `Accelerator`.

    Args:
        dataloader: any DataLoader; never changed.
        device: where batches go, with `put_on_device`; None for this process's device.
        num_processes: number of shares; None for the number of processes.
        process_index: whose share; None for this process's.
        split_batches: cut each batch into one piece per process, instead of one batch per process.
        put_on_device: whether to move batches.
        rng_types: which random states are made equal when a pass begins; None for `generator`.
        dispatch_batches: read all batches in the main process; None does so for streams that are put on a device.
        even_batches: give all processes equally many full batches.
        slice_fn_for_dispatch: cuts pieces out of what the main process has read, see `Settings.slice_fn`.
        use_seedable_sampler: shuffle by a seed and the number of the epoch.
        data_seed: that seed; None takes the main process's.
        non_blocking: copy batches to the device without waiting, if they lie in pinned memory.
        use_stateful_dataloader: let torchdata's StatefulDataLoader make the batches.
        torch_device_mesh: ranks that differ only in dimensions `tp` and `cp` of it get the same batches.
        already_sharded: the loader makes one process's batches as it is.

    Raises:
        PlanError: batches that cannot be shared in the way that was asked for.
        MissingExtraError: a package that was asked for is not installed.
    """
    world = current_world()
    share = _share_on(torch_device_mesh, Share(world.rank, world.size))
    if num_processes is not None:
        share = replace(share, size=num_processes)
    if process_index is not None:
        share = replace(share, rank=process_index)
    target = world.device if device is None else torch.device(device)
    settings = Settings(
        split_batches,
        dispatch_batches,
        even_batches,
        use_seedable_sampler,
        data_seed,
        non_blocking,
        use_stateful_dataloader,
        already_sharded,
        slice_fn_for_dispatch,
    )
    place = DEVICES[target.type](target) if put_on_device else None
    kinds = ("generator",) if rng_types is None else rng_types
    return prepare_loader(dataloader, world, GradientState(), place, settings, kinds, share)


_DATA_DIMENSIONS = ("dp_replicate", "dp_shard", "dp", "fsdp")


def _share_on(mesh: Any, share: Share) -> Share:
    """The share of a rank on a device mesh: its place among those that see different data."""
    if mesh is None:
        return share
    place = dict(zip(mesh.mesh_dim_names, mesh.get_coordinate(), strict=True))
    rank, size = 0, 1
    for name in (name for name in mesh.mesh_dim_names if name in _DATA_DIMENSIONS):
        width = mesh[name].size()
        rank, size = rank * width + place[name], size * width
    return Share(rank, size)
