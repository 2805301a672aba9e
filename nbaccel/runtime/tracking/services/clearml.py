"""ClearML (https://clear.ml/docs)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from nbaccel.errors import CallError
from nbaccel.runtime.tracking.base import GeneralTracker
from nbaccel.runtime.tracking.packages import need

_SERIES = ("train", "eval", "test")


class ClearMLTracker(GeneralTracker):
    """Logs to a task of ClearML; one that is active already is used, and left open.

    Args:
        run_name: name of project and task; the variables CLEARML_PROJECT and CLEARML_TASK go before.
        init_kwargs: further arguments of `Task.init`.
    """

    name = "clearml"

    def __init__(self, run_name: str | None = None, **init_kwargs: Any) -> None:
        super().__init__()
        self.run_name, self.init_kwargs = run_name, init_kwargs
        self.task: Any = None
        self._is_own = False

    @property
    def tracker(self) -> Any:
        return self.task

    def start(self) -> None:
        task_class = need("clearml", "clearml", self.name).Task
        self.task = task_class.current_task()
        self._is_own = self.task is None
        if self._is_own:
            names = {
                "project_name": os.environ.get("CLEARML_PROJECT", self.run_name),
                "task_name": os.environ.get("CLEARML_TASK", self.run_name),
            }
            self.task = task_class.init(**{**names, **self.init_kwargs})

    def store_init_configuration(self, values: Mapping[str, Any]) -> None:
        self.task.connect_configuration(dict(values))

    def log(self, values: Mapping[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Note numbers: as a curve with a step, else as single values."""
        logger = self.task.get_logger()
        for name, value in values.items():
            if not isinstance(value, (int, float)):
                continue
            if step is None:
                logger.report_single_value(name=name, value=value, **kwargs)
            else:
                title, series = _title_and_series(name)
                logger.report_scalar(title=title, series=series, value=value, iteration=step, **kwargs)

    def log_images(self, values: Mapping[str, Any], step: int | None = None, **kwargs: Any) -> None:
        for name, image in values.items():
            title, series = _title_and_series(name)
            self.task.get_logger().report_image(title=title, series=series, iteration=step, image=image, **kwargs)

    def log_table(
        self,
        table_name: str,
        columns: list[str] | None = None,
        data: list[list[Any]] | None = None,
        dataframe: Any = None,
        step: int | None = None,
        **kwargs: Any,
    ) -> None:
        """As in the base class. Raises CallError without rows or a data frame."""
        if dataframe is None and data is None:
            raise CallError(
                f"log_table({table_name!r}) has nothing to show. Give data= (a list of rows) or dataframe=."
            )
        table = dataframe if dataframe is not None else [*([columns] if columns else []), *(data or [])]
        title, series = _title_and_series(table_name)
        self.task.get_logger().report_table(title=title, series=series, table_plot=table, iteration=step, **kwargs)

    def finish(self) -> None:
        if self._is_own:
            self.task.close()


def _title_and_series(name: str) -> tuple[str, str]:
    """`eval_loss` is the series `eval` in the plot `loss`."""
    first, _, rest = name.partition("_")
    return (rest, first) if rest and first in _SERIES else (name, _SERIES[0])
