"""Seeds."""

from __future__ import annotations

import importlib.util
import random

import torch

from nbaccel.runtime.world import current_world


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
    if deterministic:
        torch.use_deterministic_algorithms(True)
