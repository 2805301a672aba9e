"""Aim (https://aimstack.readthedocs.io)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from nbaccel.runtime.tracking.base import GeneralTracker
from nbaccel.runtime.tracking.packages import need


class AimTracker(GeneralTracker):
    """Logs to a repository of Aim in a folder.

    Args:
        run_name: name of the run.
        logging_dir: folder of the repository.
        init_kwargs: further arguments of `aim.Run`.
    """

    name = "aim"
    requires_logging_directory = True

    def __init__(self, run_name: str, logging_dir: str | os.PathLike[str] | None = ".", **init_kwargs: Any) -> None:
        super().__init__()
        self.run_name, self.repository, self.init_kwargs = run_name, logging_dir, init_kwargs
        self.writer: Any = None

    @property
    def tracker(self) -> Any:
        return self.writer

    def start(self) -> None:
        self.writer = need("aim", "aim", self.name).Run(**{"repo": self.repository, **self.init_kwargs})
        self.writer.name = self.run_name

    def store_init_configuration(self, values: Mapping[str, Any]) -> None:
        self.writer["hparams"] = dict(values)

    def log(self, values: Mapping[str, Any], step: int | None = None, **kwargs: Any) -> None:
        for name, value in values.items():
            self.writer.track(value, name=name, step=step, **kwargs)

    def log_images(self, values: Mapping[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Note images, or pairs of an image and its caption.

        Args:
            values: images by name.
            step: the step.
            kwargs: `kwargs={"aim_image": ..., "track": ...}`: arguments of `aim.Image` and of `Run.track`.
        """
        options = kwargs.get("kwargs") or {}
        image_class = need("aim", "aim", self.name).Image
        for name, value in values.items():
            picture, caption = value if isinstance(value, tuple) else (value, "")
            image = image_class(picture, caption=caption, **options.get("aim_image", {}))
            self.writer.track(image, name=name, step=step, **options.get("track", {}))

    def finish(self) -> None:
        self.writer.close()
