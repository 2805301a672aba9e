"""The prepared loader: batches of this process on its device, a flag at the last one, and a state to resume from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader

from nbaccel.errors import CallError, StateError
from nbaccel.runtime.data.generators import read_each, read_states, write_each
from nbaccel.runtime.data.passes import Pass, hand_out, look_ahead
from nbaccel.runtime.data.reader import Reader
from nbaccel.runtime.data.samplers import get_sampler, inner_of, is_sharded, source_of, with_sampler, with_source
from nbaccel.runtime.data.saved import Saved
from nbaccel.runtime.data.settings import Settings, Share
from nbaccel.runtime.data.shuffle import Sync
from nbaccel.runtime.data.stream import IterableDatasetShard
from nbaccel.runtime.devices.device import Device
from nbaccel.runtime.state import GradientState


class Course:
    """Where a loader stands; shared by it and those that skip its first batches.

    Attributes:
        iteration: number of the next pass, from 0.
        position: where the last pass stands.
        saved: what the next pass resumes, None to begin one.
        skip: batches of it that are done.
    """

    def __init__(self, position: Pass) -> None:
        self.iteration = 0
        self.position = position
        self.saved: Saved | None = None
        self.skip = 0


class PreparedLoader(DataLoader[Any]):
    """A DataLoader that hands out one process's batches; all else it knows it passes on from the original.

    Its state is exact: a loader that loads it hands out the batches that would have come, with the same random
    augmentation, whether that draws in worker processes or in this one. See `nbaccel.runtime.data.indices` for how.

    Args:
        base: a loader that makes this process's batches, on the CPU.
        original: the user's loader.
        gradients: is told where each pass stands.
        share: whose batches these are.
        settings: how batches are shared.
        sync: called when a pass begins.
        device: where batches go; None leaves them where they are.

    Attributes:
        base_dataloader: the loader that makes this process's batches.
        original: the user's loader.
        device: the torch device that batches are put on, None for none.
        skip_batches: how many batches each pass leaves out at its beginning.
        use_stateful_dataloader: whether torchdata's StatefulDataLoader makes the batches.
    """

    def __init__(  # composition: the base class is there for isinstance
        self,
        base: DataLoader[Any],
        original: DataLoader[Any],
        gradients: GradientState,
        share: Share,
        settings: Settings,
        sync: Sync,
        device: Device | None = None,
    ) -> None:
        self.base_dataloader, self.original = base, original
        self.device = None if device is None else device.torch_device
        self.skip_batches = 0
        self.use_stateful_dataloader = settings.use_stateful_dataloader
        self._non_blocking = settings.non_blocking
        self._gradients, self._share, self._settings, self._sync = gradients, share, settings, sync
        self._place = device
        self._reader = Reader(base, share.rank, sync.generators)
        self._course = Course(Pass(self))

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # a generator closes itself when a loop breaks
        course = self._course
        saved, course.saved = course.saved, None
        if saved is None:
            self._sync()
        self.set_epoch(course.iteration)
        position = Pass(self, self._remainder(), self.skip_batches if saved is None else course.skip)
        self._reader.begin(position)
        if saved is not None:
            position.start = {"global": saved.start, "own": saved.generators, "fresh": saved.fresh}
        course.position = position
        self._gradients.begin_pass(position)
        try:
            yield from self._batches(position, saved)
        finally:
            self._gradients.finish_pass(position)
        course.iteration += 1
        position.counted = True

    def _batches(self, position: Pass, saved: Saved | None) -> Iterator[Any]:
        """Batches on the device, with the position kept up to date."""
        batches = self._open(position, saved)
        length = self._reader.known_length()
        if length is None:
            return self._fed(look_ahead(batches, position, partial(self._note, position)))
        ahead = not self._reader.in_this_process  # what workers have made costs no random draws here
        return hand_out(self._fed(batches, ahead), length - position.taken, position)

    def _open(self, position: Pass, saved: Saved | None) -> Iterator[Any]:
        if saved is None:
            return self._reader.open(position.taken)
        return self._reader.reopen(saved, position.taken, saved.fits(self._share.size, self._share.rank))

    def _fed(self, batches: Iterator[Any], ahead: bool = False) -> Iterator[Any]:
        return batches if self._place is None else self._place.feed(batches, self._non_blocking, ahead)

    def _note(self, position: Pass) -> None:
        self._reader.note(position)
        shard = self.base_dataloader.dataset
        if isinstance(shard, IterableDatasetShard) and self._reader.in_this_process:
            position.remainder = shard.remainder if not shard.drop_last else -1

    def __len__(self) -> int:
        """Batches of this process. Raises TypeError if nobody knows."""
        return max(len(self.base_dataloader) - self.skip_batches, 0)

    # Where it stands

    @property
    def iteration(self) -> int:
        """Number of the next pass, from 0; samplers and datasets with `set_epoch` are told."""
        return self._course.iteration

    @iteration.setter
    def iteration(self, value: int) -> None:
        self._course.iteration = value

    @property
    def position(self) -> Pass:
        """Where the last pass stands."""
        return self._course.position

    @property
    def end_of_dataloader(self) -> bool:
        """True from the last batch of a pass on."""
        return self.position.end

    @property
    def remainder(self) -> int:
        """Samples in the last round of batches over all processes; 0 if it is full, -1 if nobody knows."""
        return self.position.remainder

    @property
    def total_batch_size(self) -> int | None:
        """Samples per round of batches over all processes; None if batches differ in size."""
        size = getattr(source_of(self.original), "batch_size", None)
        return size if size is None or self._settings.split_batches else int(size * self._share.size)

    @property
    def total_dataset_length(self) -> int:
        """Samples in the whole dataset. Raises TypeError if nobody knows."""
        return len(self.original.dataset)  # type: ignore[arg-type]  # map-style datasets mostly have a length

    @property
    def gradient_state(self) -> GradientState:
        """What all objects of `GradientState` show."""
        return self._gradients

    @property
    def rng_types(self) -> list[str]:
        """Which random states are made equal when a pass begins."""
        return self._sync.kinds

    @property
    def synchronized_generator(self) -> torch.Generator | None:
        """The loader's own generator, None if it has none."""
        return next(iter(self._sync.generators), None)

    @property
    def _drop_last(self) -> bool:
        return bool(self.original.drop_last)

    def set_epoch(self, epoch: int) -> None:
        """Make the next pass number `epoch`, and tell whatever shuffles by epochs."""
        self.iteration = epoch
        owner: Any = source_of(self.base_dataloader)
        while owner is not None:
            if hasattr(owner, "set_epoch"):
                owner.set_epoch(epoch)
                return
            owner = inner_of(owner)
        if hasattr(self.base_dataloader.dataset, "set_epoch"):
            self.base_dataloader.dataset.set_epoch(epoch)

    def get_sampler(self) -> Any:
        """The sampler of single indices, None if there is none."""
        return get_sampler(self.base_dataloader)

    def set_sampler(self, sampler: Any) -> None:
        """Draw single indices from another sampler, which must yield the same on all processes."""
        self.base_dataloader = with_source(self.base_dataloader, with_sampler(source_of(self.base_dataloader), sampler))
        self._reader = Reader(self.base_dataloader, self._share.rank, self._sync.generators)

    def _remainder(self) -> int:
        source = source_of(self.base_dataloader)
        total = self.total_batch_size
        if not total or getattr(source_of(self.original), "drop_last", False) or not self._is_divisible:
            return -1
        try:
            samples: Any = self.original.dataset if self._reader.is_stream else source.sampler
            return len(samples) % total
        except (AttributeError, TypeError):
            return -1

    @property
    def _is_divisible(self) -> bool:
        """Whether all processes share one order of samples, so that their batches add up."""
        if self._reader.is_stream and self._share.size > 1:
            return isinstance(self.base_dataloader.dataset, IterableDatasetShard)
        return not (self._settings.already_sharded or is_sharded(source_of(self.base_dataloader)))

    # Resuming

    def skipping(self, num_batches: int) -> PreparedLoader:
        """This loader, but for the first batches of each pass; both count the same epochs.

        Raises:
            CallError: a negative number.
        """
        if num_batches < 0:
            raise CallError(f"skip_first_batches(..., num_batches={num_batches}): possible is a number from 0.")
        twin = type(self).__new__(type(self))
        twin.__dict__.update(self.__dict__)  # not copy.copy(), which asks __getstate__: the course is shared
        twin.skip_batches = self.skip_batches + num_batches
        return twin

    def state_dict(self) -> dict[str, Any]:
        """Where this loader stands; each rank has its own.

        Within a pass, or after a loop over it was broken off, the state leads back into it. From its last batch on, it
        leads to the beginning of the next one.

        Returns:
            A small dict of plain values and tensors, for `torch.load(weights_only=True)`.
        """
        position, course, reader = self.position, self._course, self._reader
        if course.saved is not None:
            return course.saved.to_dict()
        share, seed = self._share, getattr(self.get_sampler(), "initial_seed", None)
        between = Saved(course.iteration, 0, self.total_batch_size, share.size, share.rank, seed, self._is_divisible)
        if position.end or not position.taken or position.start is None:
            to_count = position.end and not position.counted
            own = read_each(reader.generators)
            began = course.iteration + to_count
            return replace(between, iteration=began, generators=own, fresh=reader.begins_fresh).to_dict()
        start, ahead = position.start, position.ahead or {}
        return replace(
            between,
            batches=position.taken,
            generators=start["own"],
            fresh=start["fresh"],
            start=start["global"],
            ahead=ahead.get("global"),
            now=read_states(),
            stream=ahead.get("stream"),
            loader=ahead.get("loader") if reader.is_stream else reader.loader_state(),
        ).to_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Make the next pass go on where `state_dict` of this or another process was called.

        Args:
            state: what `state_dict` returned; on each rank its own for random augmentation to go on as well, else any
                rank's. With another number of processes the samples that are left are shared anew.

        Raises:
            StateError: it is the state of something else, or no whole number of rounds leads to its place.
        """
        saved = Saved.from_dict(state)
        if len(saved.generators) != len(self._reader.generators):
            raise StateError(
                f"the state holds {len(saved.generators)} generator(s), and the loader has "
                f"{len(self._reader.generators)}. Prepare the loader with the generators it had when it was saved."
            )
        self._course.skip = saved.rounds_for(self._share.size, self.total_batch_size, self._is_divisible)
        self.iteration = saved.iteration
        if saved.seed is not None and hasattr(self.get_sampler(), "initial_seed"):
            self.get_sampler().initial_seed = saved.seed
        self._course.saved = saved if saved.batches else None
        self._course.position = Pass(self)
        if not saved.batches:
            write_each(self._reader.generators, saved.generators)
            self._reader.start_anew(saved.fresh)

    # Travelling

    def __getstate__(self) -> dict[str, Any]:
        """Everything but where it stands in a pass: that belongs to this process."""
        kept = self.__dict__.copy()
        kept["_gradients"] = kept["_reader"] = None
        kept["_course"] = self.iteration
        return kept

    def __setstate__(self, kept: dict[str, Any]) -> None:
        self.__dict__.update(kept)
        self._gradients = GradientState()
        self._reader = Reader(self.base_dataloader, self._share.rank, self._sync.generators)
        self._course = Course(Pass(self))
        self.iteration = kept["_course"]

    def __getattr__(self, name: str) -> Any:
        if name == "base_dataloader":  # not there yet, while unpickling
            raise AttributeError(name)
        return getattr(self.base_dataloader, name)
