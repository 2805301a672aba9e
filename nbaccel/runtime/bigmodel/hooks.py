"""Hooks around a module's forward pass; Accelerate's names, which other libraries look for."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn


class ModelHook:
    """What happens around a module's forward pass; this one does nothing.

    Attributes:
        no_grad: whether the forward pass runs without gradients.
    """

    no_grad = False

    def init_hook(self, module: nn.Module) -> nn.Module:
        """Called when the hook is added; returns the module."""
        return module

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Called before each forward pass; returns its arguments."""
        return args, kwargs

    def post_forward(self, module: nn.Module, output: Any) -> Any:
        """Called after each forward pass; returns its output."""
        return output

    def detach_hook(self, module: nn.Module) -> nn.Module:
        """Called when the hook is removed; returns the module."""
        return module


class SequentialHook(ModelHook):
    """Several hooks, which act one after the other.

    Args:
        hooks: the hooks.
    """

    def __init__(self, *hooks: ModelHook) -> None:
        self.hooks = hooks

    def init_hook(self, module: nn.Module) -> nn.Module:
        for hook in self.hooks:
            module = hook.init_hook(module)
        return module

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        for hook in self.hooks:
            args, kwargs = hook.pre_forward(module, *args, **kwargs)
        return args, kwargs

    def post_forward(self, module: nn.Module, output: Any) -> Any:
        for hook in self.hooks:
            output = hook.post_forward(module, output)
        return output

    def detach_hook(self, module: nn.Module) -> nn.Module:
        for hook in self.hooks:
            module = hook.detach_hook(module)
        return module


class HookedForward:
    """A module's forward pass with its hook; takes the place of `module.forward`.

    Args:
        module: the module, whose `_hf_hook` is the hook and `_old_forward` its own method.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        own: Callable[..., Any] = module._old_forward  # type: ignore[assignment]
        self.__wrapped__ = own  # so that inspect.signature shows the module's own arguments
        self.__name__ = getattr(own, "__name__", "forward")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        module: Any = self.module
        hook: ModelHook = module._hf_hook
        args, kwargs = hook.pre_forward(module, *args, **kwargs)
        with torch.no_grad() if hook.no_grad else nullcontext():
            output = module._old_forward(*args, **kwargs)
        return hook.post_forward(module, output)


def add_hook_to_module(module: nn.Module, hook: ModelHook, append: bool = False) -> nn.Module:
    """Put a hook around a module's forward pass.

    Args:
        module: the module; gets the attributes `_hf_hook` and `_old_forward`.
        hook: the hook.
        append: keep a hook that is there, which acts first; else it is replaced.

    Returns:
        The module.
    """
    former = getattr(module, "_hf_hook", None)
    hooked: Any = module
    if former is not None and append:
        hooked = hook.init_hook(module)
        hooked._hf_hook = SequentialHook(former, hook)
        return hooked
    if former is not None:
        remove_hook_from_module(module)
    hooked._old_forward = module.forward
    hooked = hook.init_hook(module)
    hooked._hf_hook = hook
    hooked.forward = HookedForward(hooked)
    return hooked


def remove_hook_from_module(module: nn.Module, recurse: bool = False) -> nn.Module:
    """Take a module's hook off, and give it its own forward pass back.

    Args:
        module: the module.
        recurse: those of all modules inside, too.

    Returns:
        The module.
    """
    hook = module.__dict__.pop("_hf_hook", None)
    if hook is not None:
        hook.detach_hook(module)
    own = module.__dict__.pop("_old_forward", None)
    if own is not None:
        if getattr(own, "__func__", None) is type(module).forward:
            del module.forward
        else:
            module.forward = own  # it was replaced on the object before
    if recurse:
        for child in module.children():
            remove_hook_from_module(child, recurse)
    return module


def remove_hook_from_submodules(module: nn.Module) -> None:
    """Take off the hooks of a module and of all modules inside."""
    remove_hook_from_module(module, recurse=True)


class LayerwiseCastingHook(ModelHook):
    """Keeps a module's weights in one dtype and computes in another.

    Args:
        storage_dtype: of the weights while nobody computes.
        compute_dtype: of the weights and floating point inputs of the forward pass.
        non_blocking: cast without waiting.
    """

    def __init__(self, storage_dtype: torch.dtype, compute_dtype: torch.dtype, non_blocking: bool) -> None:
        self.storage_dtype, self.compute_dtype, self.non_blocking = storage_dtype, compute_dtype, non_blocking

    def init_hook(self, module: nn.Module) -> nn.Module:
        return module.to(dtype=self.storage_dtype, non_blocking=self.non_blocking)

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        module.to(dtype=self.compute_dtype, non_blocking=self.non_blocking)
        return args, kwargs

    def post_forward(self, module: nn.Module, output: Any) -> Any:
        module.to(dtype=self.storage_dtype, non_blocking=self.non_blocking)
        return output
