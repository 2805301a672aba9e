"""torch's mixed precision as functions, for code that has no `Accelerator` at hand."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from nbaccel.runtime.handlers import AutocastKwargs
from nbaccel.runtime.precision.scaler import Scaler
from nbaccel.runtime.state import AcceleratorState

_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


def get_mixed_precision_context_manager(
    native_amp: bool = False, autocast_kwargs: AutocastKwargs | None = None
) -> AbstractContextManager[Any]:
    """A `with` block that computes in the precision of the training.

    Args:
        native_amp: False makes the block do nothing.
        autocast_kwargs: arguments of `torch.autocast`.
    """
    state = AcceleratorState()
    if not native_amp or state.mixed_precision not in _DTYPES:
        return nullcontext()
    options = autocast_kwargs or AutocastKwargs()
    return torch.autocast(
        state.device.type,
        dtype=_DTYPES[state.mixed_precision],
        enabled=options.enabled,
        cache_enabled=options.cache_enabled,
    )


def get_grad_scaler(distributed_type: Any = None, **kwargs: Any) -> torch.amp.GradScaler:
    """A loss scaler for fp16 on this process's device.

    Args:
        distributed_type: of no effect: the scaler of torch works with all that nbaccel does.
        kwargs: arguments of `torch.amp.GradScaler`.
    """
    return Scaler(AcceleratorState().device.type, **kwargs)


def get_fsdp2_grad_scaler(**kwargs: Any) -> torch.amp.GradScaler:
    """`get_grad_scaler` by another name of Accelerate's."""
    return get_grad_scaler(**kwargs)
