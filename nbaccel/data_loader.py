"""What training code may import from `nbaccel.data_loader`; nothing inside nbaccel does."""

from nbaccel.runtime.data.constructed import DataLoaderShard
from nbaccel.runtime.data.dispatch import DataLoaderDispatcher
from nbaccel.runtime.data.loader import prepare_data_loader
from nbaccel.runtime.data.samplers import get_sampler
from nbaccel.runtime.data.seedable import SeedableRandomSampler
from nbaccel.runtime.data.shard import BatchSamplerShard
from nbaccel.runtime.data.skip import SkipBatchSampler, SkipDataLoader, skip_first_batches
from nbaccel.runtime.data.stream import IterableDatasetShard

__all__ = [
    "BatchSamplerShard",
    "DataLoaderDispatcher",
    "DataLoaderShard",
    "IterableDatasetShard",
    "SeedableRandomSampler",
    "SkipBatchSampler",
    "SkipDataLoader",
    "get_sampler",
    "prepare_data_loader",
    "skip_first_batches",
]
