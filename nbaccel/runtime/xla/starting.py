"""How a process begins to use TPU chips; before it the libraries that drive them are not even imported."""

from __future__ import annotations

import atexit
import os
import zlib
from importlib import import_module
from typing import Any

import torch

from nbaccel.errors import MissingExtraError, StateError
from nbaccel.plan import Topology


def begin_xla(topology: Topology, spmd: bool) -> None:
    """Begin torch_xla's runtime, once per process.

    Args:
        topology: position of this process.
        spmd: this process drives all chips.

    Raises:
        MissingExtraError: torch_xla is not installed, or cannot be loaded.
        StateError: the runtime has begun already, in the other of the two ways.
    """
    torch_xla = _imported("torch_xla", "pip install 'nbaccel[xla]'")
    _settle(torch_xla)
    from torch_xla import runtime

    if torch_xla._XLAC._xla_runtime_is_initialized() or runtime.is_spmd():
        if runtime.is_spmd() != spmd:
            raise StateError(
                f"torch_xla has begun in this process {'with' if runtime.is_spmd() else 'without'} SPMD, and cannot "
                "change that. Launch the code anew, or ask for the same in both places (xla_spmd, or FSDP)."
            )
        return
    if spmd:
        runtime.use_spmd()
    elif topology.local_world_size > 1 and runtime.device_type() == "TPU":
        _share_chips(topology)
    runtime.global_runtime_device_count()  # from here on it runs
    torch_xla.manual_seed(zlib.crc32(bytes(torch.get_rng_state().tolist())))  # else every launch would draw the same


def _settle(torch_xla: Any) -> None:
    """Do again what its import did, if that was in another process: variables for libtpu, and an orderly end."""
    for setup in ("_setup_default_env", "_setup_xla_flags", "_setup_tpu_vm_library_path"):
        getattr(torch_xla, setup)()
    atexit.unregister(torch_xla._prepare_to_exit)
    atexit.register(torch_xla._prepare_to_exit)


def _share_chips(topology: Topology) -> None:
    """Let the processes of the machine form one computation; the launch has told which chip is whose, or the cloud."""
    if "TPU_PROCESS_BOUNDS" not in os.environ:
        import_module("torch_xla._internal.pjrt").initialize_multiprocess(
            topology.local_rank, topology.local_world_size
        )
        return
    model: Any = import_module("torch_xla.core.xla_model")
    model.set_replication(import_module("torch_xla").device(), model.get_xla_supported_devices())


def begin_tpu() -> None:
    """Load torch_tpu, which binds this process to the chip of its rank when it first computes.

    Raises:
        MissingExtraError: torch_tpu is not installed, or cannot be loaded.
    """
    _imported("torch_tpu", "pip install 'nbaccel[tpu]'")
    import_module("torch_tpu._loader").load()  # its import does so unless TORCH_DEVICE_BACKEND_AUTOLOAD forbids it


def _imported(package: str, install: str) -> Any:
    try:
        return import_module(package)
    except (ImportError, OSError) as error:
        raise MissingExtraError(package, f"training on a TPU ({error})", install) from error
