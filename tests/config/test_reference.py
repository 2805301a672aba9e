"""The reference page and the JSON Schema say what the schema says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from nbaccel.config import KEYS, SECTIONS, SHORTHANDS
from nbaccel.config.reference import json_schema, page

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def is_valid(text: str) -> bool:
    return bool(jsonschema.Draft202012Validator(json_schema()).is_valid(yaml.safe_load(text)))


def test_the_page_is_made_from_the_schema() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "python -m nbaccel.config.reference > docs/configuration.md"


def test_the_page_is_printed() -> None:
    done = subprocess.run([sys.executable, "-m", "nbaccel.config.reference"], capture_output=True, check=True)
    assert done.stdout.decode() == page()


def test_every_key_stands_on_the_page_once() -> None:
    rows = [line for line in page().splitlines() if line.startswith("| `")]
    assert sorted(row.split("`")[1] for row in rows) == sorted([*KEYS, *SHORTHANDS])
    assert all(key.text in page() and f"`{key.env}`" in page() for key in KEYS.values())
    assert all(row.count(" | ") == 6 for row in rows if row.split("`")[1] in KEYS)
    assert "<!-- keys" not in page()


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())
    assert json_schema()["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_every_key_is_in_the_schema_with_variable_and_flag() -> None:
    schema = json_schema()["properties"]
    for key in KEYS.values():
        held = schema[key.section]["anyOf"][0]["properties"] if key.section else schema
        described = held[key.short_name]
        assert (described["x-env"], described["x-flag"]) == (key.env, key.flags[0])
        assert described["description"] == key.text
    assert set(schema) == {"include", *SECTIONS, *(key.name for key in KEYS.values() if not key.section)}
    assert schema["aws_secret_access_key"]["writeOnly"]
    assert schema["tpu_name"]["x-needs"] == {"distributed_type": ["XLA"]}


@pytest.mark.parametrize(
    "text",
    [
        "num_processes: 2\nmixed_precision: bf16\nmain_process_port: null\n",
        "gpu_ids: all", "gpu_ids: 0", "gpu_ids: '0,1'", "gpu_ids: [0, 1]",
        "num_processes: ${oc.env:N}", "fsdp_config: {fsdp_version: 2, fsdp_transformer_layer_cls_to_wrap: 'A,B'}",
        "fsdp_config: {}", "fsdp_config:", "deepspeed_config: ds.json", "params: {any: {thing: [1]}}",
        "log_with: [tensorboard]", "tpu_env: [A=1]", "include: [a.yaml]", "debug: true",
        "deepspeed_config: {zero_optimization: {stage: 2}, gradient_accumulation_steps: auto}",
        "fp8_config: {override_linear_precision: [true, false, false]}",
    ],
)  # fmt: skip
def test_editors_accept_what_files_may_hold(text: str) -> None:
    assert is_valid(text)


@pytest.mark.parametrize(
    "text",
    [
        "num_processes: 0", "num_processes: two", "mixed_precision: bf61", "num_proceses: 2", "debug: perhaps",
        "fsdp_config: {fsdp_version: 3}", "fsdp_config: {version: 2}", "fsdp_config: ds.json", "params: 5",
    ],
)  # fmt: skip
def test_editors_mark_what_is_wrong(text: str) -> None:
    assert not is_valid(text)


def test_defaults_are_legal() -> None:
    def defaults(properties: dict[str, Any]) -> dict[str, Any]:
        return {name: one["default"] for name, one in properties.items() if "default" in one}

    schema = json_schema()["properties"]
    inside = {name: defaults(schema[name]["anyOf"][0]["properties"]) for name in SECTIONS}
    jsonschema.Draft202012Validator(json_schema()).validate({**defaults(schema), **inside})
