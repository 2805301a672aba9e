"""The probe of this machine: every reader once, torch never imported."""

from __future__ import annotations

import os
import sys
from collections.abc import Container, Mapping
from pathlib import Path

from nbaccel.machine.cpu import affine_cpus, memory_bytes, physical_cores, usable_cores
from nbaccel.machine.machine import Machine
from nbaccel.machine.platform import detect_platform
from nbaccel.machine.torch_gpus import usable_gpus
from nbaccel.machine.tpu import count_chips
from nbaccel.machine.tpu_software import probe_tpu_software


def probe(shell: object | None = None, environ: Mapping[str, str] | None = None, root: Path = Path("/")) -> Machine:
    """Find out what this process can use; nothing is initialised, so workers may still be forked afterwards.

    Args:
        shell: the IPython shell of a kernel, None elsewhere.
        environ: the environment to read; left out: `os.environ`. Never written.
        root: folder that holds `proc`, `sys`, `dev` and `usr`.

    Raises:
        ConfigError: the variable NBACCEL_PLATFORM names no platform.
    """
    given = os.environ if environ is None else environ
    cpus = affine_cpus()
    cores = usable_cores(root, cpus)
    kind, chips = count_chips(root)
    gpus, obstacle = usable_gpus(given, root)
    return Machine(
        platform=_platform_of(shell, given, root),
        usable_cores=cores,
        physical_cores=min(cores, physical_cores(root, cpus)),
        memory_bytes=memory_bytes(root),
        gpus=gpus,
        tpu_kind=kind,
        tpu_chips=chips,
        tpu_software=probe_tpu_software(given, root, sys.modules),
        has_mps=has_mps(sys.platform, os.uname().machine),
        gpu_obstacle=obstacle,
    )


def has_mps(system: str, architecture: str) -> bool:
    """Whether torch can use the GPU of this Mac: `system` as `sys.platform`, `architecture` as `uname -m` says it."""
    return system == "darwin" and architecture == "arm64"


def _platform_of(shell: object | None, environ: Mapping[str, str], root: Path) -> str:
    module = type(shell).__module__ if shell is not None else ""
    names: Container[str] = getattr(shell, "user_ns", ())
    return detect_platform(environ, lambda path: (root / path.lstrip("/")).exists(), module, names)
