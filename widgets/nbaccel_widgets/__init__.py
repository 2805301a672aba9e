"""Forms of plain ipywidgets for nbaccel; they run in every notebook that shows ipywidgets 7.7.1 or later."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from nbaccel.errors import MissingExtraError

if find_spec("ipywidgets") is None:
    raise MissingExtraError("ipywidgets", "nbaccel_widgets", "pip install 'nbaccel[widgets]'")

if TYPE_CHECKING:
    from nbaccel_widgets.config_form import ConfigForm
    from nbaccel_widgets.launch_form import LaunchForm
    from nbaccel_widgets.monitor import RunMonitor

_HOMES = {
    "ConfigForm": "nbaccel_widgets.config_form",
    "LaunchForm": "nbaccel_widgets.launch_form",
    "RunMonitor": "nbaccel_widgets.monitor",
}

__all__ = ["ConfigForm", "LaunchForm", "RunMonitor"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'nbaccel_widgets' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
