"""What a higher layer says between the lines: a value of one key that takes a lower layer's other key out of force."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from nbaccel.config.layers import LAYERS, Setting


@dataclass(frozen=True)
class _Rule:
    """If `key` says something that `says` accepts, lower settings of `other` that `contradicts` accepts give way."""

    key: str
    says: Callable[[object], bool]
    other: str
    contradicts: Callable[[object], bool]


def _is_true(value: object) -> bool:
    return str(value).strip().lower() in ("true", "1", "yes", "on", "y", "t")


def _several(value: object) -> bool:
    word = str(value).strip()
    return word.isdecimal() and word.lstrip("0") not in ("", "1")


def _is_single(value: object) -> bool:
    return str(value).upper() in ("NO", "NO_DISTRIBUTED", "FALSE")


def _on_gpus(value: object) -> bool:
    return str(value).upper() in ("MULTI_GPU", "XLA", "TPU", "MULTI_XPU", "MULTI_NPU", "MULTI_MLU", "MULTI_HPU")


def _given(value: object) -> bool:
    return value is not None


_RULES = (
    _Rule("num_processes", _several, "distributed_type", _is_single),
    _Rule("use_cpu", _is_true, "distributed_type", _on_gpus),
    _Rule("use_cpu", _is_true, "gpu_ids", _given),
    _Rule("gpu_ids", _given, "use_cpu", _is_true),
    _Rule("distributed_type", _is_single, "num_processes", _several),
    _Rule("distributed_type", _on_gpus, "use_cpu", _is_true),
)


def reconciled(chain: Mapping[str, tuple[Setting, ...]]) -> Mapping[str, tuple[Setting, ...]]:
    """The chain, with a setting of the higher layer on top of each one that it takes out of force."""
    found = dict(chain)
    for rule in _RULES:
        winner, loser = chain[rule.key][0], found[rule.other][0]
        if not (rule.says(winner.value) and rule.contradicts(loser.value)):
            continue
        if LAYERS.index(winner.layer) < LAYERS.index(loser.layer):
            implied = Setting(None, winner.layer, f"{winner.place} ({rule.key}={winner.value})")
            found[rule.other] = (implied, *found[rule.other])
    return found
