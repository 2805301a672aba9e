"""The constructor's arguments: what was given, what is not supported yet, what nobody knows."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from nbaccel.errors import CallError, PlanError, nearest
from nbaccel.runtime.handlers import DataLoaderConfiguration, GradientAccumulationPlugin

NOT_YET = {
    "deepspeed_plugin": "DeepSpeed",
    "deepspeed_plugins": "DeepSpeed",
    "fsdp_plugin": "FSDP",
    "torch_tp_plugin": "tensor parallelism",
    "megatron_lm_plugin": "Megatron-LM",
    "parallelism_config": "parallelism over several mesh dimensions",
    "dynamo_backend": "torch.compile by argument",
    "dynamo_plugin": "torch.compile by argument",
    "log_with": "experiment tracking",
    "project_config": "checkpoint naming",
}
"""Arguments of Accelerate's constructor that have no effect here, and what they would switch on."""


def refuse_others(others: Mapping[str, Any], constructor: Callable[..., Any]) -> None:
    """Check arguments that the constructor does not name.

    Raises:
        PlanError: a value other than None for one of Accelerate's arguments that is not supported yet.
        CallError: an argument that neither knows; names the nearest one.
    """
    for name, value in others.items():
        if name not in NOT_YET:
            known = [known for known in inspect.signature(constructor).parameters if known != "others"]
            meant = nearest(name, [*known, *NOT_YET])
            hint = f" Did you mean {meant}=?" if meant else f" Possible: {', '.join(known)}."
            raise CallError(f"Accelerator({name}=...): there is no such argument.{hint}")
        if value is not None:
            raise PlanError(
                f"Accelerator({name}=...)",
                f"nbaccel does not support {NOT_YET[name]} yet.",
                "Leave it out; one process and data parallel training (DDP), with no, bf16 or fp16, are possible.",
            )


def given_settings(
    mixed_precision: str | None,
    gradient_accumulation_steps: int | None,
    plugin: GradientAccumulationPlugin | None,
    cpu: bool | None,
    gpu_ids: Any,
) -> dict[str, object]:
    """The constructor's layer of the configuration: only what was given.

    Raises:
        CallError: the plugin and `gradient_accumulation_steps` name two numbers.
    """
    steps = gradient_accumulation_steps
    if plugin is not None and plugin.num_steps is not None:
        if steps is not None and steps != plugin.num_steps:
            raise CallError(
                f"Accelerator(gradient_accumulation_steps={steps}, gradient_accumulation_plugin=...) with "
                f"num_steps={plugin.num_steps}: there are two numbers of micro-batches. Give one of them."
            )
        steps = plugin.num_steps
    given = {
        "mixed_precision": mixed_precision,
        "gradient_accumulation_steps": steps,
        "use_cpu": cpu,
        "gpu_ids": gpu_ids,
    }
    return {name: value for name, value in given.items() if value is not None}


def loader_settings(split_batches: bool, config: DataLoaderConfiguration | None) -> DataLoaderConfiguration:
    """How loaders are shared out.

    Raises:
        CallError: `split_batches=True` beside a configuration that says otherwise.
    """
    if config is None:
        return DataLoaderConfiguration(split_batches=split_batches)
    if split_batches and not config.split_batches:
        raise CallError(
            "Accelerator(split_batches=True, dataloader_config=...): the configuration says split_batches=False. "
            "Give it there alone: DataLoaderConfiguration(split_batches=True)."
        )
    return config
