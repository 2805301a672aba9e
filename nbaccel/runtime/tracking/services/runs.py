"""Weights & Biases, and two libraries whose calls are the same: Trackio and SwanLab."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from nbaccel.runtime.tracking.base import GeneralTracker
from nbaccel.runtime.tracking.packages import need


class _RunTracker(GeneralTracker):
    """A library with `init(project=...)`, which returns a run.

    Args:
        run_name: name of the project.
        init_kwargs: further arguments of `init`.
    """

    package: ClassVar[str]

    def __init__(self, run_name: str, **init_kwargs: Any) -> None:
        super().__init__()
        self.run_name, self.init_kwargs = run_name, init_kwargs
        self.run: Any = None

    @property
    def library(self) -> Any:
        return need(self.package, self.package, self.name)

    @property
    def tracker(self) -> Any:
        return self.run

    def start(self) -> None:
        self.run = self.library.init(**{"project": self.run_name, **self.init_kwargs})

    def store_init_configuration(self, values: Mapping[str, Any]) -> None:
        self.library.config.update(dict(values), allow_val_change=True)

    def log(self, values: Mapping[str, Any], step: int | None = None, **kwargs: Any) -> None:
        self.run.log(dict(values), step=step, **kwargs)

    def finish(self) -> None:
        self.run.finish()


class _ImageTracker(_RunTracker):
    def log_images(self, values: Mapping[str, Any], step: int | None = None, **kwargs: Any) -> None:
        image = self.library.Image
        self.log({name: [image(one) for one in several] for name, several in values.items()}, step=step, **kwargs)


class WandBTracker(_ImageTracker):
    """Weights & Biases (https://docs.wandb.ai)."""

    name = package = "wandb"

    def log_table(
        self,
        table_name: str,
        columns: list[str] | None = None,
        data: list[list[Any]] | None = None,
        dataframe: Any = None,
        step: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.log({table_name: self.library.Table(columns=columns, data=data, dataframe=dataframe)}, step, **kwargs)


class TrackioTracker(_RunTracker):
    """Trackio (https://huggingface.co/docs/trackio)."""

    name = package = "trackio"


class SwanLabTracker(_ImageTracker):
    """SwanLab (https://docs.swanlab.cn)."""

    name = package = "swanlab"
