from __future__ import annotations

import pytest

from nbaccel.config import RunConfig, call_layer, resolve
from nbaccel.config.schema import KEYS
from nbaccel.errors import ConfigError


def test_defaults_alone() -> None:
    resolved = resolve(environ={})
    assert resolved.config == RunConfig()
    assert resolved.origin("mixed_precision").layer == "default"


def test_call_over_environment_over_default() -> None:
    environ = {"ACCELERATE_MIXED_PRECISION": "fp16", "NBACCEL_SEED": "7"}
    resolved = resolve(call_layer({"mixed_precision": "bf16"}), environ=environ)
    assert resolved.config.mixed_precision == "bf16"
    assert resolved.config.seed == 7
    assert str(resolved.explain("mixed_precision")).splitlines() == [
        "mixed_precision = 'bf16' from the argument mixed_precision= (call)",
        "  shadows 'fp16' from the variable ACCELERATE_MIXED_PRECISION (environment)",
        "  shadows 'no' from the default (default)",
    ]


def test_null_is_a_value_and_not_the_same_as_not_given() -> None:
    resolved = resolve(call_layer({"num_processes": None}), environ={"ACCELERATE_NUM_PROCESSES": "3"})
    assert resolved.config.num_processes is None
    assert resolve(environ={"ACCELERATE_NUM_PROCESSES": "3"}).config.num_processes == 3


def test_an_empty_variable_counts_as_not_given() -> None:
    assert resolve(environ={"ACCELERATE_MIXED_PRECISION": ""}).config.mixed_precision == "no"


@pytest.mark.parametrize(
    ("key", "written", "read"),
    [
        ("mixed_precision", "BF16", "bf16"),
        ("mixed_precision", False, "no"),  # a bare `no` in YAML
        ("use_cpu", "yes", True),
        ("use_cpu", "0", False),
        ("gpu_ids", "0, 2", (0, 2)),
        ("gpu_ids", "ALL", "all"),
        ("gpu_ids", [1, 3], (1, 3)),
        ("gpu_ids", 2, (2,)),
        ("num_processes", "4", 4),
        ("timeout", "1.5", 1.5),
        ("main_process_port", "29500", 29500),
    ],
)
def test_what_is_written_is_understood(key: str, written: object, read: object) -> None:
    assert getattr(resolve(call_layer({key: written}), environ={}).config, key) == read


@pytest.mark.parametrize(
    ("key", "written"),
    [
        ("mixed_precision", "fp17"),
        ("num_processes", -1),
        ("num_processes", 0),
        ("num_processes", "two"),
        ("gradient_accumulation_steps", 0),
        ("gpu_ids", "0,x"),
        ("seed", -1),
        ("timeout", 0),
        ("timeout", float("inf")),
        ("start_method", "forkserver"),
        ("main_process_port", 70000),
        ("use_cpu", "perhaps"),
    ],
)
def test_a_wrong_value_says_what_where_and_what_is_possible(key: str, written: object) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(call_layer({key: written}), environ={})
    assert repr(written) in str(caught.value)
    assert f"the argument {key}=" in str(caught.value)
    assert KEYS[key].possible in str(caught.value)


def test_a_wrong_variable_is_named() -> None:
    with pytest.raises(ConfigError, match=r"the variable ACCELERATE_MIXED_PRECISION.*Did you mean 'bf16'"):
        resolve(environ={"ACCELERATE_MIXED_PRECISION": "bf61"})


def test_an_unknown_key_is_named_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'mixed_precision'"):
        resolve(call_layer({"mixed_precison": "no"}), environ={})
    with pytest.raises(ConfigError, match="Did you mean 'seed'"):
        resolve(environ={}).explain("seeds")


def test_every_key_is_described() -> None:
    for key in KEYS.values():
        assert key.text.endswith(".")
        assert key.env
        assert key.possible
