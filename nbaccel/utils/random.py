"""What training code may import from `nbaccel.utils.random`; nothing inside nbaccel does."""

from nbaccel.runtime.constants import CUDA_DISTRIBUTED_TYPES
from nbaccel.runtime.random import set_seed, synchronize_rng_state, synchronize_rng_states

__all__ = ["CUDA_DISTRIBUTED_TYPES", "set_seed", "synchronize_rng_state", "synchronize_rng_states"]
