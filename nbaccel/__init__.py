"""Train on every device of the machine from a notebook cell.

`import nbaccel` is light: it imports neither torch nor IPython. Public names are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nbaccel.notebook.extension import load_ipython_extension, unload_ipython_extension
    from nbaccel.notebook.launcher import debug_launcher, notebook_launcher, submit
    from nbaccel.notebook.session import Session
    from nbaccel.runtime.accelerator import Accelerator
    from nbaccel.runtime.data.skip import skip_first_batches
    from nbaccel.runtime.handlers import (
        AutocastKwargs,
        DataLoaderConfiguration,
        DistributedDataParallelKwargs,
        GradientAccumulationPlugin,
        GradScalerKwargs,
        InitProcessGroupKwargs,
        ProjectConfiguration,
    )
    from nbaccel.runtime.plugins import FullyShardedDataParallelPlugin, ParallelismConfig
    from nbaccel.runtime.progress import tqdm
    from nbaccel.runtime.state import DistributedType, PartialState
    from nbaccel.wire.shared import share

__version__ = "0.1.0"

_HOMES = {
    "Accelerator": "nbaccel.runtime.accelerator",
    "AutocastKwargs": "nbaccel.runtime.handlers",
    "DataLoaderConfiguration": "nbaccel.runtime.handlers",
    "DistributedDataParallelKwargs": "nbaccel.runtime.handlers",
    "DistributedType": "nbaccel.runtime.state",
    "GradScalerKwargs": "nbaccel.runtime.handlers",
    "GradientAccumulationPlugin": "nbaccel.runtime.handlers",
    "InitProcessGroupKwargs": "nbaccel.runtime.handlers",
    "FullyShardedDataParallelPlugin": "nbaccel.runtime.plugins",
    "ParallelismConfig": "nbaccel.runtime.plugins",
    "ProjectConfiguration": "nbaccel.runtime.handlers",
    "skip_first_batches": "nbaccel.runtime.data.skip",
    "PartialState": "nbaccel.runtime.state",
    "Session": "nbaccel.notebook.session",
    "debug_launcher": "nbaccel.notebook.launcher",
    "submit": "nbaccel.notebook.launcher",
    "tqdm": "nbaccel.runtime.progress",
    "notebook_launcher": "nbaccel.notebook.launcher",
    "share": "nbaccel.wire.shared",
    "load_ipython_extension": "nbaccel.notebook.extension",
    "unload_ipython_extension": "nbaccel.notebook.extension",
}

__all__ = [
    "Accelerator",
    "AutocastKwargs",
    "DataLoaderConfiguration",
    "DistributedDataParallelKwargs",
    "DistributedType",
    "FullyShardedDataParallelPlugin",
    "GradScalerKwargs",
    "GradientAccumulationPlugin",
    "InitProcessGroupKwargs",
    "ParallelismConfig",
    "PartialState",
    "ProjectConfiguration",
    "Session",
    "debug_launcher",
    "load_ipython_extension",
    "notebook_launcher",
    "skip_first_batches",
    "submit",
    "tqdm",
    "share",
    "unload_ipython_extension",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'nbaccel' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
