"""What training code may import from `nbaccel.utils.launch`; nothing inside nbaccel does."""

from nbaccel.runtime.constants import DEEPSPEED_MULTINODE_LAUNCHERS
from nbaccel.runtime.later import (
    PrepareForLaunch,
    prepare_deepspeed_cmd_env,
    prepare_multi_gpu_env,
    prepare_sagemager_args_inputs,
    prepare_simple_launcher_cmd_env,
    prepare_tpu,
)

__all__ = [
    "DEEPSPEED_MULTINODE_LAUNCHERS",
    "PrepareForLaunch",
    "prepare_deepspeed_cmd_env",
    "prepare_multi_gpu_env",
    "prepare_sagemager_args_inputs",
    "prepare_simple_launcher_cmd_env",
    "prepare_tpu",
]
