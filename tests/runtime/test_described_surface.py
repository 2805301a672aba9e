"""The described surface: every argument, class and field is accepted and has its effect, or is one clear error.

A row holds what is written and what it does; without it the same probe must see something else.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import described_effects as see
import described_groups as ranks
import pytest
import torch
from torch import nn
from torch.distributed.fsdp import (
    BackwardPrefetch,
    CPUOffload,
    FullStateDictConfig,
    MixedPrecisionPolicy,
    ShardedOptimStateDictConfig,
    ShardedStateDictConfig,
    ShardingStrategy,
    StateDictType,
)

from nbaccel import utils
from nbaccel.errors import NbaccelError, PlanError
from nbaccel.runtime.accelerator import Accelerator
from nbaccel.runtime.state import GradientState
from nbaccel.runtime.tracking import choosing

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*torch.*:DeprecationWarning"),
]

Effect = Callable[..., Any]
Row = tuple[Any, Effect, Any]
"""What is written, a probe that takes it by the field's name, and what the probe sees."""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of its own, and an environment that sets no device."""
    monkeypatch.delenv("ACCELERATE_USE_CPU")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(choosing._registered, "notes", see.Notes)


# --- what is described ---

FIELDS: Mapping[str, str] = {
    "Accelerator": "cpu gpu_ids mixed_precision gradient_accumulation_steps deepspeed_config fsdp_config log_with "
    "project_dir project_name dataloader_config project_config gradient_accumulation_plugin deepspeed_plugin "
    "fsdp_plugin kwargs_handlers",
    "DataLoaderConfiguration": "split_batches dispatch_batches even_batches use_seedable_sampler "
    "use_configured_sampler non_blocking gradient_accumulation_kwargs",
    "ProjectConfiguration": "project_dir logging_dir automatic_checkpoint_naming total_limit iteration_checkpoints "
    "save_on_each_node",
    "GradientAccumulationPlugin": "num_steps adjust_scheduler sync_with_dataloader",
    "DeepSpeedPlugin": "hf_ds_config gradient_accumulation_steps gradient_clipping zero_stage is_train_batch_min "
    "auto_wrap_policy offload_optimizer_device offload_param_device offload_optimizer_nvme_path "
    "offload_param_nvme_path zero3_init_flag zero3_save_16bit_model",
    "FullyShardedDataParallelPlugin": "sharding_strategy backward_prefetch mixed_precision_policy auto_wrap_policy "
    "cpu_offload ignored_modules state_dict_type state_dict_config optim_state_dict_config limit_all_gathers "
    "use_orig_params param_init_fn sync_module_states forward_prefetch activation_checkpointing",
    "AutocastKwargs": "enabled cache_enabled",
    "GradScalerKwargs": "init_scale growth_factor backoff_factor growth_interval enabled",
    "FP8RecipeKwargs": "backend use_autocast fp8_format amax_history_len amax_compute_algo",
    "TorchDynamoPlugin": "backend mode fullgraph dynamic options disable",
    "TorchTensorParallelPlugin": "tensor_parallel_degree parallelize_plan",
    "BnbQuantizationConfig": "load_in_8bit load_in_4bit llm_int8_threshold llm_int8_skip_modules "
    "llm_int8_enable_fp32_cpu_offload llm_int8_has_fp16_weight bnb_4bit_compute_dtype bnb_4bit_quant_type "
    "bnb_4bit_use_double_quant bnb_4bit_quant_storage",
    "InitProcessGroupKwargs": "init_method timeout backend",
    "DistributedDataParallelKwargs": "dim broadcast_buffers bucket_cap_mb find_unused_parameters check_reduction "
    "gradient_as_bucket_view static_graph comm_hook comm_state_option",
}
DEEPSPEED = (PlanError, "does not support DeepSpeed")
FP8 = (PlanError, "no fp8 arithmetic")
TENSOR_PARALLEL = (PlanError, "no tensor parallelism")
BNB = (PlanError, "does not quantize")
COMES_LATER: dict[str, tuple[type[NbaccelError], str]] = {
    "Accelerator.deepspeed_config": DEEPSPEED,
    "Accelerator.deepspeed_plugin": DEEPSPEED,
    "DeepSpeedPlugin.hf_ds_config": DEEPSPEED,
    "DeepSpeedPlugin.gradient_accumulation_steps": DEEPSPEED,
    "DeepSpeedPlugin.gradient_clipping": DEEPSPEED,
    "DeepSpeedPlugin.zero_stage": DEEPSPEED,
    "DeepSpeedPlugin.is_train_batch_min": DEEPSPEED,
    "DeepSpeedPlugin.auto_wrap_policy": DEEPSPEED,
    "DeepSpeedPlugin.offload_optimizer_device": DEEPSPEED,
    "DeepSpeedPlugin.offload_param_device": DEEPSPEED,
    "DeepSpeedPlugin.offload_optimizer_nvme_path": DEEPSPEED,
    "DeepSpeedPlugin.offload_param_nvme_path": DEEPSPEED,
    "DeepSpeedPlugin.zero3_init_flag": DEEPSPEED,
    "DeepSpeedPlugin.zero3_save_16bit_model": DEEPSPEED,
    "FP8RecipeKwargs.backend": FP8,
    "FP8RecipeKwargs.use_autocast": FP8,
    "FP8RecipeKwargs.fp8_format": FP8,
    "FP8RecipeKwargs.amax_history_len": FP8,
    "FP8RecipeKwargs.amax_compute_algo": FP8,
    "TorchTensorParallelPlugin.tensor_parallel_degree": TENSOR_PARALLEL,
    "TorchTensorParallelPlugin.parallelize_plan": TENSOR_PARALLEL,
    "BnbQuantizationConfig.load_in_8bit": BNB,
    "BnbQuantizationConfig.load_in_4bit": BNB,
    "BnbQuantizationConfig.llm_int8_threshold": BNB,
    "BnbQuantizationConfig.llm_int8_skip_modules": BNB,
    "BnbQuantizationConfig.llm_int8_enable_fp32_cpu_offload": BNB,
    "BnbQuantizationConfig.llm_int8_has_fp16_weight": BNB,
    "BnbQuantizationConfig.bnb_4bit_compute_dtype": BNB,
    "BnbQuantizationConfig.bnb_4bit_quant_type": BNB,
    "BnbQuantizationConfig.bnb_4bit_use_double_quant": BNB,
    "BnbQuantizationConfig.bnb_4bit_quant_storage": BNB,
}
"""What belongs to libraries and kinds of parallelism that are not there yet: the error, and words of its message."""


# --- the rows ---


def deepspeed(**fields: Any) -> Any:
    return Accelerator(deepspeed_plugin=utils.DeepSpeedPlugin(**fields))


def recipe(**fields: Any) -> Any:
    return Accelerator(mixed_precision="fp8", kwargs_handlers=[utils.FP8RecipeKwargs(**fields)])


def tensor_parallel(**fields: Any) -> Any:
    return Accelerator(torch_tp_plugin=utils.TorchTensorParallelPlugin(**fields))


def quantized(**fields: Any) -> Any:
    return utils.load_and_quantize_model(nn.Linear(2, 2), utils.BnbQuantizationConfig(**fields))


def later(probe: Effect, **written: Any) -> dict[str, Row]:
    return {name: (value, probe, "comes later") for name, value in written.items()}


def through(argument: str, kind: type[Any], probe: Effect) -> Effect:
    """A probe of the constructor's argument, by one of the fields of its class."""
    return lambda **fields: probe(**{argument: kind(**fields)} if fields else {})


LOADERS, PROJECT = utils.DataLoaderConfiguration, utils.ProjectConfiguration
ACCUMULATION, FSDP = utils.GradientAccumulationPlugin, utils.FullyShardedDataParallelPlugin
TENSORS = {"layer": "colwise"}

ROWS: Mapping[str, Mapping[str, Row]] = {
    "Accelerator": {
        "cpu": (True, see.device, "cpu"),
        "gpu_ids": ([2, 3], see.device, "cuda:2"),
        "mixed_precision": ("bf16", see.product, torch.bfloat16),
        "gradient_accumulation_steps": (3, see.windows, [False, False, True]),
        "deepspeed_config": ({"zero_stage": 2}, Accelerator, "comes later"),
        "fsdp_config": ({"fsdp_sharding_strategy": "FULL_SHARD"}, see.strategy_of_four, "fsdp"),
        "log_with": ("notes", see.logged, [[{"loss": 1.0}]]),
        "project_dir": ("other", lambda **given: see.run_of(**given).logging_dir, "other"),
        "project_name": ("mine", lambda **given: see.run_of(**given).run_name, "mine"),
        "dataloader_config": (LOADERS(non_blocking=True), lambda **given: Accelerator(**given).non_blocking, True),
        "project_config": (
            PROJECT("here", automatic_checkpoint_naming=True), see.checkpoints, ["here/checkpoints/checkpoint_0"]
        ),
        "gradient_accumulation_plugin": (ACCUMULATION(num_steps=2), see.windows, [False, True, False]),
        "deepspeed_plugin": (object(), Accelerator, "comes later"),
        "fsdp_plugin": (FSDP(), see.strategy_of_four, "fsdp"),
        "kwargs_handlers": ([utils.AutocastKwargs(enabled=False)],
                            partial(see.product, mixed_precision="bf16"), torch.float32),
    },
    "DataLoaderConfiguration": {
        "split_batches": (True, see.shares, [[1], [3], [5], [0]]),
        "dispatch_batches": (False, see.kind_of_two, "PreparedLoader"),
        "even_batches": (False, see.shares, [[2, 3], [6]]),
        "use_seedable_sampler": (True, see.sampler, "SeedableRandomSampler"),
        "use_configured_sampler": (True, see.sampler, "own"),
        "non_blocking": (True, see.waits_for_copies, False),
        "gradient_accumulation_kwargs": (
            {"num_steps": 2}, through("dataloader_config", LOADERS, see.windows), [False, True, False]
        ),
    },
    "ProjectConfiguration": {
        "project_dir": ("there", lambda **fields: see.project(**fields).project_dir, "there"),
        "logging_dir": ("logs", lambda **fields: see.run_of(
            log_with="notes", project_dir=None, project_config=PROJECT(project_dir="p", **fields)).logging_dir, "logs"),
        "automatic_checkpoint_naming": (True, lambda **fields: see.checkpoints(
            project_config=PROJECT(project_dir="p", **fields)), ["p/checkpoints/checkpoint_0"]),
        "total_limit": (1, lambda **fields: see.checkpoints(
            2, project_config=PROJECT("p", automatic_checkpoint_naming=True, **fields))[-2:],
            ["p/checkpoints/checkpoint_1"]),
        "iteration_checkpoints": (True, lambda **fields: see.checkpoints(
            project_config=PROJECT(project_dir="p", **fields)), ["p/checkpoints/checkpoint_0"]),
        "save_on_each_node": (True, see.writes_on_second_machine, True),
    },
    "GradientAccumulationPlugin": {
        "num_steps": (2, lambda **fields: see.windows(**see.accumulation(**fields)), [False, True, False]),
        "adjust_scheduler": (False, lambda **fields: (
            Accelerator(**see.accumulation(**fields)) and GradientState().adjust_scheduler), False),
        "sync_with_dataloader": (False, lambda **fields: see.windows(
            loader_end=True, **see.accumulation(num_steps=2, **fields)), [False, True, False]),
    },
    "DeepSpeedPlugin": later(
        deepspeed, hf_ds_config={"zero_optimization": {"stage": 2}}, gradient_accumulation_steps=2,
        gradient_clipping=1.0, zero_stage=3, is_train_batch_min=True, auto_wrap_policy="NO_WRAP",
        offload_optimizer_device="cpu", offload_param_device="nvme", offload_optimizer_nvme_path="/nvme",
        offload_param_nvme_path="/nvme", zero3_init_flag=True, zero3_save_16bit_model=True,
    ),
    "FullyShardedDataParallelPlugin": {
        "sharding_strategy": (ShardingStrategy.SHARD_GRAD_OP, partial(ranks.sharded, ranks.keeps_parameters), True),
        "backward_prefetch": (BackwardPrefetch.BACKWARD_POST, partial(ranks.fsdp_says, "BACKWARD_POST"), True),
        "mixed_precision_policy": (MixedPrecisionPolicy(param_dtype=torch.bfloat16),
                                   partial(ranks.sharded, ranks.computes_in), torch.bfloat16),
        "auto_wrap_policy": (lambda module: module.__class__.__name__ == "Sequential",
                             partial(ranks.sharded, ranks.unit_names), ["", "layers"]),
        "cpu_offload": (CPUOffload(offload_params=True), ranks.offloads, "CPUOffloadPolicy"),
        "ignored_modules": (["head"], partial(ranks.sharded, ranks.is_sharded), False),
        "state_dict_type": (StateDictType.SHARDED_STATE_DICT, ranks.in_shards, True),
        "state_dict_config": (ShardedStateDictConfig(), ranks.in_shards, True),
        "optim_state_dict_config": (ShardedOptimStateDictConfig(), ranks.in_shards, True),
        "limit_all_gathers": (False, partial(ranks.fsdp_says, "limit_all_gathers"), True),
        "use_orig_params": (False, partial(ranks.fsdp_says, "fsdp_use_orig_params"), True),
        "param_init_fn": (ranks.sevens, ranks.weights_of_meta, "[7.0]"),
        "sync_module_states": (False, ranks.takes_rank_0, False),
        "forward_prefetch": (True, partial(ranks.sharded, ranks.prefetches), True),
        "activation_checkpointing": (True, partial(ranks.sharded, ranks.recomputes), True),
    },
    "AutocastKwargs": {
        "enabled": (False, lambda **fields: see.autocast(**fields)[0], False),
        "cache_enabled": (False, lambda **fields: see.autocast(**fields)[1], False),
    },
    "GradScalerKwargs": {
        "init_scale": (8.0, lambda **fields: see.scaler(**fields).get_scale(), 8.0),
        "growth_factor": (3.0, lambda **fields: see.scaler(**fields).get_growth_factor(), 3.0),
        "backoff_factor": (0.25, lambda **fields: see.scaler(**fields).get_backoff_factor(), 0.25),
        "growth_interval": (7, lambda **fields: see.scaler(**fields).get_growth_interval(), 7),
        "enabled": (False, lambda **fields: see.scaler(**fields).is_enabled(), False),
    },
    "FP8RecipeKwargs": later(recipe, backend="te", use_autocast=True, fp8_format="HYBRID", amax_history_len=16,
                             amax_compute_algo="max"),
    "TorchDynamoPlugin": {
        "backend": ("inductor", lambda **fields: see.compiled(**fields) is not None, True),
        "mode": ("max-autotune", lambda **fields: (
            see.compiled(backend="inductor", **fields).compiler_config or {}).get("max_autotune"), True),
        "fullgraph": (True, see.refuses_graph_breaks, True),
        "dynamic": (True, lambda **fields: see.compiled(backend="eager", **fields)._dynamic, True),
        "options": ({"epilogue_fusion": False}, lambda **fields: (
            see.compiled(backend="inductor", **fields).compiler_config or {}).get("epilogue_fusion"), False),
        "disable": (True, lambda **fields: see.compiled(backend="eager", **fields) is None, True),
    },
    "TorchTensorParallelPlugin": later(tensor_parallel, tensor_parallel_degree=2, parallelize_plan=TENSORS),
    "BnbQuantizationConfig": later(
        quantized, load_in_8bit=True, load_in_4bit=True, llm_int8_threshold=5.0, llm_int8_skip_modules=["head"],
        llm_int8_enable_fp32_cpu_offload=True, llm_int8_has_fp16_weight=True, bnb_4bit_compute_dtype=torch.bfloat16,
        bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_quant_storage="uint8",
    ),
    "InitProcessGroupKwargs": {
        "init_method": ("file://{}/meeting", ranks.meeting_place, True),
        "timeout": (7, partial(ranks.group, ranks.timeout), timedelta(seconds=7)),
        "backend": ("gloo", lambda **fields: Accelerator(
            kwargs_handlers=[utils.InitProcessGroupKwargs(**fields)]).init_handler.options().backend, "gloo"),
    },
    "DistributedDataParallelKwargs": {
        "dim": (1, lambda **fields: ranks.joined(**fields).dim, 1),
        "broadcast_buffers": (False, lambda **fields: ranks.joined(**fields).broadcast_buffers, False),
        "bucket_cap_mb": (7, lambda **fields: ranks.joined(**fields).bucket_bytes_cap, 7 * 2**20),
        "find_unused_parameters": (True, lambda **fields: ranks.joined(**fields).find_unused_parameters, True),
        "check_reduction": (True, ranks.ddp_warnings, True),
        "gradient_as_bucket_view": (True, lambda **fields: ranks.joined(**fields).gradient_as_bucket_view, True),
        "static_graph": (True, lambda **fields: ranks.joined(**fields).static_graph, True),
        "comm_hook": ("power_sgd", lambda **fields: bool(ranks.joined(**fields)._comm_hooks), True),
        "comm_state_option": ({"matrix_approximation_rank": 3}, lambda **fields: ranks.joined(
            comm_hook="power_sgd", **fields)._comm_hooks[0][1].matrix_approximation_rank, 3),
    },
}  # fmt: skip


def names(table: Mapping[str, Any]) -> list[str]:
    return [f"{kind}.{name}" for kind, inner in table.items() for name in inner]


WORKING = [name for name in names(ROWS) if name not in COMES_LATER]


@pytest.mark.parametrize("name", WORKING)
def test_what_is_written_has_its_effect(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, _, field = name.partition(".")
    written, effect, expected = ROWS[kind][field]
    if field == "use_configured_sampler":  # it contradicts what a file or variable says
        monkeypatch.setenv("NBACCEL_DATALOADER_USE_SEEDABLE_SAMPLER", "true")
    (tmp_path / "without").mkdir()
    assert effect(**{field: written}) == expected
    monkeypatch.chdir(tmp_path / "without")
    assert effect() != expected, "it is so without the field"


@pytest.mark.parametrize("name", COMES_LATER)
def test_what_comes_later_is_one_clear_error(name: str) -> None:
    kind, _, field = name.partition(".")
    written, effect, _ = ROWS[kind][field]
    error, words = COMES_LATER[name]
    with pytest.raises(error, match=words):
        effect(**{field: written})


OTHER_FORMS: Mapping[str, Row] = {
    "InitProcessGroupKwargs.timeout": (timedelta(seconds=9), partial(ranks.group, ranks.timeout), timedelta(seconds=9)),
    "FullyShardedDataParallelPlugin.sharding_strategy": (
        "SHARD_GRAD_OP", partial(ranks.sharded, ranks.keeps_parameters), True
    ),
    "FullyShardedDataParallelPlugin.state_dict_config": (
        FullStateDictConfig(offload_to_cpu=True, rank0_only=True), ranks.in_shards, False
    ),
    "FullyShardedDataParallelPlugin.cpu_offload": (True, ranks.offloads, "CPUOffloadPolicy"),
    "Accelerator.gpu_ids": ("1,3", see.device, "cuda:1"),
    "Accelerator.deepspeed_config": ("ds.json", Accelerator, DEEPSPEED),
    "DistributedDataParallelKwargs.comm_hook": (
        utils.DDPCommunicationHookType.FP16, lambda **fields: bool(ranks.joined(**fields)._comm_hooks), True
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER_FORMS)
def test_other_forms_of_the_same(name: str) -> None:
    Path("ds.json").write_text(json.dumps({"zero_optimization": {"stage": 2}, "train_batch_size": "auto"}))
    written, effect, expected = OTHER_FORMS[name]
    field = name.partition(".")[2]
    if name not in COMES_LATER:
        assert effect(**{field: written}) == expected
        return
    with pytest.raises(expected[0], match=expected[1]):
        effect(**{field: written})


# --- the tables are complete ---


def test_there_is_a_row_for_each_field() -> None:
    described = [f"{kind}.{field}" for kind, fields in FIELDS.items() for field in fields.split()]
    assert names(ROWS) == described
    assert sum(len(fields.split()) for fields in FIELDS.values()) == 100
    assert set(COMES_LATER) <= set(described)
    assert set(OTHER_FORMS) <= set(described)
    assert [name for name in described if ROWS[name.partition(".")[0]][name.partition(".")[2]][2] == "comes later"] == [
        *COMES_LATER
    ]


@pytest.mark.parametrize("kind", FIELDS)
def test_classes_have_the_fields(kind: str) -> None:
    if kind == "DeepSpeedPlugin":  # a stand-in, until it comes
        assert "DeepSpeedPlugin.zero_stage" in COMES_LATER
        return
    found = Accelerator if kind == "Accelerator" else getattr(utils, kind)
    own = (
        [*inspect.signature(found).parameters, "deepspeed_plugin"]
        if kind == "Accelerator"
        else [field.name for field in dataclasses.fields(found)]
    )
    assert [field for field in FIELDS[kind].split() if field not in own] == []
