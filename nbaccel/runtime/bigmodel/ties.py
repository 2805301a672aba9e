"""Weights that stand at several places of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from nbaccel.errors import CallError


def id_tensor_storage(tensor: torch.Tensor) -> tuple[torch.device, int, int]:
    """What two tensors share if they share memory: device, address and size in bytes."""
    storage = tensor.untyped_storage()
    return tensor.device, storage.data_ptr(), storage.nbytes()


def find_tied_parameters(model: nn.Module, **kwargs: Any) -> list[list[str]]:
    """Groups of names that mean one and the same parameter, each sorted."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return sorted(sorted(group) for group in names.values() if len(group) > 1)


def retie_parameters(model: nn.Module, tied_params: Sequence[Sequence[str]]) -> None:
    """Let each group of names mean one parameter again: the first of them that is not on the meta device, if any."""
    for group in tied_params:
        found = [parameter for name in group if (parameter := _parameter(model, name)) is not None]
        kept = next((parameter for parameter in found if parameter.device.type != "meta"), next(iter(found), None))
        if kept is not None:
            for name in group:
                owner, _, last = name.rpartition(".")
                setattr(model.get_submodule(owner), last, kept)


def _parameter(model: nn.Module, name: str) -> nn.Parameter | None:
    owner, _, last = name.rpartition(".")
    return model.get_submodule(owner)._parameters.get(last)


def check_tied_parameters_in_config(model: nn.Module) -> bool:
    """Whether the configuration of a transformers model says that weights are tied."""
    config = getattr(model, "config", None)
    if config is None:
        return False
    texts = [config, getattr(config, "decoder", None)]
    if hasattr(config, "get_text_config"):
        texts.append(config.get_text_config())
    words = bool(getattr(config, "tie_word_embeddings", False)) or any(
        bool(getattr(text, "tie_word_embeddings", False)) for text in texts if text is not None
    )
    return words or bool(getattr(config, "tie_encoder_decoder", False))


def check_tied_parameters_on_same_device(tied_params: Sequence[Sequence[str]], device_map: Mapping[str, Any]) -> bool:
    """Whether a device map keeps each group of tied names on one device."""
    return all(len({str(device_of(name, device_map)) for name in group}) <= 1 for group in tied_params)


def device_of(name: str, device_map: Mapping[str, Any]) -> Any:
    """The device that a map gives to a parameter or module: that of the longest name that holds it.

    Raises:
        CallError: the map gives it none.
    """
    place = name
    while place not in device_map:
        if not place:
            raise CallError(f"the device map gives no device to {name!r}. Add it, or a module that holds it.")
        place = place.rpartition(".")[0]
    return device_map[place]
