"""Train on every device of the machine from a notebook cell.

`import nbaccel` is light: it imports neither torch nor IPython. Public names are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nbaccel.notebook.export import export
    from nbaccel.notebook.extension import load_ipython_extension, unload_ipython_extension
    from nbaccel.notebook.launcher import debug_launcher, notebook_launcher, submit
    from nbaccel.notebook.session import Session
    from nbaccel.runtime.accelerator import Accelerator
    from nbaccel.runtime.bigmodel.dispatch import cpu_offload, cpu_offload_with_hook, disk_offload, dispatch_model
    from nbaccel.runtime.bigmodel.empty import init_empty_weights, init_on_device
    from nbaccel.runtime.bigmodel.loading import load_checkpoint_and_dispatch, load_checkpoint_in_model
    from nbaccel.runtime.bigmodel.placing import infer_auto_device_map
    from nbaccel.runtime.data.skip import skip_first_batches
    from nbaccel.runtime.enums import DDPCommunicationHookType
    from nbaccel.runtime.handlers import (
        AutocastKwargs,
        DataLoaderConfiguration,
        DistributedDataParallelKwargs,
        GradientAccumulationPlugin,
        GradScalerKwargs,
        InitProcessGroupKwargs,
        ProjectConfiguration,
    )
    from nbaccel.runtime.imports import is_rich_available
    from nbaccel.runtime.later import DeepSpeedPlugin, prepare_pippy
    from nbaccel.runtime.memory import find_executable_batch_size
    from nbaccel.runtime.plugins import FullyShardedDataParallelPlugin, ParallelismConfig
    from nbaccel.runtime.profiling import ProfileKwargs
    from nbaccel.runtime.progress import tqdm
    from nbaccel.runtime.random import synchronize_rng_states
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
    "export": "nbaccel.notebook.export",
    "submit": "nbaccel.notebook.launcher",
    "tqdm": "nbaccel.runtime.progress",
    "notebook_launcher": "nbaccel.notebook.launcher",
    "share": "nbaccel.wire.shared",
    "DDPCommunicationHookType": "nbaccel.runtime.enums",
    "DeepSpeedPlugin": "nbaccel.runtime.later",
    "ProfileKwargs": "nbaccel.runtime.profiling",
    "cpu_offload": "nbaccel.runtime.bigmodel.dispatch",
    "cpu_offload_with_hook": "nbaccel.runtime.bigmodel.dispatch",
    "disk_offload": "nbaccel.runtime.bigmodel.dispatch",
    "dispatch_model": "nbaccel.runtime.bigmodel.dispatch",
    "find_executable_batch_size": "nbaccel.runtime.memory",
    "infer_auto_device_map": "nbaccel.runtime.bigmodel.placing",
    "init_empty_weights": "nbaccel.runtime.bigmodel.empty",
    "init_on_device": "nbaccel.runtime.bigmodel.empty",
    "is_rich_available": "nbaccel.runtime.imports",
    "load_checkpoint_and_dispatch": "nbaccel.runtime.bigmodel.loading",
    "load_checkpoint_in_model": "nbaccel.runtime.bigmodel.loading",
    "prepare_pippy": "nbaccel.runtime.later",
    "synchronize_rng_states": "nbaccel.runtime.random",
    "load_ipython_extension": "nbaccel.notebook.extension",
    "unload_ipython_extension": "nbaccel.notebook.extension",
}

_MODULES = (
    "accelerator",
    "big_modeling",
    "checkpointing",
    "data_loader",
    "errors",
    "hooks",
    "inference",
    "launchers",
    "local_sgd",
    "logging",
    "memory_utils",
    "optimizer",
    "parallelism_config",
    "scheduler",
    "state",
    "tracking",
    "utils",
)
"""Modules for users, which need no import of their own: `nbaccel.utils.set_seed(0)`."""

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
    "export",
    "load_ipython_extension",
    "notebook_launcher",
    "skip_first_batches",
    "submit",
    "tqdm",
    "share",
    "unload_ipython_extension",
    "DDPCommunicationHookType",
    "DeepSpeedPlugin",
    "ProfileKwargs",
    "cpu_offload",
    "cpu_offload_with_hook",
    "disk_offload",
    "dispatch_model",
    "find_executable_batch_size",
    "infer_auto_device_map",
    "init_empty_weights",
    "init_on_device",
    "is_rich_available",
    "load_checkpoint_and_dispatch",
    "load_checkpoint_in_model",
    "prepare_pippy",
    "synchronize_rng_states",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"nbaccel.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'nbaccel' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, *_MODULES])
