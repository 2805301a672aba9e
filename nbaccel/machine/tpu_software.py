"""What there is to compute on TPUs with, found without importing any of it: an import may wake the chips."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from nbaccel.machine.machine import TpuSoftware

_CHIP_FILES = ("/dev/accel", "/dev/vfio/")


def probe_tpu_software(environ: Mapping[str, str], root: Path, modules: Mapping[str, ModuleType]) -> TpuSoftware:
    """Look for packages, their settings, and for whoever has opened the chips.

    Args:
        environ: the environment to read.
        root: folder that holds `proc`.
        modules: the modules that this process has imported.
    """
    torch_xla, torch_tpu = _version("torch_xla"), _version("torch_tpu")
    asked = environ.get("PJRT_DEVICE", "").partition("_")[0].upper()
    return TpuSoftware(
        torch=_version("torch") if torch_xla or torch_tpu else "",
        torch_xla=torch_xla,
        torch_tpu=torch_tpu,
        has_libtpu="TPU_LIBRARY_PATH" in environ or _is_there("libtpu") or _has_own_libtpu(),
        pjrt_device=asked,
        host_devices=_whole_number(environ.get("CPU_NUM_DEVICES", "1")),
        held_by=next(_holders(asked, root, modules), ""),
    )


def _is_there(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):  # a module of that name that was put into sys.modules by hand
        return False


def _has_own_libtpu() -> bool:
    """Whether torch_xla brings it along."""
    spec = importlib.util.find_spec("torch_xla") if _is_there("torch_xla") else None
    folders = [] if spec is None else spec.submodule_search_locations or []
    return any(Path(folder, "lib/libtpu.so").exists() for folder in folders)


def _version(package: str) -> str:
    if not _is_there(package):
        return ""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _whole_number(text: str) -> int:
    return max(1, int(text)) if text.strip().isdecimal() else 1


def _holders(asked: str, root: Path, modules: Mapping[str, ModuleType]) -> Iterator[str]:
    """What has opened the chips, as users know it, the surest first."""
    if asked != "CPU" and xla_is_awake(modules):
        yield "torch_xla (a tensor on the device 'xla', or xm.xla_device())"
    if _jax_has_tpu(modules.get("jax._src.xla_bridge")):
        yield "jax (jax.devices(), or a computation)"
    if _torch_tpu_is_awake(modules.get("torch")):
        yield "torch_tpu (a tensor on the device 'tpu')"
    if _chip_is_open(root):
        known = [name for name in ("torch_xla", "jax", "tensorflow", "torch_tpu") if name in modules]
        yield f"{' or '.join(known) or 'a library'} (it holds the chip's device file)"


def xla_is_awake(modules: Mapping[str, ModuleType]) -> bool:
    """Whether torch_xla's runtime has begun in this process; asking does not begin it."""
    inner: Any = getattr(modules.get("torch_xla"), "_XLAC", None)
    return inner is not None and bool(inner._xla_runtime_is_initialized())


def _jax_has_tpu(bridge: Any) -> bool:
    return "tpu" in getattr(bridge, "_backends", ())


def _torch_tpu_is_awake(torch: Any) -> bool:
    is_initialized = getattr(getattr(torch, "tpu", None), "is_initialized", None)
    if not callable(is_initialized):
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it calls itself experimental
        return bool(is_initialized())


def _chip_is_open(root: Path) -> bool:
    folder = root / "proc/self/fd"
    for entry in folder.iterdir() if folder.is_dir() else ():
        with suppress(OSError):
            if os.readlink(entry).startswith(_CHIP_FILES):
                return True
    return False
