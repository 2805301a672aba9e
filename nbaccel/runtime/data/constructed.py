"""A prepared loader that is made by hand, as Accelerate's class of this name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader

from nbaccel.runtime.build import DEVICES
from nbaccel.runtime.data.dispatch import DataLoaderDispatcher
from nbaccel.runtime.data.prepared import PreparedLoader
from nbaccel.runtime.data.settings import Settings, Share
from nbaccel.runtime.data.shuffle import Sync
from nbaccel.runtime.data.stateful import stateful
from nbaccel.runtime.state import GradientState
from nbaccel.runtime.world import current_world


class _Prepared(type):
    """Lets what `prepare` returns be an instance, too."""

    def __instancecheck__(cls, one: object) -> bool:
        if cls is DataLoaderShard:
            return isinstance(one, PreparedLoader) and not isinstance(one, DataLoaderDispatcher)
        return super().__instancecheck__(one)


class DataLoaderShard(PreparedLoader, metaclass=_Prepared):
    """A loader that hands out this process's batches as its sampler makes them, on the device, and knows the last one.

    Args:
        dataset: the dataset.
        device: where batches go; None leaves them where they are.
        rng_types: which random states are taken over from rank 0 when a pass begins: `generator`, `torch`, `cuda`.
        synchronized_generator: the one that `generator` means; None: the loader's own.
        skip_batches: how many batches of each pass are left out.
        use_stateful_dataloader: let torchdata's StatefulDataLoader make the batches.
        _drop_last: accepted as Accelerate does; the loader knows it.
        _non_blocking: copy batches to the device without waiting, if they lie in pinned memory.
        torch_device_mesh: accepted as Accelerate does; the sampler has shared out the batches.
        kwargs: arguments of DataLoader.

    Raises:
        MissingExtraError: torchdata is not installed.
    """

    def __init__(
        self,
        dataset: Any,
        device: torch.device | str | None = None,
        rng_types: Sequence[str] | None = None,
        synchronized_generator: torch.Generator | None = None,
        skip_batches: int = 0,
        use_stateful_dataloader: bool = False,
        _drop_last: bool = False,
        _non_blocking: bool = False,
        torch_device_mesh: Any = None,
        **kwargs: Any,
    ) -> None:
        base: DataLoader[Any] = DataLoader(dataset, **kwargs)
        world = current_world()
        own = [one for one in (synchronized_generator or base.generator,) if isinstance(one, torch.Generator)]
        target = None if device is None else torch.device(device)
        settings = Settings(
            non_blocking=_non_blocking, use_stateful_dataloader=use_stateful_dataloader, already_sharded=True
        )
        super().__init__(
            stateful(base) if use_stateful_dataloader else base,
            base,
            GradientState(),
            Share(world.rank, world.size),
            settings,
            Sync(rng_types or (), own, world),
            None if target is None else DEVICES[target.type](target),
        )
        self.skip_batches = skip_batches
