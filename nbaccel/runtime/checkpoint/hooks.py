"""Functions of the user that are called before a state is saved or loaded."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from torch.utils.hooks import RemovableHandle


class Hooks:
    """Called in the order in which they were added."""

    def __init__(self) -> None:
        self._hooks: OrderedDict[int, Callable[..., None]] = OrderedDict()

    def add(self, hook: Callable[..., None]) -> RemovableHandle:
        """Returns a handle whose `remove()` takes the hook away."""
        handle = RemovableHandle(self._hooks)
        self._hooks[handle.id] = hook
        return handle

    def __call__(self, *args: Any) -> None:
        for hook in list(self._hooks.values()):
            hook(*args)
