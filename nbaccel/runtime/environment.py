"""Environment variables as a user's script reads and sets them; nbaccel itself asks its configuration instead."""

from __future__ import annotations

import functools
import inspect
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psutil
import torch

from nbaccel.errors import CallError
from nbaccel.plan import Topology, topology_of

_TRUE = ("y", "yes", "t", "true", "on", "1")
_FALSE = ("n", "no", "f", "false", "off", "0")
_OURS = ("ACCELERATE_", "FSDP_", "DYNAMO_", "PARALLELISM_CONFIG_", "MEGATRON_LM_", "NBACCEL_")


def str_to_bool(value: str, to_bool: bool = False) -> int | bool:
    """A word as a truth value.

    Args:
        value: y, yes, t, true, on, 1 or n, no, f, false, off, 0, in any case.
        to_bool: return a bool; else 1 or 0.

    Raises:
        CallError: another word.
    """
    word = value.lower()
    if word not in _TRUE + _FALSE:
        raise CallError(f"{value!r} is no truth value. Possible: {', '.join(_TRUE)} or {', '.join(_FALSE)}.")
    return word in _TRUE if to_bool else int(word in _TRUE)


def get_int_from_env(env_keys: Iterable[str], default: int) -> int:
    """The first variable that holds a whole number from 0, else `default`."""
    for key in [env_keys] if isinstance(env_keys, str) else env_keys:
        value = int(os.environ.get(key, -1))
        if value >= 0:
            return value
    return default


def parse_flag_from_env(key: str, default: bool = False) -> bool:
    """A variable as a truth value, `default` where it is not set. Raises CallError for another word."""
    return bool(str_to_bool(os.environ.get(key, str(default))))


def parse_choice_from_env(key: str, default: str = "no") -> str:
    """A variable's text, `default` where it is not set."""
    return os.environ.get(key, default)


def are_libraries_initialized(*library_names: str) -> list[str]:
    """Those of the libraries that this process has imported."""
    return [name for name in library_names if name in sys.modules]


@contextmanager
def clear_environment() -> Iterator[None]:
    """A `with` block without environment variables; what it sets is forgotten, and all come back at its end."""
    kept = dict(os.environ)
    os.environ.clear()
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(kept)


@contextmanager
def patch_environment(**kwargs: Any) -> Iterator[None]:
    """A `with` block with some environment variables set.

    Args:
        kwargs: their values, by their names in any case: `patch_environment(master_port=29500)` sets MASTER_PORT.
    """
    wanted = {key.upper(): str(value) for key, value in kwargs.items()}
    former = {key: os.environ.get(key) for key in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for key, value in former.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


def purge_accelerate_environment(func_or_cls: Any) -> Any:
    """Decorator: variables of Accelerate and nbaccel that the function, or a test method of the class, sets do not
    outlive it; those that were there before come back."""
    if isinstance(func_or_cls, type):
        for name, member in list(vars(func_or_cls).items()):
            if name.startswith("test") and callable(member):
                setattr(func_or_cls, name, purge_accelerate_environment(member))
        return func_or_cls
    if inspect.iscoroutinefunction(func_or_cls):
        return _purging_coroutine(func_or_cls)

    @functools.wraps(func_or_cls)
    def purged(*args: Any, **kwargs: Any) -> Any:
        with _ours_restored():
            return func_or_cls(*args, **kwargs)

    return purged


def _purging_coroutine(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    async def purged(*args: Any, **kwargs: Any) -> Any:
        with _ours_restored():
            return await function(*args, **kwargs)

    return purged


@contextmanager
def _ours_restored() -> Iterator[None]:
    former = {key: value for key, value in os.environ.items() if key.startswith(_OURS)}
    try:
        yield
    finally:
        for key in [key for key in os.environ if key.startswith(_OURS)]:
            del os.environ[key]
        os.environ.update(former)


def convert_dict_to_env_variables(current_env: Mapping[str, str]) -> list[str]:
    """Lines `NAME=value` for a file of environment variables.

    Args:
        current_env: names and values; what cannot stand in such a line (empty, or with a space, `;`, newline...) is
            left out with a warning.
    """
    lines = []
    for key, value in current_env.items():
        if key and value and not set(f"{key}{value}") & set("; \t\n\r<>&|`$"):
            lines.append(f"{key}={value}\n")
        else:
            warnings.warn(f"the variable {key}={value} is left out: it is empty or has a character that a line of "
                          "variables cannot hold. Set it where it is used.", stacklevel=2)  # fmt: skip
    return lines


def get_cpu_distributed_information() -> Topology:
    """Position of this process as its launcher wrote it: rank, world_size, local_rank, local_world_size."""
    return topology_of(os.environ)


def get_current_device_type() -> tuple[str, str]:
    """Kind of the best device of this machine, and the name of several processes on such."""
    name = _best_kind()
    return name, {"cuda": "MULTI_GPU", "cpu": "MULTI_CPU"}.get(name, f"MULTI_{name.upper()}")


def _best_kind() -> str:
    accelerator = getattr(torch, "accelerator", None)
    if accelerator is None:  # torch before 2.6
        known = {"cuda": torch.cuda, "mps": torch.backends.mps}
        return next((name for name, one in known.items() if one.is_available()), "cpu")
    return str(accelerator.current_accelerator().type) if accelerator.is_available() else "cpu"


def get_gpu_info() -> tuple[list[str], int]:
    """Names of all NVIDIA GPUs, and their number; none where there is no driver."""
    names = _ask_driver("name")
    return names, len(names)


def get_driver_version() -> str | None:
    """Version of the NVIDIA driver, None where there is none."""
    return next(iter(_ask_driver("driver_version")), None)


def _ask_driver(field: str) -> list[str]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, f"--query-gpu={field}", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return [line.strip() for line in done.stdout.splitlines() if line.strip()] if done.returncode == 0 else []


def check_cuda_p2p_ib_support() -> bool:
    """False if peer to peer transfers between the GPUs are known not to work: several of the RTX 4000 series with a
    driver before 550, for which NCCL needs NCCL_P2P_DISABLE=1 and NCCL_IB_DISABLE=1."""
    names, count = get_gpu_info()
    version = get_driver_version()
    if count < 2 or version is None or not any("RTX 40" in name for name in names):
        return True
    return int(version.partition(".")[0]) >= 550


def check_cuda_fp8_capability() -> bool:
    """Whether the current CUDA device computes in fp8 (compute capability 8.9 and above); False without one."""
    return torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 9)


def set_numa_affinity(local_process_index: int, verbose: bool | None = None) -> None:
    """Keep this process on the cores that are nearest to its CUDA device, where the system (Linux) tells.

    Args:
        local_process_index: index of the device.
        verbose: print what was chosen; left out: the variable ACCELERATE_DEBUG_MODE.
    """
    cores = _cores_near(local_process_index)
    if cores:
        psutil.Process().cpu_affinity(sorted(cores))
        if parse_flag_from_env("ACCELERATE_DEBUG_MODE") if verbose is None else verbose:
            print(f"process {local_process_index} stays on the cores {sorted(cores)}")


override_numa_affinity = set_numa_affinity


def _cores_near(index: int) -> set[int]:
    if not torch.cuda.is_available() or not sys.platform.startswith("linux"):
        return set()
    place: Any = torch.cuda.get_device_properties(index)
    name = f"{place.pci_domain_id:04x}:{place.pci_bus_id:02x}:{place.pci_device_id:02x}.0"
    try:
        with open(f"/sys/bus/pci/devices/{name}/local_cpulist") as file:
            return _parsed_cores(file.read()) & set(psutil.Process().cpu_affinity())
    except OSError:  # a container that hides it
        return set()


def _parsed_cores(text: str) -> set[int]:
    """Numbers of a list such as `0-3,8`."""
    cores: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        cores |= set(range(int(first), int(last or first) + 1))
    return cores


def check_os_kernel() -> None:
    """Warn of a Linux kernel before 5.5, on which processes are known to hang."""
    if sys.platform.startswith("linux"):
        release = os.uname().release
        numbers = tuple(int(part) for part in release.split("-")[0].split(".")[:2] if part.isdigit())
        if numbers and numbers < (5, 5):
            warnings.warn(f"the Linux kernel {release} is older than 5.5, which may make processes hang. Update it.",
                          stacklevel=2)  # fmt: skip


def enable_fsdp_ram_efficient_loading() -> None:
    """Let transformers load a model's weights on rank 0 alone, for FSDP to send them out."""
    os.environ["ACCELERATE_USE_FSDP"] = "true"
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "true"


def disable_fsdp_ram_efficient_loading() -> None:
    """Let transformers load a model's weights on every rank."""
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
