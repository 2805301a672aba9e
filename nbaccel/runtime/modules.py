"""Questions about modules, and what is done to parts of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


def get_module_children_bottom_up(model: nn.Module, return_fqns: bool = False) -> list[Any]:
    """All modules of a model, each after everything that is inside it.

    Args:
        model: the model, which comes last.
        return_fqns: return pairs of name and module.
    """
    found: list[tuple[str, nn.Module]] = []

    def walk(name: str, module: nn.Module) -> None:
        for child_name, child in module.named_children():
            walk(f"{name}.{child_name}" if name else child_name, child)
        found.append((name, module))

    walk("", model)
    return found if return_fqns else [module for _, module in found]


def is_compiled_module(module: nn.Module) -> bool:
    """Whether `torch.compile` has compiled it."""
    return isinstance(module, torch._dynamo.eval_frame.OptimizedModule) if _has_dynamo() else False


def _has_dynamo() -> bool:
    """Whether anybody has compiled anything: asking for the class of compiled modules takes a second else."""
    return "torch._dynamo.eval_frame" in sys.modules


def has_compiled_regions(module: nn.Module) -> bool:
    """Whether a module, or one inside it, is compiled."""
    return any(
        is_compiled_module(part) or getattr(part, "_compiled_call_impl", None) is not None for part in module.modules()
    )


def lies_on_several_devices(model: nn.Module) -> bool:
    """Whether a model, or a part of it, lies on several devices by a device map."""
    return any(len(getattr(part, "hf_device_map", ())) > 1 for part in model.modules())


def is_repeated_blocks(module: nn.Module) -> bool:
    """Whether it is a list of modules of one class."""
    blocks = list(module) if isinstance(module, nn.ModuleList) else []
    return bool(blocks) and all(type(block) is type(blocks[0]) for block in blocks)


def has_repeated_blocks(module: nn.Module) -> bool:
    """Whether there is a list of modules of one class inside."""
    return any(is_repeated_blocks(part) for part in module.modules())


def compile_regions(module: nn.Module, **compile_kwargs: Any) -> nn.Module:
    """Compile each of a model's repeated blocks by itself: they share one compilation, which takes far less time.

    Args:
        module: the model; it is not changed, and shares its weights with what is returned.
        compile_kwargs: arguments of `torch.compile`.

    Returns:
        A model of the same class with compiled blocks; a module without repeated blocks is compiled as a whole.
    """
    if not has_repeated_blocks(module):
        return _compiled(module, **compile_kwargs)
    if is_repeated_blocks(module):
        return nn.ModuleList(_compiled(block, **compile_kwargs) for block in module.children())
    twin = module.__new__(type(module))
    twin.__dict__ = {**module.__dict__, "_modules": {}}
    for name, child in module.named_children():
        twin.add_module(name, compile_regions(child, **compile_kwargs))
    return twin


def _compiled(module: nn.Module, **compile_kwargs: Any) -> nn.Module:
    compiled: Any = torch.compile(module, **compile_kwargs)
    return compiled


def compile_regions_deepspeed(module: nn.Module, **compile_kwargs: Any) -> None:
    """Compile each of a model's repeated blocks by itself, in place, as DeepSpeed wants it; else the model."""
    _compile_in_place(module, **compile_kwargs)


def compile_regions_fsdp2(module: nn.Module, **compile_kwargs: Any) -> nn.Module:
    """Compile each of a model's repeated blocks by itself, in place, so that FSDP2's modules stay the same; else the
    model."""
    _compile_in_place(module, **compile_kwargs)
    return module


def _compile_in_place(module: nn.Module, **compile_kwargs: Any) -> None:
    if is_repeated_blocks(module):
        for block in module.children():
            block.compile(**compile_kwargs)
    elif has_repeated_blocks(module):
        for child in module.children():
            _compile_in_place(child, **compile_kwargs)
    else:
        module.compile(**compile_kwargs)


def model_has_dtensor(model: nn.Module) -> bool:
    """Whether a weight is shared out among the ranks (FSDP2, tensor parallelism)."""
    return any(
        hasattr(parameter, "device_mesh") and hasattr(parameter, "placements") for parameter in model.parameters()
    )


def get_model_tp_size(model: nn.Module) -> int | None:
    """Over how many ranks transformers has split a model's layers, None if it has not."""
    return getattr(model, "tp_size", None)


def is_peft_model(model: nn.Module) -> bool:
    """Whether it is a model of the package peft."""
    return any(f"{kind.__module__}.{kind.__name__}" == "peft.peft_model.PeftModel" for kind in type(model).__mro__)


def has_4bit_bnb_layers(model: nn.Module) -> bool:
    """Whether bitsandbytes has made a layer of 4 bits."""
    return _has_layer(model, "bitsandbytes", "Linear4bit")


def has_ao_layers(model: nn.Module) -> bool:
    """Whether torchao has made a layer of fp8."""
    return _has_layer(model, "torchao", "Float8Linear")


def has_transformer_engine_layers(model: nn.Module) -> bool:
    """Whether there is a layer of Transformer Engine."""
    return _has_layer(model, "transformer_engine", "")


def _has_layer(model: nn.Module, package: str, name: str) -> bool:
    kinds = {type(part) for part in model.modules()}
    return any(kind.__module__.split(".")[0] == package and kind.__name__.startswith(name) for kind in kinds)


@contextmanager
def GatheredParameters(  # noqa: N802 - DeepSpeed's and Accelerate's name
    params: Any, modifier_rank: int | None = None, fwd_module: nn.Module | None = None, enabled: bool = True
) -> Iterator[None]:
    """A `with` block in which DeepSpeed's ZeRO-3 weights are whole. nbaccel has no such weights: it does nothing."""
    yield
