"""The constructor's arguments: what was given, what is not supported yet, what nobody knows."""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import Any

from nbaccel.config import KEYS, Layer, Resolved, Setting, call_layer
from nbaccel.config.structured import as_mapping, is_structured
from nbaccel.errors import CallError, PlanError, nearest
from nbaccel.runtime.handlers import DataLoaderConfiguration, GradientAccumulationPlugin, ProjectConfiguration

NOT_YET = {
    "deepspeed_plugin": "DeepSpeed",
    "deepspeed_plugins": "DeepSpeed",
    "megatron_lm_plugin": "Megatron-LM",
}
"""Arguments of Accelerate's constructor that have no effect here, and what they would switch on."""


def refuse_others(others: Mapping[str, Any], constructor: Callable[..., Any]) -> None:
    """Check arguments that the constructor does not name.

    Raises:
        PlanError: a value other than None for one of Accelerate's arguments that is not supported yet.
        CallError: an argument that neither knows; names the nearest one.
    """
    for name, value in others.items():
        if name in KEYS and KEYS[name].group in ("Machines", "Start", "Output"):
            flag = KEYS[name].flags[0]
            raise CallError(
                f"Accelerator({name}=...) comes too late: the processes are running by now. Give it to the launch: "
                f"notebook_launcher(train, {name}=...), %%accelerate {flag} ..., nbaccel launch {flag} ..."
            )
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


def refuse_two_compilers(backend: object, plugin: object) -> None:
    """Raises CallError if both arguments that say what compiles models are given."""
    if backend is not None and plugin is not None:
        raise CallError(
            f"Accelerator(dynamo_backend={str(backend)!r}, dynamo_plugin=...): both say what compiles models. Give the "
            f"plugin alone: TorchDynamoPlugin(backend={str(backend)!r}, ...)."
        )


def constructor_layer(arguments: Mapping[str, Any], held: Iterable[tuple[str, object, str]]) -> Layer:
    """The constructor's layer of the configuration: only what was given.

    Args:
        arguments: the arguments that stand for keys, by their names; None where one was not given.
        held: what the objects among the arguments were given: key, value, place.

    Raises:
        CallError: the plugin and `gradient_accumulation_steps` name two numbers.
        ConfigError: a section is neither a mapping nor an object that holds one.
    """
    given = {name: value for name, value in arguments.items() if value is not None}
    layer: dict[str, Setting] = {}
    for name, value in given.items():
        place = f"the argument {name}="
        key = _KEYS_OF.get(name, name)
        plain = as_mapping(value, place) if is_structured(value) else value
        layer |= call_layer({key: plain}, lambda _, place=place: place, "constructor")  # type: ignore[misc]
        if name in _SWITCHED_ON_BY:
            layer.setdefault("distributed_type", Setting(_SWITCHED_ON_BY[name], "constructor", place))
    return layer | {key: Setting(value, "constructor", place) for key, value, place in held}


_KEYS_OF = {"cpu": "use_cpu", "dynamo_backend": "dynamo_config.dynamo_backend"}
_SWITCHED_ON_BY = {"fsdp_config": "FSDP", "deepspeed_config": "DEEPSPEED"}


def folder_of(project_dir: str | os.PathLike[str] | None, project: ProjectConfiguration | None) -> str | None:
    """The project's folder, of the two arguments that can say it."""
    given = project_dir if project_dir is not None or project is None else project.project_dir
    return None if given is None else os.fspath(given)


def names_of_trackers(log_with: Any) -> list[str] | None:
    """The names among what `log_with` holds; trackers of the user's own are no configuration."""
    given = [log_with] if isinstance(log_with, str) or not isinstance(log_with, Iterable) else list(log_with)
    names = [str(one) for one in given if isinstance(one, str)]
    return names or None


def one_number(steps: int | None, plugin: GradientAccumulationPlugin | None) -> int | None:
    """Micro-batches per step, of the two arguments that can say it. Raises CallError if they differ."""
    if plugin is None or plugin.num_steps is None:
        return steps
    if steps is not None and steps != plugin.num_steps:
        raise CallError(
            f"Accelerator(gradient_accumulation_steps={steps}, gradient_accumulation_plugin=...) with "
            f"num_steps={plugin.num_steps}: there are two numbers of micro-batches. Give one of them."
        )
    return plugin.num_steps


def accumulation_of(
    plugin: GradientAccumulationPlugin | None, config: DataLoaderConfiguration | None
) -> GradientAccumulationPlugin | None:
    """The plugin of the constructor, or the one that `gradient_accumulation_kwargs` of a loader's configuration say.

    Raises:
        CallError: both are given, or the plugin has no such field.
    """
    given = config.gradient_accumulation_kwargs if config is not None else None
    if not given:
        return plugin
    if plugin is not None:
        raise CallError(
            "Accelerator(gradient_accumulation_plugin=..., dataloader_config=...) with gradient_accumulation_kwargs: "
            "both say how gradients are accumulated. Give the plugin alone."
        )
    known = [item.name for item in fields(GradientAccumulationPlugin)]
    wrong = next((name for name in given if name not in known), None)
    if wrong is not None:
        raise CallError(
            f"DataLoaderConfiguration(gradient_accumulation_kwargs=...) with {wrong!r}: possible are "
            f"{', '.join(known)}, the fields of GradientAccumulationPlugin."
        )
    return GradientAccumulationPlugin(**given)


def warn_of_shadowed_flags(resolved: Resolved) -> None:
    """Say where the constructor contradicts what the launch was told: people wonder why a flag does nothing."""
    for key, (winner, *others) in resolved.chain.items():
        told = next((setting for setting in others if setting.layer == "call"), None)
        if winner.layer != "constructor" or told is None or _same(told.value, winner.value):
            continue
        warnings.warn(
            f"{winner.place} of Accelerator says {key}={winner.value!r} and is in force; the launch was told "
            f"{told.value!r} by {told.place}.",
            stacklevel=3,
        )


def _same(one: object, other: object) -> bool:
    return str(one).lower() == str(other).lower()


def loader_settings(split_batches: bool | None, config: DataLoaderConfiguration | None) -> DataLoaderConfiguration:
    """How loaders are shared out.

    Raises:
        CallError: `split_batches=True` beside a configuration that says otherwise.
    """
    if config is None:
        return DataLoaderConfiguration() if split_batches is None else DataLoaderConfiguration(split_batches)
    if split_batches and not config.split_batches:
        raise CallError(
            "Accelerator(split_batches=True, dataloader_config=...): the configuration says split_batches=False. "
            "Give it there alone: DataLoaderConfiguration(split_batches=True)."
        )
    return config
