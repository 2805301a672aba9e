"""Makes the batches of one pass on the CPU, from the beginning or from the midst."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import chain, islice
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from nbaccel.runtime.data.generators import next_number, read_each, read_states, write_each, write_states
from nbaccel.runtime.data.indices import IndexFeed
from nbaccel.runtime.data.passes import Pass
from nbaccel.runtime.data.samplers import source_of, with_source
from nbaccel.runtime.data.saved import Saved


class Reader:
    """Reads a loader.

    Map-style datasets are never read for batches that are skipped: only their indices are drawn. Streams are read and
    their samples thrown away, unless the dataset has `state_dict` and `load_state_dict` and is read in this process.

    Args:
        base: the loader.
        rank: a number that seeds of worker processes shall differ by.
        generators: the loader's own generators.

    Attributes:
        base: the loader.
        is_stream: whether batches can only be had one after the other.
        has_state: whether the loader saves its own state (torchdata's StatefulDataLoader).
    """

    def __init__(self, base: DataLoader[Any], rank: int, generators: list[torch.Generator]) -> None:
        self.base, self.generators = base, generators
        own_way = type(base).__iter__ is not DataLoader.__iter__
        self.has_state = callable(getattr(base, "state_dict", None)) and callable(
            getattr(base, "load_state_dict", None)
        )
        self.is_stream = isinstance(base.dataset, IterableDataset) or (own_way and not self.has_state)
        self._rank, self._late = rank, False
        self._feed = None if own_way else IndexFeed(source_of(base))
        self._fed = base if self._feed is None else with_source(base, self._feed)

    @property
    def in_this_process(self) -> bool:
        """Whether samples are read here, not by workers."""
        return self.base.num_workers == 0

    @property
    def resumes_dataset(self) -> bool:
        """Whether the dataset knows by itself where it stands."""
        return self.is_stream and self.in_this_process and not self.has_state and _keeps_state(self.base.dataset)

    def loader_state(self) -> Any:
        """What the loader's own `state_dict` says, None if it has none."""
        return self.base.state_dict() if self.has_state else None  # type: ignore[attr-defined]  # it has one

    def known_length(self) -> int | None:
        """Number of batches of a whole pass, where it can be trusted."""
        if self.is_stream:
            return None
        try:
            return len(self.base)
        except TypeError:
            return None

    @property
    def begins_fresh(self) -> bool:
        """Whether the next pass begins with new worker processes, or without any."""
        here = self.base.persistent_workers and getattr(self._fed, "_iterator", None) is not None
        return not (here or self._late)

    def start_anew(self, fresh: bool) -> None:
        """Let the next pass begin as if its workers were new, or as if they had served a pass before."""
        self._fed.__dict__["_iterator"] = None
        self._late = not fresh

    def begin(self, position: Pass) -> None:
        """Note in a position what is needed to come back to it."""
        own = read_each(self.generators)
        position.start = {"global": read_states(), "own": own, "fresh": self.begins_fresh}

    def note(self, position: Pass) -> None:
        """Before a batch that has to wait is made: note what it is made from."""
        if self.has_state:
            position.ahead = {"loader": self.loader_state()}
        elif self.in_this_process:
            stream: Any = self.base.dataset
            known = stream.state_dict() if self.resumes_dataset else None
            position.ahead = {"global": read_states(), "stream": known}

    def open(self, skip: int = 0) -> Iterator[Any]:
        """The batches of a pass behind the first `skip`."""
        late, self._late = self._late, False
        with self._without_draw() if late else nullcontext():
            if not self.is_stream and self._feed is not None:
                return self._iterate(skip)
            batches = iter(self._loader(0))
        deque(islice(batches, skip), maxlen=0)
        return batches

    def reopen(self, saved: Saved, skip: int, same_place: bool, waiting: int = 1) -> Iterator[Any]:
        """The batches that follow a saved place.

        Args:
            saved: the place.
            skip: batches of this process that lie before it.
            same_place: whether the global generators go on as they stood there, too; else as they stand now.
            waiting: how many batches of a stream had been made already.
        """
        then = saved.now if same_place and saved.now is not None else read_states()
        if self.has_state:
            self.base.load_state_dict(saved.loader)  # type: ignore[attr-defined]  # has_state says so
            batches = iter(self.base)
            write_states(then)
            return batches
        self._go_back(saved)
        if self.is_stream or self._feed is None:
            return self._replayed(saved, skip, then, waiting)
        self._feed.arrived = lambda: write_states(then)
        return self.open(skip)

    def stand_by(self, saved: Saved, same_place: bool) -> None:
        """Another rank reads: only this one's generators go on."""
        write_each(self.generators, saved.generators)
        if same_place and saved.now is not None:
            write_states(saved.now)

    def beginning(self, saved: Saved, count: int) -> list[Any]:
        """The first batches of a saved pass, made once more; the global generators stay as they are."""
        now = read_states()
        self._go_back(saved)
        try:
            return list(islice(self.open(), count))
        finally:
            write_states(now)

    def _go_back(self, saved: Saved) -> None:
        if saved.start is not None:
            write_states(saved.start)
        write_each(self.generators, saved.generators)
        self.start_anew(saved.fresh)  # workers of an earlier pass have batches under way

    def _iterate(self, skip: int) -> Iterator[Any]:
        """The feed stays with persistent workers: what it is told is for this pass alone."""
        assert self._feed is not None
        self._feed.skip = skip
        try:
            return iter(self._loader(skip))
        finally:
            self._feed.skip, self._feed.arrived = 0, None

    def _loader(self, skip: int) -> DataLoader[Any]:
        if self._feed is None or (self.in_this_process and not skip):
            return self.base
        self._feed.root = None if self.in_this_process else (next_number(self.base.generator), self._rank)
        return self._fed

    def _replayed(self, saved: Saved, skip: int, then: dict[str, Any], waiting: int) -> Iterator[Any]:
        stream: Any = self.base.dataset
        if saved.stream is not None and self.resumes_dataset:
            stream.load_state_dict(saved.stream)
            skip = 0
        batches = self.open(skip)
        if saved.ahead is not None:
            write_states(saved.ahead)
        first = list(islice(batches, waiting))
        write_states(then)
        return chain(first, batches)

    @contextmanager
    def _without_draw(self) -> Iterator[None]:
        """Persistent workers' base seed is drawn once: a later pass does not draw one from the loader's generator."""
        generator, self._fed.generator = self._fed.generator, torch.Generator()
        try:
            yield
        finally:
            self._fed.generator = generator


def _keeps_state(owner: object) -> bool:
    return all(callable(getattr(owner, name, None)) for name in ("state_dict", "load_state_dict"))
