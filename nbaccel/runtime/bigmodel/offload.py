"""Weights in files: each in one of its own, memory-mapped when it is read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from nbaccel.errors import CallError
from nbaccel.runtime.bigmodel.tensors import set_module_tensor_to_device

Index = dict[str, Any]
_INDEX = "index.json"


def offload_weight(
    weight: torch.Tensor, weight_name: str, offload_folder: str | os.PathLike[str], index: Index | None = None
) -> Index:
    """Write a weight to its file.

    Args:
        weight: the weight.
        weight_name: its name; the file's is this and `.dat`.
        offload_folder: an existing folder.
        index: gets shape and dtype, by the name.

    Returns:
        The index.
    """
    index = {} if index is None else index
    index[weight_name] = {"dtype": str(weight.dtype).removeprefix("torch."), "shape": list(weight.shape)}
    file = Path(offload_folder, f"{weight_name}.dat")
    data = weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    file.unlink(missing_ok=True)  # somebody may have the old one mapped
    if data.numel():
        torch.from_file(str(file), shared=True, size=data.numel(), dtype=torch.uint8).copy_(data)
    else:
        file.touch()
    return index


def load_offloaded_weight(weight_file: str | os.PathLike[str], weight_info: Mapping[str, Any]) -> torch.Tensor:
    """A weight from its file; it is read from the disk when it is used, and changing it leaves the file as it is.

    Args:
        weight_file: the file.
        weight_info: its entry of the index.
    """
    dtype: torch.dtype = getattr(torch, weight_info["dtype"])
    shape = tuple(weight_info["shape"])
    count = 1
    for length in shape:
        count *= length
    if not count:
        return torch.empty(shape, dtype=dtype)
    return torch.from_file(os.fspath(weight_file), shared=False, size=count, dtype=dtype).view(shape)


def save_offload_index(index: Index, offload_folder: str | os.PathLike[str]) -> None:
    """Write an index into the folder of the weights, over one that is there; other entries of that stay."""
    if index:
        file = Path(offload_folder, _INDEX)
        known = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps({**known, **index}, indent=2))


def offload_state_dict(save_dir: str | os.PathLike[str], state_dict: Mapping[str, torch.Tensor]) -> None:
    """Write weights to a folder, with their index."""
    Path(save_dir).mkdir(parents=True, exist_ok=True)
    index: Index = {}
    for name, weight in state_dict.items():
        offload_weight(weight, name, save_dir, index)
    save_offload_index(index, save_dir)


class PrefixedDataset(Mapping[str, Any]):
    """A mapping seen from one of its prefixes.

    Args:
        dataset: the mapping.
        prefix: what its keys begin with; the keys here are the rest.
    """

    def __init__(self, dataset: Mapping[str, Any], prefix: str) -> None:
        self.dataset, self.prefix = dataset, prefix

    def __getitem__(self, key: str) -> Any:
        return self.dataset[f"{self.prefix}{key}"]

    def __iter__(self) -> Iterator[str]:
        return (key.removeprefix(self.prefix) for key in self.dataset if key.startswith(self.prefix))

    def __len__(self) -> int:
        return sum(1 for _ in self)


class OffloadedWeightsLoader(Mapping[str, torch.Tensor]):
    """Weights by their names, from memory or from files, read when they are asked for.

    Args:
        state_dict: those in memory.
        save_folder: the folder with the others, written by `offload_state_dict`.
        index: their index; left out: the folder's. An entry may name a safetensors file instead: `safetensors_file`,
            with `weight_name` and `dtype`; or another weight, in whose file it is: `stored_as`.
        device: where weights from safetensors files are put; None for the CPU.

    Raises:
        CallError: no source is given.
    """

    def __init__(
        self,
        state_dict: Mapping[str, torch.Tensor] | None = None,
        save_folder: str | os.PathLike[str] | None = None,
        index: Mapping[str, Any] | None = None,
        device: Any = None,
    ) -> None:
        if state_dict is None and save_folder is None and index is None:
            raise CallError("OffloadedWeightsLoader() has nothing to load. Give state_dict=, save_folder= or index=.")
        self.state_dict, self.save_folder, self.device = state_dict or {}, save_folder, device
        if index is None and save_folder is not None:
            index = json.loads(Path(save_folder, _INDEX).read_text())
        self.index: Mapping[str, Any] = index or {}
        self.all_keys = list(dict.fromkeys([*self.state_dict, *self.index]))

    def __getitem__(self, key: str) -> torch.Tensor:
        if key in self.state_dict:
            return self.state_dict[key]
        entry = self.index[key]
        if entry.get("safetensors_file"):
            device = "cpu" if self.device is None else self.device
            with safe_open(entry["safetensors_file"], framework="pt", device=device) as file:
                tensor: torch.Tensor = file.get_tensor(entry.get("weight_name", key))
            return tensor.to(getattr(torch, entry["dtype"])) if "dtype" in entry else tensor
        assert self.save_folder is not None
        return load_offloaded_weight(Path(self.save_folder, f"{entry.get('stored_as', key)}.dat"), entry)

    def __iter__(self) -> Iterator[str]:
        return iter(self.all_keys)

    def __len__(self) -> int:
        return len(self.all_keys)


def extract_submodules_state_dict(
    state_dict: Mapping[str, torch.Tensor], submodule_names: Sequence[str]
) -> dict[str, torch.Tensor]:
    """The entries that belong to some submodules, under their full names."""
    return {
        name: tensor
        for name, tensor in state_dict.items()
        if any(name == submodule or name.startswith(f"{submodule}.") for submodule in submodule_names)
    }


def load_offloaded_weights(model: Any, index: Mapping[str, Any] | None, offload_folder: str | os.PathLike[str]) -> None:
    """Put weights of a folder back into a model.

    Args:
        model: a module.
        index: names of the weights, with their shapes and dtypes; nothing happens if it is empty.
        offload_folder: the folder.
    """
    for name, entry in (index or {}).items():
        weight = load_offloaded_weight(Path(offload_folder, f"{name}.dat"), entry)
        set_module_tensor_to_device(model, name, "cpu", value=weight.clone())
