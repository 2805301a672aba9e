"""Checkpoints put into models piece by piece, each weight straight to where it belongs."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from nbaccel.errors import CallError, ConfigFileError, PlanError
from nbaccel.runtime.bigmodel.align import AlignDevicesHook
from nbaccel.runtime.bigmodel.dispatch import dispatch_model
from nbaccel.runtime.bigmodel.offload import (
    offload_weight,
    save_offload_index,
)
from nbaccel.runtime.bigmodel.placing import get_balanced_memory, infer_auto_device_map
from nbaccel.runtime.bigmodel.sizes import as_dtype
from nbaccel.runtime.bigmodel.tensors import fill_module_tensor, set_module_tensor_to_device
from nbaccel.runtime.bigmodel.ties import device_of, find_tied_parameters, retie_parameters
from nbaccel.runtime.constants import (
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
)

File = str | os.PathLike[str]
AUTO = ("auto", "balanced", "balanced_low_0", "sequential")


def load_state_dict(checkpoint_file: File, device_map: Mapping[str, Any] | None = None) -> dict[str, torch.Tensor]:
    """The weights of one file.

    Args:
        checkpoint_file: a safetensors file (`.safetensors`), or one of `torch.save` that holds nothing but weights.
        device_map: where weights of a safetensors file are read to, by name of a module; `disk` means main memory.
            Left out: everything to main memory.

    Raises:
        ConfigFileError: the file cannot be read.
    """
    if not os.fspath(checkpoint_file).endswith(".safetensors"):
        loaded: dict[str, torch.Tensor] = torch.load(checkpoint_file, map_location="cpu", weights_only=True)
        return loaded
    try:
        with safe_open(checkpoint_file, framework="pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except Exception as error:
        raise ConfigFileError(
            os.fspath(checkpoint_file), f"not a readable safetensors file ({error})", "Save or download it again."
        ) from error
    if not device_map:
        return weights
    places = {name: device_of(name, device_map) for name in weights}
    return {name: weight if places[name] == "disk" else weight.to(places[name]) for name, weight in weights.items()}


def _files_of(checkpoint: File) -> list[Path]:
    """The files that a checkpoint consists of: one, those of an index, or those of a folder."""
    path = Path(checkpoint)
    if path.is_file():
        if path.suffix != ".json":
            return [path]
        return _files_of_index(path)
    if path.is_dir():
        for name in (SAFE_WEIGHTS_NAME, WEIGHTS_NAME):
            if (path / name).is_file():
                return [path / name]
        indices = [path / SAFE_WEIGHTS_INDEX_NAME, path / WEIGHTS_INDEX_NAME, *sorted(path.glob("*.index.json"))]
        for index in indices:
            if index.is_file():
                return _files_of_index(index)
    raise CallError(
        f"checkpoint={str(checkpoint)!r}: there is no checkpoint. Possible: a file of weights, an index (*.index.json) "
        f"or a folder with {SAFE_WEIGHTS_NAME}, {WEIGHTS_NAME} or an index."
    )


def _files_of_index(index: Path) -> list[Path]:
    entries = json.loads(index.read_text())
    names = entries.get("weight_map", entries)
    return [index.parent / name for name in sorted(set(names.values()))]


class _Filler:
    """Puts weights into a model.

    Args:
        model: the model.
        device_map: device by name of a module; None leaves weights where they are.
        dtype: of floating point weights, None for that of the model.
        folder: for weights of `disk`.
        offload_buffers: whether buffers of such modules go there, too.
        keep_in_fp32: names that stand in weights which stay float32.
    """

    def __init__(
        self,
        model: nn.Module,
        device_map: Mapping[str, Any] | None,
        dtype: Any,
        folder: File | None,
        offload_buffers: bool,
        keep_in_fp32: Sequence[str],
    ) -> None:
        self.model, self.device_map, self.dtype, self.folder = model, device_map, as_dtype(dtype), folder
        self.offload_buffers, self.keep_in_fp32 = offload_buffers, keep_in_fp32
        self.buffers = {name for name, _ in model.named_buffers()}
        self.known = set(model.state_dict())
        self.index: dict[str, Any] = {}
        self.unexpected: list[str] = []
        self.filled: set[str] = set()

    def fill(self, weights: Mapping[str, torch.Tensor]) -> None:
        for name, weight in weights.items():
            if name not in self.known:
                self.unexpected.append(name)
                continue
            self.filled.add(name)
            dtype = self._dtype(name, weight)
            if self.device_map is None:
                fill_module_tensor(self.model, name, weight, dtype)
                continue
            device = device_of(name, self.device_map)
            if device == "disk" and self.folder is not None and (self.offload_buffers or name not in self.buffers):
                offload_weight(weight if dtype is None else weight.to(dtype), name, self.folder, self.index)
                set_module_tensor_to_device(self.model, name, "meta", dtype=dtype)
            else:
                place = "cpu" if device == "disk" else device
                set_module_tensor_to_device(self.model, name, place, value=weight, dtype=dtype)

    def _dtype(self, name: str, weight: torch.Tensor) -> torch.dtype | None:
        if not weight.is_floating_point():
            return None
        if any(f".{kept}." in f".{name}." for kept in self.keep_in_fp32):
            return torch.float32
        assert self.dtype is None or isinstance(self.dtype, torch.dtype)
        return self.dtype


def load_checkpoint_in_model(
    model: nn.Module,
    checkpoint: File,
    device_map: Mapping[str, Any] | None = None,
    offload_folder: File | None = None,
    dtype: str | torch.dtype | None = None,
    offload_state_dict: bool = False,
    offload_buffers: bool = False,
    keep_in_fp32_modules: Sequence[str] | None = None,
    offload_8bit_bnb: bool = False,
    strict: bool = False,
    full_state_dict: bool = True,
    broadcast_from_rank0: bool = False,
) -> None:
    """Load a checkpoint, which may be of several files, into a model, which may be on the meta device.

    Args:
        model: the model.
        checkpoint: a file of weights, an index, or a folder with one of these.
        device_map: where weights go, by name of a module; left out: where those of the model are, or main memory for
            those on the meta device.
        offload_folder: folder for those of `disk`.
        dtype: of floating point weights; left out: that of the model.
        offload_state_dict: of no effect: a file's weights are memory-mapped where possible, and go to their places one
            by one.
        offload_buffers: whether buffers of modules of `disk` go there, too.
        keep_in_fp32_modules: names of modules, such as `norm` or `decoder.norm`, whose weights stay float32.
        offload_8bit_bnb: not supported: quantized weights are not offloaded.
        strict: refuse a checkpoint that lacks weights, or has others; else a warning names the others.
        full_state_dict: False would be a sharded checkpoint of torch.distributed; not supported here.
        broadcast_from_rank0: True would let rank 0 alone read; not supported here.

    Raises:
        CallError: there is no checkpoint; weights for the disk and no folder; `strict`, and names differ.
        PlanError: an argument that is not supported.
    """
    for name, unsupported in (
        ("offload_8bit_bnb=True", offload_8bit_bnb),
        ("full_state_dict=False", not full_state_dict),
        ("broadcast_from_rank0=True", broadcast_from_rank0),
    ):
        if unsupported:
            raise PlanError(f"load_checkpoint_in_model({name})", "nbaccel cannot do this yet.", "Leave it out.")
    if offload_folder is None and "disk" in (device_map or {}).values():
        raise CallError("the device map sends parts to the disk. Give a folder for them: offload_folder=.")
    if offload_folder is not None:
        Path(offload_folder).mkdir(parents=True, exist_ok=True)
    filler = _Filler(model, device_map or None, dtype, offload_folder, offload_buffers,
                     keep_in_fp32_modules or ())  # fmt: skip
    ties = find_tied_parameters(model)
    for file in _files_of(checkpoint):
        filler.fill(load_state_dict(file))
    retie_parameters(model, [sorted(group, key=lambda name: name not in filler.filled) for group in ties])
    if strict:
        _check_names(filler, ties)
    elif filler.unexpected:
        _warn_of_unexpected(checkpoint, filler)
    if offload_folder is not None:
        save_offload_index(filler.index, offload_folder)


def _check_names(filler: _Filler, ties: Sequence[Sequence[str]]) -> None:
    tied = {name for group in ties if any(one in filler.filled for one in group) for name in group}
    missing = sorted(filler.known - filler.filled - tied)
    if missing or filler.unexpected:
        raise CallError(
            f"strict=True, and the checkpoint lacks {missing or 'nothing'} and has {filler.unexpected or 'nothing'} "
            "beyond the model's weights. Load the right one, or leave strict out."
        )


def _warn_of_unexpected(checkpoint: File, filler: _Filler) -> None:
    names, count = filler.unexpected, len(filler.unexpected)
    more = f" and {count - 3} more" if count > 3 else ""
    warnings.warn(
        f"the model has no {', '.join(map(repr, names[:3]))}{more}, which the checkpoint {str(checkpoint)!r} has: "
        f"{count} of its {count + len(filler.filled)} weights were not loaded. strict=True refuses such a checkpoint.",
        stacklevel=3,
    )


def load_checkpoint_and_dispatch(
    model: nn.Module,
    checkpoint: File,
    device_map: str | Mapping[str, Any] | None = None,
    max_memory: Mapping[Any, int | str] | None = None,
    no_split_module_classes: Sequence[str] | None = None,
    offload_folder: File | None = None,
    offload_buffers: bool = False,
    dtype: str | torch.dtype | None = None,
    offload_state_dict: bool | None = None,
    skip_keys: str | Sequence[str] | None = None,
    preload_module_classes: Sequence[str] | None = None,
    force_hooks: bool = False,
    strict: bool = False,
    full_state_dict: bool = True,
    broadcast_from_rank0: bool = False,
) -> nn.Module:
    """Load a checkpoint into a model and spread that over devices; see the two functions of which it is made.

    Args:
        model: the model, as a rule made under `init_empty_weights()`.
        checkpoint: as in `load_checkpoint_in_model`, as are `offload_folder`, `offload_buffers`, `dtype` and `strict`.
        device_map: device by name of a module; or `auto` or `balanced` (evenly over the GPUs), `balanced_low_0` (GPU 0
            kept free), `sequential` (GPUs filled one after the other); None only loads.
        max_memory: as in `infer_auto_device_map`, as is `no_split_module_classes`.
        skip_keys: as in `dispatch_model`, as are `preload_module_classes` and `force_hooks`.

    Returns:
        The model.

    Raises:
        CallError: another word for `device_map`, and as the two functions.
    """
    if isinstance(device_map, str):
        device_map = _chosen_map(
            model, device_map, max_memory, no_split_module_classes, dtype, offload_buffers=offload_buffers
        )
    load_checkpoint_in_model(
        model, checkpoint, device_map, offload_folder, dtype, bool(offload_state_dict), offload_buffers,
        strict=strict, full_state_dict=full_state_dict, broadcast_from_rank0=broadcast_from_rank0,
    )  # fmt: skip
    if device_map is None:
        return model
    return dispatch_model(
        model, device_map, offload_dir=offload_folder, offload_buffers=offload_buffers, skip_keys=skip_keys,
        preload_module_classes=preload_module_classes, force_hooks=force_hooks,
    )  # fmt: skip


def _chosen_map(
    model: nn.Module, word: str, max_memory: Any, no_split: Sequence[str] | None, dtype: Any, offload_buffers: bool
) -> Mapping[str, Any]:
    if word not in AUTO:
        raise CallError(f"device_map={word!r}: possible are {', '.join(map(repr, AUTO))}, or a mapping.")
    if word != "sequential":
        max_memory = get_balanced_memory(model, max_memory, no_split, dtype, low_zero=word == "balanced_low_0")
    return infer_auto_device_map(model, max_memory, no_split, dtype, offload_buffers=offload_buffers)


def get_state_dict_offloaded_model(model: nn.Module) -> dict[str, torch.Tensor]:
    """All weights of a model whose parts are offloaded, in main memory.

    Args:
        model: the model; offloaded weights are read from where its hooks know them.
    """
    found = dict(model.state_dict())
    for prefix, module in model.named_modules():
        for hook in _hooks_of(module):
            source = getattr(hook, "weights_map", None) or {}
            for name in source:
                full = f"{prefix}.{name}" if prefix else name
                if full in found and found[full].device.type == "meta":
                    found[full] = source[name]
    lost = [name for name, weight in found.items() if weight.device.type == "meta"]
    if lost:
        raise CallError(f"{', '.join(lost[:5])}: on the meta device, and no hook knows their values. Load them first.")
    return {name: weight.cpu() for name, weight in found.items()}


def is_offloaded(model: nn.Module) -> bool:
    """Whether parts of a model are loaded only while they compute."""
    hooks = (hook for module in model.modules() for hook in _hooks_of(module))
    return any(isinstance(hook, AlignDevicesHook) and hook.offload for hook in hooks)


def _hooks_of(module: nn.Module) -> Iterator[Any]:
    hook = getattr(module, "_hf_hook", None)
    yield from getattr(hook, "hooks", (hook,) if hook is not None else ())
