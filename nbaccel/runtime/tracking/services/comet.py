"""Comet (https://www.comet.com/docs)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nbaccel.runtime.tracking.base import GeneralTracker
from nbaccel.runtime.tracking.packages import need


class CometMLTracker(GeneralTracker):
    """Logs to an experiment of Comet.

    Args:
        run_name: name of the project.
        init_kwargs: further arguments of `comet_ml.start`.
    """

    name = "comet_ml"

    def __init__(self, run_name: str, **init_kwargs: Any) -> None:
        super().__init__()
        self.run_name, self.init_kwargs = run_name, init_kwargs
        self.writer: Any = None

    @property
    def tracker(self) -> Any:
        return self.writer

    def start(self) -> None:
        library = need("comet_ml", "comet_ml", self.name)
        begin = getattr(library, "start", None) or library.Experiment  # before 3.41
        self.writer = begin(**{"project_name": self.run_name, **self.init_kwargs})

    def store_init_configuration(self, values: Mapping[str, Any]) -> None:
        self.writer.log_parameters(dict(values))

    def log(self, values: Mapping[str, Any], step: int | None = None, **kwargs: Any) -> None:
        if step is not None:
            self.writer.set_step(step)
        for name, value in values.items():
            if isinstance(value, Mapping):
                self.writer.log_metrics(dict(value), step=step, prefix=name, **kwargs)
            elif isinstance(value, (int, float)):
                self.writer.log_metric(name, value, step=step, **kwargs)
            else:
                self.writer.log_other(name, value, **kwargs)

    def finish(self) -> None:
        self.writer.end()
