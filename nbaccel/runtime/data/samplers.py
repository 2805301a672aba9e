"""Where a loader's indices come from, and the same loader with others."""

from __future__ import annotations

import copy
from typing import Any

from torch.utils.data import BatchSampler, DataLoader, DistributedSampler


def slot_of(loader: DataLoader[Any]) -> str:
    """Where torch looks for the indices of a batch."""
    return "sampler" if loader.batch_sampler is None else "batch_sampler"


def source_of(loader: DataLoader[Any]) -> Any:
    """What makes the indices of a loader's batches."""
    return getattr(loader, slot_of(loader))


def inner_of(source: Any) -> Any:
    """The sampler that a sampler draws from, None if there is none."""
    found = getattr(source, "batch_sampler", None)
    return getattr(source, "sampler", None) if found is None else found


def is_sharded(source: Any) -> bool:
    """Whether a sampler already yields one process's share."""
    while source is not None:
        if isinstance(source, DistributedSampler):
            return source.num_replicas > 1
        source = inner_of(source)
    return False


def twin_of(loader: DataLoader[Any], **slots: Any) -> DataLoader[Any]:
    """A loader like the given one, with other values in some slots; keeps whatever a subclass adds."""
    twin = copy.copy(loader)
    # Past torch's __setattr__, which forbids it. Persistent workers of the original serve the original.
    twin.__dict__.update(slots, _iterator=None, _IterableDataset_len_called=None)
    return twin


def with_source(loader: DataLoader[Any], source: Any) -> DataLoader[Any]:
    """A loader like the given one, over other indices."""
    return twin_of(loader, **{slot_of(loader): source})


def with_sampler(source: Any, sampler: Any) -> Any:
    """A batch sampler like the given one, with another sampler of single indices at its bottom."""
    name = next((name for name in ("batch_sampler", "sampler") if getattr(source, name, None) is not None), None)
    if name is None:
        return sampler
    twin = copy.copy(source)
    setattr(twin, name, with_sampler(getattr(source, name), sampler))
    return twin


def get_sampler(dataloader: DataLoader[Any]) -> Any:
    """The sampler of single indices of any loader, None if it has none."""
    own = dataloader.sampler
    batches = own if isinstance(own, BatchSampler) else dataloader.batch_sampler
    return getattr(batches, "sampler", None)
