"""What a prepared loader's state holds, and whether another loader can go on from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch

from nbaccel.errors import StateError

VERSION = 1


@dataclass(frozen=True)
class Saved:
    """A place in the course of a loader; one per rank.

    Attributes:
        iteration: number of the pass, from 0.
        batches: how many of its batches have been handed out to each process; 0 between passes.
        total_batch_size: samples per round of batches over all processes, None if they differ.
        world_size: number of processes.
        rank: whose state it is.
        seed: initial seed of a SeedableRandomSampler, None without one.
        divisible: whether all processes share one order of samples, which can be cut anywhere.
        generators: states of the loader's own generators; in the midst of a pass, those at its beginning.
        fresh: whether the pass began with new worker processes.
        start: states of the global generators when the pass began, None between passes.
        ahead: the same before the batch was made that waited to be handed out, None if there was none.
        now: the same when the state was taken, None between passes.
        stream: what the dataset's own `state_dict` said, None if it has none.
        loader: what the original loader's own `state_dict` said, None if it has none.
    """

    iteration: int
    batches: int
    total_batch_size: int | None
    world_size: int
    rank: int
    seed: int | None = None
    divisible: bool = True
    generators: list[torch.Tensor] = field(default_factory=list)
    fresh: bool = True
    start: dict[str, Any] | None = None
    ahead: dict[str, Any] | None = None
    now: dict[str, Any] | None = None
    stream: Any = None
    loader: Any = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values and tensors."""
        return {"version": VERSION, **{item.name: getattr(self, item.name) for item in fields(self)}}

    @classmethod
    def from_dict(cls, state: object) -> Saved:
        """What `to_dict` made.

        Raises:
            StateError: something else.
        """
        names = {item.name for item in fields(cls)}
        if not isinstance(state, Mapping) or state.get("version") != VERSION or {*state} != {"version", *names}:
            found = f"keys {sorted(map(str, state))[:5]}" if isinstance(state, Mapping) else type(state).__name__
            raise StateError(
                f"this is not the state of a prepared loader of this version of nbaccel ({found}). "
                "Give load_state_dict() what state_dict() of a prepared loader returned."
            )
        return cls(**{name: state[name] for name in names})

    def fits(self, world_size: int, rank: int) -> bool:
        """Whether this is the state of the same process among as many."""
        return (self.world_size, self.rank) == (world_size, rank)

    def rounds_for(self, world_size: int, total_batch_size: int | None, divisible: bool) -> int:
        """Batches of each process that lie before this place, for another number of processes or size of batches.

        Args:
            world_size: number of processes now.
            total_batch_size: samples per round now, None if they differ.
            divisible: the same as in the state, for the loader that is to go on.

        Raises:
            StateError: there is no such whole number.
        """
        if (self.world_size, self.total_batch_size) == (world_size, total_batch_size) or not self.batches:
            return self.batches
        if divisible and self.divisible and self.total_batch_size and total_batch_size:
            rounds, rest = divmod(self.batches * self.total_batch_size, total_batch_size)
            if not rest:
                return rounds
        raise StateError(
            f"the state was taken after {self.batches} rounds of {self._described(self.world_size)}, and cannot be "
            f"continued in rounds of {_samples(total_batch_size)} on {world_size} process(es). "
            "Resume with as many processes and the batch size of then, or from a state between two epochs."
        )

    def _described(self, world_size: int) -> str:
        return f"{_samples(self.total_batch_size)} on {world_size} process(es)"


def _samples(size: int | None) -> str:
    return "samples of any number" if size is None else f"{size} samples"
