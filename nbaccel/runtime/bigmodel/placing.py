"""Device maps: which part of a model goes where. Decided purely from sizes and memory."""

from __future__ import annotations

import warnings
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psutil
import torch
from torch import nn

from nbaccel.errors import CallError
from nbaccel.runtime.bigmodel.sizes import (
    Dtype,
    compute_module_sizes,
    convert_file_size_to_int,
    get_max_layer_size,
)
from nbaccel.runtime.bigmodel.ties import find_tied_parameters

Place = int | str | torch.device
Part = nn.Module | torch.Tensor
_SLACK = 1.25
"""A balanced share is larger than the mean by this many layers."""
_FILLED = 0.9
"""What weights may take of the only GPU's free memory: the forward pass needs some, too."""


def get_max_memory(max_memory: Mapping[Any, int | str] | None = None) -> dict[Any, int]:
    """Bytes that may be used on each device.

    Args:
        max_memory: for each device (0, 1, ..., `cpu`, `disk`) a number of bytes or text such as `10GB`; left out:
            what is free now on all GPUs, and in main memory.

    Returns:
        The same in bytes, GPUs first, in their order.
    """
    if max_memory is None:
        free = {index: torch.cuda.mem_get_info(index)[0] for index in range(torch.cuda.device_count())}
        if not free and torch.backends.mps.is_available():
            return {"mps": psutil.virtual_memory().available}
        return {**free, "cpu": psutil.virtual_memory().available}
    found = {device: convert_file_size_to_int(size) for device, size in max_memory.items()}
    gpus = sorted(device for device in found if isinstance(device, int))
    others = [device for device in found if not isinstance(device, int) and device not in ("cpu", "disk")]
    return {device: found[device] for device in (*gpus, *others, "cpu", "disk") if device in found}


def get_balanced_memory(
    model: nn.Module,
    max_memory: Mapping[Any, int | str] | None = None,
    no_split_module_classes: Sequence[str] | str | None = None,
    dtype: str | Dtype | None = None,
    special_dtypes: Mapping[str, str | Dtype] | None = None,
    low_zero: bool = False,
) -> dict[Any, int]:
    """Limits that spread a model evenly over the GPUs.

    Args:
        model: the model.
        max_memory: as in `get_max_memory`.
        no_split_module_classes: names of classes that stay whole.
        dtype: as in `compute_module_sizes`.
        special_dtypes: likewise.
        low_zero: leave as much as possible of GPU 0 free, as for generating text.

    Returns:
        Bytes by device; the last GPU keeps its limit, so that everything fits. A GPU alone is filled to nine tenths
        where the caller gives no limits.
    """
    limits = get_max_memory(max_memory)
    gpus = [device for device in limits if device not in ("cpu", "disk") and limits[device] > 0]
    if len(gpus) == 1 and max_memory is None:
        limits[gpus[0]] = int(_FILLED * limits[gpus[0]])
    if len(gpus) < 2:
        return limits
    sizes = compute_module_sizes(model, dtype, special_dtypes)
    share = sizes[""] // (len(gpus) - 1 if low_zero else len(gpus))
    share += int(
        _SLACK * max(_largest_whole(model, sizes, _listed(no_split_module_classes)), _mean_layer(model, sizes))
    )
    for gpu in gpus[:-1]:
        limits[gpu] = min(limits[gpu], share)
    if low_zero:
        elsewhere = sum(limits[gpu] for gpu in gpus[1:])
        limits[gpus[0]] = min(limits[gpus[0]], max(0, sizes[""] - elsewhere))
    return limits


def _listed(classes: Sequence[str] | str | None) -> list[str]:
    return [classes] if isinstance(classes, str) else list(classes or ())


def _largest_whole(model: nn.Module, sizes: Mapping[str, int], no_split: Sequence[str]) -> int:
    return max(
        (sizes.get(name, 0) for name, part in model.named_modules() if type(part).__name__ in no_split), default=0
    )


def _mean_layer(model: nn.Module, sizes: Mapping[str, int]) -> int:
    leaves = [sizes[name] for name, part in model.named_modules() if sizes.get(name) and not any(part.children())]
    return sum(leaves) // len(leaves) if leaves else 0


@dataclass
class _Filling:
    """Devices, filled one after the other.

    Attributes:
        limits: bytes that may be used, by device, in the order in which they are filled.
        sizes: bytes of the model's parts.
        whole: names of classes that stay whole.
        ties: groups of names that mean one parameter.
        reserving: devices that keep room for the largest layer that is still to come, which will be computed there.
        parts: what is still to be placed.
        chosen: device by part.
        verbose: say what is done.
    """

    limits: dict[Any, float]
    sizes: Mapping[str, int]
    whole: Sequence[str]
    ties: Sequence[Sequence[str]]
    reserving: Sequence[Any]
    parts: deque[tuple[str, Part]]
    verbose: bool = False
    look_ahead: bool = False
    chosen: OrderedDict[str, Any] = field(default_factory=OrderedDict)
    used: int = 0

    def run(self) -> OrderedDict[str, Any]:
        devices = deque(self.limits)
        while self.parts:
            device = devices[0]
            if not self._place_next(device):
                devices.popleft()
                self._say(f"{device} is full")
                self.used = 0
        return self.chosen

    def _place_next(self, device: Any) -> bool:
        """Place the next part, or replace it by its pieces. False if the device has no room for it."""
        name, part = self.parts[0]
        together = [(name, part), *self._tied_to(name)]
        room = self._room(device)
        if self._size(together) <= room:
            self._take(together, device)
            return True
        cut = self._cut(name, part)
        if len(together) > 1 and self.sizes.get(name, 0) <= room:
            cut = self._cut_tied(together[1:]) or cut  # what is tied to it need not come as a whole
        if cut:
            return True
        return self.look_ahead and device != "disk" and not self._holds_any(device) and self._take_another(device, room)

    def _room(self, device: Any) -> float:
        after = [item for item in list(self.parts)[1:] if isinstance(item[1], nn.Module)]
        reserve = get_max_layer_size(after, self.sizes, self.whole)[0] if device in self.reserving else 0
        return self.limits[device] - reserve - self.used

    def _holds_any(self, device: Any) -> bool:
        return any(chosen == device for chosen in self.chosen.values())

    def _size(self, together: Iterable[tuple[str, Part]]) -> int:
        return sum(self.sizes.get(name, 0) for name, _ in together)

    def _tied_to(self, name: str) -> list[tuple[str, Part]]:
        """Other parts still to be placed that share a parameter with this one."""
        groups = [group for group in self.ties if any(_holds(name, tied) for tied in group)]
        names = [tied for group in groups for tied in group if not _holds(name, tied)]
        return [
            (other, part) for other, part in self.parts if other != name and any(_holds(other, tied) for tied in names)
        ]

    def _take(self, together: Sequence[tuple[str, Part]], device: Any) -> None:
        taken = {name for name, _ in together}
        for name, _ in together:
            self.chosen[name] = device
            self._say(f"{name} goes to {device} ({self.sizes.get(name, 0)} bytes)")
        self.used += self._size(together)
        self.parts = deque((name, part) for name, part in self.parts if name not in taken)

    def _take_another(self, device: Any, room: float) -> bool:
        """An empty device takes the first module, or module inside one, that fits."""
        queue = deque(self.parts)
        while queue:
            name, part = queue.popleft()
            fits = isinstance(part, nn.Module) and self.sizes.get(name, 0) <= room
            if fits and not self._tied_to(name):
                self._single_out(name)
                self._take([(name, part)], device)
                return True
            queue.extend(self._pieces(name, part))
        return False

    def _single_out(self, name: str) -> None:
        """Cut what is around a part until it stands among the parts itself."""
        while all(name != other for other, _ in self.parts):
            holder = next(item for item in self.parts if _holds(item[0], name))
            self._replace(holder[0], self._pieces(*holder))

    def _pieces(self, name: str, part: Part) -> list[tuple[str, Part]]:
        if isinstance(part, torch.Tensor) or type(part).__name__ in self.whole or not any(part.children()):
            return []
        return [(f"{name}.{inside}", piece) for inside, piece in _direct(part)]

    def _cut(self, name: str, part: Part) -> bool:
        return self._replace(name, self._pieces(name, part))

    def _cut_tied(self, tied: Sequence[tuple[str, Part]]) -> bool:
        return any(self._cut(name, part) for name, part in tied)

    def _replace(self, name: str, pieces: Sequence[tuple[str, Part]]) -> bool:
        if pieces:
            position = next(index for index, item in enumerate(self.parts) if item[0] == name)
            items = list(self.parts)
            items[position : position + 1] = pieces
            self.parts = deque(items)
        return bool(pieces)

    def _say(self, text: str) -> None:
        if self.verbose:
            print(text)


def _direct(module: nn.Module) -> list[tuple[str, Part]]:
    """What is directly inside a module."""
    tensors = module.named_parameters(recurse=False), module.named_buffers(recurse=False)
    return [*tensors[0], *module.named_children(), *tensors[1]]


def _holds(outer: str, inner: str) -> bool:
    return outer in ("", inner) or inner.startswith(f"{outer}.")


def infer_auto_device_map(
    model: nn.Module,
    max_memory: Mapping[Any, int | str] | None = None,
    no_split_module_classes: Sequence[str] | str | None = None,
    dtype: str | Dtype | None = None,
    special_dtypes: Mapping[str, str | Dtype] | None = None,
    verbose: bool = False,
    clean_result: bool = True,
    offload_buffers: bool = False,
    fallback_allocation: bool = False,
) -> OrderedDict[str, Any]:
    """Place a model's parts: GPUs are filled one after the other, then main memory, and the rest goes to the disk.

    The first GPU, and main memory, keep room for the largest layer that comes after: one that was offloaded is computed
    there.

    Args:
        model: the model, which may be on the meta device.
        max_memory: as in `get_max_memory`.
        no_split_module_classes: names of classes that stay whole (those with a residual connection inside).
        dtype: as in `compute_module_sizes`.
        special_dtypes: likewise.
        verbose: print each step.
        clean_result: join parts of one module that go to one device.
        offload_buffers: whether buffers are offloaded with the parameters; else there must be room for them on the
            first GPU, and a warning says if there is not.
        fallback_allocation: let a GPU that would stay empty take a later part that fits.

    Returns:
        Device by name of a module, parameter or buffer.
    """
    limits = get_max_memory(max_memory)
    gpus = [device for device in limits if device not in ("cpu", "disk")]
    sizes = compute_module_sizes(model, dtype, special_dtypes)
    filling = _Filling(
        limits={**{device: limits[device] for device in limits if device != "disk"}, "disk": float("inf")},
        sizes=sizes,
        whole=_listed(no_split_module_classes),
        ties=find_tied_parameters(model),
        reserving=[gpus[0], "cpu"] if gpus else ["cpu"],
        parts=deque(_direct(model)),
        verbose=verbose,
        look_ahead=fallback_allocation,
    )
    chosen = filling.run()
    if not offload_buffers and gpus:
        _warn_of_buffers(chosen, limits[gpus[0]], sizes, compute_module_sizes(model, dtype, special_dtypes, True), gpus)
    return clean_device_map(chosen) if clean_result else chosen  # type: ignore[return-value]


def _warn_of_buffers(
    chosen: Mapping[str, Any], limit: int, sizes: Mapping[str, int], buffers: Mapping[str, int], gpus: Sequence[Any]
) -> None:
    used = sum(sizes.get(name, 0) for name, device in chosen.items() if device == gpus[0])
    offloaded = sum(buffers.get(name, 0) for name, device in chosen.items() if device in ("cpu", "disk"))
    if offloaded and used + offloaded > limit:
        warnings.warn(
            f"buffers of offloaded parts take {offloaded} bytes on device {gpus[0]}, which has no room for them. Use "
            "offload_buffers=True.",
            stacklevel=3,
        )


def clean_device_map(device_map: MutableMapping[str, Any], module_name: str = "") -> MutableMapping[str, Any]:
    """Give a module one entry where all its parts go to one device; changes the map.

    Args:
        device_map: device by name.
        module_name: the module to begin with.
    """
    inside = [name for name in device_map if _holds(module_name, name)]
    if len({str(device_map[name]) for name in inside}) == 1 and inside != [module_name]:
        device = device_map[inside[0]]
        for name in inside:
            del device_map[name]
        device_map[module_name] = device
        return device_map
    depth = len(module_name.split(".")) if module_name else 0
    for child in dict.fromkeys(".".join(name.split(".")[: depth + 1]) for name in inside if name != module_name):
        clean_device_map(device_map, child)
    return device_map


def check_device_map(model: nn.Module, device_map: Mapping[str, Any]) -> None:
    """Check that a map gives every parameter and buffer a device.

    Raises:
        CallError: names those without one.
    """
    names = [*model.state_dict(), *(name for name, _ in model.named_parameters())]
    lost = [name for name in dict.fromkeys(names) if not any(_holds(place, name) for place in device_map)]
    if lost:
        shown = ", ".join(lost[:8]) + (f" and {len(lost) - 8} more" if len(lost) > 8 else "")
        raise CallError(f"the device map gives no device to {shown}. Add them, or modules that hold them.")
    unknown = [place for place in device_map if place and not any(_holds(place, name) for name in _all_names(model))]
    if unknown:
        warnings.warn(f"the device map names {', '.join(unknown)}, which the model does not have.", stacklevel=2)


def _all_names(model: nn.Module) -> list[str]:
    return [*(name for name, _ in model.named_modules()), *(name for name, _ in model.named_parameters()),
            *(name for name, _ in model.named_buffers())]  # fmt: skip
