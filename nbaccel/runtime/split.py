"""One process's share of a collection."""

from __future__ import annotations

from typing import Any

import torch

from nbaccel.errors import CallError


def share_of(inputs: Any, rank: int, size: int, pad: bool = False) -> Any:
    """Cut a contiguous share; the first ranks get one item more where it does not come out even.

    Args:
        inputs: a list, tuple, tensor (along dimension 0), `datasets.Dataset`, or a dict of such. Never changed.
        rank: whose share.
        size: number of shares.
        pad: repeat the last item so that all shares have the same length.

    Returns:
        The share, of the same type. One process: `inputs` itself.

    Raises:
        CallError: the values of the dict differ in length.
    """
    if size == 1:
        return inputs
    if isinstance(inputs, dict):
        lengths = {key: len(value) for key, value in inputs.items()}
        if len(set(lengths.values())) > 1:
            raise CallError(f"split_between_processes(): the values differ in length: {lengths}. Make them equal.")
        return {key: share_of(value, rank, size, pad) for key, value in inputs.items()}
    per_rank, extra = divmod(len(inputs), size)
    start = rank * per_rank + min(rank, extra)
    stop = start + per_rank + (rank < extra)
    missing = per_rank + (extra > 0) - (stop - start)
    return _cut(inputs, start, stop, missing if pad and len(inputs) else 0)


def _cut(inputs: Any, start: int, stop: int, missing: int) -> Any:
    if isinstance(inputs, torch.Tensor):
        return torch.cat([inputs[start:stop], *[inputs[-1:]] * missing]) if missing else inputs[start:stop]
    if hasattr(inputs, "select"):  # datasets.Dataset
        return inputs.select([*range(start, stop), *[len(inputs) - 1] * missing])
    return inputs[start:stop] + type(inputs)([inputs[-1]]) * missing if missing else inputs[start:stop]
