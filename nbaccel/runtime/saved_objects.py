"""Objects written to files and read back, by functions that need no `Accelerator`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import IO, Any

import torch

from nbaccel.runtime.checkpoint.weights import without_twins
from nbaccel.runtime.saving import save_object
from nbaccel.runtime.world import current_world


def save(
    obj: Any,
    f: str | os.PathLike[str] | IO[bytes],
    save_on_each_node: bool = False,
    safe_serialization: bool = False,
) -> None:
    """Write an object on the main process; a file that was there is replaced only by a complete one.

    Args:
        obj: what to write.
        f: a path, or a file open for binary writing.
        save_on_each_node: write it on the first process of each machine.
        safe_serialization: write safetensors instead of torch's pickle.

    Raises:
        CallError: safetensors of something that is not a mapping from names to tensors.
    """
    world = current_world()
    if (world.local_rank if save_on_each_node else world.rank) == 0:
        save_object(obj, f, safe_serialization)


def load(f: str | os.PathLike[str] | IO[bytes], map_location: Any = None, **kwargs: Any) -> Any:
    """Read what `torch.save` has written; code in it runs only with `weights_only=False`.

    Args:
        f: a path, or a file open for binary reading.
        map_location: as for `torch.load`, like `kwargs`.
    """
    return torch.load(f, map_location=map_location, **{"weights_only": True, **kwargs})


def clean_state_dict_for_safetensors(state_dict: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Weights as safetensors takes them: no two share memory (the first name of a tied weight stays), contiguous."""
    return {name: tensor.contiguous() for name, tensor in without_twins(state_dict).items()}
