"""The keys of `fsdp_config`: fully sharded data parallelism."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from nbaccel.config.schema.key import Names, Section, key

ShardingStrategy = Literal["FULL_SHARD", "SHARD_GRAD_OP", "NO_SHARD", "HYBRID_SHARD", "HYBRID_SHARD_ZERO2"]
WrapPolicy = Literal["TRANSFORMER_BASED_WRAP", "SIZE_BASED_WRAP", "NO_WRAP"]
StateDictType = Literal["FULL_STATE_DICT", "LOCAL_STATE_DICT", "SHARDED_STATE_DICT"]
Prefetch = Literal["BACKWARD_PRE", "BACKWARD_POST", "NO_PREFETCH"]

_STRATEGIES = ("FULL_SHARD", "SHARD_GRAD_OP", "NO_SHARD", "HYBRID_SHARD", "HYBRID_SHARD_ZERO2")
_OTHER_WORDS = {
    "TRANSFORMER_LAYER_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "TRANSFORMER_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "SIZE_BASED_AUTO_WRAP_POLICY": "SIZE_BASED_WRAP",
}


def _strategy(value: object) -> object:
    """Accelerate's oldest files number the strategies, from 1."""
    by_number = {str(number): name for number, name in enumerate(_STRATEGIES, start=1)}
    return by_number.get(str(value).strip(), value)


def _reshard(value: object) -> object:
    return value.strip().upper() if isinstance(value, str) and value.strip().upper() in _STRATEGIES else value


def _policy(value: object) -> object:
    return _OTHER_WORDS.get(value.strip().upper(), value) if isinstance(value, str) else value


class FsdpConfig(Section):
    """How a model's parameters, gradients and optimizer states are sharded."""

    fsdp_version: Annotated[int, Field(ge=1, le=2)] = key(
        1, "1: FullyShardedDataParallel, 2: fully_shard.", env="FSDP_VERSION"
    )
    fsdp_sharding_strategy: Annotated[ShardingStrategy, BeforeValidator(_strategy)] = key(
        "FULL_SHARD", "What is sharded: all, gradients and optimizer, nothing, or within each machine.",
        env="FSDP_SHARDING_STRATEGY",
    )  # fmt: skip
    fsdp_reshard_after_forward: Annotated[bool | ShardingStrategy, BeforeValidator(_reshard)] = key(
        True, "Free a layer's full parameters after its forward pass.", env="FSDP_RESHARD_AFTER_FORWARD",
        possible="true, false, or a word of fsdp_sharding_strategy",
    )  # fmt: skip
    fsdp_offload_params: bool = key(
        False, "Keep parameters and gradients in the CPU's memory.", env="FSDP_OFFLOAD_PARAMS"
    )
    fsdp_auto_wrap_policy: Annotated[WrapPolicy, BeforeValidator(_policy)] | None = key(
        None, "What becomes a unit: layers of a class, modules from a size, or the whole.", env="FSDP_AUTO_WRAP_POLICY"
    )
    fsdp_transformer_layer_cls_to_wrap: Names | None = key(
        None, "Classes of layers that are units.", env="FSDP_TRANSFORMER_CLS_TO_WRAP",
        needs=("fsdp_config.fsdp_auto_wrap_policy", ("TRANSFORMER_BASED_WRAP",)),
    )  # fmt: skip
    fsdp_min_num_params: Annotated[int, Field(ge=0)] = key(
        100_000_000, "Parameters from which a module is a unit.", env="FSDP_MIN_NUM_PARAMS",
        needs=("fsdp_config.fsdp_auto_wrap_policy", ("SIZE_BASED_WRAP",)),
    )  # fmt: skip
    fsdp_backward_prefetch: Prefetch | None = key(
        None, "When the next unit is fetched in the backward pass.", env="FSDP_BACKWARD_PREFETCH"
    )
    fsdp_state_dict_type: StateDictType | None = key(
        None, "How weights are saved: as one, or each rank its shard.", env="FSDP_STATE_DICT_TYPE"
    )
    fsdp_forward_prefetch: bool = key(
        False, "Fetch the next unit during the forward pass.", env="FSDP_FORWARD_PREFETCH"
    )
    fsdp_use_orig_params: bool = key(
        True, "Let optimizers see the module's own parameters.", env="FSDP_USE_ORIG_PARAMS"
    )
    fsdp_cpu_ram_efficient_loading: bool = key(
        True, "Only rank 0 reads the weights.", env="FSDP_CPU_RAM_EFFICIENT_LOADING"
    )
    fsdp_sync_module_states: bool = key(True, "Start from rank 0's weights.", env="FSDP_SYNC_MODULE_STATES")
    fsdp_activation_checkpointing: bool = key(
        False, "Compute activations again in the backward pass.", env="FSDP_ACTIVATION_CHECKPOINTING"
    )
    fsdp_activation_checkpointing_offload: bool = key(
        False, "Keep checkpointed activations in the CPU's memory.", env="FSDP_ACTIVATION_CHECKPOINTING_OFFLOAD"
    )
    fsdp_ignored_modules: Names | None = key(
        None, "Modules that are not sharded, by name or pattern.", env="FSDP_IGNORED_MODULES"
    )
