"""Accelerate's progress bar, which only the first process of each machine shows."""

from __future__ import annotations

from typing import Any

from nbaccel.runtime import progress


def tqdm(*args: Any, main_process_only: bool = True, **kwargs: Any) -> Any:
    """`nbaccel.tqdm`, shown by the first process of each machine alone.

    Args:
        args: as for `tqdm.tqdm`.
        main_process_only: False shows one for each process.
        kwargs: as for `tqdm.tqdm`.
    """
    return progress.tqdm(*args, main_process_only=main_process_only, **kwargs)
