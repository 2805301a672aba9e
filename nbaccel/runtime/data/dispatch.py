"""A loader whose batches the main process reads for all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import torch

from nbaccel.runtime.data.parcels import Parcel, Post, joined, rows_of
from nbaccel.runtime.data.passes import Pass, hand_out, look_ahead
from nbaccel.runtime.data.prepared import PreparedLoader
from nbaccel.runtime.data.saved import Saved
from nbaccel.runtime.data.settings import Slice
from nbaccel.runtime.nested import map_tensors


class DataLoaderDispatcher(PreparedLoader):
    """Rank 0 reads a round of batches (one batch, with `split_batches`), and every rank gets its piece of it.

    A last round that cannot be cut into equal pieces is filled up with samples of the first.
    """

    @property
    def split_batches(self) -> bool:
        """Whether a round is one batch of the original loader."""
        return self._settings.split_batches

    @property
    def slice_fn(self) -> Slice | None:
        """What cuts a piece out of a round, None for the usual way."""
        return self._settings.slice_fn

    @property
    def _per_round(self) -> int:
        return 1 if self.split_batches else self._share.size

    def __len__(self) -> int:
        """Batches of this process. Raises TypeError if nobody knows."""
        return max(self._rounds(len(self.base_dataloader)) - self.skip_batches, 0)

    def _rounds(self, batches: int) -> int:
        return batches // self._per_round if self._drop_last else -(-batches // self._per_round)

    def _remainder(self) -> int:
        return -1  # known when the last round has been read

    @property
    def _is_divisible(self) -> bool:
        return True

    def _batches(self, position: Pass, saved: Saved | None) -> Iterator[Any]:
        post = Post(self._sync.world)
        parcels = self._sent(post, position, saved) if self._share.rank == 0 else self._received(post, position, saved)
        return self._fed(_opened(parcels, position))

    def _received(self, post: Post, position: Pass, saved: Saved | None) -> Iterator[Parcel]:
        if saved is not None:
            self._reader.stand_by(saved, saved.fits(self._share.size, self._share.rank))
        while not position.end and (parcel := post.receive()) is not None:
            yield parcel

    def _sent(self, post: Post, position: Pass, saved: Saved | None) -> Iterator[Parcel]:
        inner = Pass(None, -1, position.taken)
        rounds = self._completed(inner, position, saved)
        while not position.end:
            try:
                found = next(rounds, None)
                pieces = None if found is None or self.slice_fn is None else self._pieces(*found[:2])
            except Exception:
                post.send_trouble()
                raise
            if found is None:
                post.send_nothing()
                return
            batch, rows, remainder = found
            if pieces is None:
                yield post.send(batch, rows, inner.end, remainder)
            else:
                yield post.send_pieces(pieces, inner.end, remainder)

    def _completed(self, inner: Pass, position: Pass, saved: Saved | None) -> Iterator[tuple[Any, int, int]]:
        """Rounds that can be cut, with the samples for each rank, and those that were read if the round is not full."""
        first = self._first_round(saved)
        for batches in self._of_rounds(inner, position, saved):
            batch = joined(batches)
            first = batch if first is None else first
            read, ranks = rows_of(batch), self._share.size
            rows = -(-read // ranks)
            total = self.total_batch_size
            remainder = -1 if self._drop_last or not total else read % total
            if rows * ranks > read:
                batch = joined([batch, _taken(first, rows * ranks - read)])
                remainder = -1 if self._drop_last else read
            yield batch, rows, remainder

    def _first_round(self, saved: Saved | None) -> Any:
        """What fills up the end of a pass whose beginning was made before; None at the beginning."""
        if saved is None or self._drop_last:
            return None
        return joined(self._reader.beginning(saved, self._per_round))

    def _of_rounds(self, inner: Pass, position: Pass, saved: Saved | None) -> Iterator[Sequence[Any]]:
        skip = inner.taken * self._per_round
        if saved is None:
            batches = self._reader.open(skip)
        else:
            same = saved.fits(self._share.size, self._share.rank)
            batches = self._reader.reopen(saved, skip, same, self._per_round)
        length = self._reader.known_length()
        rounds = self._grouped(batches)
        if length is None:
            return look_ahead(rounds, inner, lambda: self._reader.note(position))
        return hand_out(rounds, self._rounds(length) - inner.taken, inner)

    def _grouped(self, batches: Iterator[Any]) -> Iterator[Sequence[Any]]:
        while found := list(islice(batches, self._per_round)):
            if self._drop_last and len(found) < self._per_round:
                return
            yield found

    def _pieces(self, batch: Any, rows: int) -> list[Any]:
        assert self.slice_fn is not None
        ranks = range(self._share.size)
        return [
            self.slice_fn(batch, slice(r * rows, (r + 1) * rows), process_index=r, num_processes=len(ranks))
            for r in ranks
        ]


def _opened(parcels: Iterator[Parcel], position: Pass) -> Iterator[Any]:
    for parcel in parcels:
        position.end, position.remainder = parcel.end, parcel.remainder
        position.taken += 1
        yield parcel.piece


def _taken(batch: Any, rows: int) -> Any:
    """As many samples from the beginning of a batch, over and over if it has too few."""
    return map_tensors(lambda leaf: leaf[torch.arange(rows, device=leaf.device) % len(leaf)], batch)
