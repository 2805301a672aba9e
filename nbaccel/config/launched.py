"""What a launch tells its workers of the configuration: variables that libraries read, and the origin of each value."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from nbaccel.config.layers import LAYERS, PARAMS, Layer, Setting, default_layer
from nbaccel.config.resolve import Once, Resolved, resolve, resolve_layers
from nbaccel.config.schema import KEYS

LAUNCHED = "NBACCEL_LAUNCHED"
"""Holds the settings of a launch with their layers and places, and what was decided once, as JSON."""

_MOST_CHARACTERS = 100_000
"""The system refuses a variable above 128 KiB."""

_TYPE_SWITCHES = {
    "FSDP": "ACCELERATE_USE_FSDP",
    "DEEPSPEED": "ACCELERATE_USE_DEEPSPEED",
    "MEGATRON_LM": "ACCELERATE_USE_MEGATRON_LM",
}
_OVERRIDES = ("ACCELERATE_FP8_OVERRIDE_FPROP", "ACCELERATE_FP8_OVERRIDE_DGRAD", "ACCELERATE_FP8_OVERRIDE_WGRAD")
_OF_THE_LAUNCH = frozenset({"num_processes", "num_machines", "machine_rank", "gpu_ids", "use_cpu"})
"""What the plan has settled: a worker sees the outcome, not the wish."""


def variables_of(resolved: Resolved) -> dict[str, str]:
    """Everything that somebody has set, in the variables that Accelerate's own code reads in a worker."""
    found = {}
    for name in resolved.given():
        key = KEYS.get(name)
        if key is None or name in _OF_THE_LAUNCH or key.env.startswith("NBACCEL_"):
            continue
        value = resolved.value(name)
        if value is not None:
            found[key.env] = _text(value)
    kind = resolved.config.distributed_type
    if kind in _TYPE_SWITCHES:
        found[_TYPE_SWITCHES[kind]] = "true"
    if any(size > 1 for size in mesh_sizes(resolved)):
        found["ACCELERATE_USE_PARALLELISM_CONFIG"] = "true"
    if "fp8_config.override_linear_precision" in resolved.given():
        parts = resolved.config.fp8_config.override_linear_precision
        found |= {name: _text(part) for name, part in zip(_OVERRIDES, parts, strict=True)}
    return found


def mesh_sizes(resolved: Resolved) -> list[int]:
    """Sizes of the mesh's dimensions."""
    mesh = resolved.config.parallelism_config
    return [getattr(mesh, f"parallelism_config_{name}_size") for name in ("dp_replicate", "dp_shard", "tp", "cp", "sp")]


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return ",".join(map(_text, value))
    return json.dumps(value) if isinstance(value, dict) else str(value)


def without_ours(environ: Mapping[str, str]) -> dict[str, str]:
    """An environment without the variables that set keys: the launch has read them, and has the last word."""
    return {name: value for name, value in environ.items() if name not in _VARIABLES}


_VARIABLES = frozenset({key.env for key in KEYS.values()} | set(_TYPE_SWITCHES.values()) | {LAUNCHED})


def as_variable(resolved: Resolved) -> str:
    """The settings of a launch as text, for its workers, and what `${run_dir}` and `${free_port}` stand for in all."""
    chains = {
        name: [[setting.value, setting.layer, setting.place] for setting in chain if setting.layer != "default"]
        for name, chain in resolved.chain.items()
        if chain[0].layer != "default"
    }
    text = _as_json(resolved.once, chains)
    if len(text) <= _MOST_CHARACTERS:
        return text
    return _as_json(resolved.once, {name: held for name, held in chains.items() if not name.startswith(f"{PARAMS}.")})


def _as_json(once: Once, chains: Mapping[str, list[list[object]]]) -> str:
    return json.dumps({"once": asdict(once), "settings": chains}, default=_jsonable, separators=(",", ":"))


def _jsonable(value: object) -> object:
    return list(value) if isinstance(value, set | frozenset) else str(value)


def resolve_in_worker(*above: Layer, environ: Mapping[str, str] | None = None) -> Resolved:
    """The configuration of this process: the launch's if it has one, else as `resolve` finds it.

    Variables that were changed after the launch (by the training code, or a library that it uses) count as the
    environment's layer.

    Args:
        above: the constructor's layer.
        environ: the environment to read; left out: `os.environ`. Never written.

    Raises:
        ConfigError: as `resolve`.
    """
    given = os.environ if environ is None else environ
    if LAUNCHED not in given:
        found = resolve(*above, environ=given)
        return resolve(*above, _GPUS_ARE_CHOSEN, environ=given) if _has_chosen_gpus(found, given) else found
    document = json.loads(given[LAUNCHED])
    layers, once = _layers_of(document["settings"]), Once(**document["once"])
    launched = resolve_layers((*layers, default_layer()), once)
    changed = _changed_since(launched, given)
    at = [name for name in LAYERS if name in ("environment", "file", "project", "user")]
    lower = [layer for layer in layers if next(iter(layer.values())).layer in at]
    higher = [layer for layer in layers if layer not in lower]
    return resolve_layers((*above, *higher, changed, *lower, default_layer()), once)


_GPUS_ARE_CHOSEN = {"gpu_ids": Setting(None, "environment", "the variable CUDA_VISIBLE_DEVICES of the launcher")}


def _has_chosen_gpus(found: Resolved, environ: Mapping[str, str]) -> bool:
    """Whether another launcher has shown this process the GPUs of a file alone: it would choose among them again."""
    visible, ids = environ.get("CUDA_VISIBLE_DEVICES"), found.config.gpu_ids
    if visible is None or ids is None or found.origin("gpu_ids").layer not in ("file", "project", "user"):
        return False
    return "LOCAL_RANK" in environ or "WORLD_SIZE" in environ or visible.replace(" ", "") == _text(ids)


def _layers_of(chains: Mapping[str, list[tuple[object, str, str]]]) -> list[Layer]:
    """The layers of a launch, highest first."""
    by_layer: dict[str, dict[str, Setting]] = {name: {} for name in LAYERS}
    for name, chain in chains.items():
        if name == "gpu_ids":  # the worker sees the chosen ones alone
            continue
        for value, layer, place in reversed(chain):
            by_layer[layer][name] = Setting(value, layer, place)
    return [layer for layer in by_layer.values() if layer]


def _changed_since(launched: Resolved, environ: Mapping[str, str]) -> Layer:
    written = variables_of(launched)
    changed = {}
    for key in KEYS.values():
        now = environ.get(key.env, "")
        if now and now != written.get(key.env) and key.name not in _OF_THE_LAUNCH and key.name != PARAMS:
            place = f"the variable {key.env}, set in the worker"
            changed[key.name] = Setting(now, "environment", place)
    return changed
