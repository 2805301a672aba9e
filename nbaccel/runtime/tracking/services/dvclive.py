"""DVCLive (https://dvc.org/doc/dvclive)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nbaccel.runtime.tracking.base import GeneralTracker
from nbaccel.runtime.tracking.packages import need
from nbaccel.runtime.tracking.plain import numbers


class DVCLiveTracker(GeneralTracker):
    """Logs to `dvclive.Live`.

    Args:
        run_name: of no effect; DVCLive names runs itself.
        live: an object of `Live` to use.
        init_kwargs: arguments of `Live`.
    """

    name = "dvclive"

    def __init__(self, run_name: str | None = None, live: Any = None, **init_kwargs: Any) -> None:
        super().__init__()
        self.live, self.init_kwargs = live, init_kwargs

    @property
    def tracker(self) -> Any:
        return self.live

    def start(self) -> None:
        if self.live is None:
            self.live = need("dvclive", "dvclive", self.name).Live(**self.init_kwargs)

    def store_init_configuration(self, values: Mapping[str, Any]) -> None:
        self.live.log_params(dict(values))

    def log(self, values: Mapping[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Note numbers; DVCLive has no place for anything else."""
        if step is not None:
            self.live.step = step
        for name, value in numbers(values).items():
            self.live.log_metric(name, value, **kwargs)
        self.live.next_step()

    def log_images(self, values: Mapping[str, Any], step: int | None = None, **kwargs: Any) -> None:
        for name, image in values.items():
            self.live.log_image(name if "." in name else f"{name}.png", image, **kwargs)

    def finish(self) -> None:
        self.live.end()
