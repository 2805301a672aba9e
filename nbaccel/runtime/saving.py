"""Writing an object or a model so that a crash never leaves half of a file."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import torch

from nbaccel.errors import CallError, StateError
from nbaccel.runtime.checkpoint.files import write_whole
from nbaccel.runtime.checkpoint.safe_file import write_safetensors
from nbaccel.runtime.checkpoint.weights import size_in_bytes, split, without_twins


def save_object(obj: Any, file: str | os.PathLike[str] | IO[bytes], safe_serialization: bool = False) -> None:
    """Write an object; a file that was there is replaced only by a complete one.

    Args:
        obj: what to write.
        file: a path, or a file open for binary writing.
        safe_serialization: write safetensors instead of torch's pickle.

    Raises:
        CallError: safetensors of something that is not a mapping from names to tensors.
    """
    write = _safetensors_writer(obj) if safe_serialization else lambda stream: torch.save(obj, stream)
    if isinstance(file, (str, os.PathLike)):
        write_whole(Path(file), write)
    else:
        write(file)


def _safetensors_writer(obj: Any) -> Callable[[Any], Any]:
    if not isinstance(obj, Mapping):
        raise CallError(
            f"save(safe_serialization=True) takes a mapping from names to tensors, not {type(obj).__name__}."
        )
    for name, value in obj.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise CallError(
                f"save(safe_serialization=True) takes a mapping from names to tensors; {name!r} is a "
                f"{type(value).__name__}. Use safe_serialization=False, or leave it out."
            )
    return lambda stream: write_safetensors(obj, stream)


def save_model(
    state: Mapping[str, Any],
    folder: str | os.PathLike[str],
    max_shard_size: int | str = "10GB",
    safe_serialization: bool = True,
) -> None:
    """Write a model's weights for others to load: one file, or several and an index.

    Args:
        state: the weights; tied ones are written once.
        folder: where to; made if it is not there. Files of an earlier model are removed.
        max_shard_size: of one file, in bytes or as `10GB`; a larger weight gets a file of its own.
        safe_serialization: safetensors instead of torch's pickle.

    Raises:
        CallError: a size or a folder that makes no sense, or weights that safetensors cannot hold.
        StateError: weights are not in memory (on the meta device).
    """
    limit, target = size_in_bytes(max_shard_size), Path(folder).expanduser()
    if target.is_file():
        raise CallError(f"save_model(..., {str(target)!r}): there is a file of this name. Give a folder.")
    absent = [name for name, value in state.items() if isinstance(value, torch.Tensor) and value.is_meta]
    if absent:
        raise StateError(f"{absent[0]} has no values (it is on the meta device). Load the model's weights first.")
    stem, ending = ("model", ".safetensors") if safe_serialization else ("pytorch_model", ".bin")
    if safe_serialization:
        state = without_twins(state)
    shards = split(state, limit, stem, ending)
    target.mkdir(parents=True, exist_ok=True)
    for file, names in shards.files.items():
        save_object({name: state[name] for name in names}, target / file, safe_serialization)
    index = target / f"{stem}{ending}.index.json"
    if not shards.is_single:
        text = json.dumps(shards.index(), indent=2).encode()
        write_whole(index, lambda stream: stream.write(text))
    _remove_earlier(target, stem, ending, {*shards.files, *(() if shards.is_single else (index.name,))})


def _remove_earlier(folder: Path, stem: str, ending: str, kept: set[str]) -> None:
    own = re.compile(rf"{stem}(-\d{{5}}-of-\d{{5}})?{re.escape(ending)}(\.index\.json)?")
    for path in folder.iterdir():
        if own.fullmatch(path.name) and path.name not in kept:
            with suppress(FileNotFoundError):
                path.unlink()
