"""What nbaccel cannot do so far: a wish for it is one error, never silence."""

from __future__ import annotations

from nbaccel.config import RunConfig
from nbaccel.errors import PlanError

_TYPES = {
    "DEEPSPEED": "DeepSpeed",
    "MEGATRON_LM": "Megatron-LM",
    "MULTI_NPU": "Ascend NPUs",
    "MULTI_MLU": "Cambricon MLUs",
    "MULTI_SDAA": "Teco SDAA devices",
    "MULTI_MUSA": "Moore Threads GPUs",
    "MULTI_XPU": "Intel XPUs",
    "MULTI_HPU": "Gaudi HPUs",
    "MULTI_NEURON": "Neuron devices",
    "DATA_PARALLEL": "SageMaker's data parallel library",
    "MODEL_PARALLEL": "SageMaker's model parallel library",
}
_POSSIBLE = (
    "Leave it out: one process, data parallel training (DDP) and FSDP (distributed_type: FSDP), on CPUs, CUDA GPUs or "
    "TPUs (XLA), are possible."
)
_AXES_TO_COME = {"tp": "tensor", "cp": "context", "sp": "sequence"}


def refuse_unsupported(config: RunConfig) -> None:
    """Raises PlanError if the configuration asks for something that nbaccel does not do yet."""
    if config.compute_environment == "AMAZON_SAGEMAKER":
        raise PlanError(
            "compute_environment='AMAZON_SAGEMAKER'",
            "nbaccel starts no jobs at SageMaker; it keeps these keys for those who do.",
            "Use compute_environment: LOCAL_MACHINE to train on this machine.",
            "compute_environment",
        )
    kind = config.distributed_type
    if kind in _TYPES:
        raise PlanError(
            f"distributed_type={kind!r}", f"nbaccel does not support {_TYPES[kind]} yet.", _POSSIBLE, "distributed_type"
        )
    _refuse_axes(config)
    _refuse_local_states(config)


def _refuse_axes(config: RunConfig) -> None:
    for axis, kind in _AXES_TO_COME.items():
        size = getattr(config.parallelism_config, f"parallelism_config_{axis}_size")
        if size > 1:
            key = f"parallelism_config.parallelism_config_{axis}_size"
            raise PlanError(
                f"{key}={size}",
                f"nbaccel has no {kind} parallelism yet; it comes next.",
                "Leave it at 1; dp_shard_size and dp_replicate_size (with distributed_type: FSDP) are possible.",
                key,
            )


def _refuse_local_states(config: RunConfig) -> None:
    if config.distributed_type == "FSDP" and config.fsdp_config.fsdp_state_dict_type == "LOCAL_STATE_DICT":
        raise PlanError(
            "fsdp_config.fsdp_state_dict_type='LOCAL_STATE_DICT'",
            "fully_shard has no such form, which only as many ranks as before could read.",
            "Use SHARDED_STATE_DICT (each rank writes its part) or FULL_STATE_DICT (one file).",
            "fsdp_config.fsdp_state_dict_type",
        )
