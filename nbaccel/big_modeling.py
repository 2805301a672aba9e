"""What training code may import from `nbaccel.big_modeling`; nothing inside nbaccel does."""

from nbaccel.runtime.bigmodel.dispatch import (
    attach_layerwise_casting_hooks,
    cpu_offload,
    cpu_offload_with_hook,
    disk_offload,
    dispatch_model,
)
from nbaccel.runtime.bigmodel.empty import init_empty_weights, init_on_device
from nbaccel.runtime.bigmodel.loading import load_checkpoint_and_dispatch

__all__ = [
    "attach_layerwise_casting_hooks",
    "cpu_offload",
    "cpu_offload_with_hook",
    "disk_offload",
    "dispatch_model",
    "init_empty_weights",
    "init_on_device",
    "load_checkpoint_and_dispatch",
]
