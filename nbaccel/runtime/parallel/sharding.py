"""How FSDP is to shard, decided once from the configuration and the plugin; a frozen value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from nbaccel.config.schema.fsdp import FsdpConfig
from nbaccel.runtime.fsdp_plugin import FullyShardedDataParallelPlugin
from nbaccel.runtime.parallel.units import UnitPolicy

_HALVES: Mapping[str, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}
_KEEPS_FULL = ("SHARD_GRAD_OP", "HYBRID_SHARD_ZERO2")


@dataclass(frozen=True)
class Sharding:
    """How parameters, gradients and optimizer states are sharded.

    Attributes:
        units: which modules are gathered and freed as one.
        reshard_after_forward: free a unit's full parameters after its forward pass.
        offload: keep parameters and gradients in the CPU's memory.
        pin: in page-locked memory.
        dtype: number format in which parameters are gathered and used; None: their own.
        reduce_dtype: number format in which gradients are reduced; None: that of the parameters.
        output_dtype: number format of outputs; None: as they are.
        cast_inputs: bring inputs of units into `dtype`.
        ignored: modules that are not sharded: names, patterns, or modules.
        recompute: compute activations again in the backward pass.
        recompute_offload: and keep what that needs in the CPU's memory.
        from_rank_0: start from rank 0's weights.
        only_rank_0_reads: the other ranks may have no weights at first (on the meta device).
        prefetch: gather the next unit during the forward pass.
        saves_shards: whether each rank saves its own part.
        upcasts: train float32 weights, whatever the model was loaded in.
        fill: gives modules on the meta device their first weights.
    """

    units: UnitPolicy = field(default_factory=UnitPolicy)
    reshard_after_forward: bool = True
    offload: bool = False
    pin: bool = True
    dtype: torch.dtype | None = None
    reduce_dtype: torch.dtype | None = None
    output_dtype: torch.dtype | None = None
    cast_inputs: bool = True
    ignored: tuple[str | nn.Module, ...] = ()
    recompute: bool = False
    recompute_offload: bool = False
    from_rank_0: bool = True
    only_rank_0_reads: bool = True
    prefetch: bool = False
    saves_shards: bool = False
    upcasts: bool = False
    fill: Callable[[nn.Module], Any] | None = field(default=None, compare=False)


def sharding_of(config: FsdpConfig, precision: str, plugin: FullyShardedDataParallelPlugin | None = None) -> Sharding:
    """Decide how to shard.

    Args:
        config: the section `fsdp_config`.
        precision: `no`, `bf16` or `fp16`.
        plugin: holds what no file can say: functions, modules and policies.

    Raises:
        CallError: one of the plugin's objects means nothing here.
    """
    plugin = plugin or FullyShardedDataParallelPlugin()
    half = _HALVES.get(precision)
    mixed = plugin.mixed_precision()
    reads = mixed.get("param_dtype", half)
    return Sharding(
        units=UnitPolicy(
            config.fsdp_auto_wrap_policy,
            tuple(config.fsdp_transformer_layer_cls_to_wrap or ()),
            config.fsdp_min_num_params,
            plugin.chooser(),
        ),
        reshard_after_forward=reshards(config),
        offload=config.fsdp_offload_params,
        pin=plugin.pins_memory,
        dtype=reads,
        reduce_dtype=mixed.get("reduce_dtype", torch.float32 if reads is not None else None),
        output_dtype=mixed.get("output_dtype"),
        cast_inputs=mixed.get("cast_forward_inputs", True),
        ignored=(*(config.fsdp_ignored_modules or ()), *plugin.modules_to_ignore()),
        recompute=config.fsdp_activation_checkpointing,
        recompute_offload=config.fsdp_activation_checkpointing_offload,
        from_rank_0=config.fsdp_sync_module_states,
        only_rank_0_reads=config.fsdp_cpu_ram_efficient_loading,
        prefetch=config.fsdp_forward_prefetch,
        saves_shards=saves_shards(config),
        upcasts=half is not None,
        fill=plugin.param_init_fn,
    )


def reshards(config: FsdpConfig) -> bool:
    """Whether a unit's full parameters are freed after its forward pass."""
    word = config.fsdp_reshard_after_forward
    return word is not False and word not in _KEEPS_FULL and config.fsdp_sharding_strategy not in _KEEPS_FULL


def saves_shards(config: FsdpConfig) -> bool:
    """Whether each rank saves its own part; left out: as Accelerate's two versions of FSDP do."""
    if config.fsdp_state_dict_type is None:
        return config.fsdp_version == 2
    return config.fsdp_state_dict_type == "SHARDED_STATE_DICT"


def completed(plugin: FullyShardedDataParallelPlugin | None, config: FsdpConfig) -> FullyShardedDataParallelPlugin:
    """A copy of a plugin whose fields say what is in force, for code that reads them."""
    form = "SHARDED_STATE_DICT" if saves_shards(config) else "FULL_STATE_DICT"
    return (plugin or FullyShardedDataParallelPlugin()).completed(config, form)


def notes(config: FsdpConfig, given: frozenset[str]) -> list[str]:
    """What the configuration says that fully_shard does otherwise, with the same training result.

    Args:
        config: the section.
        given: its keys that somebody has set.
    """
    said = []
    if config.fsdp_version == 1 and "fsdp_version" in given:
        said.append("fsdp_version=1 is carried out by fully_shard, PyTorch's FSDP2: training gives the same result")
    if config.fsdp_backward_prefetch in ("BACKWARD_POST", "NO_PREFETCH"):
        said.append(
            f"fsdp_backward_prefetch={config.fsdp_backward_prefetch} is carried out as BACKWARD_PRE, which fully_shard "
            "always does: it may need more memory"
        )
    if not config.fsdp_use_orig_params:
        said.append("fsdp_use_orig_params=false changes nothing: fully_shard always keeps a module's own parameters")
    return said
