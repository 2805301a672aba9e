"""The prepared learning rate scheduler: counts the optimizer's steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.optim.lr_scheduler import ReduceLROnPlateau

from nbaccel.runtime.optimizer import AcceleratedOptimizer
from nbaccel.runtime.state import GradientState


class AcceleratedScheduler:
    """A scheduler that moves when its optimizers do.

    A schedule is written for one process. Where each process reads whole batches of its own, one optimizer step uses
    as many batches as there are processes, and the schedule moves on by as many steps.

    Args:
        scheduler: the scheduler that does the work.
        optimizers: the prepared optimizers that it belongs to.
        steps: how far the schedule moves per optimizer step: the number of processes, 1 with `split_batches`.
        step_with_optimizer: False moves it by 1 at each call, whatever the optimizers do.
        gradients: says whether gradients are complete.
    """

    def __init__(
        self,
        scheduler: Any,
        optimizers: Sequence[AcceleratedOptimizer],
        steps: int = 1,
        step_with_optimizer: bool = True,
        gradients: GradientState | None = None,
    ) -> None:
        self.scheduler = scheduler
        self.optimizers = optimizers
        self.step_with_optimizer = step_with_optimizer
        self._gradients = gradients or GradientState()
        self._may_skip = tuple(optimizer for optimizer in optimizers if optimizer.precision.can_skip)
        # a plateau is counted in evaluations, not in batches
        self._steps = 1 if isinstance(scheduler, ReduceLROnPlateau) else steps
        self._last = getattr(scheduler, "total_steps", None)
        self._is_plain = step_with_optimizer and not self._may_skip and self._steps == 1 and self._last is None

    def step(self, *args: Any, **kwargs: Any) -> None:
        """Move on if the optimizers did."""
        scheduler = self.scheduler
        if self._is_plain and not args and not kwargs:  # every step of most runs comes here
            if self._gradients.sync_gradients:
                scheduler.step()
            return
        if not self.step_with_optimizer:
            scheduler.step(*args, **kwargs)
            return
        if not self._gradients.sync_gradients:
            return
        for optimizer in self._may_skip:
            if optimizer.step_was_skipped:
                return
        last = self._last
        for _ in range(self._steps):
            if last is None or scheduler.last_epoch < last:  # the last round may be too long for the schedule
                scheduler.step(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name == "scheduler":  # not there yet, while unpickling
            raise AttributeError(name)
        return getattr(self.scheduler, name)
