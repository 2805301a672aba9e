"""What every tracker can do. The base class is silent."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

from nbaccel.errors import CallError
from nbaccel.runtime.state import PartialState

Method = TypeVar("Method", bound=Callable[..., Any])


class GeneralTracker:
    """Takes what a training logs; the interface of Accelerate's class of this name, for trackers of your own.

    Attributes:
        name: how `log_with`, `init_kwargs` and `get_tracker` call it.
        requires_logging_directory: whether it is made with a folder as its second argument.
        main_process_only: whether the main process alone logs.
    """

    name: ClassVar[str] = "silent"
    requires_logging_directory: ClassVar[bool] = False
    main_process_only: ClassVar[bool] = True

    def __init__(self, _blank: bool = False) -> None:
        pass

    def start(self) -> None:
        """Begin a run."""

    @property
    def tracker(self) -> Any:
        """What the library itself calls a run; None where there is none."""
        return None

    def store_init_configuration(self, values: Mapping[str, Any]) -> None:
        """Note what the run was started with."""

    def log(self, values: Mapping[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Note values at a step.

        Args:
            values: numbers, texts, or mappings of names to numbers.
            step: the step; None for the next one.
            kwargs: arguments of the library's own call.
        """

    def log_images(self, values: Mapping[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Note lists of images (arrays or PIL). Raises CallError if this tracker has no place for them."""
        raise CallError(f"{self.name}: log_images() is not possible with this tracker. Use log(), or another tracker.")

    def log_table(
        self,
        table_name: str,
        columns: list[str] | None = None,
        data: list[list[Any]] | None = None,
        dataframe: Any = None,
        step: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Note a table: columns and rows, or a data frame. Raises CallError if this tracker has no place for it."""
        raise CallError(f"{self.name}: log_table() is not possible with this tracker. Use log(), or another tracker.")

    def finish(self) -> None:
        """End the run: all that was logged is safe."""


def on_main_process(method: Method) -> Method:
    """Decorator for methods of trackers: only the main process runs it, unless `main_process_only` is false."""

    @functools.wraps(method)
    def guarded(self: Any, *args: Any, **kwargs: Any) -> Any:
        if getattr(self, "main_process_only", True) and not PartialState().is_main_process:
            return None
        return method(self, *args, **kwargs)

    return guarded  # type: ignore[return-value]  # it takes what the method takes
