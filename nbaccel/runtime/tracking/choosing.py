"""Which trackers there are, and which of them `log_with` means."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Any

from nbaccel.errors import CallError, MissingExtraError, nearest
from nbaccel.runtime.enums import BaseEnum
from nbaccel.runtime.tracking.base import GeneralTracker
from nbaccel.runtime.tracking.packages import is_installed


class LoggerType(BaseEnum):
    """Names of trackers."""

    ALL = "all"
    AIM = "aim"
    TENSORBOARD = "tensorboard"
    WANDB = "wandb"
    TRACKIO = "trackio"
    COMETML = "comet_ml"
    MLFLOW = "mlflow"
    CLEARML = "clearml"
    DVCLIVE = "dvclive"
    SWANLAB = "swanlab"
    NOTEBOOK = "notebook"

    def __str__(self) -> str:
        return self.value


_HOME = "nbaccel.runtime.tracking"
_CLASSES = {
    "aim": (f"{_HOME}.services.aim", "AimTracker", ("aim",)),
    "tensorboard": (f"{_HOME}.services.tensorboard", "TensorBoardTracker", ("tensorboard", "tensorboardX")),
    "wandb": (f"{_HOME}.services.runs", "WandBTracker", ("wandb",)),
    "trackio": (f"{_HOME}.services.runs", "TrackioTracker", ("trackio",)),
    "comet_ml": (f"{_HOME}.services.comet", "CometMLTracker", ("comet_ml",)),
    "mlflow": (f"{_HOME}.services.mlflow", "MLflowTracker", ("mlflow",)),
    "clearml": (f"{_HOME}.services.clearml", "ClearMLTracker", ("clearml",)),
    "dvclive": (f"{_HOME}.services.dvclive", "DVCLiveTracker", ("dvclive",)),
    "swanlab": (f"{_HOME}.services.runs", "SwanLabTracker", ("swanlab",)),
    "notebook": (f"{_HOME}.notebook", "NotebookTracker", ()),
}
"""For each name: module, class, packages of which one must be installed."""

_registered: dict[str, type[Any]] = {}

Chosen = type[Any] | Any
"""A class to make a tracker of, or a tracker that somebody has made."""


def register_tracker_class(tracker_class: type[Any]) -> None:
    """Let `log_with` name a class of your own.

    Args:
        tracker_class: a subclass of `GeneralTracker` with a `name`; made with the project's name, then with the
            logging folder if it `requires_logging_directory`, and with its `init_kwargs`.

    Raises:
        CallError: it is no such class.
    """
    if not (isinstance(tracker_class, type) and issubclass(tracker_class, GeneralTracker)):
        raise CallError(
            f"register_tracker_class({tracker_class!r}): give a subclass of nbaccel.tracking.GeneralTracker."
        )
    name = tracker_class.__dict__.get("name")
    if not isinstance(name, str) or not name:
        raise CallError(
            f'register_tracker_class({tracker_class.__name__}): it has no name. Write `name = "..."` in it.'
        )
    if name in _CLASSES or name in _registered:
        warnings.warn(f"log_with={name!r} now means {tracker_class.__name__}.", stacklevel=2)
    _registered[name] = tracker_class


def installed() -> list[str]:
    """Names of the trackers whose packages are there."""
    return [*_registered, *(name for name in _CLASSES if name not in _registered and _is_ready(name))]


def _is_ready(name: str) -> bool:
    packages = _CLASSES[name][2]
    return not packages or is_installed(packages)


def choose(log_with: Any, logging_dir: str | None) -> list[Chosen]:
    """What `log_with` means, each once.

    Args:
        log_with: None, a name, a tracker, or several of them; `all` for all that are installed.
        logging_dir: folder for those that write files; without one, `all` leaves them out.

    Returns:
        Classes by name, and trackers as they were given.

    Raises:
        CallError: an unknown name, or a tracker that needs a folder and has none.
        MissingExtraError: a package is not installed.
    """
    found: list[Chosen] = []
    for wish in _flat(log_with):
        for chosen in _meant(wish, logging_dir):
            if not any(chosen is known for known in found):
                found.append(chosen)
    return found


def _flat(log_with: Any) -> Sequence[Any]:
    if log_with is None:
        return ()
    return log_with if isinstance(log_with, (list, tuple, set)) else (log_with,)  # type: ignore[return-value]


def _meant(wish: Any, logging_dir: str | None) -> Iterable[Chosen]:
    if not isinstance(wish, (str, type)) and callable(getattr(wish, "log", None)):
        return [wish]
    name = str(wish).lower()
    if name == LoggerType.ALL.value:
        classes = [_class_of(known) for known in installed()]
        return [one for one in classes if logging_dir is not None or not one.requires_logging_directory]
    if name not in _CLASSES and name not in _registered:
        possible = [*_registered, *_CLASSES, "all"]
        meant = nearest(name, possible)
        hint = f" Did you mean {meant!r}?" if meant else ""
        raise CallError(
            f"log_with={wish!r}: possible are {', '.join(possible)}, and objects with the methods of "
            f"GeneralTracker.{hint}"
        )
    if name not in _registered and not _is_ready(name):
        package = _CLASSES[name][2][0]
        raise MissingExtraError(package, f"log_with={name!r}", f"pip install {package}")
    chosen = _class_of(name)
    if chosen.requires_logging_directory and logging_dir is None:
        raise CallError(
            f"log_with={name!r} writes files and knows no folder. Give one: Accelerator(project_dir='project'), or "
            "ProjectConfiguration(logging_dir='logs')."
        )
    return [chosen]


def _class_of(name: str) -> type[Any]:
    if name in _registered:
        return _registered[name]
    module, kind, _ = _CLASSES[name]
    found: type[Any] = getattr(import_module(module), kind)
    return found
