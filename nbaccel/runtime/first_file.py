"""A first configuration file, for notebooks that begin with one."""

from __future__ import annotations

import os
from pathlib import Path

from nbaccel.config.commands.change import target_file, write_default
from nbaccel.machine import probe


def write_basic_config(mixed_precision: str = "no", save_location: str | os.PathLike[str] | None = None) -> Path | bool:
    """Write a configuration for this machine, unless there is one.

    Args:
        mixed_precision: `no`, `fp16` or `bf16`.
        save_location: the file; left out: the user's, which every launch reads.

    Returns:
        The file; False if there is one already, which stays as it is.

    Raises:
        ConfigError: the precision is not legal.
    """
    path = target_file("user") if save_location is None else Path(save_location)
    if path.exists():
        print(f"There is a configuration at {path} already, and it stays. `nbaccel config set KEY VALUE` changes it.")
        return False
    gpus = len(probe().gpus)
    write_default(mixed_precision.lower(), path, "MULTI_GPU" if gpus > 1 else "NO")
    return path
