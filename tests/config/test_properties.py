"""Whatever is thrown at the configuration: a configuration or one of our errors, and no value gets lost silently."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from projects import Project

from nbaccel.config import KEYS, SECTIONS, SHORTHANDS, Layer, Resolved, RunConfig, call_layer, plain_value
from nbaccel.config.files.parse import _Loader
from nbaccel.config.interpolate import nested
from nbaccel.errors import NbaccelError

pytestmark = pytest.mark.slow


def examples(count: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The same examples at each run."""
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much]
    return settings(max_examples=count, derandomize=True, deadline=None, database=None, suppress_health_check=checks)


def outcome(project: Project, *layers: Layer, **asked: Any) -> Resolved | None:
    """The configuration, or None for one of our errors; any other error fails the test."""
    try:
        resolved = project.resolve(*layers, **asked)
    except NbaccelError as error:
        return None if str(error).strip() else pytest.fail("an error that says nothing")
    for key in resolved.given():
        resolved.value(key)
        str(resolved.explain(key))
    return resolved


# texts and bytes

NAMES = sorted(name for name, key in KEYS.items() if not key.section and name not in ("profile", "params"))
NESTED = sorted(name for name, key in KEYS.items() if key.section)
OLD = [
    "fp16",
    "dynamo_backend",
    "ipex_config",
    "tpu_config",
    "tp_config",
    "include",
    "params",
    "profile",
    "nbaccel_snapshot",
]
WORDS = [
    "1",
    "0",
    "-1",
    "1e8",
    "0.5",
    ".inf",
    "true",
    "no",
    "null",
    "~",
    "bf16",
    "NO",
    "FULL_SHARD",
    "auto",
    "cpu",
    "'x'",
]
MARKS = [
    "\n", "\n  ", "\n- ", ": ", ", ", "{", "}", "[", "]", "&a ", "*a", "<<: ", "!!int ", "!x ", "? ", "- ", "|", ">",
    "'", '"', "#", "%", "@", "`", "\t", "\r\n", "\0", "\ufeff", "\u2028", "---\n", "...", "${seed}", "${", "\\",
    "\ud7ff", "1:30",
]  # fmt: skip
TOKENS = st.sampled_from([*NAMES, *(name.rpartition(".")[2] for name in NESTED), *SECTIONS, *OLD, *WORDS, *MARKS * 4])
VALID = [
    "distributed_type: FSDP\nfsdp_config:\n  fsdp_version: 2\n  fsdp_offload_params: true\nnum_processes: 4\n",
    "mixed_precision: bf16\nparams:\n  lr: 1e-4\n  trainer: {epochs: 5, names: [a, b]}\nseed: 7\n",
    '{"mixed_precision": "fp16", "gpu_ids": "0,1", "dynamo_config": {"dynamo_backend": "INDUCTOR"}}',
    "fp16: true\ndynamo_backend: 'NO'\nfsdp_config: {sharding_strategy: 2, min_num_params: 2000}\n",
    "params: &a {x: 1}\ndeepspeed_config: {zero_stage: 3, zero_optimization: {stage: 3}}\ntimeout: 5\n",
]


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """A valid file with a few pieces cut out, put in, doubled or moved."""
    text = draw(st.sampled_from(VALID))
    for _ in range(draw(st.integers(1, 2))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 6)))
        piece = draw(st.one_of(TOKENS, st.just(""), st.just(text[start:end] * 2), st.characters(codec="utf-8")))
        text = text[:start] + piece + text[end:]
    return text


@st.composite
def lines(draw: st.DrawFn) -> str:
    """A file of keys with values that may not fit them, in sections or outside."""
    text = ""
    for _ in range(draw(st.integers(0, 3))):
        section = draw(st.sampled_from(["", "", "fsdp_config", "deepspeed_config", "fp8_config", "params"]))
        inside = [name.rpartition(".")[2] for name in NESTED if name.startswith(section or "-")] or [*NAMES * 3, *OLD]
        text += f"{section}:\n" if section else ""
        for _ in range(draw(st.integers(1, 2))):
            name = draw(st.sampled_from(inside))
            key = f"{section}.{name}" if section else name
            fits = key in KEYS and draw(st.integers(0, 8)) > 0
            word = json.dumps(draw(st.sampled_from(_fitting(key)))) if fits else draw(st.sampled_from(WORDS))
            text += f"{'  ' if section else ''}{name}: {word}\n"
    return text


@examples(300)
@given(st.one_of(st.binary(max_size=80), st.text(max_size=80).map(lambda text: text.encode("utf-8", "replace"))))
def test_any_bytes_are_a_configuration_or_an_error(project: Project, content: bytes) -> None:
    outcome(project, config_file=project.write("named.yaml", content))


@examples(1000)
@given(st.one_of(st.lists(TOKENS, max_size=8).map("".join), mutated(), lines()))
def test_any_text_means_what_yaml_says_or_is_an_error(project: Project, content: str) -> None:
    resolved = outcome(project, config_file=project.write("named.yaml", content))
    if resolved is not None:
        text = content.replace("\t", " ").removeprefix("\ufeff")
        assert_nothing_is_lost(yaml.load(text, Loader=_Loader), resolved)


def assert_nothing_is_lost(document: Any, resolved: Resolved) -> None:
    """Each value that a file gives to a key of today is the one in force, and nothing else is."""
    for name, written in _leaves(document or {}):
        if name in KEYS and written is not None and not _is_read_otherwise(name, written, document):
            assert resolved.origin(name).layer == "file", name
            assert _alike(resolved.origin(name).value, written), name


def _leaves(document: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in document.items():
        if name in SECTIONS and isinstance(value, Mapping):
            yield from ((f"{name}.{inner}", held) for inner, held in value.items())
        else:
            yield str(name), value


def _is_read_otherwise(name: str, written: object, document: Mapping[str, Any]) -> bool:
    return (
        "nbaccel_snapshot" in document
        or (name == "num_processes" and written == -1)
        or (name == "profile" and document.get("compute_environment") == "AMAZON_SAGEMAKER")
        or name == "params"
    )


def _alike(read: object, written: object) -> bool:
    """Here 1e-4 is a number, 1:30 is a text, and so is a day."""
    if isinstance(written, Mapping) and isinstance(read, Mapping):
        read, written = _by_text(read), _by_text(written)
        return read.keys() == written.keys() and all(_alike(read[name], held) for name, held in written.items())
    if isinstance(written, list) and isinstance(read, list):
        return len(read) == len(written) and all(map(_alike, read, written))
    if isinstance(read, str) and not isinstance(written, str):
        return ":" in read or "-" in read
    if isinstance(read, float) and isinstance(written, str):
        return read == float(written)
    return read == written or (read != read and written != written)


def _by_text(values: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(name): value for name, value in values.items()}


# keys and values

ANY = st.one_of(
    st.integers(-3, 9), st.sampled_from([*WORDS, None, True, False, 0.5, 1.0, 2**64, math.nan, math.inf, {}, []]),
    st.text(max_size=4), st.floats(), st.lists(st.sampled_from(WORDS), max_size=2), st.just({"a": {"b": [1]}}),
)  # fmt: skip
"""Values that fit many keys, and some that fit none."""


@st.composite
def keys_and_values(draw: st.DrawFn, most: int = 4) -> dict[str, object]:
    """A few keys, most of them with values that their descriptions allow."""
    found: dict[str, object] = {}
    for name in draw(st.lists(st.sampled_from([*NAMES, *NESTED]), max_size=most)):
        fits = draw(st.integers(0, 6)) > 0
        found[name] = draw(st.sampled_from(_fitting(name)) if fits else ANY)
    return found


def _fitting(name: str) -> list[object]:
    key = KEYS[name]
    if key.choices:
        return [*key.choices, *map(str.lower, key.choices), None]
    kinds: Mapping[str, list[object]] = {
        "true, false": [True, False, "yes", "OFF", 1, "0"],
        "number": [1, "2", 1.0, "1"],
        "port": [0, "29500"],
        "list": ["a, b", ["a", "b"], []],
        "indices": ["0,1", "all", [0, 2], 3, None],
        "mapping": [{"a": 1}, {"a": {"b": [1, "x"]}}],
        "three": [True, [True, False, True]],
        "0, 1, 2, 3": ["1", 3, "0:1"],
        "key=value": ["timeout=900"],
        "URL": ["env://"],
    }
    return next((values for word, values in kinds.items() if word in key.possible), ["a text", "more", "1"])


SETTINGS = keys_and_values()


@examples(400)
@given(SETTINGS, st.dictionaries(st.text(max_size=3), ANY, max_size=2))
def test_a_value_in_a_file_is_in_force_or_an_error(
    project: Project, values: dict[str, object], params: dict[str, object]
) -> None:
    document = nested({**values, **({"params": params} if params else {})})
    content = yaml.dump(document, Dumper=yaml.SafeDumper, allow_unicode=True)
    resolved = outcome(project, config_file=project.write("named.yaml", content))
    if resolved is not None:
        assert_in_force(values, resolved, "file")
        assert_nothing_is_lost(yaml.load(content, Loader=_Loader), resolved)


@examples(400)
@given(SETTINGS)
def test_an_argument_is_in_force_or_an_error(project: Project, values: dict[str, object]) -> None:
    resolved = outcome(project, call_layer(values))
    if resolved is not None:
        assert_in_force(values, resolved, "call")


def assert_in_force(values: Mapping[str, object], resolved: Resolved, layer: str) -> None:
    for name, written in values.items():
        if name == "num_processes" and written == -1 and layer == "file":
            written = None
        assert resolved.origin(name).layer == layer, name
        assert _says(resolved.value(name), written, name), (name, written, resolved.value(name))


def _says(value: Any, written: Any, name: str) -> bool:
    """Whether a key's value is what was written, as a person would read it."""
    if written is None:
        return bool(value == (None if KEYS[name].is_nullable else KEYS[name].default))
    if isinstance(value, bool):
        return str(written).strip().lower() in (_ON if value else _OFF)
    if isinstance(value, int | float) and not isinstance(written, bool):
        return float(str(written).replace("_", "")) == value or math.isnan(value)
    if value is None:
        return str(written).strip().lower() in ("none", "null")
    if isinstance(value, Mapping):
        return isinstance(written, str) or _alike(value, written)
    if isinstance(value, tuple):
        return [_word(part) for part in value] in (_listed(written), [_word(written)], [_word(written)] * 3)
    return _word(value) == _word(written) or _word(written) in SYNONYMS


_ON, _OFF = ("true", "1", "1.0", "yes", "on", "y", "t"), ("false", "0", "0.0", "-0.0", "no", "off", "n", "f")
SYNONYMS = {"no_distributed", "tpu", "mps", "false", "", "torhchxla_trace_once", "1", "2", "3", "4", "5"}
"""Other words for a choice: those of older files, and a `no` without quotes."""


def _word(value: object) -> str:
    return str(value).strip().lower()


def _listed(written: object) -> list[str]:
    if isinstance(written, list | tuple):
        return [_word(part) for part in written]
    return [word for part in str(written).strip("[]() ").split(",") if (word := _word(part).strip("'"))]


# variables

_VARIABLES = [*(key.env for key in KEYS.values()), *(name for name, _, _ in SHORTHANDS.values() if name)]
_OTHERS = ["NBACCEL_PROFILE", "ACCELERATE_CONFIG_FILE", "ACCELERATE_FP8_OVERRIDE_FPROP", "LR", "ACCELERATE_SOMETHING"]


@st.composite
def variables(draw: st.DrawFn) -> dict[str, str]:
    """A few variables, most of them with texts that their keys allow."""
    fitting = {KEYS[name].env: str(value) for name, value in draw(keys_and_values(2)).items() if value is not None}
    others = st.dictionaries(st.sampled_from([*_VARIABLES, *_OTHERS]), st.sampled_from(WORDS) | st.text(max_size=5))
    return fitting | (draw(others) if draw(st.integers(0, 2)) == 0 else {})


ENVIRONS = variables()


@examples(400)
@given(ENVIRONS)
def test_any_environment_is_a_configuration_or_an_error(project: Project, environ: dict[str, str]) -> None:
    resolved = outcome(project, environ=environ, params=("lr", "trainer.lr"))
    for key in KEYS.values() if resolved is not None else ():
        text = environ.get(key.env, "").strip()
        if resolved is not None and text and key.name not in ("params", "profile") and "${" not in text:
            assert resolved.origin(key.name).layer == "environment"
            assert _says(resolved.value(key.name), text, key.name) or text.startswith("{")


@examples(300)
@given(st.one_of(st.text(max_size=60), st.lists(TOKENS | st.just("="), max_size=10).map("".join)))
def test_any_env_file_is_read_or_an_error(project: Project, content: str) -> None:
    project.write(".env", content.encode("utf-8", "replace"))
    resolved = outcome(project)
    if resolved is not None:
        assert all("\0" not in name + text for name, text in resolved.dotenv.items())


@examples(300)
@given(st.one_of(st.text(max_size=30), st.lists(TOKENS, max_size=6).map("".join)))
def test_any_text_is_a_parameter(project: Project, text: str) -> None:
    value = plain_value(text)
    assert value is None or isinstance(value, str | int | float | list | dict)
    resolved = outcome(project, environ={"TRAINER_LR": text}, params=("trainer.lr",))
    if resolved is not None and text and "${" not in text:
        assert _alike(resolved.config.params["trainer"]["lr"], value)


# layers


@examples(200)
@given(SETTINGS, SETTINGS, ENVIRONS)
def test_the_higher_layer_wins_whatever_is_written(
    project: Project, high: dict[str, object], low: dict[str, object], environ: dict[str, str]
) -> None:
    resolved = outcome(project, call_layer(high), call_layer(low, layer="notebook"), environ=environ)
    if resolved is not None:
        assert_in_force(high, resolved, "call")
        for key, chain in resolved.chain.items():
            assert KEYS[key].name == key
            assert [setting.layer for setting in chain][-1] == "default"
        again = RunConfig.model_validate(resolved.config.model_dump())
        assert again == resolved.config or again != again
