"""Seeds, and generators that draw the same numbers on all ranks."""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Iterable
from typing import Any

import torch

from nbaccel.errors import CallError, PlanError, nearest
from nbaccel.runtime.collectives import broadcast
from nbaccel.runtime.enums import RNGType
from nbaccel.runtime.world import current_world
from nbaccel.runtime.xla.generator import xla_generator

_ACCELERATORS = ("cuda", "xpu", "mps", "npu", "mlu", "musa", "sdaa", "hpu", "neuron")


def set_seed(seed: int, device_specific: bool = False, deterministic: bool = False) -> None:
    """Seed Python's, numpy's and torch's generators, those of all devices included.

    Args:
        seed: from 0 to 2**32 - 1.
        device_specific: add the rank, so that processes draw different numbers.
        deterministic: let torch use deterministic algorithms alone; slower, and an error where there is none.
    """
    if device_specific:
        seed += current_world().rank
    random.seed(seed)
    if importlib.util.find_spec("numpy"):
        import numpy as np

        np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    xla = xla_generator()
    if xla is not None:
        xla.set_rng_state(seed)
    if deterministic:
        torch.use_deterministic_algorithms(True)


def synchronize_rng_state(rng_type: RNGType | str | None = None, generator: torch.Generator | None = None) -> None:
    """Let a random generator of all ranks go on where rank 0's stands. All ranks must call it together.

    Args:
        rng_type: `torch` (the CPU's), `generator` (the one given), or a kind of device: `cuda`, `xla`, ...
        generator: for `generator`.

    Raises:
        CallError: an unknown kind, or `generator` without one.
        PlanError: this machine has no such device.
    """
    kind = _checked(rng_type)
    if kind == "xla":
        _synchronize_xla()
        return
    source = _source(kind, generator)
    state = source.get_rng_state() if hasattr(source, "get_rng_state") else source.get_state()
    shared = broadcast(state.clone())
    if hasattr(source, "set_rng_state"):
        source.set_rng_state(shared)
    else:
        source.set_state(shared)


def _synchronize_xla() -> None:
    xla = xla_generator()
    if xla is None:
        raise PlanError("synchronize_rng_state('xla')", "torch_xla is not at work here.", "Use 'torch' or 'generator'.")
    signed = torch.tensor(xla.get_rng_state() % 2**62)
    xla.set_rng_state(int(broadcast(signed)))


def synchronize_rng_states(rng_types: Iterable[RNGType | str], generator: torch.Generator | None = None) -> None:
    """`synchronize_rng_state` for each of several kinds."""
    for rng_type in rng_types:
        synchronize_rng_state(rng_type, generator)


def _checked(rng_type: RNGType | str | None) -> str:
    if rng_type not in RNGType:
        meant = nearest(rng_type, RNGType.list())
        hint = f" Did you mean {meant!r}?" if meant else ""
        raise CallError(f"synchronize_rng_state({rng_type!r}): possible are {', '.join(RNGType.list())}.{hint}")
    return str(rng_type)


def _source(kind: str, generator: torch.Generator | None) -> Any:
    """What has the state: torch, a device's module, or the generator."""
    if kind == "torch":
        return torch
    if kind == "generator":
        if generator is None:
            raise CallError(
                "synchronize_rng_state('generator'): there is none. Give generator=, or use 'torch' for the global one."
            )
        return generator
    module = getattr(torch, kind, None) if kind in _ACCELERATORS else None
    if module is None or not module.is_available():
        raise PlanError(
            f"synchronize_rng_state({kind!r})", "this machine has no such device.", "Use 'torch' or 'generator'."
        )
    return module
