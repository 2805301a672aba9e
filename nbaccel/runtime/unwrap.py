"""The user's own module inside whatever was put around it."""

from __future__ import annotations

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from nbaccel.runtime.precision.autocast import strip_autocast

_CONTAINERS = (DistributedDataParallel, DataParallel)


def extract_model_from_parallel(
    model: nn.Module, keep_fp32_wrapper: bool = True, keep_torch_compile: bool = True
) -> nn.Module:
    """Take a model out of its distributed containers.

    Args:
        model: any module.
        keep_fp32_wrapper: leave the mixed precision forward pass in place; False gives the model its own back.
        keep_torch_compile: leave a compiled model compiled; one that was compiled around a distributed container is
            always returned uncompiled. Blocks that were compiled in place stay so: their weights have the usual names.
    """
    while True:
        inside = getattr(model, "_orig_mod", None)  # torch.compile's
        if isinstance(model, _CONTAINERS):
            model = model.module
        elif inside is not None and (not keep_torch_compile or isinstance(inside, _CONTAINERS)):
            model = inside
        else:
            break
    if not keep_fp32_wrapper:
        strip_autocast(model)
        strip_autocast(getattr(model, "_orig_mod", model))
    return model
