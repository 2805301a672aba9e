"""How models and optimizers become files. The base class: one file each, written by the main process.

A store collects on the training's thread, where it may talk to other processes; it writes on any thread, where it may
not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nbaccel.runtime.checkpoint.files import Record, write_checked
from nbaccel.runtime.checkpoint.formats import (
    lacks_model,
    lacks_optimizer,
    optimizer_file,
    read_optimizer,
    read_weights,
)
from nbaccel.runtime.checkpoint.reading import model_file
from nbaccel.runtime.checkpoint.safe_file import write_safetensors
from nbaccel.runtime.checkpoint.threads import in_threads
from nbaccel.runtime.checkpoint.weights import load_weights, without_twins
from nbaccel.runtime.parallel.named import by_number, is_named, names_of
from nbaccel.runtime.unwrap import extract_model_from_parallel

_WRITERS = 2
"""More files at a time do not make a disk faster; torch's own format keeps a core busy."""


@dataclass(frozen=True)
class Part:
    """One file of a checkpoint.

    Attributes:
        name: of the file.
        state: what is in it.
        safe: safetensors (`state` is names and tensors), not torch's pickle.
    """

    name: str
    state: Any
    safe: bool = False

    def write(self, folder: Path) -> Record:
        """Write it, onto the disk."""
        return write_checked(folder / self.name, self._write)

    def _write(self, stream: Any) -> None:
        if self.safe:
            write_safetensors(self.state, stream)
        else:
            torch.save(self.state, stream)


class Store:
    """Every process has everything: one writes one file for each object.

    Args:
        keeps: whether this is the process that writes.
    """

    def __init__(self, keeps: bool) -> None:
        self._keeps = keeps

    def check_nodes(self) -> None:
        """Raises PlanError if each machine is to have files of its own, and has not all that belongs into them."""

    def weights(self, models: Sequence[nn.Module]) -> list[Any]:
        """The state of each model, as pre-hooks are given it. All ranks call it together."""
        return [model.state_dict() for model in models]

    def collect(self, weights: Sequence[Any], models: Sequence[nn.Module], optimizers: Sequence[Any], safe: bool) -> (
        list[Part]
    ):  # fmt: skip
        """The files that this process has to write. All ranks call it together.

        Args:
            weights: as from `weights`, without those that a hook has written itself.
            models: all prepared models.
            optimizers: all prepared optimizers.
            safe: safetensors for the models.
        """
        if not self._keeps:
            return []
        return [
            *(Part(model_file(n, safe=safe), without_twins(state) if safe else state, safe)
              for n, state in enumerate(weights)),
            *(Part(optimizer_file(n), one.state_dict()) for n, one in enumerate(optimizers)),
        ]  # fmt: skip

    def write(self, folder: Path, parts: Iterable[Part]) -> dict[str, Record]:
        """Write files, onto the disk; on any thread. Returns their records by their paths in the folder."""
        return dict(in_threads(lambda part: (part.name, part.write(folder)), parts, _WRITERS))

    def finish(self, folder: Path, parts: Iterable[Part], records: Mapping[str, Record]) -> dict[str, Record]:
        """Write, once all ranks' files are there, what only then is known; on any thread of the process that keeps.

        Args:
            folder: the checkpoint.
            parts: this process's.
            records: of all ranks' files.

        Returns:
            Records of all files.
        """
        return dict(records)

    def missing(self, folder: Path, num_models: int, num_optimizers: int) -> str:
        """What the folder lacks of this run's models and optimizers, in words; empty if nothing."""
        lacking = [lacks_model(folder, n) for n in range(num_models)]
        lacking += [lacks_optimizer(folder, n) for n in range(num_optimizers)]
        return next(filter(None, lacking), "")

    def load_models(self, folder: Path, models: Sequence[nn.Module], load: Mapping[str, Any], **options: Any) -> None:
        """Fill models.

        Args:
            folder: the checkpoint.
            models: those that no hook has filled.
            load: arguments of `torch.load`.
            options: of `load_weights`.
        """
        for n, model in enumerate(models):
            load_weights(model, read_weights(folder, n, load), **options)

    def load_optimizers(self, folder: Path, models: Sequence[nn.Module], optimizers: Sequence[Any],
                        load: Mapping[str, Any]) -> None:  # fmt: skip
        """Fill optimizers; torch moves each tensor to its parameter."""
        for n, optimizer in enumerate(optimizers):
            state = read_optimizer(folder, n, load)
            if is_named(state):
                own = [extract_model_from_parallel(model, keep_torch_compile=False) for model in models]
                state = by_number(state, names_of(own, optimizer, n))
            optimizer.load_state_dict(state)


StoreMaker = Callable[[bool], Store]
