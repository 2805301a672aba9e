"""Float32 in place of 16-bit floats."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from nbaccel.runtime.nested import map_tensors

HALVES = (torch.float16, torch.bfloat16)


def convert_to_fp32(tensor: Any) -> Any:
    """Nested data with its 16-bit tensors as float32; everything else stays."""
    return map_tensors(lambda leaf: leaf.float() if leaf.dtype in HALVES else leaf, tensor)


class ConvertOutputsToFp32:
    """A function whose 16-bit outputs come out as float32.

    Args:
        model_forward: the function; its name, signature and documentation are kept, and it can be pickled if that can.
    """

    def __init__(self, model_forward: Callable[..., Any]) -> None:
        self.model_forward = model_forward
        functools.update_wrapper(self, model_forward)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return convert_to_fp32(self.model_forward(*args, **kwargs))

    def __get__(self, owner: Any, kind: type | None = None) -> Any:
        """As a method, when it decorates one in a class."""
        return self if owner is None else functools.partial(self, owner)


def convert_outputs_to_fp32(model_forward: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: 16-bit outputs of the function come out as float32."""
    return ConvertOutputsToFp32(model_forward)
