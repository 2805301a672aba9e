"""What older configuration files call otherwise, and what has no meaning any more."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from nbaccel.config.files.parse import Written
from nbaccel.config.schema import KEYS, SECTIONS


@dataclass(frozen=True)
class Note:
    """Something about a file that is no error.

    Attributes:
        place: `path:line:column`.
        text: what is old there, and what is written today.
    """

    place: str
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.text}"


_RENAMED: Mapping[str, str] = {
    "dynamo_backend": "dynamo_config.dynamo_backend",
    "fsdp_config.fsdp_backward_prefetch_policy": "fsdp_config.fsdp_backward_prefetch",
    "fsdp_config.min_num_params": "fsdp_config.fsdp_min_num_params",
    "fsdp_config.offload_params": "fsdp_config.fsdp_offload_params",
    "fsdp_config.sharding_strategy": "fsdp_config.fsdp_sharding_strategy",
    "fsdp_config.transformer_layer_cls_to_wrap": "fsdp_config.fsdp_transformer_layer_cls_to_wrap",
    "fp8_config.amax_history_length": "fp8_config.amax_history_len",
    "fp8_config.amax_compute_algorithm": "fp8_config.amax_compute_algo",
    "fp8_config.optimization_level": "fp8_config.opt_level",
    "tp_config.tp_size": "parallelism_config.parallelism_config_tp_size",
}
"""Old name -> today's."""

_GONE: Mapping[str, str] = {
    "ipex_config": "Intel's extension for torch is part of torch today",
    "use_xpu": "XPUs are found without it",
    "mpirun_config.mpirun_ccl": "oneCCL's workers are set by CCL_WORKER_COUNT",
    "deepspeed_config.ds_config_variables": "it was never read",
}

_OLD_SECTIONS = ("tpu_config", "tp_config")
_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off", "none")


def modernized(document: Mapping[str, Written]) -> tuple[list[tuple[str, Written]], list[Note]]:
    """A file's keys by today's names (with dots between), in the file's order, and what had to be translated."""
    notes: list[Note] = []
    found: list[tuple[str, Written]] = []
    for name, written in document.items():
        if name in _OLD_SECTIONS and written.value is None:
            continue
        if name in (*SECTIONS, *_OLD_SECTIONS) and isinstance(written.value, Mapping):
            found += _section(name, written.value, notes)
        else:
            found += _top_level(name, written, document, notes)
    return found, notes


def _section(name: str, values: Mapping[str, Written], notes: list[Note]) -> Iterator[tuple[str, Written]]:
    for inner, written in values.items():
        path = f"{name}.{inner}"
        if path in _GONE:
            notes.append(_gone(path, written))
        elif path in _RENAMED:
            notes.append(Note(written.place, f"`{path}` is called `{_RENAMED[path]}` today"))
            yield _RENAMED[path], written
        else:
            yield next((today for today in _names(name, inner) if today in KEYS), path), written


def _names(section: str, inner: str) -> tuple[str, ...]:
    """The keys that a name in a section may stand for: `fsdp_config.version` means `fsdp_config.fsdp_version`."""
    if section in _OLD_SECTIONS:
        return inner, f"tpu_{inner}"
    prefix = "parallelism_config_" if section == "parallelism_config" else section.removesuffix("config")
    return f"{section}.{inner}", f"{section}.{prefix}{inner}", f"{section}.{inner.removeprefix(prefix)}"


def _top_level(
    name: str, written: Written, document: Mapping[str, Written], notes: list[Note]
) -> Iterator[tuple[str, Written]]:
    if name in _GONE:
        notes.append(_gone(name, written))
    elif name == "fp16":
        notes.append(Note(written.place, "`fp16` is called `mixed_precision: fp16` today"))
        if "mixed_precision" not in document:
            yield "mixed_precision", replace(written, value=_precision(written.value))
    elif name in _RENAMED:
        notes.append(Note(written.place, f"`{name}` is called `{_RENAMED[name]}` today"))
        yield _RENAMED[name], written
    elif name == "num_processes" and written.value == -1:
        yield name, replace(written, value=None)  # Accelerate's word for "a flag will say"
    elif name == "profile" and _is_sagemaker(document):
        yield "aws_profile", written
    else:
        yield name, written


def _gone(path: str, written: Written) -> Note:
    return Note(written.place, f"`{path}` has no effect any more: {_GONE[path]}")


def _precision(fp16: Any) -> Any:
    """What the switch `fp16` says about the precision; what is no switch stays, to be refused."""
    word = str(fp16).strip().lower()
    return "fp16" if word in _TRUE else "no" if word in _FALSE else fp16


def _is_sagemaker(document: Mapping[str, Written]) -> bool:
    environment = document.get("compute_environment")
    return environment is not None and str(environment.value).upper() == "AMAZON_SAGEMAKER"
