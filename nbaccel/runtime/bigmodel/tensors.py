"""Single weights: put on a device, replaced, looked at."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import torch
from torch import nn

from nbaccel.errors import CallError
from nbaccel.runtime.bigmodel.sizes import as_dtype

TiedMap = MutableMapping[int, MutableMapping[Any, torch.Tensor]]


def set_module_tensor_to_device(
    module: nn.Module,
    tensor_name: str,
    device: int | str | torch.device,
    value: torch.Tensor | None = None,
    dtype: str | torch.dtype | None = None,
    fp16_statistics: torch.Tensor | None = None,
    tied_params_map: TiedMap | None = None,
    non_blocking: bool = False,
    clear_cache: bool = True,
) -> None:
    """Move a parameter or buffer to a device, or put a new value there.

    Args:
        module: the module that has it, or one around that.
        tensor_name: its name, seen from `module`.
        device: where to.
        value: the new value; left out: its own, which must not be on the meta device.
        dtype: the dtype of the result; left out: with a value, that of the parameter or buffer.
        fp16_statistics: of bitsandbytes' int8 weights, which keep them beside.
        tied_params_map: by address of a value, its copies by device: one that is there is used again.
        non_blocking: copy without waiting, where source memory is pinned.
        clear_cache: of no effect: nothing is left behind that could be cleared.

    Raises:
        CallError: there is no such parameter or buffer, the value has another shape, or there is no value to move.
    """
    owner_name, _, name = tensor_name.rpartition(".")
    owner = module.get_submodule(owner_name)
    old = _existing(owner, name)
    _check_value(name, old, device, value)
    source = old if value is None else value
    known = (tied_params_map or {}).get(source.data_ptr(), {}) if source.device.type != "meta" else {}
    if device in known and known[device].shape == old.shape:
        _put(owner, name, old, known[device])
        return
    wanted = as_dtype(dtype) if dtype is not None else (old.dtype if value is not None and _casts(old, value) else None)
    assert wanted is None or isinstance(wanted, torch.dtype)
    with torch.no_grad():
        moved = source.to(device, wanted, non_blocking=non_blocking)
    if moved is old:
        return
    new = _put(owner, name, old, moved)
    if fp16_statistics is not None:
        new.SCB = fp16_statistics.to(device)  # type: ignore[attr-defined]
    if tied_params_map is not None and source.device.type != "meta" and source.data_ptr() in tied_params_map:
        tied_params_map[source.data_ptr()][device] = new


def fill_module_tensor(
    module: nn.Module, tensor_name: str, value: torch.Tensor, dtype: torch.dtype | None = None
) -> None:
    """Put a new value into a parameter or buffer where it is, so that who holds it (an optimizer) sees the change.

    Args:
        module: the module that has it, or one around that.
        tensor_name: its name, seen from `module`.
        value: the new value.
        dtype: as in `set_module_tensor_to_device`. What has another dtype is replaced, as is what cannot be written to,
            and what is on the meta device, which goes to main memory.

    Raises:
        CallError: there is no such parameter or buffer, or the value has another shape.
    """
    owner_name, _, name = tensor_name.rpartition(".")
    old = _existing(module.get_submodule(owner_name), name)
    if old.device.type == "meta" or dtype not in (None, old.dtype) or not _casts(old, value) or _is_expanded(old):
        place = "cpu" if old.device.type == "meta" else old.device
        set_module_tensor_to_device(module, tensor_name, place, value=value, dtype=dtype)
        return
    _check_value(name, old, old.device, value)
    with torch.no_grad():
        old.copy_(value)


def _is_expanded(tensor: torch.Tensor) -> bool:
    """Whether several of its elements are one number in memory, which torch does not write to."""
    return tensor.layout == torch.strided and any(
        step == 0 and size > 1 for step, size in zip(tensor.stride(), tensor.shape, strict=True)
    )


def _existing(owner: nn.Module, name: str) -> torch.Tensor:
    for held in (owner._parameters, owner._buffers):
        if held.get(name) is not None:
            found: torch.Tensor = held[name]  # type: ignore[assignment]
            return found
    known = [*owner._parameters, *owner._buffers]
    raise CallError(f"{type(owner).__name__} has no parameter or buffer {name!r}. Possible: {', '.join(known)}.")


def _check_value(name: str, old: torch.Tensor, device: Any, value: torch.Tensor | None) -> None:
    if value is None and old.device.type == "meta" and torch.device(device).type != "meta":
        raise CallError(
            f"{name!r} is on the meta device, and so has no value that could be moved to {device}. Give value=."
        )
    if value is not None and value.shape != old.shape:
        raise CallError(
            f"value= has the shape {tuple(value.shape)}, and {name!r} the shape {tuple(old.shape)}. They must agree."
        )


def _casts(old: torch.Tensor, value: torch.Tensor) -> bool:
    """Numbers of one kind are cast to the dtype of what they replace; quantized weights are not."""
    return old.dtype.is_floating_point == value.dtype.is_floating_point


def _put(owner: nn.Module, name: str, old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    if name in owner._buffers:
        owner._buffers[name] = new
        return new
    if not isinstance(new, nn.Parameter):
        new = _parameter_like(old, new)
    owner._parameters[name] = new
    return new


def _parameter_like(old: torch.Tensor, data: torch.Tensor) -> nn.Parameter:
    """A parameter of the class of `old`, with what that has beside its numbers (as quantized ones have)."""
    kind: Any = type(old)
    grad = old.requires_grad and (data.is_floating_point() or data.is_complex())
    if kind is nn.Parameter:
        return nn.Parameter(data, requires_grad=grad)
    return kind(data, requires_grad=grad, **old.__dict__)


def has_offloaded_params(module: nn.Module) -> bool:
    """Whether a module's weights are loaded only while it computes."""
    return bool(getattr(getattr(module, "_hf_hook", None), "offload", False))
