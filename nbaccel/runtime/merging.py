"""Making one file of weights of what the ranks of a sharded training have each written."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from nbaccel.errors import CallError, StateError
from nbaccel.runtime.checkpoint.agreement import each_alone
from nbaccel.runtime.checkpoint.formats import MODEL_KEY, OPTIMIZER_KEY, has_shards, model_folder
from nbaccel.runtime.checkpoint.manifest import INDEX
from nbaccel.runtime.saving import save_model
from nbaccel.runtime.world import current_world


def merge_fsdp_weights(
    checkpoint_dir: str | os.PathLike[str],
    output_path: str | os.PathLike[str],
    safe_serialization: bool = True,
    remove_checkpoint_dir: bool = False,
    max_shard_size: int | str | None = None,
) -> Path:
    """Join a sharded model's weights, for any code that loads a model; needs no launch, and memory for all of them.

    Where several processes run, the main one does it, and the others wait for it.

    Args:
        checkpoint_dir: the folder of a model's shards (`pytorch_model_fsdp_0`), or a checkpoint with one model.
        output_path: folder for `model.safetensors`; made if it is not there.
        safe_serialization: safetensors instead of torch's own format (`pytorch_model.bin`).
        remove_checkpoint_dir: remove the folder of shards once the weights are written.
        max_shard_size: of one file, in bytes or as `10GB`; left out: one file, whatever its size.

    Returns:
        The folder of the merged weights.

    Raises:
        CallError: there are no shards of a model, or those of several.
        StateError: the shards are incomplete or damaged, or it failed on the main process.
    """
    target = Path(output_path).expanduser()

    def merge() -> None:
        home = _shards_in(Path(checkpoint_dir).expanduser())
        _merge(home, target, safe_serialization, remove_checkpoint_dir, max_shard_size)

    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        merge()
        return target
    world = current_world()
    each_alone(merge if world.rank == 0 else lambda: None, world, "merging the weights")
    return target


def _merge(home: Path, target: Path, safe: bool, remove: bool, max_shard_size: int | str | None) -> None:
    from nbaccel.runtime.checkpoint.shard_reading import ShardFolder  # slow to import

    if remove and target.resolve().is_relative_to(home.resolve()):
        raise CallError(
            f"merge_fsdp_weights({str(home)!r}, {str(target)!r}, remove_checkpoint_dir=True) would remove what it "
            "writes. Give a folder outside of the shards."
        )
    state: dict[str, Any] = ShardFolder(home).whole()
    if OPTIMIZER_KEY in state and MODEL_KEY not in state:
        raise CallError(f"{home} holds an optimizer's state. Give the folder of the model beside it.")
    weights = state.get(MODEL_KEY, state)
    if not weights:
        raise StateError(f"{home} holds no weights. Give another checkpoint.")
    save_model(weights, target, max_shard_size or _NO_LIMIT, safe)
    if remove:
        shutil.rmtree(home)


_NO_LIMIT = 1 << 62


def _shards_in(folder: Path) -> Path:
    """The folder of the one model whose shards are meant."""
    if has_shards(folder):
        return folder
    if not folder.is_dir():
        raise CallError(f"{folder}: there is no such folder. Give the folder of a checkpoint.")
    found = sorted(path for path in folder.glob(model_folder(0)[:-1] + "*") if has_shards(path))
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(path.name for path in found)
        raise CallError(f"{folder} has the shards of several models ({names}). Give the folder of one of them.")
    raise CallError(
        f"{folder} has no shards of a model: neither {INDEX} nor {model_folder(0)}/. Possible is a checkpoint that "
        "was saved with fsdp_state_dict_type SHARDED_STATE_DICT; others have whole weights already."
    )
