"""How processes train one model together. The base class is one process alone."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import nn

from nbaccel.runtime.accumulation import Accumulation


class Strategy:
    """One process: the model is as it is, and there is nobody to talk to."""

    def wrap(self, model: nn.Module) -> nn.Module:
        """Make the model train together with the other processes."""
        return model

    def window(self, accumulation: Accumulation, models: Sequence[Any]) -> AbstractContextManager[None]:
        """A `with` block around one micro-batch."""
        return accumulation

    def no_sync(self, model: Any) -> AbstractContextManager[None]:
        """A `with` block in which gradients stay on their process."""
        return nullcontext()
