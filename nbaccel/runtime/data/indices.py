"""Indices on their way to those who read the samples: which ones are skipped, and the seed that goes with each batch.

A worker of a torch loader is seeded once, and its generators go on from batch to batch: to get at the random numbers
of batch 1000 one would have to make the 999 before it. Here a batch's indices carry a seed of their own, made of the
pass's seed, the rank and the number of the batch. So a resumed pass skips what is done without reading it, and random
augmentation depends neither on the number of workers nor on which of them makes a batch. What a `worker_init_fn` sets
up stays, but for the states of the three global generators (Python's, numpy's, torch's).
"""

from __future__ import annotations

import hashlib
import random
import sys
from collections import deque
from collections.abc import Callable, Iterator
from itertools import count, islice, repeat
from typing import Any

import torch

Root = tuple[int, int]
"""The seed of a pass, and a rank."""


class Seeded:
    """Indices that seed the process in which they are unpickled, and turn into themselves there.

    A worker takes one batch's indices from its queue and reads their samples before it takes the next: it gets
    plain indices, and neither the dataset nor the collate function is wrapped.
    """

    __slots__ = ("index", "number", "root")

    def __init__(self, index: Any, root: Root, number: int) -> None:
        self.index, self.root, self.number = index, root, number

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpack, (self.index, self.root, self.number)


def _unpack(index: Any, root: Root, number: int) -> Any:
    seed_for(root, number)
    return index


def seed_for(root: Root, number: int) -> None:
    """Seed the three global generators of this process for one batch."""
    digest = hashlib.blake2b(repr((*root, number)).encode(), digest_size=16).digest()
    seed = int.from_bytes(digest[:8], "little")
    random.seed(seed)
    torch.default_generator.manual_seed(seed)
    if "numpy" in sys.modules:
        import numpy as np

        np.random.seed(np.frombuffer(digest, dtype=np.uint32))


class IndexFeed:
    """A sampler that passes on what another one yields.

    Args:
        source: a sampler or batch sampler.

    Attributes:
        skip: how many to leave out at the beginning of a pass.
        root: what seeds are made of; None sends plain indices, for batches that are made in this process.
        arrived: called in the midst of a pass that resumes another, when the first `skip` are gone.
    """

    def __init__(self, source: Any) -> None:
        self.source = source
        self.skip = 0
        self.root: Root | None = None
        self.arrived: Callable[[], None] | None = None

    def __iter__(self) -> Iterator[Any]:
        indices = self._after(self.skip, self.arrived) if self.skip else iter(self.source)
        return indices if self.root is None else map(Seeded, indices, repeat(self.root), count(self.skip))

    def _after(self, skip: int, arrived: Callable[[], None] | None) -> Iterator[Any]:
        indices = iter(self.source)
        deque(islice(indices, skip), maxlen=0)
        if arrived is not None:
            arrived()
        yield from indices

    def __len__(self) -> int:
        return len(self.source)
