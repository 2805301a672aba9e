"""Hooks that bring weights and inputs together on the device that computes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from nbaccel.runtime.batches import find_device
from nbaccel.runtime.bigmodel.hooks import ModelHook, add_hook_to_module
from nbaccel.runtime.bigmodel.offload import PrefixedDataset
from nbaccel.runtime.bigmodel.sizes import named_module_tensors, non_persistent_buffers
from nbaccel.runtime.bigmodel.tensors import TiedMap, set_module_tensor_to_device
from nbaccel.runtime.collectives import send_to_device

Device = int | str | torch.device


class AlignDevicesHook(ModelHook):
    """Brings a module's inputs, and its weights if they are offloaded, to the device that computes.

    Args:
        execution_device: the device that computes; None moves nothing.
        offload: keep the weights elsewhere between the forward passes.
        io_same_device: bring the output to the device of the first input.
        weights_map: where offloaded weights come from, by their names; None keeps them in main memory.
        offload_buffers: offload buffers, too.
        place_submodules: do so for all modules inside, too.
        skip_keys: keyword arguments that stay where they are.
        tied_params_map: by address of an offloaded weight that stands at several places, its copies by device.
    """

    def __init__(
        self,
        execution_device: Device | None = None,
        offload: bool = False,
        io_same_device: bool = False,
        weights_map: Mapping[str, Any] | None = None,
        offload_buffers: bool = False,
        place_submodules: bool = False,
        skip_keys: str | Sequence[str] | None = None,
        tied_params_map: TiedMap | None = None,
    ) -> None:
        self.execution_device, self.offload, self.io_same_device = execution_device, offload, io_same_device
        self.weights_map, self.offload_buffers, self.place_submodules = weights_map, offload_buffers, place_submodules
        self.skip_keys, self.tied_params_map = skip_keys, tied_params_map
        self.input_device: torch.device | None = None
        self.original_devices: dict[str, torch.device] = {}
        self._borrowed: list[tuple[int, Any]] = []

    def __repr__(self) -> str:
        return (
            f"AlignDevicesHook(execution_device={self.execution_device}, offload={self.offload}, "
            f"io_same_device={self.io_same_device}, offload_buffers={self.offload_buffers}, "
            f"place_submodules={self.place_submodules}, skip_keys={self.skip_keys!r})"
        )

    def init_hook(self, module: nn.Module) -> nn.Module:
        if self.execution_device is None or torch.device(self.execution_device).type == "meta":
            return module
        if not self.offload:
            for name, _ in _tensors(module, True, self.place_submodules):
                set_module_tensor_to_device(module, name, self.execution_device, tied_params_map=self.tied_params_map)
            return module
        tensors = dict(_tensors(module, True, self.place_submodules))
        self.original_devices = {name: tensor.device for name, tensor in tensors.items()}
        offloaded = list(self._offloaded(module))
        if self.weights_map is None:
            self.weights_map = {name: tensors[name].detach().cpu() for name in offloaded}
        for name in tensors:
            device = "meta" if name in offloaded else self.execution_device
            set_module_tensor_to_device(module, name, device)
        return module

    def _offloaded(self, module: nn.Module) -> Iterator[str]:
        """Names of what is offloaded; buffers that no checkpoint has stay."""
        kept = non_persistent_buffers(module)
        for name, _ in _tensors(module, self.offload_buffers, self.place_submodules):
            if name not in kept:
                yield name

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if self.io_same_device:
            self.input_device = find_device([args, kwargs])
        if self.offload:
            self._load(module)
        if self.execution_device is None:
            return args, kwargs
        keys = self.skip_keys or ()
        return send_to_device(args, self.execution_device), send_to_device(
            kwargs, self.execution_device, skip_keys=keys
        )

    def _load(self, module: nn.Module) -> None:
        assert self.weights_map is not None
        assert self.execution_device is not None
        for name in self._offloaded(module):
            value = self.weights_map[name]
            tied = self.tied_params_map if self.tied_params_map is not None else {}
            is_new = value.data_ptr() in tied and self.execution_device not in tied[value.data_ptr()]
            set_module_tensor_to_device(
                module, name, self.execution_device, value=value, tied_params_map=self.tied_params_map
            )
            if is_new:
                self._borrowed.append((value.data_ptr(), self.execution_device))

    def post_forward(self, module: nn.Module, output: Any) -> Any:
        if self.offload:
            for name in self._offloaded(module):
                set_module_tensor_to_device(module, name, "meta")
            for address, device in self._borrowed:
                assert self.tied_params_map is not None
                self.tied_params_map[address].pop(device, None)
            self._borrowed.clear()
        if self.io_same_device and self.input_device is not None:
            output = send_to_device(output, self.input_device, skip_keys=self.skip_keys or ())
        return output

    def detach_hook(self, module: nn.Module) -> nn.Module:
        if self.offload and self.weights_map is not None:
            for name in self._offloaded(module):
                device = self.original_devices[name]
                if device.type != "meta":
                    set_module_tensor_to_device(module, name, device, value=self.weights_map[name])
        return module


def _tensors(module: nn.Module, buffers: bool, recurse: bool) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters and buffers under all of their names."""
    yield from module.named_parameters(recurse=recurse, remove_duplicate=False)
    if buffers:
        yield from module.named_buffers(recurse=recurse, remove_duplicate=False)


def attach_execution_device_hook(
    module: nn.Module,
    execution_device: Device,
    skip_keys: str | Sequence[str] | None = None,
    preload_module_classes: Sequence[str] | None = None,
    tied_params_map: TiedMap | None = None,
) -> None:
    """Give every module inside that has weights, and no hook, one that knows its device.

    Args:
        module: where to begin.
        execution_device: the device that computes.
        skip_keys: as in `AlignDevicesHook`.
        preload_module_classes: names of classes whose insides are left alone.
        tied_params_map: as in `AlignDevicesHook`.
    """
    if not hasattr(module, "_hf_hook") and len(module.state_dict()) > 0:
        add_hook_to_module(
            module, AlignDevicesHook(execution_device, skip_keys=skip_keys, tied_params_map=tied_params_map)
        )
    if type(module).__name__ in (preload_module_classes or ()):
        return
    for child in module.children():
        attach_execution_device_hook(child, execution_device, skip_keys, preload_module_classes, tied_params_map)


def attach_align_device_hook(
    module: nn.Module,
    execution_device: torch.device | None = None,
    offload: bool = False,
    weights_map: Mapping[str, Any] | None = None,
    offload_buffers: bool = False,
    module_name: str = "",
    skip_keys: str | Sequence[str] | None = None,
    preload_module_classes: Sequence[str] | None = None,
    tied_params_map: TiedMap | None = None,
) -> None:
    """Give every module inside that has weights of its own an `AlignDevicesHook`, in addition to what it has.

    Args:
        module: where to begin.
        execution_device: as in `AlignDevicesHook`, like what is not explained here.
        offload: likewise.
        weights_map: likewise, by the names in the whole model.
        offload_buffers: likewise.
        module_name: name of `module` in the whole model.
        skip_keys: likewise.
        preload_module_classes: names of classes whose insides are loaded as a whole, before their forward pass.
        tied_params_map: likewise.
    """
    whole = offload and type(module).__name__ in (preload_module_classes or ())
    if whole or any(True for _ in named_module_tensors(module)):
        prefixed = (
            None if weights_map is None else PrefixedDataset(weights_map, f"{module_name}." if module_name else "")
        )
        hook = AlignDevicesHook(
            execution_device, offload, False, prefixed, offload_buffers, whole, skip_keys, tied_params_map
        )
        add_hook_to_module(module, hook, append=True)
    if whole:
        return
    for name, child in module.named_children():
        inner = f"{module_name}.{name}" if module_name else name
        attach_align_device_hook(child, execution_device, offload, weights_map, offload_buffers, inner, skip_keys,
                                 preload_module_classes, tied_params_map)  # fmt: skip


def attach_align_device_hook_on_blocks(
    module: nn.Module,
    execution_device: Device | Mapping[str, Device] | None = None,
    offload: bool | Mapping[str, bool] = False,
    weights_map: Mapping[str, Any] | None = None,
    offload_buffers: bool = False,
    module_name: str = "",
    skip_keys: str | Sequence[str] | None = None,
    preload_module_classes: Sequence[str] | None = None,
    tied_params_map: TiedMap | None = None,
) -> None:
    """Give the blocks of a model the hooks that their devices ask for; arguments as in `attach_align_device_hook`.

    Args:
        module: where to begin.
        execution_device: the device that computes, by name of the block; or one for all. That of the model itself,
            `""`, gets its inputs, and the weights that are in no block.
        offload: whether a block's weights are offloaded, by its name; or one answer for all.
        weights_map: as there, like all others.
    """
    blocks = next((given for given in (execution_device, offload) if isinstance(given, Mapping)), (module_name,))
    devices: Mapping[str, Any] = (
        execution_device if isinstance(execution_device, Mapping) else dict.fromkeys(blocks, execution_device)
    )
    if not isinstance(offload, Mapping):
        offload = dict.fromkeys(devices, offload)
    device: Any = devices.get(module_name)
    rest = (skip_keys, preload_module_classes, tied_params_map)
    is_root = module_name == ""
    is_block = module_name in devices and module_name in offload
    if is_block and offload[module_name]:
        attach_align_device_hook(module, device, True, weights_map, offload_buffers, module_name, *rest)
        if not hasattr(module, "_hf_hook"):
            add_hook_to_module(module, AlignDevicesHook(device, io_same_device=is_root, skip_keys=skip_keys))
        attach_execution_device_hook(module, device, *rest)
    elif is_block:
        hook = AlignDevicesHook(device, False, is_root, place_submodules=True, skip_keys=skip_keys,
                                tied_params_map=tied_params_map)  # fmt: skip
        add_hook_to_module(module, hook)
        attach_execution_device_hook(module, device, *rest)
    elif is_root:
        hook = AlignDevicesHook(device, io_same_device=True, skip_keys=skip_keys, tied_params_map=tied_params_map)
        add_hook_to_module(module, hook, append=True)
    for name, child in module.named_children():
        inner = f"{module_name}.{name}" if module_name else name
        attach_align_device_hook_on_blocks(child, devices, offload, weights_map, offload_buffers, inner, *rest)


@contextmanager
def align_module_device(module: nn.Module, execution_device: torch.device | None = None) -> Iterator[None]:
    """A `with` block in which a module's own weights are on the device that computes.

    Args:
        module: the module; offloaded weights are loaded, and forgotten at the end.
        execution_device: move weights that are not offloaded here, and back at the end; None leaves them.
    """
    hook = getattr(module, "_hf_hook", None)
    if isinstance(hook, AlignDevicesHook) and hook.offload:
        former = hook.execution_device
        hook.execution_device = execution_device if execution_device is not None else former
        try:
            hook.pre_forward(module)
            yield
        finally:
            hook.post_forward(module, None)
            hook.execution_device = former
        return
    devices = {name: tensor.device for name, tensor in module.named_parameters(recurse=False)}
    try:
        if execution_device is not None:
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(execution_device)
        yield
    finally:
        for name, parameter in module.named_parameters(recurse=False):
            parameter.data = parameter.data.to(devices[name])
