"""The random states of one process, made of plain values, so that reading them runs no code."""

from __future__ import annotations

import random
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch

from nbaccel.runtime.xla.generator import xla_generator


def random_states() -> dict[str, Any]:
    """The states of Python's, numpy's and torch's generators, under the names that Accelerate gives them."""
    states: dict[str, Any] = {"random_state": random.getstate(), "torch_manual_seed": torch.get_rng_state()}
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        kind, words, *rest = numpy.random.get_state()
        states["numpy_random_seed"] = (kind, words.tolist(), *rest)  # numpy takes a list, and no class is needed
    if torch.cuda.is_available():
        states["torch_cuda_manual_seed"] = torch.cuda.get_rng_state_all()
    if torch.backends.mps.is_available():
        states["torch_mps_manual_seed"] = torch.mps.get_rng_state()
    xla = xla_generator()
    if xla is not None:
        states["xm_seed"] = xla.get_rng_state()
    return states


def restore_random_states(states: Mapping[str, Any]) -> None:
    """Set the generators; those that the checkpoint, or this machine, does not have stay as they are.

    Args:
        states: as from `random_states`, or Accelerate's.
    """
    for name, restore in _RESTORE.items():
        if name in states:
            restore(states[name])


def _python(state: Any) -> None:
    version, words, following = state
    random.setstate((version, tuple(words), following))


def _numpy(state: Any) -> None:
    import numpy as np

    np.random.set_state(state)


def _cuda(states: list[torch.Tensor]) -> None:
    if not torch.cuda.is_available():
        return
    if len(states) != torch.cuda.device_count():
        warnings.warn(
            f"the checkpoint has random states of {len(states)} GPUs, and {torch.cuda.device_count()} are visible: "
            "those of the GPUs are left as they are.",
            stacklevel=2,
        )
        return
    torch.cuda.set_rng_state_all(states)


def _mps(state: torch.Tensor) -> None:
    if torch.backends.mps.is_available():
        torch.mps.set_rng_state(state)


def _xla(state: int) -> None:
    generator = xla_generator()
    if generator is not None:
        generator.set_rng_state(state)


_RESTORE: dict[str, Callable[[Any], None]] = {
    "random_state": _python,
    "numpy_random_seed": _numpy,
    "torch_manual_seed": torch.set_rng_state,
    "torch_cuda_manual_seed": _cuda,
    "torch_mps_manual_seed": _mps,
    "xm_seed": _xla,
}
