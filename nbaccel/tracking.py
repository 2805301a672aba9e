"""What training code may import from `nbaccel.tracking`; nothing inside nbaccel does."""

from nbaccel.runtime.tracking.base import GeneralTracker, on_main_process
from nbaccel.runtime.tracking.choosing import LoggerType, choose, installed, register_tracker_class
from nbaccel.runtime.tracking.notebook import NotebookTracker
from nbaccel.runtime.tracking.services.aim import AimTracker
from nbaccel.runtime.tracking.services.clearml import ClearMLTracker
from nbaccel.runtime.tracking.services.comet import CometMLTracker
from nbaccel.runtime.tracking.services.dvclive import DVCLiveTracker
from nbaccel.runtime.tracking.services.mlflow import MLflowTracker
from nbaccel.runtime.tracking.services.runs import SwanLabTracker, TrackioTracker, WandBTracker
from nbaccel.runtime.tracking.services.tensorboard import TensorBoardTracker

filter_trackers = choose
"""Accelerate's name."""
get_available_trackers = installed
"""Accelerate's name."""

__all__ = [
    "AimTracker",
    "ClearMLTracker",
    "CometMLTracker",
    "DVCLiveTracker",
    "GeneralTracker",
    "LoggerType",
    "MLflowTracker",
    "NotebookTracker",
    "SwanLabTracker",
    "TensorBoardTracker",
    "TrackioTracker",
    "WandBTracker",
    "filter_trackers",
    "get_available_trackers",
    "on_main_process",
    "register_tracker_class",
]
