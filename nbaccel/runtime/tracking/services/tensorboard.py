"""TensorBoard (https://www.tensorflow.org/tensorboard)."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from nbaccel.errors import MissingExtraError
from nbaccel.runtime.tracking.base import GeneralTracker
from nbaccel.runtime.tracking.packages import need

_FLUSH_EVERY_S = 5.0


class TensorBoardTracker(GeneralTracker):
    """Writes event files to `logging_dir/run_name`.

    Args:
        run_name: name of the run.
        logging_dir: folder of all runs.
        init_kwargs: further arguments of `SummaryWriter`.
    """

    name = "tensorboard"
    requires_logging_directory = True

    def __init__(self, run_name: str, logging_dir: str | os.PathLike[str], **init_kwargs: Any) -> None:
        super().__init__()
        self.run_name, self.init_kwargs = run_name, init_kwargs
        self.logging_dir = os.path.join(os.fspath(logging_dir), run_name)
        self.writer: Any = None
        self._flushed_s = 0.0

    @property
    def tracker(self) -> Any:
        return self.writer

    def start(self) -> None:
        try:
            module = need("torch.utils.tensorboard", "tensorboard", self.name)
        except MissingExtraError:
            module = need("tensorboardX", "tensorboard", self.name)
        self.writer = module.SummaryWriter(self.logging_dir, **self.init_kwargs)

    def store_init_configuration(self, values: Mapping[str, Any]) -> None:
        """Show them as hyperparameters; values of other kinds are shown as texts."""
        known = {n: v if isinstance(v, (bool, int, float, str)) else str(v) for n, v in values.items()}
        self.writer.add_hparams(known, {}, run_name=".")
        self.writer.flush()

    def log(self, values: Mapping[str, Any], step: int | None = None, **kwargs: Any) -> None:
        for name, value in values.items():
            if isinstance(value, str):
                self.writer.add_text(name, value, global_step=step, **kwargs)
            elif isinstance(value, Mapping):
                self.writer.add_scalars(name, dict(value), global_step=step, **kwargs)
            elif isinstance(value, (int, float)):
                self.writer.add_scalar(name, value, global_step=step, **kwargs)
        if time.monotonic() - self._flushed_s > _FLUSH_EVERY_S:
            self._flushed_s = time.monotonic()
            self.writer.flush()

    def log_images(self, values: Mapping[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Note batches of images, of shape (n, channels, height, width), or as the argument `dataformats` says."""
        for name, images in values.items():
            self.writer.add_images(name, images, global_step=step, **kwargs)

    def finish(self) -> None:
        self.writer.close()
