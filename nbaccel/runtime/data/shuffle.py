"""Shuffling that is the same on all processes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from torch.utils.data import Sampler

from nbaccel.errors import PlanError
from nbaccel.runtime.collectives import broadcast
from nbaccel.runtime.world import World, current_world


class _Here:
    """Base of what talks to the other processes: where it is unpickled, it talks to the ones there."""

    _world: World | None

    @property
    def world(self) -> World:
        """Who takes part."""
        return self._world or current_world()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_world": None}


class SharedSampler(_Here, Sampler[int]):
    """A random sampler without a generator of its own, drawing the same on all processes.

    torch's RandomSampler then seeds one anew for each epoch. So does this one, at the same moment and from the same
    source, but with rank 0's seed: all processes see the permutation that one process alone would see.

    Args:
        sampler: a sampler with an attribute `generator`; never changed.
        world: who shares it.
    """

    def __init__(self, sampler: Any, world: World) -> None:
        self.sampler = copy.copy(sampler)
        self._world = world

    def __iter__(self) -> Iterator[int]:
        seed = torch.empty((), dtype=torch.int64).random_()
        broadcast(seed, world=self.world)
        self.sampler.generator = torch.Generator()
        self.sampler.generator.manual_seed(int(seed))
        return iter(self.sampler)

    def __len__(self) -> int:
        return len(self.sampler)

    def __getattr__(self, name: str) -> Any:
        if name in ("sampler", "_world"):  # not there yet, while unpickling
            raise AttributeError(name)
        return getattr(self.sampler, name)


def share_shuffling(batches: Any, world: World) -> Any:
    """A batch sampler (or sampler) like the given one, whose randomness is the same on all processes."""
    if hasattr(batches, "generator"):
        return SharedSampler(batches, world) if batches.generator is None else batches
    inner = getattr(batches, "sampler", None)
    if inner is None:
        return batches
    shared = share_shuffling(inner, world)
    if shared is inner:
        return batches
    twin = copy.copy(batches)
    twin.sampler = shared
    return twin


def generator_of(batches: Any) -> torch.Generator | None:
    """The generator that somebody gave to a sampler."""
    while batches is not None and not isinstance(batches, SharedSampler):
        generator = getattr(batches, "generator", None)
        if isinstance(generator, torch.Generator):
            return generator
        batches = getattr(batches, "sampler", None)
    return None


class Sync(_Here):
    """What all processes make equal when a pass over a loader begins.

    Args:
        kinds: `generator` (those given to the loader, its sampler or its stream), `torch`, `cuda`.
        generators: the loader's generators.
        world: who shares them.

    Attributes:
        kinds: as given.
        generators: as given, each one once.

    Raises:
        PlanError: an unknown kind.
    """

    def __init__(self, kinds: Collection[str], generators: Collection[torch.Generator], world: World) -> None:
        for kind in kinds:
            if kind not in ("generator", *_GLOBAL):
                possible = ", ".join(["generator", *_GLOBAL])
                raise PlanError(f"rng_types={list(kinds)}", f"nbaccel cannot share {kind!r}.", f"Possible: {possible}.")
        self.kinds = list(kinds)
        self.generators = list({id(generator): generator for generator in generators}.values())
        self._world = world

    def __call__(self) -> None:
        """Take over rank 0's states."""
        if self.world.size == 1:
            return
        for read, write in (_GLOBAL[kind] for kind in self.kinds if kind in _GLOBAL):
            write(self._of_main(read()))
        for generator in self.generators if "generator" in self.kinds else ():
            generator.set_state(self._of_main(generator.get_state()))

    def _of_main(self, state: torch.Tensor) -> torch.Tensor:
        return broadcast(state.clone(), world=self.world).cpu()


_GLOBAL: dict[str, tuple[Callable[[], torch.Tensor], Callable[[torch.Tensor], None]]] = {
    "torch": (torch.get_rng_state, torch.set_rng_state),
    "cuda": (torch.cuda.get_rng_state, torch.cuda.set_rng_state),
}
