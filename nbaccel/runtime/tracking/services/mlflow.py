"""MLflow (https://mlflow.org/docs/latest)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from itertools import islice
from typing import Any

from nbaccel.runtime.tracking.base import GeneralTracker
from nbaccel.runtime.tracking.packages import need

_LONGEST_PARAM = 500
_PARAMS_AT_ONCE = 100


class MLflowTracker(GeneralTracker):
    """Logs to a run of MLflow.

    Args:
        experiment_name: name of the experiment; the variable MLFLOW_EXPERIMENT_NAME goes before.
        logging_dir: place of a new experiment's artifacts.
        run_id: continue this run; MLFLOW_RUN_ID goes before.
        tags: of the run; MLFLOW_TAGS, as JSON, goes before.
        nested_run: make the run inside the one that is active; MLFLOW_NESTED_RUN goes before.
        run_name: name of the run.
        description: of the run.
    """

    name = "mlflow"

    def __init__(
        self,
        experiment_name: str | None = None,
        logging_dir: str | os.PathLike[str] | None = None,
        run_id: str | None = None,
        tags: Mapping[str, Any] | str | None = None,
        nested_run: bool | str = False,
        run_name: str | None = None,
        description: str | None = None,
    ) -> None:
        super().__init__()
        told = os.environ.get
        self.experiment_name = told("MLFLOW_EXPERIMENT_NAME", experiment_name)
        self.logging_dir = None if logging_dir is None else os.fspath(logging_dir)
        tags = told("MLFLOW_TAGS", tags)
        nested = told("MLFLOW_NESTED_RUN", nested_run)
        self.options = {
            "run_id": told("MLFLOW_RUN_ID", run_id),
            "tags": json.loads(tags) if isinstance(tags, str) else tags,
            "nested": str(nested).lower() in ("1", "true", "yes", "y", "t", "on"),
            "run_name": run_name,
            "description": description,
        }
        self.active_run: Any = None

    @property
    def library(self) -> Any:
        return need("mlflow", "mlflow", self.name)

    @property
    def tracker(self) -> Any:
        return self.active_run

    def start(self) -> None:
        name = self.experiment_name or "Default"
        known = self.library.get_experiment_by_name(name)
        number = known.experiment_id if known is not None else self._new_experiment(name)
        self.active_run = self.library.start_run(experiment_id=number, **self.options)

    def _new_experiment(self, name: str) -> Any:
        return self.library.create_experiment(name=name, artifact_location=self.logging_dir, tags=self.options["tags"])

    def store_init_configuration(self, values: Mapping[str, Any]) -> None:
        """Note parameters; MLflow takes no value of more than 500 characters: those are cut."""
        short = iter({name: str(value)[:_LONGEST_PARAM] for name, value in values.items()}.items())
        while some := dict(islice(short, _PARAMS_AT_ONCE)):
            self.library.log_params(some)

    def log(self, values: Mapping[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Note numbers; MLflow has no place for anything else."""
        known = {name: value for name, value in values.items() if isinstance(value, (int, float))}
        self.library.log_metrics(known, step=step, **kwargs)

    def log_figure(self, figure: Any, artifact_file: str, **save_kwargs: Any) -> None:
        """Keep a figure of matplotlib or plotly as a file of the run."""
        self.library.log_figure(figure, artifact_file, **save_kwargs)

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> None:
        """Keep a folder's files with the run."""
        self.library.log_artifacts(local_dir, artifact_path)

    def log_artifact(self, local_path: str, artifact_path: str | None = None) -> None:
        """Keep a file with the run."""
        self.library.log_artifact(local_path, artifact_path)

    def finish(self) -> None:
        self.library.end_run()
