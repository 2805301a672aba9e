"""Where weights and optimizer states of a checkpoint are, whatever wrote them: one process, DDP, or FSDP.

    model.safetensors, pytorch_model.bin     whole weights
    pytorch_model_fsdp.bin                   the same, as FSDP's ranks write them together
    pytorch_model_fsdp_0/                    each rank's part of them
    optimizer.bin                            a whole state, by numbers of parameters, or by names (FSDP)
    optimizer_0/                             each rank's part of it, by names

These are the names that Accelerate gives them; the second object of a kind has `_1` in its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from nbaccel.errors import StateError
from nbaccel.runtime.checkpoint.manifest import INDEX
from nbaccel.runtime.checkpoint.reading import load_file_of_torch, model_file, named

MODEL_KEY, OPTIMIZER_KEY = "model", "optimizer"
"""What the weights, or the optimizer's state, are called inside a folder of shards."""


def fsdp_file(number: int) -> str:
    """Name of the file of a model's whole weights that FSDP writes."""
    return named("pytorch_model_fsdp", number, ".bin")


def model_folder(number: int) -> str:
    """Name of the folder of a model's shards."""
    return f"pytorch_model_fsdp_{number}"


def optimizer_folder(number: int) -> str:
    """Name of the folder of an optimizer's shards."""
    return f"optimizer_{number}"


def optimizer_file(number: int) -> str:
    """Name of the file of an optimizer's whole state."""
    return named("optimizer", number, ".bin")


def has_shards(folder: Path) -> bool:
    """Whether ranks have written their parts into a folder."""
    return (folder / INDEX).is_file()


def lacks_model(folder: Path, number: int) -> str:
    """What would have to be there for a model; empty if it is."""
    names = (model_file(number, safe=True), model_file(number, safe=False), fsdp_file(number))
    if any((folder / name).exists() for name in names) or has_shards(folder / model_folder(number)):
        return ""
    return f"{names[0]} or {names[1]}, nor FSDP's {names[2]} or {model_folder(number)}/"


def lacks_optimizer(folder: Path, number: int) -> str:
    """What would have to be there for an optimizer; empty if it is."""
    if (folder / optimizer_file(number)).exists() or has_shards(folder / optimizer_folder(number)):
        return ""
    return f"{optimizer_file(number)} or {optimizer_folder(number)}/"


def read_weights(folder: Path, number: int, load: Mapping[str, Any]) -> Mapping[str, Any]:
    """All weights of a model, on the CPU.

    Args:
        folder: the checkpoint.
        number: the model's.
        load: arguments of `torch.load`.

    Raises:
        StateError: a file is damaged, or holds what it should not.
    """
    safe = folder / model_file(number, safe=True)
    if safe.exists():
        return load_file(safe)
    for name in (model_file(number, safe=False), fsdp_file(number)):
        if (folder / name).exists():
            state: Mapping[str, Any] = load_file_of_torch(folder / name, **load)
            return state
    return _from_shards(folder / model_folder(number), MODEL_KEY, load)


def read_optimizer(folder: Path, number: int, load: Mapping[str, Any]) -> Mapping[str, Any]:
    """The whole state of an optimizer, by numbers or by names; arguments and errors as of `read_weights`."""
    file = folder / optimizer_file(number)
    if file.exists():
        state: Mapping[str, Any] = load_file_of_torch(file, **load)
        return state
    whole = _from_shards(folder / optimizer_folder(number), OPTIMIZER_KEY, load)
    return {"state": {}, "param_groups": [], **whole}


def _from_shards(folder: Path, key: str, load: Mapping[str, Any]) -> Mapping[str, Any]:
    from nbaccel.runtime.checkpoint.shard_reading import ShardFolder  # slow to import, and rarely needed

    whole: Mapping[str, Any] = ShardFolder(folder, load).whole()
    if key not in whole:
        raise StateError(f"{folder} holds {', '.join(whole) or 'nothing'}, not {key!r}. Load another checkpoint.")
    found: Mapping[str, Any] = whole[key]
    return found
