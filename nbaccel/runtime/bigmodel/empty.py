"""Models made without memory for their weights, or right on a device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from nbaccel.runtime.environment import parse_flag_from_env


def init_empty_weights(include_buffers: bool | None = None) -> AbstractContextManager[None]:
    """A `with` block in which models are made on the meta device: their weights have shapes, but no memory.

    Args:
        include_buffers: the same for buffers; left out: the variable ACCELERATE_INIT_INCLUDE_BUFFERS, else False.
    """
    return init_on_device(torch.device("meta"), include_buffers)


@contextmanager
def init_on_device(device: torch.device | str, include_buffers: bool | None = None) -> Iterator[None]:
    """A `with` block in which models are made on a device.

    Args:
        device: the device of their parameters.
        include_buffers: of everything that is made without a device, such as buffers, too; left out: the variable
            ACCELERATE_INIT_INCLUDE_BUFFERS, else False.
    """
    if include_buffers is None:
        include_buffers = parse_flag_from_env("ACCELERATE_INIT_INCLUDE_BUFFERS")
    device = torch.device(device)

    def place(module: nn.Module, name: str, parameter: nn.Parameter | None) -> Any:
        if parameter is None or parameter.device == device:  # one that stands at several places stays one
            return None
        moved: Any = type(parameter)
        return moved(parameter.detach().to(device), requires_grad=parameter.requires_grad, **parameter.__dict__)

    with ExitStack() as stack:
        hook = register_module_parameter_registration_hook(place)
        stack.callback(hook.remove)
        if include_buffers:
            stack.enter_context(device)
        yield
