"""How one loader is prepared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

Slice = Callable[..., Any]


@dataclass(frozen=True)
class Settings:
    """How batches are shared; names and defaults of Accelerate.

    Attributes:
        split_batches: cut each batch into one piece per process, instead of one batch per process.
        dispatch_batches: read all batches in the main process; None does so for streams that are put on a device.
        even_batches: give all processes equally many full batches.
        use_seedable_sampler: shuffle by a seed and the number of the epoch.
        data_seed: that seed; None takes the one of torch's generator in the main process.
        non_blocking: copy batches to the device without waiting, if they lie in pinned memory.
        use_stateful_dataloader: let torchdata's StatefulDataLoader make the batches.
        already_sharded: the loader makes one process's batches as it is.
        slice_fn: cuts one process's piece out of a round of batches that the main process has read:
            `slice_fn(batch, slice, process_index=, num_processes=)`; None slices tensors along dimension 0.
    """

    split_batches: bool = False
    dispatch_batches: bool | None = None
    even_batches: bool = True
    use_seedable_sampler: bool = False
    data_seed: int | None = None
    non_blocking: bool = False
    use_stateful_dataloader: bool = False
    already_sharded: bool = False
    slice_fn: Slice | None = None

    @classmethod
    def of(cls, config: object) -> Settings:
        """The fields that an object of the constructor (`DataLoaderConfiguration`) has."""
        return cls(**{item.name: getattr(config, item.name) for item in fields(cls) if hasattr(config, item.name)})


@dataclass(frozen=True)
class Share:
    """Whose batches a loader makes.

    Attributes:
        rank: number of the share, from 0. Ranks of one tensor-parallel group have the same.
        size: number of shares.
    """

    rank: int
    size: int
