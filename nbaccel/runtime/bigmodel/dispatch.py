"""Models spread over devices, main memory and the disk."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from nbaccel.errors import CallError, StateError
from nbaccel.runtime.bigmodel.align import (
    AlignDevicesHook,
    attach_align_device_hook,
    attach_align_device_hook_on_blocks,
)
from nbaccel.runtime.bigmodel.hooks import (
    LayerwiseCastingHook,
    ModelHook,
    add_hook_to_module,
    remove_hook_from_module,
)
from nbaccel.runtime.bigmodel.offload import (
    OffloadedWeightsLoader,
    extract_submodules_state_dict,
    offload_state_dict,
)
from nbaccel.runtime.bigmodel.placing import check_device_map
from nbaccel.runtime.bigmodel.sizes import named_module_tensors
from nbaccel.runtime.bigmodel.tensors import TiedMap, set_module_tensor_to_device
from nbaccel.runtime.bigmodel.ties import (
    check_tied_parameters_on_same_device,
    find_tied_parameters,
    retie_parameters,
)
from nbaccel.runtime.collectives import send_to_device
from nbaccel.runtime.constants import SUPPORTED_PYTORCH_LAYERS_FOR_UPCASTING
from nbaccel.runtime.environment import get_current_device_type
from nbaccel.runtime.memory import clear_device_cache

Device = int | str | torch.device


def best_device() -> torch.device:
    """The accelerator of this machine, else the CPU."""
    return torch.device(get_current_device_type()[0])


def cpu_offload(
    model: nn.Module,
    execution_device: torch.device | None = None,
    offload_buffers: bool = False,
    state_dict: Mapping[str, torch.Tensor] | None = None,
    preload_module_classes: Sequence[str] | None = None,
) -> nn.Module:
    """Keep a model's weights in main memory, and bring each to the device only while its module computes.

    Args:
        model: the model.
        execution_device: the device that computes; left out: that of the model's first parameter.
        offload_buffers: offload buffers, too.
        state_dict: the weights in main memory; left out: copies of the model's.
        preload_module_classes: names of classes that are loaded as a whole.

    Returns:
        The model.
    """
    device = execution_device or next(model.parameters()).device
    weights = state_dict or {name: weight.to("cpu") for name, weight in model.state_dict().items()}
    return _offload_all(model, device, weights, offload_buffers, preload_module_classes)


def disk_offload(
    model: nn.Module,
    offload_dir: str | os.PathLike[str],
    execution_device: torch.device | None = None,
    offload_buffers: bool = False,
    preload_module_classes: Sequence[str] | None = None,
) -> nn.Module:
    """Keep a model's weights in files, and read each only while its module computes.

    Args:
        model: the model.
        offload_dir: folder for the files; one that holds such files is used as it is.
        execution_device: as in `cpu_offload`, like all others.
    """
    device = execution_device or next(model.parameters()).device
    if not os.path.isfile(os.path.join(offload_dir, "index.json")):
        offload_state_dict(offload_dir, model.state_dict())
    return _offload_all(
        model, device, OffloadedWeightsLoader(save_folder=offload_dir), offload_buffers, preload_module_classes
    )


def _offload_all(
    model: nn.Module, device: Device, weights: Mapping[str, torch.Tensor], buffers: bool, preload: Sequence[str] | None
) -> nn.Module:
    tied = _tied_map(find_tied_parameters(model), weights)
    add_hook_to_module(model, AlignDevicesHook(io_same_device=True), append=True)
    attach_align_device_hook(model, torch.device(device), True, weights, buffers, preload_module_classes=preload,
                             tied_params_map=tied)  # fmt: skip
    return model


def _tied_map(groups: Sequence[Sequence[str]], weights: Mapping[str, torch.Tensor]) -> TiedMap:
    """By address of each weight in main memory that stands at several places: its copies, none so far.

    A weight of a file has no address that lasts: it is mapped anew each time.
    """
    lasting = weights.state_dict if isinstance(weights, OffloadedWeightsLoader) else weights
    return {lasting[name].data_ptr(): {} for group in groups for name in group if name in lasting}


class CpuOffload(ModelHook):
    """Keeps a whole model in main memory until its forward pass; afterwards it stays on the device.

    Args:
        execution_device: the device that computes; left out: the accelerator of this machine.
        prev_module_hook: of the model that ran before in a pipeline, which is then sent back.
    """

    def __init__(
        self, execution_device: Device | None = None, prev_module_hook: UserCpuOffloadHook | None = None
    ) -> None:
        self.execution_device = best_device() if execution_device is None else execution_device
        self.prev_module_hook = prev_module_hook

    def init_hook(self, module: nn.Module) -> nn.Module:
        return module.to("cpu")

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        device = torch.device(self.execution_device)
        previous = self.prev_module_hook
        if previous is not None and any(one.device.type != "cpu" for one in previous.model.parameters()):
            previous.offload()
            clear_device_cache()
        module.to(device)
        return send_to_device(args, device), send_to_device(kwargs, device)


class UserCpuOffloadHook:
    """A model and its `CpuOffload` hook.

    Args:
        model: the model.
        hook: the hook.
    """

    def __init__(self, model: nn.Module, hook: ModelHook) -> None:
        self.model, self.hook = model, hook

    def offload(self) -> None:
        """Send the model back to main memory."""
        self.hook.init_hook(self.model)

    def remove(self) -> None:
        """Take the hook off the model."""
        remove_hook_from_module(self.model)


def cpu_offload_with_hook(
    model: nn.Module, execution_device: Device | None = None, prev_module_hook: UserCpuOffloadHook | None = None
) -> tuple[nn.Module, UserCpuOffloadHook]:
    """Keep a whole model in main memory until it computes; good for models that run in turn, as in a pipeline.

    Args:
        model: the model.
        execution_device: as in `CpuOffload`.
        prev_module_hook: the hook that the call for the model before returned.

    Returns:
        The model, and an object with `offload()` and `remove()`.
    """
    hook = CpuOffload(execution_device, prev_module_hook)
    add_hook_to_module(model, hook, append=True)
    return model, UserCpuOffloadHook(model, hook)


def dispatch_model(
    model: nn.Module,
    device_map: Mapping[str, Device],
    main_device: torch.device | None = None,
    state_dict: Mapping[str, torch.Tensor] | None = None,
    offload_dir: str | os.PathLike[str] | None = None,
    offload_index: Mapping[str, Any] | None = None,
    offload_buffers: bool = False,
    skip_keys: str | Sequence[str] | None = None,
    preload_module_classes: Sequence[str] | None = None,
    force_hooks: bool = False,
) -> nn.Module:
    """Spread a model over devices as a map says; its forward pass then brings inputs and weights together.

    Args:
        model: the model.
        device_map: device by name of a module: 0, 1, ..., `cpu`, `disk`; see `infer_auto_device_map`.
        main_device: where parts of `cpu` and `disk` are computed; left out: the first device that is neither, else the
            CPU, where parts of `cpu` then simply are.
        state_dict: weights of parts of `cpu`; left out: the model's.
        offload_dir: folder for parts of `disk`.
        offload_index: of weights in that folder, or in safetensors files.
        offload_buffers: offload buffers, too.
        skip_keys: keyword arguments that stay where they are.
        preload_module_classes: names of classes that are loaded as a whole.
        force_hooks: use hooks even if everything is on one device.

    Returns:
        The model, with the attribute `hf_device_map`.

    Raises:
        CallError: the map gives a part no device, or there are parts for the disk and no folder.
    """
    check_device_map(model, device_map)
    places = {str(device) for device in device_map.values()}
    if len(places) > 1 or places == {"disk"} or force_hooks:
        _hook_up(model, dict(device_map), main_device, state_dict, offload_dir, offload_index, offload_buffers,
                 skip_keys, preload_module_classes)  # fmt: skip
    else:
        model.to(next(iter(device_map.values())))
    model.hf_device_map = dict(device_map)  # type: ignore[assignment]
    return model


def _hook_up(
    model: nn.Module,
    device_map: dict[str, Any],
    main_device: Any,
    state_dict: Mapping[str, torch.Tensor] | None,
    folder: str | os.PathLike[str] | None,
    index: Mapping[str, Any] | None,
    buffers: bool,
    skip_keys: str | Sequence[str] | None,
    preload: Sequence[str] | None,
) -> None:
    main = main_device if main_device is not None else _main_device(device_map)
    offloads = ("disk",) if torch.device(main).type == "cpu" else ("cpu", "disk")
    ties = find_tied_parameters(model)
    _warn_of_parted_ties(ties, device_map)
    weights = _offloaded_weights(model, device_map, offloads, state_dict, folder, index)
    if weights is not None:
        weights = _with_ties(weights, ties)
    tied: TiedMap = _tied_map(ties, weights) if weights is not None else {}
    lasting = set(tied)
    for name in (name for group in ties for name in group):
        tied.setdefault(model.get_parameter(name).data_ptr(), {})
    if "" not in device_map and weights is not None:
        _load_own(model, main, weights)
    attach_align_device_hook_on_blocks(
        model,
        {"": main} | {name: main if device in offloads else device for name, device in device_map.items()},
        {name: device in offloads for name, device in device_map.items()},
        weights,
        buffers,
        skip_keys=skip_keys,
        preload_module_classes=preload,
        tied_params_map=tied,
    )
    for address in set(tied) - lasting:  # those weights have moved: other tensors may come to lie there
        del tied[address]
    for group in ties:
        if check_tied_parameters_on_same_device([group], device_map):
            retie_parameters(model, [group])
    _refuse_moves(model, any(device in offloads for device in device_map.values()))


def _load_own(model: nn.Module, device: Device, weights: Mapping[str, torch.Tensor]) -> None:
    """Weights of the model that are in no block stay on its device."""
    for name, tensor in list(named_module_tensors(model)):
        if tensor.device.type == "meta" and name in weights:
            set_module_tensor_to_device(model, name, device, value=weights[name])


def _main_device(device_map: Mapping[str, Any]) -> Any:
    return next((device for device in device_map.values() if device not in ("cpu", "disk")), "cpu")


def _warn_of_parted_ties(ties: Sequence[Sequence[str]], device_map: Mapping[str, Any]) -> None:
    parted = [group for group in ties if not check_tied_parameters_on_same_device([group], device_map)]
    if parted:
        warnings.warn(
            f"tied parameters {parted} are on different devices: training would make them differ.", stacklevel=4
        )


def _offloaded_weights(
    model: nn.Module,
    device_map: Mapping[str, Any],
    offloads: Sequence[str],
    state_dict: Mapping[str, torch.Tensor] | None,
    folder: str | os.PathLike[str] | None,
    index: Mapping[str, Any] | None,
) -> OffloadedWeightsLoader | None:
    """Where parts that are loaded for their forward pass come from; None if there is no such part."""
    in_memory = [name for name, device in device_map.items() if device == "cpu" and "cpu" in offloads]
    on_disk = [name for name, device in device_map.items() if device == "disk"]
    if not in_memory and not on_disk:
        return None
    own = model.state_dict()
    kept = _of_parts(state_dict if state_dict is not None else own, in_memory)
    has_files = folder is not None and os.path.isfile(os.path.join(folder, "index.json"))
    if on_disk and index is None and not has_files:
        if folder is None:
            raise CallError(
                f"the device map sends {', '.join(map(repr, on_disk))} to the disk. Give dispatch_model a folder for "
                "them: offload_dir=."
            )
        offload_state_dict(folder, _of_parts(own, on_disk))
    weights = {name: weight.to("cpu") for name, weight in kept.items()}
    return OffloadedWeightsLoader(weights, folder if on_disk else None, index)


def _with_ties(weights: OffloadedWeightsLoader, ties: Sequence[Sequence[str]]) -> OffloadedWeightsLoader:
    """The same weights, also under the names that a checkpoint leaves out because they mean the same."""
    more: dict[str, Any] = {}
    for group in ties:
        stored = next((name for name in group if name in weights.index), None)
        if stored is not None:
            entry = {"stored_as": stored, "weight_name": stored, **weights.index[stored]}
            more |= {name: entry for name in group if name not in weights}
    if not more:
        return weights
    return OffloadedWeightsLoader(weights.state_dict, weights.save_folder, {**weights.index, **more}, weights.device)


def _of_parts(state_dict: Mapping[str, torch.Tensor], names: Sequence[str]) -> dict[str, torch.Tensor]:
    return dict(state_dict) if "" in names else extract_submodules_state_dict(state_dict, names)


def _refuse_moves(model: nn.Module, offloads: bool) -> None:
    """Moving a spread model would tear its parts from their hooks."""

    def refuse(name: str) -> Any:
        own = getattr(model, name)

        def moved(*args: Any, **kwargs: Any) -> Any:
            places = [one for one in (*args, *kwargs.values()) if isinstance(one, (int, str, torch.device))]
            if (places or name == "cuda") and hasattr(model, "_hf_hook"):
                what = "offloaded" if offloads else "on several devices"
                raise StateError(
                    f"model.{name}(): parts of this model are {what} (see model.hf_device_map), and cannot be moved. "
                    "Call nbaccel.hooks.remove_hook_from_submodules(model) first."
                )
            return own(*args, **kwargs)

        return moved

    for name in ("to", "cuda"):
        setattr(model, name, refuse(name))


def attach_layerwise_casting_hooks(
    module: nn.Module,
    storage_dtype: torch.dtype,
    compute_dtype: torch.dtype,
    skip_modules_pattern: str | Sequence[str] | None = None,
    skip_modules_classes: tuple[type[nn.Module], ...] | None = None,
    non_blocking: bool = False,
) -> None:
    """Keep the weights of linear and convolution layers in a small dtype, and cast each for its forward pass.

    Args:
        module: the model.
        storage_dtype: as in `LayerwiseCastingHook`, as are `compute_dtype` and `non_blocking`.
        compute_dtype: likewise.
        skip_modules_pattern: regular expressions; modules whose names they are found in, and what is inside, stay.
        skip_modules_classes: classes that stay.
        non_blocking: likewise.
    """
    patterns = [skip_modules_pattern] if isinstance(skip_modules_pattern, str) else list(skip_modules_pattern or ())
    hook_arguments = (storage_dtype, compute_dtype, non_blocking)

    def walk(part: nn.Module, name: str) -> None:
        if skip_modules_classes and isinstance(part, tuple(skip_modules_classes)):
            return
        if any(re.search(pattern, name) for pattern in patterns):
            return
        if isinstance(part, SUPPORTED_PYTORCH_LAYERS_FOR_UPCASTING):
            add_hook_to_module(part, LayerwiseCastingHook(*hook_arguments), append=True)
            return
        for child_name, child in part.named_children():
            walk(child, f"{name}.{child_name}" if name else child_name)

    walk(module, "")
