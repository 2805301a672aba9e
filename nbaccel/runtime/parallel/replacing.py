"""Optimizers that were made before sharding: they get the new parameters in place of the old ones."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.utils.weak import WeakIdKeyDictionary

from nbaccel.runtime.parallel.spread import spread_like


def named_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """All parameters, those with several names under each of them."""
    return dict(model.named_parameters(remove_duplicate=False))


class Replaced:
    """Knows which parameter has taken which one's place; keeps neither alive.

    Args:
        source: the rank whose optimizer states count; None: each rank's own.
    """

    def __init__(self, source: int | None) -> None:
        self._source = source
        self._new: Any = WeakIdKeyDictionary()

    def note(self, before: Mapping[str, nn.Parameter], after: Mapping[str, nn.Parameter]) -> None:
        """A model's parameters were replaced."""
        for name, old in before.items():
            if after[name] is not old:
                self._new[old] = weakref.ref(after[name])

    def put_into(self, optimizer: Optimizer) -> None:
        """Let an optimizer work on the new parameters, and spread the state that it has. All ranks call together."""
        for group in optimizer.param_groups:
            for place, old in enumerate(group["params"]):
                new = self._in_place_of(old)
                if new is not None:
                    group["params"][place] = new
                    if old in optimizer.state:
                        optimizer.state[new] = self._spread(optimizer.state.pop(old), new)

    def _in_place_of(self, old: Any) -> Any:
        reference = self._new.get(old)
        return None if reference is None else reference()

    def _spread(self, state: Mapping[str, Any], like: Any) -> dict[str, Any]:
        return {name: spread_state(value, like, self._source) for name, value in state.items()}


def spread_state(value: Any, like: Any, source: int | None) -> Any:
    """One value of an optimizer's state: what has the parameter's shape is spread as the parameter is.

    Numbers are at least as exact as the parameter's, which may have become float32.
    """
    if not isinstance(value, torch.Tensor) or isinstance(value, DTensor) or not isinstance(like, DTensor):
        return value
    if value.shape != like.shape or value.ndim == 0:
        return value
    dtype = torch.promote_types(value.dtype, like.dtype) if value.is_floating_point() else value.dtype
    return spread_like(value, _with_dtype(like, dtype), source)


def _with_dtype(like: DTensor, dtype: torch.dtype) -> DTensor:
    return like if like.dtype == dtype else cast(DTensor, like.detach().to(dtype))
