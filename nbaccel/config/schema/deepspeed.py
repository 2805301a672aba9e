"""The keys of `deepspeed_config`: Accelerate's, and those of DeepSpeed's own files."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from nbaccel.config.schema.key import Names, Section, key


def _path(value: object) -> object:
    """Accelerate's word for "no file" is none."""
    return None if isinstance(value, str) and value.strip().lower() == "none" else value


Path = Annotated[str | None, BeforeValidator(_path)]
Offload = Literal["none", "cpu", "nvme"]
Auto = Literal["auto"]
Count = Annotated[int, Field(ge=1)] | Auto
_COUNT = 'a whole number from 1, or "auto"'
_OWN = "DeepSpeed's own key of this name."


class DeepSpeedConfig(Section):
    """DeepSpeed's settings, in Accelerate's words or its own."""

    deepspeed_config_file: Path = key(
        None, "DeepSpeed's own JSON file.", env="ACCELERATE_DEEPSPEED_CONFIG_FILE", possible="a file"
    )
    zero_stage: Annotated[int, Field(ge=0, le=3)] = key(
        2, "What is sharded: 0 nothing, 1 optimizer, 2 and gradients, 3 and parameters.",
        env="ACCELERATE_DEEPSPEED_ZERO_STAGE",
    )  # fmt: skip
    offload_optimizer_device: Offload = key(
        "none", "Where optimizer states are kept.", env="ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE"
    )
    offload_param_device: Offload = key(
        "none", "Where parameters are kept.", env="ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE"
    )
    offload_optimizer_nvme_path: Path = key(
        None, "Folder for optimizer states.", env="ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_NVME_PATH",
        possible="a folder", needs=("deepspeed_config.offload_optimizer_device", ("nvme",)),
    )  # fmt: skip
    offload_param_nvme_path: Path = key(
        None, "Folder for parameters.", env="ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_NVME_PATH",
        possible="a folder", needs=("deepspeed_config.offload_param_device", ("nvme",)),
    )  # fmt: skip
    gradient_accumulation_steps: Count | None = key(
        None, "Micro-batches per step; left out: the run's.", flag="--deepspeed-gradient-accumulation-steps",
        possible=_COUNT,
    )  # fmt: skip
    gradient_clipping: Annotated[float, Field(ge=0, allow_inf_nan=False)] | Auto | None = key(
        None, "Norm to which gradients are clipped.", env="ACCELERATE_GRADIENT_CLIPPING",
        possible='a number from 0, or "auto"',
    )  # fmt: skip
    zero3_init_flag: bool | None = key(
        None, "Build models sharded.", env="ACCELERATE_DEEPSPEED_ZERO3_INIT",
        needs=("deepspeed_config.zero_stage", ("3",)),
    )  # fmt: skip
    zero3_save_16bit_model: bool | None = key(
        None, "Save whole 16-bit weights.", env="ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL",
        needs=("deepspeed_config.zero_stage", ("3",)),
    )  # fmt: skip
    deepspeed_hostfile: str | None = key(None, "Hosts of several machines.", possible="a file")
    deepspeed_exclusion_filter: str | None = key(None, "Hosts that are left out.")
    deepspeed_inclusion_filter: str | None = key(None, "Hosts that are used.")
    deepspeed_multinode_launcher: (
        Literal["pdsh", "standard", "openmpi", "mvapich", "mpich", "slurm", "nossh"] | None
    ) = key(None, "What starts other machines.")
    deepspeed_moe_layer_cls_names: Names | None = key(
        None, "Classes of mixture-of-experts layers.", env="ACCELERATE_DEEPSPEED_MOE_LAYER_CLS_NAMES"
    )

    # DeepSpeed's own form

    train_batch_size: Count | None = key(None, _OWN, possible=_COUNT)
    train_micro_batch_size_per_gpu: Count | None = key(None, _OWN, possible=_COUNT)
    steps_per_print: float | None = key(None, _OWN)
    zero_optimization: dict[str, Any] | None = key(None, _OWN)
    optimizer: dict[str, Any] | None = key(None, _OWN, flag="--deepspeed-optimizer")
    scheduler: dict[str, Any] | None = key(None, _OWN, flag="--deepspeed-scheduler")
    fp16: dict[str, Any] | None = key(None, _OWN, flag="--deepspeed-fp16")
    bf16: dict[str, Any] | None = key(None, _OWN, flag="--deepspeed-bf16")
    amp: dict[str, Any] | None = key(None, _OWN, flag="--deepspeed-amp")
    activation_checkpointing: dict[str, Any] | None = key(None, _OWN)
    aio: dict[str, Any] | None = key(None, _OWN)
    communication_data_type: str | None = key(None, _OWN)
    prescale_gradients: bool | None = key(None, _OWN)
    gradient_predivide_factor: float | None = key(None, _OWN)
    seq_parallel_communication_data_type: str | None = key(None, _OWN)
    disable_allgather: bool | None = key(None, _OWN)
    fp32_allreduce: bool | None = key(None, _OWN)
    dataloader_drop_last: bool | None = key(None, _OWN)
    vocabulary_size: Annotated[int, Field(ge=1)] | None = key(None, _OWN, possible="a whole number from 1")
    memory_breakdown: bool | None = key(None, _OWN)
    eigenvalue: dict[str, Any] | None = key(None, _OWN)
    progressive_layer_drop: dict[str, Any] | None = key(None, _OWN)
    hybrid_engine: dict[str, Any] | None = key(None, _OWN)
    sparse_gradients: bool | None = key(None, _OWN)
    wall_clock_breakdown: bool | None = key(None, _OWN)
    dump_state: bool | None = key(None, _OWN)
    flops_profiler: dict[str, Any] | None = key(None, _OWN)
    comms_logger: dict[str, Any] | None = key(None, _OWN)
    tensorboard: dict[str, Any] | None = key(None, _OWN, flag="--deepspeed-tensorboard")
    wandb: dict[str, Any] | None = key(None, _OWN, flag="--deepspeed-wandb")
    csv_monitor: dict[str, Any] | None = key(None, _OWN)
    data_types: dict[str, Any] | None = key(None, _OWN)
    data_efficiency: dict[str, Any] | None = key(None, _OWN)
    curriculum_learning: dict[str, Any] | None = key(None, _OWN)
    elasticity: dict[str, Any] | None = key(None, _OWN)
    autotuning: dict[str, Any] | None = key(None, _OWN)
    compression_training: dict[str, Any] | None = key(None, _OWN)
    sparse_attention: dict[str, Any] | None = key(None, _OWN)
    checkpoint: dict[str, Any] | None = key(None, _OWN, flag="--deepspeed-checkpoint")
    sequence_parallel_size: Annotated[int, Field(ge=1)] | None = key(None, _OWN, possible="a whole number from 1")
    tensor_parallel: dict[str, Any] | None = key(None, _OWN)
    zero_allow_untested_optimizer: bool | None = key(None, _OWN)
    zero_force_ds_cpu_optimizer: bool | None = key(None, _OWN)
    graph_harvesting: bool | None = key(None, _OWN)
    compile: dict[str, Any] | None = key(None, _OWN, flag="--deepspeed-compile")
