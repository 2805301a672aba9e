"""Writing one file so that a crash never leaves half of it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from safetensors.torch import save as safetensors_bytes

from nbaccel.errors import CallError


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
        _write_whole(Path(file), write)
    else:
        write(file)


def _write_whole(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(name, 0o666 & ~_umask())  # mkstemp's files are private, others may read a checkpoint
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _safetensors_writer(obj: Any) -> Callable[[IO[bytes]], Any]:
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
    return lambda stream: stream.write(safetensors_bytes(_separate(obj), metadata={"format": "pt"}))


def _separate(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Contiguous tensors of which no two share memory (tied weights are written under each of their names)."""
    seen: set[int] = set()
    separate = {}
    for name, tensor in tensors.items():
        own = tensor.detach().contiguous()
        whole = own.untyped_storage().nbytes() == own.nbytes
        separate[name] = own if whole and own.untyped_storage().data_ptr() not in seen else own.clone()
        seen.add(own.untyped_storage().data_ptr())
    return separate
