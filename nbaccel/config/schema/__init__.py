"""The schema: every configuration key once, with its type, choices, default, text, variable and flags.

The readers of files and of the environment, the flags, the errors, the JSON Schema and the reference page are all made
from it.
"""

from __future__ import annotations

from collections.abc import Mapping

from nbaccel.config.schema.key import Key, Section, keys_of
from nbaccel.config.schema.run import RunConfig

__all__ = ["COMMON", "KEYS", "SECTIONS", "SHORTHANDS", "Key", "RunConfig", "Section"]

KEYS: Mapping[str, Key] = {key.name: key for key in keys_of(RunConfig)}
"""All keys by their dotted path."""

SECTIONS: Mapping[str, type[Section]] = {
    name: field.annotation
    for name, field in RunConfig.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
}
"""The nested sections by name."""

COMMON = (
    "num_processes", "mixed_precision", "gradient_accumulation_steps", "distributed_type", "use_cpu", "gpu_ids", "seed",
    "timeout", "hang_after", "start_method", "output", "sync_models", "max_restarts", "num_machines", "machine_rank",
    "main_process_ip", "main_process_port", "project_dir", "profile",
)  # fmt: skip
"""Keys that most people need; short lists show these."""

SHORTHANDS: Mapping[str, tuple[str, str, str]] = {
    "--multi-gpu": ("", "distributed_type", "MULTI_GPU"),
    "--tpu": ("", "distributed_type", "XLA"),
    "--use-fsdp": ("ACCELERATE_USE_FSDP", "distributed_type", "FSDP"),
    "--use-deepspeed": ("ACCELERATE_USE_DEEPSPEED", "distributed_type", "DEEPSPEED"),
    "--use-megatron-lm": ("ACCELERATE_USE_MEGATRON_LM", "distributed_type", "MEGATRON_LM"),
}
"""Flags and variables that say in one word what a key says with a value: flag -> (variable, key, value)."""
