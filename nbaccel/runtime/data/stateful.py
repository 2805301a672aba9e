"""torchdata's StatefulDataLoader in the place of torch's loader."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from nbaccel.errors import MissingExtraError


def stateful(loader: DataLoader[Any]) -> DataLoader[Any]:
    """A StatefulDataLoader with the settings of a loader.

    Raises:
        MissingExtraError: torchdata is not installed.
    """
    try:
        kind: Any = importlib.import_module("torchdata.stateful_dataloader").StatefulDataLoader
    except ImportError:
        purpose = "DataLoaderConfiguration(use_stateful_dataloader=True)"
        raise MissingExtraError("torchdata", purpose, "pip install 'torchdata>=0.8'") from None
    if isinstance(loader, kind):
        return loader
    return kind(loader.dataset, **_settings_of(loader, kind))


def _settings_of(loader: DataLoader[Any], kind: Any) -> dict[str, Any]:
    decided = {"dataset", "batch_size", "shuffle", "sampler", "batch_sampler", "drop_last"}
    known = set(inspect.signature(kind).parameters) & set(inspect.signature(DataLoader).parameters) - decided
    settings = {name: getattr(loader, name) for name in known if getattr(loader, name, None) is not None}
    if isinstance(loader.dataset, IterableDataset):
        return settings | {"batch_size": loader.batch_size, "drop_last": loader.drop_last}
    if loader.batch_sampler is None:
        return settings | {"batch_size": None, "sampler": loader.sampler}
    return settings | {"batch_sampler": loader.batch_sampler}
