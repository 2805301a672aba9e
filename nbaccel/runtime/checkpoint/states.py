"""All other states of a training beside models and optimizers, as files: from each process what it alone knows."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nbaccel.errors import CallError
from nbaccel.runtime.accumulation import Accumulation
from nbaccel.runtime.build import Runtime
from nbaccel.runtime.checkpoint.random_states import random_states, restore_random_states
from nbaccel.runtime.checkpoint.reading import load_file_of_torch, named
from nbaccel.runtime.checkpoint.store import Part
from nbaccel.runtime.preparation import Preparation

SCALER = "scaler.pt"


def random_file(rank: int) -> str:
    return f"random_states_{rank}.pkl"


def custom_file(number: int) -> str:
    return f"custom_checkpoint_{number}.pkl"


def loader_file(number: int, rank: int) -> str:
    """Accelerate's name for rank 0; there, all ranks would write this one file."""
    stem = named("dl_state_dict", number, "")
    return f"{stem}_rank{rank}.bin" if rank else f"{stem}.bin"


class States:
    """Reads and sets them.

    Args:
        runtime: the parts of the training.
        prepared: the objects of the training.
        accumulation: counts micro-batches.

    Attributes:
        custom: objects of the user, with `state_dict` and `load_state_dict`.
    """

    def __init__(self, runtime: Runtime, prepared: Preparation, accumulation: Accumulation) -> None:
        self._runtime, self._prepared, self._accumulation = runtime, prepared, accumulation
        self.custom: list[Any] = []

    def register(self, objects: Sequence[Any]) -> None:
        """Save and load these, too.

        Raises:
            CallError: an object has no `state_dict` or no `load_state_dict`.
        """
        for item in objects:
            for name in ("state_dict", "load_state_dict"):
                if not callable(getattr(item, name, None)):
                    raise CallError(
                        f"register_for_checkpointing(): a {type(item).__name__} has no method {name}(). Give it both "
                        "state_dict() and load_state_dict(state), or leave it out."
                    )
        self.custom += [item for item in objects if not any(item is known for known in self.custom)]

    def parts(self, keeps: bool) -> list[Part]:
        """The files that this process writes.

        Args:
            keeps: whether it writes what all processes have.
        """
        rank = self._runtime.world.rank
        shared = [*self._shared()] if keeps else []
        own = {"step": self._accumulation.step, **random_states()}
        return [*shared, *self._positions(rank), Part(random_file(rank), own)]

    def _shared(self) -> Iterator[Part]:
        for n, scheduler in enumerate(self._prepared.schedulers):
            yield Part(named("scheduler", n, ".bin"), scheduler.state_dict())
        for n, item in enumerate(self.custom):
            yield Part(custom_file(n), item.state_dict())
        scaler = self._runtime.precision.scaler
        if scaler is not None:
            yield Part(SCALER, scaler.state_dict())

    def _positions(self, rank: int) -> Iterator[Part]:
        for n, loader in enumerate(self._prepared.loaders):
            if hasattr(loader, "state_dict"):
                yield Part(loader_file(n, rank), loader.state_dict())

    def counts(self) -> dict[str, int]:
        """How many objects of each kind there are."""
        prepared = self._prepared
        return {
            "models": len(prepared.models),
            "optimizers": len(prepared.optimizers),
            "schedulers": len(prepared.schedulers),
            "loaders": len(prepared.loaders),
            "custom": len(self.custom),
        }

    def missing(self, folder: Path) -> str:
        """What the folder lacks, in words; empty if nothing."""
        wanted = [named("scheduler", n, ".bin") for n in range(len(self._prepared.schedulers))]
        wanted += [custom_file(n) for n in range(len(self.custom))]
        return next((name for name in wanted if not (folder / name).exists()), "")

    def load_shared(self, folder: Path, load: Mapping[str, Any]) -> None:
        """Fill schedulers, the scaler, and the user's objects.

        Args:
            folder: the checkpoint.
            load: arguments of `torch.load`.
        """
        for n, scheduler in enumerate(self._prepared.schedulers):
            scheduler.load_state_dict(load_file_of_torch(folder / named("scheduler", n, ".bin"), **load))
        scaler = self._runtime.precision.scaler
        if scaler is not None and (folder / SCALER).exists():
            scaler.load_state_dict(load_file_of_torch(folder / SCALER, **load))
        elif scaler is not None:
            warnings.warn(f"{folder} has no {SCALER}: the loss scale of fp16 begins anew.", stacklevel=2)
        for n, item in enumerate(self.custom):
            item.load_state_dict(load_file_of_torch(folder / custom_file(n), **load))

    def load_own(self, folder: Path, load: Mapping[str, Any], same_size: bool, of_nbaccel: bool) -> None:
        """Set this process's position and generators, as far as the checkpoint has them.

        Args:
            folder: the checkpoint.
            load: arguments of `torch.load`.
            same_size: whether it was written by as many processes; loaders share out anew what is left otherwise.
            of_nbaccel: whether nbaccel wrote it.

        Raises:
            StateError: a loader cannot go on where it was with this number of processes.
        """
        rank = self._runtime.world.rank
        self._load_positions(folder, load, rank if same_size else 0, of_nbaccel)
        file = folder / random_file(rank)
        if not file.exists():
            self._load_step(folder / random_file(0), load)
            warnings.warn(
                f"{folder} has no random states of rank {rank}: its generators stay as they are.", stacklevel=2
            )
            return
        states = load_file_of_torch(file, **load)
        self._accumulation.step = states.get("step", self._accumulation.step)
        restore_random_states(states)

    def _load_step(self, file: Path, load: Mapping[str, Any]) -> None:
        if file.exists():
            self._accumulation.step = load_file_of_torch(file, **load).get("step", self._accumulation.step)

    def _load_positions(self, folder: Path, load: Mapping[str, Any], rank: int, of_nbaccel: bool) -> None:
        for n, loader in enumerate(self._prepared.loaders):
            file = folder / loader_file(n, rank)
            if not file.exists() or not hasattr(loader, "load_state_dict"):
                continue
            state = load_file_of_torch(file, **load)
            if of_nbaccel:
                loader.load_state_dict(state)
            else:
                warnings.warn(
                    f"{file.name} is Accelerate's note of the position in loader {n}, which nbaccel cannot read: its "
                    "next pass begins at the start.",
                    stacklevel=2,
                )
