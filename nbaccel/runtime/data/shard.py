"""One process's share of the batches of a batch sampler."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, cycle, islice
from typing import Any

from torch.utils.data import BatchSampler, Sampler

from nbaccel.errors import PlanError


class BatchSamplerShard(BatchSampler):
    """Takes every n-th batch, or one n-th of every batch.

    Args:
        batch_sampler: makes lists of indices, the same on all processes. Without a `batch_size`, any length of batch
            is full.
        num_processes: number of shares, n.
        process_index: whose share, r.
        split_batches: True takes piece r of each batch; False takes batches r, r + n, ...
        even_batches: fill up the end with samples from the beginning, so that all processes get equally many batches
            of full size; False leaves the end ragged. A sampler that drops its last batch also drops what does not
            reach all processes.

    Raises:
        PlanError: `split_batches` with a batch size that n does not divide.
    """

    def __init__(  # composition: the base class is there for isinstance
        self,
        batch_sampler: Any,
        num_processes: int = 1,
        process_index: int = 0,
        split_batches: bool = False,
        even_batches: bool = True,
    ) -> None:
        self.batch_sampler = batch_sampler
        self.num_processes = num_processes
        self.process_index = process_index
        self.split_batches = split_batches
        self.even_batches = even_batches
        self.batch_size = getattr(batch_sampler, "batch_size", None)  # type: ignore[assignment]  # None: any length
        self.drop_last = bool(getattr(batch_sampler, "drop_last", False))
        if split_batches and (not self.batch_size or self.batch_size % num_processes):
            raise PlanError(
                f"split_batches=True with batches of {self.batch_size}",
                f"they cannot be cut into {num_processes} equal pieces.",
                f"Use a batch_size that is a multiple of {num_processes}, or split_batches=False.",
            )

    @property
    def sampler(self) -> Sampler[int] | Iterable[int]:  # type: ignore[override]  # an attribute in torch
        """The sampler of single indices behind the batches."""
        return self.batch_sampler.sampler

    @property
    def total_length(self) -> int:
        """Batches of all processes together."""
        return len(self.batch_sampler)

    def __len__(self) -> int:
        """Batches of this process. Raises TypeError if the sampler does not know its length."""
        batches = len(self.batch_sampler)
        if self.split_batches:
            return batches - self._misses_last_batch(batches)
        rounds, rest = divmod(batches, self.num_processes)
        if not rest or self.drop_last:
            return rounds
        return rounds + (self.even_batches or self.process_index < rest)

    def _misses_last_batch(self, batches: int) -> bool:
        """Whether a short last batch ends before this process's piece."""
        if self.drop_last or self.even_batches or not batches:
            return False
        last = len(self.batch_sampler.sampler) - (batches - 1) * self.batch_size
        return last <= self._piece * self.process_index

    @property
    def _piece(self) -> int:
        return self.batch_size // self.num_processes

    def __iter__(self) -> Iterator[Any]:
        return self._pieces() if self.split_batches else self._every_nth()

    def _pieces(self) -> Iterator[list[int]]:
        start = self._piece * self.process_index
        stop = start + self._piece
        first = None
        for batch in self.batch_sampler:
            first = first or batch
            if len(batch) < self.batch_size and self.even_batches and not self.drop_last:
                batch = list(islice(chain(batch, cycle(first)), self.batch_size))
            if batch[start:stop]:
                yield batch[start:stop]

    def _every_nth(self) -> Iterator[Any]:
        batches = iter(self.batch_sampler)
        first: list[Any] | None = None
        while batch_round := list(islice(batches, self.num_processes)):
            first = first or batch_round
            if len(batch_round) < self.num_processes or self._is_short(batch_round[-1]):
                batch_round = self._last_round(batch_round, first)
            if self.process_index < len(batch_round):
                yield batch_round[self.process_index]

    def _is_short(self, batch: Any) -> bool:
        return self.batch_size is not None and len(batch) < self.batch_size

    def _last_round(self, batches: list[Any], first: list[Any]) -> list[Any]:
        """What all processes make of a round that has too few batches or a short one."""
        if self.drop_last:
            return []
        if not self.even_batches:
            return batches
        if self.batch_size is None:
            return list(islice(chain(batches, cycle(first)), self.num_processes))
        indices = chain(chain.from_iterable(batches), cycle(chain.from_iterable(first)))
        return [list(islice(indices, self.batch_size)) for _ in range(self.num_processes)]
