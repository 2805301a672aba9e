"""How a round of batches gets from the main process to all: each rank is sent its own piece, and nothing else."""

from __future__ import annotations

import math
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
import torch.distributed as dist

from nbaccel.errors import PlanError, StateError
from nbaccel.runtime.nested import leaves_of, map_tensors, with_leaves
from nbaccel.runtime.world import World

_NOTHING, _TENSORS, _OBJECTS, _TROUBLE = range(4)
_ALIGNMENT_BYTES = 16


@dataclass(frozen=True)
class Parcel:
    """One rank's piece of a round.

    Attributes:
        piece: the batch.
        end: whether it is the last of the pass.
        remainder: samples in the round over all ranks; 0 if it is full, -1 if nobody knows.
    """

    piece: Any
    end: bool
    remainder: int


@dataclass(frozen=True)
class Form:
    """What batches look like, but for their number of samples.

    Attributes:
        tree: the nested data, with numbers in the place of tensors.
        dtypes: of the tensors.
        shapes: theirs, without dimension 0.
    """

    tree: Any
    dtypes: tuple[torch.dtype, ...]
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, batch: Any) -> Form:
        leaves = leaves_of(batch)
        numbers = count()
        tree = map_tensors(lambda _: next(numbers), batch)
        return cls(tree, tuple(leaf.dtype for leaf in leaves), tuple(tuple(leaf.shape[1:]) for leaf in leaves))

    def sizes_bytes(self, rows: int) -> list[int]:
        """Sizes of the tensors with this many samples."""
        return [rows * math.prod(s) * d.itemsize for s, d in zip(self.shapes, self.dtypes, strict=True)]

    def unpack(self, packed: torch.Tensor, rows: int) -> Any:
        """The batch whose bytes these are."""
        places = _places(self.sizes_bytes(rows))
        leaves = [
            packed[start:stop].view(dtype).view(rows, *shape)
            for (start, stop), dtype, shape in zip(places, self.dtypes, self.shapes, strict=True)
        ]
        return with_leaves(self.tree, iter(leaves))


def _places(sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Where tensors of these sizes lie in a parcel: at multiples of what any dtype wants."""
    places, start = [], 0
    for size in sizes:
        places.append((start, start + size))
        start += -(-size // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
    return places


class Post:
    """Carries parcels from rank 0 to all; each call is a collective.

    A header of five numbers goes ahead, what batches look like goes only when it changes, and the samples go in one
    scatter.

    Args:
        world: who takes part.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._known = b""
        self._form: Form | None = None

    def send(self, batch: Any, rows: int, end: bool, remainder: int) -> Parcel:
        """From rank 0: cut a batch of `rows` samples per rank along dimension 0."""
        form = Form.of(batch)
        told = pickle.dumps(form)
        news = b"" if told == self._known else told
        self._announce(_TENSORS, end, remainder, rows, len(news))
        if news:
            self._share_bytes(torch.frombuffer(bytearray(news), dtype=torch.uint8))
            self._known = told
        packed = self._scatter(form, rows, self._packed(form, rows, leaves_of(batch)))
        return Parcel(form.unpack(packed, rows), end, remainder)

    def send_pieces(self, pieces: Sequence[Any], end: bool, remainder: int) -> Parcel:
        """From rank 0: pieces that somebody has cut already, as objects."""
        self._announce(_OBJECTS, end, remainder, 0, 0)
        return Parcel(self._scatter_objects(pieces), end, remainder)

    def send_nothing(self) -> None:
        """From rank 0: the pass is over without another batch."""
        self._announce(_NOTHING, True, -1, 0, 0)

    def send_trouble(self) -> None:
        """From rank 0: no batch could be made."""
        self._announce(_TROUBLE, True, -1, 0, 0)

    def receive(self) -> Parcel | None:
        """On the other ranks: what rank 0 has sent, None if nothing.

        Raises:
            StateError: rank 0 has failed.
        """
        kind, end, remainder, rows, news = self._announce(0, False, 0, 0, 0)
        if kind == _NOTHING:
            return None
        if kind == _TROUBLE:
            raise StateError("rank 0 could not make the next batch for all ranks; its own error says why.")
        if kind == _OBJECTS:
            return Parcel(self._scatter_objects(None), bool(end), remainder)
        if news:
            told = self._share_bytes(torch.empty(news, dtype=torch.uint8))
            self._form = pickle.loads(bytes(told.tolist()))
        assert self._form is not None
        return Parcel(self._form.unpack(self._scatter(self._form, rows, None), rows), bool(end), remainder)

    def _announce(self, *header: int) -> list[int]:
        return list(self._share_bytes(torch.tensor(header, dtype=torch.int64)).tolist())

    def _share_bytes(self, sent: torch.Tensor) -> torch.Tensor:
        sent = sent.to(self._device)
        dist.broadcast(sent, src=0, group=self._world.group)
        return sent

    def _packed(self, form: Form, rows: int, leaves: Sequence[torch.Tensor]) -> torch.Tensor:
        """All ranks' parcels, shape (ranks, bytes)."""
        ranks, sizes = self._world.size, form.sizes_bytes(rows)
        packed = torch.empty(ranks, self._length(form, rows), dtype=torch.uint8)
        for leaf, (start, stop) in zip(leaves, _places(sizes), strict=True):
            values = leaf.detach().contiguous().view(-1).view(torch.uint8)
            packed[:, start:stop] = values.view(ranks, stop - start)
        return packed.to(self._device)

    def _scatter(self, form: Form, rows: int, packed: torch.Tensor | None) -> torch.Tensor:
        own = torch.empty(self._length(form, rows), dtype=torch.uint8, device=self._device)
        dist.scatter(own, None if packed is None else list(packed.unbind(0)), src=0, group=self._world.group)
        return own

    def _scatter_objects(self, pieces: Sequence[Any] | None) -> Any:
        own: list[Any] = [None]
        dist.scatter_object_list(own, None if pieces is None else list(pieces), src=0, group=self._world.group)
        return own[0]

    def _length(self, form: Form, rows: int) -> int:
        return max((stop for _, stop in _places(form.sizes_bytes(rows))), default=0)

    @property
    def _device(self) -> torch.device:
        return self._world.group_device


def joined(batches: Sequence[Any]) -> Any:
    """Batches put together along dimension 0.

    Raises:
        PlanError: they are not made of tensors with samples along dimension 0, or differ in shape.
    """
    columns = [leaves_of(batch) for batch in batches]
    for leaf in (leaf for column in columns for leaf in column):
        if not isinstance(leaf, torch.Tensor) or leaf.ndim == 0:
            raise _refused(f"there is a {type(leaf).__name__} in them that cannot be cut along dimension 0.")
    if len(batches) == 1:
        return batches[0]
    try:
        return with_leaves(batches[0], iter([torch.cat(leaves) for leaves in zip(*columns, strict=True)]))
    except (RuntimeError, ValueError) as error:
        raise _refused("the batches of one round differ in shape.") from error


def rows_of(batch: Any) -> int:
    """Samples in a batch.

    Raises:
        PlanError: there are none, or tensors do not agree.
    """
    found = {len(leaf) for leaf in leaves_of(batch)}
    if len(found) != 1:
        raise _refused("their tensors must have one length along dimension 0.")
    return found.pop()


def _refused(obstacle: str) -> PlanError:
    return PlanError(
        "dispatch_batches=True",
        f"batches that the main process reads for all are cut into pieces, and {obstacle}",
        "Use split_batches=True, or dispatch_batches=False, with which each process reads its own batches.",
    )
