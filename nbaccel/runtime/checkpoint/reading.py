"""Reading files of torch without running what they might hold."""

from __future__ import annotations

import collections
import importlib.util
import pickle
import re
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO, Any

import torch

from nbaccel.errors import StateError


def load_file_of_torch(path: Path, stream: IO[bytes] | None = None, **options: Any) -> Any:
    """What `torch.save` wrote, on the CPU, made of plain values and tensors alone.

    Args:
        path: the file.
        stream: what to read instead, a piece of the file.
        options: arguments of `torch.load`; `weights_only=False` reads every object, and runs what it asks for.

    Raises:
        StateError: the file holds an object of another class, or cannot be read.
    """
    options = {"map_location": "cpu", "weights_only": True, **options}
    try:
        with _allowing(_harmless()):
            return torch.load(path if stream is None else stream, **options)
    except pickle.UnpicklingError as error:
        raise StateError(
            f"{path} holds {_culprit(str(error))}, and reading it could run any code. If you trust the file: "
            "load_state(..., load_kwargs={'weights_only': False})."
        ) from None
    except (EOFError, RuntimeError) as error:
        said = (str(error) or type(error).__name__).splitlines()[0]
        raise StateError(f"{path} cannot be read: {said}. Load another checkpoint.") from None


def _allowing(classes: list[Any]) -> AbstractContextManager[Any]:
    """A `with` block in which these classes are read; with torch 2.4 they stay allowed."""
    if hasattr(torch.serialization, "safe_globals"):
        return torch.serialization.safe_globals(classes)
    torch.serialization.add_safe_globals(classes)
    return nullcontext()


def _culprit(text: str) -> str:
    found = re.search(r"GLOBAL ([\w.]+)", text)
    return f"an object of {found[1]}" if found else "objects that are neither plain values nor tensors"


def _harmless() -> list[Any]:
    """Classes of values that optimizers, schedulers and Accelerate's random states consist of."""
    known: list[Any] = [collections.Counter, collections.defaultdict, collections.deque, set, complex, dict, list]
    if importlib.util.find_spec("numpy"):
        import numpy as np

        array = np.zeros(1, dtype=np.uint32)
        known += [np.ndarray, np.dtype, array.__reduce__()[0], np.float64(0).__reduce__()[0]]
        known += [type(np.dtype(code)) for code in "?bBhHiIlLqQefd"]
    return known


def model_file(number: int, *, safe: bool) -> str:
    """Name of a model's file."""
    return named("model", number, ".safetensors") if safe else named("pytorch_model", number, ".bin")


def named(stem: str, number: int, ending: str) -> str:
    """The layout's name of the file of object `number`: the first has no number."""
    return f"{stem}_{number}{ending}" if number else f"{stem}{ending}"
