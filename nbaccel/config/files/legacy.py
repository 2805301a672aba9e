"""What older configuration files call otherwise, and what has no meaning any more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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
    "fp8_config.fp8_backend": "fp8_config.backend",
    "tp_config.tp_size": "parallelism_config.parallelism_config_tp_size",
}
"""Old name -> today's. A section without its prefix (`fsdp_config.version`) is understood everywhere."""

_GONE: Mapping[str, str] = {
    "ipex_config": "Intel's extension for torch is part of torch today",
    "use_xpu": "XPUs are found without it",
    "mpirun_config.mpirun_ccl": "oneCCL's workers are set by CCL_WORKER_COUNT",
    "deepspeed_config.ds_config_variables": "it was never read",
}

Document = dict[str, Written]


def modernized(document: Mapping[str, Written]) -> tuple[Document, list[Note]]:
    """A file's top level in today's words, and what had to be translated."""
    notes: list[Note] = []
    found: Document = {}
    for name, written in document.items():
        if name in SECTIONS and isinstance(written.value, Mapping):
            inside = Written(_section(name, written.value, notes, found), written.place)
            _join(found, name, inside)
        elif name in ("tpu_config", "tp_config") and (isinstance(written.value, Mapping) or written.value is None):
            _old_section(name, written.value or {}, notes, found)
        else:
            _top_level(name, written, notes, found)
    return found, notes


def _top_level(name: str, written: Written, notes: list[Note], found: Document) -> None:
    if name in _GONE:
        notes.append(Note(written.place, f"`{name}` has no effect any more: {_GONE[name]}"))
    elif name == "fp16":
        if "mixed_precision" not in found:
            word = "fp16" if str(written.value).lower() in ("true", "1", "yes", "on") else "no"
            found["mixed_precision"] = Written(word, written.place)
        notes.append(Note(written.place, "`fp16` is called `mixed_precision: fp16` today"))
    elif name in _RENAMED:
        _rename(name, written, notes, found)
    elif name == "num_processes" and written.value == -1:
        found[name] = Written(None, written.place)  # Accelerate's word for "a flag will say"
    elif name == "profile" and _is_sagemaker(found):
        found["aws_profile"] = written
    else:
        found[name] = written


def _section(name: str, values: Mapping[str, Written], notes: list[Note], found: Document) -> Document:
    inside: Document = {}
    for inner, written in values.items():
        path = f"{name}.{inner}"
        if path in _GONE:
            notes.append(Note(written.place, f"`{path}` has no effect any more: {_GONE[path]}"))
        elif path in _RENAMED:
            _rename(path, written, notes, found, inside, name)
        elif path not in KEYS and _with_prefix(name, inner) in KEYS:
            inside[_with_prefix(name, inner).partition(".")[2]] = written
        else:
            inside[inner] = written
    return inside


def _with_prefix(section: str, inner: str) -> str:
    """`fsdp_config.version` means `fsdp_config.fsdp_version`."""
    prefix = "parallelism_config_" if section == "parallelism_config" else section.removesuffix("config")
    return f"{section}.{prefix}{inner}"


def _old_section(name: str, values: Mapping[str, Written], notes: list[Note], found: Document) -> None:
    for inner, written in values.items():
        path = f"{name}.{inner}"
        if path in _RENAMED:
            _rename(path, written, notes, found)
            continue
        today = inner if inner in KEYS else f"tpu_{inner}"
        found[today if today in KEYS else path] = written


def _rename(
    path: str, written: Written, notes: list[Note], found: Document, inside: Document | None = None, section: str = ""
) -> None:
    today = _RENAMED[path]
    notes.append(Note(written.place, f"`{path}` is called `{today}` today"))
    outer, _, inner = today.rpartition(".")
    if inside is not None and outer == section:
        inside.setdefault(inner, written)
    elif outer:
        _join(found, outer, Written({inner: written}, written.place))
    else:
        found.setdefault(today, written)


def _join(found: Document, name: str, more: Written) -> None:
    """Add to a section what it does not hold yet."""
    held = found[name].value if name in found and isinstance(found[name].value, Mapping) else {}
    found[name] = Written({**more.value, **held}, more.place)


def _is_sagemaker(found: Mapping[str, Written]) -> bool:
    environment = found.get("compute_environment")
    return environment is not None and str(environment.value).upper() == "AMAZON_SAGEMAKER"
