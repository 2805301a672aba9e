"""The states of random generators, as plain values that `torch.load(weights_only=True)` accepts."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from typing import Any

import torch

States = dict[str, Any]


def read_states() -> States:
    """The states of the global generators of Python, numpy (if anybody has imported it) and torch on the CPU."""
    states: States = {"python": random.getstate(), "torch": torch.get_rng_state()}
    if "numpy" in sys.modules:
        import numpy as np

        kind, key, *rest = np.random.get_state(legacy=True)
        states["numpy"] = (kind, torch.from_numpy(np.asarray(key, dtype=np.int64)), *rest)
    return states


def write_states(states: States) -> None:
    """Set the global generators to what `read_states` found."""
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
    torch.set_rng_state(states["torch"])
    if "numpy" in states:
        import numpy as np

        kind, key, *rest = states["numpy"]
        np.random.set_state((kind, key.numpy().astype(np.uint32), *rest))


def read_each(generators: Sequence[torch.Generator]) -> list[torch.Tensor]:
    """The states of a loader's own generators."""
    return [generator.get_state() for generator in generators]


def write_each(generators: Sequence[torch.Generator], states: Sequence[torch.Tensor]) -> None:
    """Set a loader's own generators."""
    for generator, state in zip(generators, states, strict=True):
        generator.set_state(state)


def next_number(generator: torch.Generator | None) -> int:
    """The number that torch will draw as the base seed of a loader's workers; it stays to be drawn."""
    twin = torch.Generator()
    twin.set_state((generator or torch.default_generator).get_state().cpu())
    return int(torch.empty((), dtype=torch.int64).random_(generator=twin))
