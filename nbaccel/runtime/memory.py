"""Memory: batch sizes that fit, and giving memory back."""

from __future__ import annotations

import functools
import gc
import inspect
from collections.abc import Callable
from typing import Any

import torch

from nbaccel.errors import CallError, StateError

_SIGNS = ("out of memory", "CUDNN_STATUS_NOT_SUPPORTED", "can't allocate memory", "not enough memory")
"""What torch's errors say when there is too little memory; cuDNN has no better word for it."""
_SHRINK = 0.9


def should_reduce_batch_size(exception: BaseException) -> bool:
    """Whether an error says that there is too little memory, of a device or of the machine."""
    if isinstance(exception, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    return isinstance(exception, RuntimeError) and any(sign in str(exception) for sign in _SIGNS)


def clear_device_cache(garbage_collection: bool = False) -> None:
    """Give memory that torch keeps for later back to the device.

    Args:
        garbage_collection: first find objects that only refer to each other.
    """
    if garbage_collection:
        gc.collect()
    for name in ("cuda", "xpu", "mps"):
        module = getattr(torch, name)
        if module.is_available() and (name != "cuda" or module.is_initialized()):
            module.empty_cache()


def release_memory(*objects: Any) -> list[None]:
    """Forget objects and give their memory back.

    Args:
        objects: what the caller is about to overwrite: `model, optimizer = release_memory(model, optimizer)`.

    Returns:
        One None for each of the objects.
    """
    count = len(objects)
    del objects
    clear_device_cache(garbage_collection=True)
    return [None] * count


def find_executable_batch_size(
    function: Callable[..., Any] | None = None,
    starting_batch_size: int = 128,
    reduce_batch_size_fn: Callable[[], int] | None = None,
) -> Any:
    """Decorator: call the function with ever smaller batch sizes until it does not run out of memory.

    Args:
        function: takes the batch size as its first argument, which callers of the decorated function leave out.
        starting_batch_size: the first try.
        reduce_batch_size_fn: says the next batch size; left out: a tenth less.

    Raises:
        CallError: the function takes no batch size, or was given one.
        StateError: not even a batch size of 1 fits; the error of the last try is its cause.
    """
    if function is None:
        return functools.partial(
            find_executable_batch_size,
            starting_batch_size=starting_batch_size,
            reduce_batch_size_fn=reduce_batch_size_fn,
        )
    batch_size = starting_batch_size

    @functools.wraps(function)
    def decorated(*args: Any, **kwargs: Any) -> Any:
        nonlocal batch_size
        clear_device_cache(garbage_collection=True)
        _check_call(function, args, kwargs)
        cause: BaseException | None = None
        while batch_size > 0:
            try:
                return function(batch_size, *args, **kwargs)
            except Exception as error:
                if not should_reduce_batch_size(error):
                    raise
                cause = error.with_traceback(None)  # its frames hold the tensors that did not fit
            clear_device_cache(garbage_collection=True)
            batch_size = int(batch_size * _SHRINK) if reduce_batch_size_fn is None else reduce_batch_size_fn()
        raise StateError(
            f"{_name(function)}(): no batch size from {starting_batch_size} down fits into memory. Use a smaller model "
            "or shorter samples, mixed precision, or more devices."
        ) from cause

    return decorated


def _check_call(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    try:
        inspect.signature(function).bind(0, *args, **kwargs)
    except TypeError:
        given = ", ".join([*map(repr, args), *(f"{key}={value!r}" for key, value in kwargs.items())])
        raise CallError(
            f"{_name(function)}({given}): the batch size is the first argument, and find_executable_batch_size gives "
            f"it. Its signature is {_name(function)}{inspect.signature(function)}; call it without the first."
        ) from None


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", type(function).__name__)
