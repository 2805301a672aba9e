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
from nbaccel.runtime.checkpoint.reading import load_file_of_torch, load_weights_file, model_file, named
from nbaccel.runtime.checkpoint.safe_file import write_safetensors
from nbaccel.runtime.checkpoint.threads import in_threads
from nbaccel.runtime.checkpoint.weights import load_weights, without_twins

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
            *(Part(named("optimizer", n, ".bin"), one.state_dict()) for n, one in enumerate(optimizers)),
        ]  # fmt: skip

    def write(self, folder: Path, parts: Iterable[Part]) -> dict[str, Record]:
        """Write files, onto the disk; on any thread. Returns their records by their paths in the folder."""
        return dict(in_threads(lambda part: (part.name, part.write(folder)), parts, _WRITERS))

    def missing(self, folder: Path, num_models: int, num_optimizers: int) -> str:
        """What the folder lacks of this run's models and optimizers, in words; empty if nothing."""
        for n in range(num_models):
            if not any((folder / model_file(n, safe=safe)).exists() for safe in (True, False)):
                return f"{model_file(n, safe=True)} or {model_file(n, safe=False)}"
        names = (named("optimizer", n, ".bin") for n in range(num_optimizers))
        return next((name for name in names if not (folder / name).exists()), "")

    def load_models(self, folder: Path, models: Sequence[nn.Module], load: Mapping[str, Any], **options: Any) -> None:
        """Fill models.

        Args:
            folder: the checkpoint.
            models: those that no hook has filled.
            load: arguments of `torch.load`.
            options: of `load_weights`.
        """
        for n, model in enumerate(models):
            load_weights(model, load_weights_file(folder, n, **load), **options)

    def load_optimizers(self, folder: Path, models: Sequence[nn.Module], optimizers: Sequence[Any],
                        load: Mapping[str, Any]) -> None:  # fmt: skip
        """Fill optimizers; torch moves each tensor to its parameter."""
        for n, optimizer in enumerate(optimizers):
            optimizer.load_state_dict(load_file_of_torch(folder / named("optimizer", n, ".bin"), **load))


StoreMaker = Callable[[bool], Store]
