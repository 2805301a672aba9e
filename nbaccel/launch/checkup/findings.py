"""What there is to know before a launch, gathered without importing torch."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from nbaccel import __version__
from nbaccel.config import Layer, Resolved, resolve
from nbaccel.config.files import find
from nbaccel.config.sources import CONFIG_FILE
from nbaccel.errors import NbaccelError
from nbaccel.machine import Machine, probe
from nbaccel.machine.torch_gpus import installed_torch
from nbaccel.plan import Plan, settle

PACKAGES = ("torch", "numpy", "ipython", "ipykernel", "ipywidgets", "safetensors", "accelerate")
"""Distributions whose versions are shown."""

_SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class Findings:
    """All facts of a check-up.

    Attributes:
        machine: devices, cores, memory, platform.
        hidden_gpus: GPUs that CUDA_VISIBLE_DEVICES hides, where it hides all.
        free_memory_bytes: main memory that is free now.
        shared_memory_bytes: free space in shared memory; None where it has no size of its own.
        temporary_bytes: free space in the temporary folder.
        most_open_files: how many files a process may have open.
        versions: versions of packages, empty where one is not installed.
        torch_cuda: the CUDA version that torch is made for, empty for none.
        files: the configuration files that are looked for: kind, path, and whether it is there.
        unwritable: folders that should be writable and are not, by what names them.
        resolved: the configuration; None if it is wrong.
        plan: what a launch does; None if it cannot be.
        error: why there is no configuration, or no plan.
    """

    machine: Machine
    hidden_gpus: int = 0
    free_memory_bytes: int = 1 << 40
    shared_memory_bytes: int | None = None
    temporary_bytes: int = 1 << 40
    most_open_files: int = 1 << 20
    versions: Mapping[str, str] = field(default_factory=dict)
    torch_cuda: str = ""
    files: tuple[tuple[str, str, bool], ...] = ()
    unwritable: Mapping[str, str] = field(default_factory=dict)
    resolved: Resolved | None = None
    plan: Plan | None = None
    error: str = ""


def gather(
    *layers: Layer,
    config_file: str | None = None,
    machine: Machine | None = None,
    environ: Mapping[str, str] | None = None,
    folder: Path | None = None,
    launcher: str | None = None,
) -> Findings:
    """Look at everything.

    Args:
        layers: what the caller gives, highest first.
        config_file: the file that the caller names.
        machine: what exists; left out: probed now.
        environ: the environment; left out: `os.environ`.
        folder: where the search for the project file begins; left out: the working folder.
        launcher: what starts workers; left out: what the configuration says.
    """
    given = os.environ if environ is None else environ
    start = Path.cwd() if folder is None else folder
    found = probe(environ=given) if machine is None else machine
    resolved, plan, error = _decision(layers, given, start, config_file, found)
    return Findings(
        machine=found,
        hidden_gpus=0 if found.gpus or not given.get("CUDA_VISIBLE_DEVICES") else _gpus_without_choice(given),
        free_memory_bytes=_free_memory(),
        shared_memory_bytes=shutil.disk_usage(_SHARED_MEMORY).free if _SHARED_MEMORY.is_dir() else None,
        temporary_bytes=shutil.disk_usage(tempfile.gettempdir()).free,
        most_open_files=_most_open_files(),
        versions=_versions(),
        torch_cuda=_torch_cuda(),
        files=tuple(_files(given, start, config_file)),
        unwritable=dict(_unwritable(given, resolved)),
        resolved=resolved,
        plan=plan if plan is None or launcher is None else replace(plan, launcher=launcher),
        error=error,
    )


def _decision(
    layers: tuple[Layer, ...], environ: Mapping[str, str], folder: Path, config_file: str | None, machine: Machine
) -> tuple[Resolved | None, Plan | None, str]:
    resolved = None
    try:
        resolved = resolve(*layers, environ=environ, folder=folder, config_file=config_file)
        return resolved, settle(resolved, machine), ""
    except NbaccelError as error:
        return resolved, None, str(error)


def _gpus_without_choice(environ: Mapping[str, str]) -> int:
    return len(probe(environ={name: value for name, value in environ.items() if name != "CUDA_VISIBLE_DEVICES"}).gpus)


def _free_memory() -> int:
    import psutil

    return int(psutil.virtual_memory().available)


def _most_open_files() -> int:
    import resource

    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 1 << 20 if soft == resource.RLIM_INFINITY else soft


def _versions() -> Mapping[str, str]:
    return {
        "python": platform.python_version(),
        "nbaccel": __version__,
        **{package: _version(package) for package in (*PACKAGES, "torch_xla", "torch-tpu")},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _torch_cuda() -> str:
    build = installed_torch()
    return "" if build is None else build.cuda


def _files(environ: Mapping[str, str], folder: Path, config_file: str | None) -> Iterator[tuple[str, str, bool]]:
    named = config_file or environ.get(CONFIG_FILE)
    if named:
        kind = "--config-file" if config_file else CONFIG_FILE
        yield kind, named, (folder / os.path.expanduser(named)).is_file()
    project = find.project_file(folder)
    yield "project", find.shown(project), project.is_file()
    for name, file in find.profiles(folder).items():
        yield f"profile {name}", find.shown(file), True
    dotenv = (find.project_folder(folder) or folder) / find.DOTENV
    yield "variables", find.shown(dotenv), dotenv.is_file()
    user = find.user_file(environ)
    yield "user", find.shown(user), user.is_file()


def _unwritable(environ: Mapping[str, str], resolved: Resolved | None) -> Iterator[tuple[str, str]]:
    """Folders that cannot be written to, or made."""
    wanted = {"HF_HOME" if environ.get("HF_HOME") else "the user's cache": find.user_file(environ).parent}
    if resolved is not None and resolved.config.project_dir is not None:
        wanted["project_dir"] = Path(os.path.expanduser(resolved.config.project_dir))
    for name, path in wanted.items():
        existing = next((one for one in (path, *path.absolute().parents) if one.exists()), path)
        if not (existing.is_dir() and os.access(existing, os.W_OK)):
            yield name, str(path)
