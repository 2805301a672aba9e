"""Gradient accumulation: which micro-batch ends a window."""

from __future__ import annotations

from types import TracebackType

from nbaccel.runtime.handlers import GradientAccumulationPlugin
from nbaccel.runtime.state import GradientState


class Accumulation:
    """Counts micro-batches; as a context manager, one `with` block is one micro-batch.

    Args:
        plugin: the settings.
        gradients: where the decision is written.

    Attributes:
        num_steps: micro-batches per window; may be changed at any time.
        step: micro-batches since the count began.
        sync_each_batch: whether gradients are averaged over the processes in each micro-batch.
    """

    __slots__ = ("_gradients", "_with_loader", "num_steps", "step", "sync_each_batch")

    def __init__(self, plugin: GradientAccumulationPlugin, gradients: GradientState) -> None:
        self.num_steps = plugin.num_steps or 1
        self.step = 0
        self.sync_each_batch = plugin.sync_each_batch
        self._with_loader = plugin.sync_with_dataloader
        self._gradients = gradients

    def advance(self) -> bool:
        """Count one micro-batch. Returns whether it completes a window; optimizers and schedulers then step."""
        self.__enter__()
        return self._gradients.sync_gradients

    def __enter__(self) -> None:
        gradients = self._gradients
        if self._with_loader and gradients.position.end:
            self.step = 0
            gradients.sync_gradients = True
        else:
            self.step += 1
            gradients.sync_gradients = self.step % self.num_steps == 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass
