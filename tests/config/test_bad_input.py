"""Whatever is wrong with a file, a variable or an argument: one error that says what, where and what is possible."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from projects import Project, error_of, given

from nbaccel.config import NOTEBOOK, call_layer, plain_value
from nbaccel.config.files import parse
from nbaccel.config.params import as_params, filled
from nbaccel.config.structured import as_mapping, split_config
from nbaccel.errors import ConfigError, ConfigFileError, MissingExtraError

# files that are no configuration

BOMB = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefg", "bcdefgh", strict=True)
)
MANY = "params: {" + ", ".join(f"k{number}: {number}" for number in range(30_000)) + "}"

FILES: Mapping[str, tuple[str | bytes, str, str]] = {
    "a key twice": ("seed: 1\nnum_processes: 2\nseed: 3\n", ":3:1", "the key 'seed' is here twice, first in line 1"),
    "a nested key twice": ("fsdp_config:\n  fsdp_version: 1\n  fsdp_version: 1\n", ":3:3", "is here twice"),
    "a key twice in JSON": ('{"seed": 1,\n "seed": 2}', ":2:2", "is here twice, first in line 1"),
    "a tab": ("fsdp_config:\n\tfsdp_version: 1", ":2:1", "a tab stands where YAML wants spaces. Use spaces."),
    "a tab later": ("seed: 1\n\tnum_processes: 2", ":2:1", "a tab stands where YAML wants spaces"),
    "no end of a list": ("gpu_ids: [0, 1\nseed: 1", ":2:", "Correct this line."),
    "no end of a text": ("seed: 'one", ":1:", "unexpected end of stream"),
    "two colons": ("seed: 1: 2", ":1:8", "mapping values are not allowed in this context"),
    "an unknown alias": ("seed: *other", ":1:7", "undefined alias"),
    "an open interpolation": ("gpu_ids: [${a}]", ":1:", "Put ${...} into quotes."),
    "an unknown directive": ("%YAML 9.9\n---\nseed: 1", ":1:1", "incompatible YAML document"),
    "two documents": ("seed: 1\n---\nseed: 2\n", ":2:1", "expected a single document"),
    "a list": ("- seed\n- 1", ":1:1", "the file is no mapping. Write `key: value` lines."),
    "a JSON list": ("[1, 2]", ":1:1", "the file is no mapping"),
    "a text": ("seed", ":1:1", "the file is no mapping"),
    "a number": ("5", ":1:1", "the file is no mapping"),
    "an anchor bomb": (BOMB, ":1:", "more than 20,000 values. Do anchors repeat each other?"),
    "too many values": (MANY, ":1:", "more than 20,000 values"),
    "a value inside itself": ("params: &a\n  b: *a", ":1:9", "this value contains itself"),
    "a list inside itself": ("params:\n  b: &a [*a]", ":2:6", "this value contains itself"),
    "a merge of itself": ("params: &a\n  <<: *a", ":1:9", "this value contains itself"),
    "a merge of a number": ("params:\n  <<: 5", ":2:7", "<< merges mappings only"),
    "a merge of numbers": ("params:\n  <<: [5]", ":2:8", "<< merges mappings only"),
    "brackets": ("a: " + "[" * 100_000, ":1:", "more than 40 levels of nesting"),
    "braces": ("{a: " * 100_000, ":1:", "more than 40 levels of nesting"),
    "dashes": ("- " * 100_000, ":1:", "more than 40 levels of nesting"),
    "JSON brackets": ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", ":1:", "more than 40 levels of nesting"),
    "deep by aliases": (
        "params:\n  a0: &a0 [1]\n" + "".join(f"  a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 60)), ":",
        "more than 40 levels of nesting"),
    "no UTF-8": (b"seed: 1\nrole: caf\xe9\n", ":2:10", "the byte 0xe9 is no UTF-8. Save the file in UTF-8."),
    "UTF-16": ("seed: 1".encode("utf-16"), ":1:1", "is no UTF-8"),
    "a null byte": (b"# \xc2\xa0\nrole: a\0b", ":2:8", "the character '\\x00' is not allowed. Remove it."),
    "a form feed": ("seed: 1\x0c", ":1:8", "the character '\\x0c' is not allowed"),
    "an escape code": ("seed: 1\r\n\r\nrole: \x1b[1m", ":3:7", "the character '\\x1b' is not allowed"),
    "half a character": ('{"role": "\\ud83d"}', ":1:", "invalid Unicode character escape code"),
    "too large": (b"# " + b"x" * 1_000_001, "", "it is larger than 1 MB"),
    "a foreign tag": ("seed: !!python/object/apply:os.system [ls]", ":1:7", "is not read from files. Write a plain"),
    "a tag of a text": ("role: !secret abc", ":1:7", "the tag '!secret' is not read from files"),
    "a tag of a list": ("gpu_ids: !tuple [1]", ":1:10", "the tag '!tuple' is not read"),
    "a tag of a mapping": ("params: !!set {a}", ":1:9", "is not read from files"),
    "a tag of a key": ("!mine seed: 1", ":1:1", "the tag '!mine' is not read from files"),
    "bytes": ("role: !!binary aGVsbG8=", ":1:7", "is not read from files"),
    "a key that is a list": ("[seed]: 1", ":1:1", "this is no name for a key. A key is a word."),
    "a key that is a mapping": ("? {a: b}\n: 1", ":1:3", "this is no name for a key"),
    "a number with a tag": ("seed: !!int abc", ":1:7", "'abc' is no int. Put a text into quotes."),
    "no number with a tag": ("seed: !!int", ":1:7", "'' is no int"),
    "a switch with a tag": ("use_cpu: !!bool maybe", ":1:10", "'maybe' is no bool"),
    "a number of 5000 digits": ("seed: " + "9" * 5000, ":1:7", "is no int"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "place", "problem"), FILES.values(), ids=list(FILES))
def test_a_file_that_is_no_configuration(content: str | bytes, place: str, problem: str, project: Project) -> None:
    error = project.error(content)
    assert isinstance(error, ConfigFileError)
    assert str(error).startswith(f"named.yaml{place}")
    assert problem in str(error)
    assert error.place.startswith("named.yaml")
    assert error.remedy
    assert len(str(error)) < 600


def test_a_place_is_shown_below_the_line(project: Project) -> None:
    shown = project.error("seed: 1\nnum_processes: 2: 3\n")
    assert str(shown).splitlines()[1:] == ["    num_processes: 2: 3", "                    ^"]
    long = project.error("params: {" + "a: 1, " * 50 + "b: 2: 3}")
    line, mark = str(long).splitlines()[1:]
    assert len(line) < 130
    assert line[: mark.index("^") + 1].endswith("b: 2:")
    tab = project.error("params:\n\ta: 1")
    assert str(tab).splitlines()[1:] == ["    \N{RIGHTWARDS ARROW}a: 1", "    ^"]


def test_a_place_survives_windows_ends_of_lines(project: Project) -> None:
    assert project.error("seed: 1\r\n\r\nnum_processes: x\r\n").place.endswith("named.yaml:3:16")  # type: ignore[attr-defined]


# files that look odd and are right

ODD: Mapping[str, tuple[str, dict[str, object]]] = {
    "nothing": ("", {}),
    "a comment": ("# nothing yet\n", {}),
    "null": ("~", {}),
    "a mark of UTF-8": ("\ufeffseed: 1", {"seed": 1}),
    "Windows ends of lines": ("seed: 1\r\nnum_processes: 2\r\n", {"seed": 1, "num_processes": 2}),
    "JSON with tabs": ('{\n\t"seed":\t1,\n\t"role": "a\\tb"\n}', {"seed": 1, "role": "a\tb"}),
    "JSON with escapes": (r'{"role": "a\/b \ud83d\ude00 \\ud83d"}', {"role": "a/b \N{GRINNING FACE} \\ud83d"}),
    "a number as people write it": ("params: {lr: 1e-4, big: 1E3, text: '1e-4'}",
        {"params.lr": 1e-4, "params.big": 1000.0, "params.text": "1e-4"}),
    "a time": ("params: {at: 12:30, day: 2024-02-30, when: 2024-01-01}",
        {"params.at": "12:30", "params.day": "2024-02-30", "params.when": "2024-01-01"}),
    "switches": ("params: {a: yes, b: off, c: 'no'}", {"params.a": True, "params.b": False, "params.c": "no"}),
    "keys that are no texts": ("params: {1: a, yes: b, ~: c}", {"params.1": "a", "params.yes": "b", "params.~": "c"}),
    "anchors": ("params:\n  a: &a {b: 1, c: 2}\n  d: {<<: *a, c: 3}\n  e: *a",
        {"params.a.b": 1, "params.a.c": 2, "params.d.b": 1, "params.d.c": 3, "params.e.b": 1, "params.e.c": 2}),
    "several merged": ("params:\n  a: &a {x: 1}\n  b: &b {x: 2, y: 2}\n  c: {<<: [*a, *b]}",
        {"params.a.x": 1, "params.b.x": 2, "params.b.y": 2, "params.c.x": 1, "params.c.y": 2}),
    "tags of plain values": ("seed: !!int '7'\nrole: !!str 5", {"seed": 7, "role": "5"}),
    "an empty mapping": ("params: {a: {}}", {"params.a": {}}),
    "keys with dots": ("fsdp_config.fsdp_version: 2\nparams.lr: 0.1",
        {"fsdp_config.fsdp_version": 2, "params.lr": 0.1}),
}  # fmt: skip


@pytest.mark.parametrize(("content", "values"), ODD.values(), ids=list(ODD))
def test_a_file_that_looks_odd_and_is_right(content: str, values: dict[str, object], project: Project) -> None:
    assert project.values(content) == values


def test_a_yaml_package_without_its_fast_half_reads_the_same(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parse, "_Loader", yaml.SafeLoader)
    for name, (content, values) in ODD.items():
        assert project.values(content) == values, name
    for name, (refused, _, _) in FILES.items():
        if name != "too many values":  # that would take seconds
            assert isinstance(project.error(refused), ConfigFileError), name


PLAIN: list[tuple[str, object]] = [
    ("5", 5), ("1e-4", 1e-4), ("-2.5E3", -2500.0), ("1_000", 1000), ("true", True), ("null", None), ("", None),
    ("[1e-3, 12:30, 2024-01-01, '1e-3']", [1e-3, "12:30", "2024-01-01", "1e-3"]),
    ("[1, a]", [1, "a"]), ("{a: {b: 1}}", {"a": {"b": 1}}), ("'5'", "5"),
    ("adam", "adam"), ("-", "-"), ("?", "?"), ("a b", "a b"),
    (" 5", " 5"),
    ("12:30", "12:30"), ("::1", "::1"), ("10.0.0.1:80", "10.0.0.1:80"), ("2024-01-01", "2024-01-01"),
    ("2024-99-99", "2024-99-99"), ("${a}", "${a}"), ("[1", "[1"), ("a: b: c", "a: b: c"), ("&a [*a]", "&a [*a]"),
    ("!!python/name:os.system", "!!python/name:os.system"), ("[" * 500, "[" * 500), ("9" * 5000, "9" * 5000),
    ("1e999999", "1e999999"), ("*.txt", "*.txt"), ("a\0b", "a\0b"), ("{[1]: 2}", "{[1]: 2}"),
    ("!!set {a}", "!!set {a}"), ("!!bool x", "!!bool x"), ("!!int ''", "!!int ''"), ("!!timestamp x", "!!timestamp x"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "value"), PLAIN, ids=[text[:20] for text, _ in PLAIN])
def test_a_text_without_a_type_means_what_people_mean(text: str, value: object) -> None:
    assert plain_value(text) == value
    assert type(plain_value(text)) is type(value)


# files that are not there


def test_a_named_file_must_be_there(project: Project) -> None:
    error = error_of(project, config_file="nowhere.yaml")
    assert str(error) == "nowhere.yaml: there is no such file. Check its path."
    assert "there is no such file" in str(error_of(project, environ={"ACCELERATE_CONFIG_FILE": "nowhere.yaml"}))


def test_a_folder_is_no_file(project: Project) -> None:
    (project.folder / "conf").mkdir()
    assert str(error_of(project, config_file="conf")) == "conf: this is a folder. Name a file of YAML or JSON."
    (project.folder / ".accelerate" / "default_config.yaml").mkdir(parents=True)
    assert "this is a folder" in str(error_of(project))


def test_a_dangling_link_is_named(project: Project) -> None:
    (project.folder / ".accelerate").mkdir()
    (project.folder / ".accelerate" / "default_config.yaml").symlink_to("nowhere")
    assert ".accelerate/default_config.yaml: there is no such file" in str(error_of(project))


def test_a_path_with_a_null_character_is_no_path(project: Project) -> None:
    assert "this is no path" in str(error_of(project, config_file="a\0b"))


@pytest.mark.parametrize("layer", ["named", "project", "user"])
def test_an_unreadable_file_says_why(layer: str, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = {
        "named": project.write("named.yaml", "seed: 1"),
        "project": project.write(".accelerate/default_config.yaml", "seed: 1"),
        "user": project.write_user("seed: 1"),
    }
    opened = Path.open

    def refused(path: Path, *args: Any, **kwargs: Any) -> Any:
        if path == paths[layer]:
            raise PermissionError(13, "Permission denied")
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refused)
    error = error_of(project, config_file=paths["named"])
    assert "it cannot be read: Permission denied. Check who may read it." in str(error)
    assert "default_config.yaml" in str(error) or layer == "named"


# keys and values of files

UNKNOWN: Mapping[str, tuple[str, str, str]] = {
    "a misspelt key": ("mixed_precison: bf16", ":1:1", "Did you mean 'mixed_precision'?"),
    "a misspelt section": ("\nfsdp_confg: {}", ":2:1", "Did you mean 'fsdp_config'?"),
    "a misspelt nested key": ("fsdp_config:\n  fsdp_verson: 1", ":2:3", "Did you mean 'fsdp_version'?"),
    "a key in another section": (
        "fsdp_config:\n  zero_stage: 1",
        ":2:3",
        "Did you mean 'deepspeed_config.zero_stage'?",
    ),
    "a nested key outside": ("fsdp_version: 1", ":1:1", "Did you mean 'fsdp_config.fsdp_version'?"),
    "a top level key inside": ("fsdp_config: {num_processes: 2}", ":1:15", "Did you mean 'num_processes'?"),
    "a misspelt include": ("inclde: a.yaml", ":1:1", "Did you mean 'include'?"),
    "nothing like it": ("xyzzy: 1", ":1:1", "`nbaccel config show --all` lists them"),
    "nothing like it inside": ("fsdp_config: {xyzzy: 1}", ":1:15", "the keys of fsdp_config"),
    "an empty key": ("'': 1", ":1:1", "the key ''"),
    "an old section of the wrong form": ("tpu_config: 5", ":1:1", "the key 'tpu_config'"),
    "an unknown key of an old section": ("tpu_config: {colour: red}", ":1:14", "the key 'tpu_config.colour'"),
}


@pytest.mark.parametrize(("content", "place", "said"), UNKNOWN.values(), ids=list(UNKNOWN))
def test_an_unknown_key_of_a_file(content: str, place: str, said: str, project: Project) -> None:
    error = project.error(content)
    assert f"(in named.yaml{place}) is not valid" in str(error)
    assert said in str(error)


WRONG: Mapping[str, tuple[str, str, str]] = {
    "a word for a number": ("num_processes: two", ":1:16", "num_processes='two'"),
    "too small": ("num_processes: 0", ":1:16", "a whole number from 1"),
    "half": ("num_processes: 1.5", ":1:16", "num_processes=1.5"),
    "a switch for a number": ("num_processes: yes", ":1:16", "num_processes=True"),
    "a time for a number": ("seed: 1:30", ":1:7", "seed='1:30'"),
    "a misspelt word": ("mixed_precision: bf61", ":1:18", "Did you mean 'bf16'?"),
    "a list for a word": ("mixed_precision: [bf16]", ":1:18", "mixed_precision=['bf16']"),
    "a mapping for a number": ("seed: {a: 1}", ":1:7", "seed={'a': 1}"),
    "a number for a text": ("project_name: 5", ":1:15", "a text"),
    "a list for a section": ("fsdp_config: [1]", ":1:14", "Possible: a mapping."),
    "a text for a section": ("fsdp_config: fsdp.yaml", ":1:14", "Possible: a mapping."),
    "a number for parameters": ("params: 5", ":1:9", "Possible: a mapping."),
    "a nested word": ("fsdp_config:\n  fsdp_version: 3", ":2:17", "fsdp_config.fsdp_version=3"),
    "a wrong old switch": ("fp16: perhaps", ":1:7", "mixed_precision='perhaps'"),
    "a wrong old number": ("fsdp_config: {sharding_strategy: 9}", ":1:34", "fsdp_config.fsdp_sharding_strategy=9"),
    "a wrong index": ("gpu_ids: '0,x'", ":1:10", "gpu_ids='0,x'"),
    "a negative index": ("gpu_ids: -1", ":1:10", "gpu_ids=-1"),
    "endless": ("timeout: .inf", ":1:10", "seconds, a number above 0"),
    "no number": ("timeout: .nan", ":1:10", "timeout=nan"),
    "a wrong mapping": ("deepspeed_config: {zero_optimization: 2}", ":1:39", "deepspeed_config.zero_optimization=2"),
}


@pytest.mark.parametrize(("content", "place", "said"), WRONG.values(), ids=list(WRONG))
def test_a_wrong_value_of_a_file(content: str, place: str, said: str, project: Project) -> None:
    error = project.error(content)
    assert isinstance(error, ConfigError)
    assert f"named.yaml{place}) is not valid" in str(error)
    assert said in str(error)


def test_the_record_of_a_run_is_read_as_its_configuration(project: Project) -> None:
    assert project.values("nbaccel_snapshot: 1\nconfig:\n  seed: 3\norigins: {seed: here}") == {"seed": 3}
    assert project.values("nbaccel_snapshot: 1\n") == {}
    assert ":3:9" in str(project.error("nbaccel_snapshot: 1\nconfig:\n  seed: x"))


def test_arguments_may_be_paths_and_empty_mappings(project: Project) -> None:
    config = project.resolve(given("call", deepspeed_config=Path("ds.json"), params={"a": {}, "b": None})).config
    assert config.deepspeed_config.deepspeed_config_file == "ds.json"
    assert config.params == {"a": {}, "b": None}


# variables

VARIABLES: Mapping[str, tuple[dict[str, str], str]] = {
    "a wrong word": ({"ACCELERATE_MIXED_PRECISION": "bf61"}, "the variable ACCELERATE_MIXED_PRECISION"),
    "a wrong number": ({"ACCELERATE_NUM_PROCESSES": "two"}, "num_processes='two'"),
    "a huge number": ({"ACCELERATE_NUM_PROCESSES": "9" * 5000}, "the variable ACCELERATE_NUM_PROCESSES"),
    "a wrong switch": ({"ACCELERATE_USE_CPU": "perhaps"}, "use_cpu='perhaps'"),
    "a wrong shorthand": ({"ACCELERATE_USE_FSDP": "perhaps"}, "ACCELERATE_USE_FSDP='perhaps'"),
    "a wrong part": ({"ACCELERATE_FP8_OVERRIDE_FPROP": "x"}, "ACCELERATE_FP8_OVERRIDE_FPROP='x'"),
    "two types": ({"ACCELERATE_USE_FSDP": "1", "ACCELERATE_USE_DEEPSPEED": "1"}, "one of the two"),
    "another type": ({"ACCELERATE_USE_FSDP": "1", "NBACCEL_DISTRIBUTED_TYPE": "NO"}, "says 'NO'"),
    "a misspelt variable": ({"ACCELERATE_MIXED_PRECISON": "bf16"}, "Did you mean 'ACCELERATE_MIXED_PRECISION'?"),
    "a misspelt nested one": ({"FSDP_SHARDING_STRATGY": "x"}, "Did you mean 'FSDP_SHARDING_STRATEGY'?"),
    "a misspelt own one": ({"NBACCEL_SEEDS": "1"}, "Did you mean 'NBACCEL_SEED'?"),
    "a misspelt shorthand": ({"ACCELERATE_USE_DEEPSEED": "1"}, "Did you mean 'ACCELERATE_USE_DEEPSPEED'?"),
    "a misspelt part": ({"ACCELERATE_FP8_OVERRIDE_DGARD": "1"}, "Did you mean 'ACCELERATE_FP8_OVERRIDE_DGRAD'?"),
    "a misspelt file": ({"ACCELERATE_CONFIG_FIEL": "x"}, "Did you mean 'ACCELERATE_CONFIG_FILE'?"),
    "a text for a mapping": ({"NBACCEL_DEEPSPEED_ZERO_OPTIMIZATION": "{"}, "zero_optimization='{'"),
    "no such profile": ({"NBACCEL_PROFILE": "dev"}, "the variable NBACCEL_PROFILE"),
}


@pytest.mark.parametrize(("environ", "said"), VARIABLES.values(), ids=list(VARIABLES))
def test_a_wrong_variable(environ: dict[str, str], said: str, project: Project) -> None:
    message = str(error_of(project, environ=environ))
    assert said in message
    assert all(name in message for name in environ)
    lines = "\n".join(f"{name}={text}" for name, text in environ.items())
    project.write(".env", f"# ours\n{lines}\n")
    assert ".env:2" in str(error_of(project))


def test_variables_that_look_like_ours_and_are_others_are_left_alone(project: Project) -> None:
    environ = {"ACCELERATE_LOG_LEVEL": "DEBUG", "FSDP_SOMETHING_ELSE": "1", "ACCELERATE_KERNELS_USE_LOCAL": "1"}
    assert project.resolve(environ=environ).given() == []


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("NBACCEL_SEED 1", 1),
        ("A=1\n\n=2", 3),
        ("A=1\nB='open\n", 2),
        ("A=1\nNBACCEL_SEED\n", 2),
        ("A=1\n# note\nB=\0\n", 3),
        ("A B=1", 1),
    ],
)
def test_a_bad_env_file(content: str, line: int, project: Project) -> None:
    project.write(".env", content)
    message = str(error_of(project))
    assert message.startswith(f".env:{line}: this is no assignment. Write NAME=value.\n")
    assert content.splitlines()[line - 1].replace("\0", "") in message.replace("\0", "")


def test_an_env_file_is_text(project: Project) -> None:
    project.write(".env", b"A=\xff")
    assert str(error_of(project)).startswith(".env:1:3: the byte 0xff is no UTF-8")


# arguments


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"mixed_precison": "no"}, "Did you mean 'mixed_precision'?"),
        ({"fsdp_verson": 1}, "Did you mean"),
        ({"fsdp_version": 1}, "mean 'fsdp_config.fsdp_version'?"),
        ({"fsdp_config": {"zero_stage": 1}}, "the key 'fsdp_config.zero_stage'"),
        ({"fsdp_config": {1: 2}}, "the key 'fsdp_config.1'"),
        ({"xyzzy": 1}, "the key 'xyzzy'"),
        ({"process_group_config": {"timeout": timedelta(0)}}, "process_group_config.timeout="),
        ({"gpu_ids": [True]}, "gpu_ids=[True]"),
        ({"num_processes": object()}, "num_processes=<object"),
        ({"seed": float("inf")}, "seed=inf"),
    ],
)
def test_a_wrong_argument(values: dict[str, object], said: str, project: Project) -> None:
    message = str(error_of(project, call_layer(values)))
    assert said in message
    assert f"the argument {next(iter(values))}=" in message


@pytest.mark.parametrize("name", ["fsdp_config", "params", "project_config"])
@pytest.mark.parametrize("value", [5, "text", [1], True])
def test_a_section_is_a_mapping(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"{name}=.*the argument {name}=\) is not valid. Possible: a mapping"):
        call_layer({name: value})


def test_a_key_that_is_asked_for_must_exist(project: Project) -> None:
    resolved = project.resolve()
    for ask in (resolved.value, resolved.origin, resolved.explain):
        with pytest.raises(ConfigError, match=r"the key 'sede' \(asked for\).*Did you mean 'seed'"):
            ask("sede")
    assert resolved.explain("fsdp_version").key == "fsdp_config.fsdp_version"
    with pytest.raises(ConfigError, match=r"one of autocast_config\.enabled, grad_scaler_config\.enabled"):
        resolved.explain("enabled")


def test_a_key_may_be_tried(project: Project) -> None:
    resolved = project.resolve()
    assert resolved.with_setting("seed", "5", "the form") == 5
    with pytest.raises(ConfigError, match=r"seed='x' \(from the form\)"):
        resolved.with_setting("seed", "x", "the form")


# objects


@dataclasses.dataclass
class Settings:
    seed: int = 1
    params: Any = None


def test_objects_that_hold_a_configuration_are_mappings() -> None:
    from omegaconf import OmegaConf
    from pydantic import BaseModel

    class Model(BaseModel):
        seed: int = 1

    made = OmegaConf.create({"a": 1, "b": "${a}"})
    assert as_mapping(Settings(params=made), "here") == {"seed": 1, "params": {"a": 1, "b": 1}}
    assert as_mapping(Model(), "here") == {"seed": 1}
    assert split_config("a.yaml", "config=") == ({}, "a.yaml")
    assert split_config(None, "config=") == ({}, None)
    assert split_config({"seed": 1}, "config=")[0]["seed"].place == "config= (seed)"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (5, "5 (a int) (config=) is not valid. Possible: a mapping"),
        ([1], "[1] (a list)"),
        ({1: 2}, "the key 1 (config=) is not valid. Possible: keys that are texts"),
        ({"params": {None: 1}}, "the key None"),
        (Settings, "Settings"),
    ],
)
def test_other_objects_are_refused(value: object, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        as_mapping(value, "config=")
    assert said in str(caught.value)


@pytest.mark.parametrize(("content", "said"), [({"a": "${b}"}, "'b' not found"), ({"a": "???"}, "Missing mandatory")])
def test_an_object_of_omegaconf_must_be_complete(content: dict[str, str], said: str) -> None:
    from omegaconf import OmegaConf

    with pytest.raises(ConfigError) as caught:
        as_mapping(OmegaConf.create(content), "config=")
    assert "the DictConfig (config=: " in str(caught.value)
    assert said in str(caught.value)


# parameters of functions


def _train(epochs: int, lr: float = 0.1) -> None: ...


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"epochs": "many"}, r"params.epochs='many' \(from the argument params=\).*what int allows"),
        ({"epoch": 1}, "the parameter 'epoch'.*Possible: epochs, lr. Did you mean 'epochs'"),
    ],
)
def test_a_parameter_must_fit_the_function(params: dict[str, object], said: str, project: Project) -> None:
    resolved = project.resolve(given("call", params=params))
    with pytest.raises(ConfigError, match=said):
        filled(_train, (), {}, resolved)


class _Schedule:
    """A type that pydantic does not know."""


@dataclass
class _Options:
    schedule: _Schedule
    epochs: int = 1


def test_a_dataclass_may_hold_what_pydantic_does_not_know(project: Project) -> None:
    def train(options: _Options) -> None: ...

    schedule = _Schedule()
    project_of = lambda options: project.resolve(given("call", params={"options": options}))  # noqa: E731
    with pytest.raises(ConfigError, match=r"params\.options\.schedule='linear'.*instance of _Schedule"):
        filled(train, (), {}, project_of({"schedule": "linear"}))
    named = filled(train, (), {}, project_of(_Options(schedule, 3)))
    assert named == {"options": _Options(schedule, 3)}


def test_a_parameter_that_is_not_there_is_named() -> None:
    with pytest.raises(AttributeError, match=r"there is no parameter 'epoch'\. Did you mean 'epochs'\?"):
        _ = as_params({"epochs": 1}).epoch
    with pytest.raises(AttributeError, match="There are: none"):
        _ = as_params({}).epoch


# interpolation

OPEN: Mapping[str, tuple[dict[str, object], str]] = {
    "a missing name": ({"a": "${nowhere}"}, "'nowhere' not found"),
    "itself": ({"a": "${a}"}, "Recursive"),
    "itself by its whole name": ({"a": "${params.a}"}, "Recursive"),
    "a circle": ({"a": "${b}", "b": "x${c}", "c": "${a}"}, "Recursive"),
    "a circle through a mapping": ({"a": {"b": "${a}"}}, ""),
    "no end": ({"a": "${b"}, "params.a='${b'"),
    "nothing": ({"a": "${}"}, "params.a='${}'"),
    "a missing variable": ({"a": "${oc.env:NBACCEL_TEST_NOWHERE}"}, "NBACCEL_TEST_NOWHERE"),
    "an unknown resolver": ({"a": "${nowhere:1}"}, "nowhere"),
    "a missing value": ({"a": "${b}", "b": "???"}, "Missing mandatory value"),
    "inside a list": ({"a": [1, {"b": "${nowhere}"}]}, "'nowhere' not found"),
}


@pytest.mark.parametrize(("params", "said"), OPEN.values(), ids=list(OPEN))
def test_an_interpolation_that_cannot_be_filled_in(params: dict[str, object], said: str, project: Project) -> None:
    error = error_of(project, given("call", params=params))
    assert isinstance(error, ConfigError)
    assert "(in the argument params=: " in str(error)
    assert "Possible: the names of other keys and parameters" in str(error)
    assert said in str(error)


@pytest.mark.parametrize(
    ("content", "environ", "key", "value"),
    [
        ("seed: ${params.s}\nparams: {s: 5}", {}, "seed", 5),
        ("seed: ${s}\nparams: {s: 5}", {}, "seed", 5),
        ("params: {a: '${seed}'}", {"NBACCEL_SEED": "7"}, "params.a", 7),
        ("params: {a: '${gpu_ids}'}", {"ACCELERATE_GPU_IDS": "0,1"}, "params.a", [0, 1]),
        ("params: {a: 'x-${mixed_precision}'}", {"ACCELERATE_MIXED_PRECISION": "BF16"}, "params.a", "x-bf16"),
        ("params: {a: '${mixed_precision}'}", {}, "params.a", "no"),
        ("params: {seed: 3, a: '${seed}'}", {}, "params.a", 3),
        ("params: {seed: 3, a: '${seed}'}", {"NBACCEL_SEED": "7"}, "params.a", 7),
        ("params: {a: '${fsdp_config.fsdp_version}'}\nfsdp_config: {fsdp_version: 2}", {}, "params.a", 2),
        ("params: {'a[0] b': '${seed}'}\nseed: 1", {}, "params.a[0] b", 1),
        ("params: {a: ['${seed}', {b: '${seed}'}]}\nseed: 1", {}, "params.a", [1, {"b": 1}]),
        (r"params: {a: '\${seed}'}", {}, "params.a", "${seed}"),
        ("commands: ['echo ${HOME}']", {}, "commands", ("echo ${HOME}",)),
        ("project_dir: here\nlog_dir: ${run_dir}/logs\nrun_dir: there", {}, "log_dir", "there/logs"),
    ],
)
def test_an_interpolation_is_filled_in_with_what_the_key_means(
    content: str, environ: dict[str, str], key: str, value: object, project: Project
) -> None:
    resolved = project.resolve(config_file=project.write("named.yaml", content), environ=environ)
    assert resolved.value(key) == value


def test_an_interpolation_may_stand_beside_any_object(project: Project) -> None:
    model = object()
    params = project.resolve(
        given("call", params={"model": model, "same": "${model}", "port": "${free_port}"})
    ).config.params
    assert params["same"] is model
    assert 1024 <= params["port"] < 65536
    assert project.resolve(given("call", log_dir="${run_dir}")).config.log_dir.startswith("./runs/")  # type: ignore[union-attr]


def test_a_filled_in_value_is_checked_where_it_was_written(project: Project) -> None:
    error = project.error("params: {s: twelve}\nseed: ${params.s}")
    assert "seed='twelve' (from named.yaml:2:7)" in str(error)
    assert "num_processes='two'" in str(project.error("params: {a: '${num_processes}'}\nnum_processes: two"))


NO_OMEGACONF = """\
import sys
sys.modules["omegaconf"] = None
from nbaccel.config import call_layer, resolve
from nbaccel.errors import MissingExtraError
assert resolve(call_layer({"seed": 1}), environ={}).config.seed == 1
try:
    resolve(call_layer({"params": {"password": "${seed}", "seed": 1}}), environ={})
except MissingExtraError as error:
    print(error, "|", error.name, "|", error.install)
"""


def test_an_interpolation_needs_a_package_that_the_error_names(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = subprocess.run([sys.executable, "-c", NO_OMEGACONF], capture_output=True, text=True, check=False, timeout=60)
    assert ran.stdout.rstrip().endswith("| omegaconf | pip install 'nbaccel[hydra]'"), ran.stderr
    assert "'********' in the argument params= needs the package 'omegaconf'" in ran.stdout
    monkeypatch.setitem(sys.modules, "omegaconf", None)
    error = error_of(project, given("call", params={"a": "${seed}"}))
    assert isinstance(error, MissingExtraError)
    assert "'${seed}' in the argument params=" in str(error)


# the notebook's layer is checked where it is resolved


@pytest.mark.parametrize(
    ("values", "said"),
    [({"seed": "x"}, "seed='x' (from the form)"), ({"fsdp_config.fsdp_version": 3}, "fsdp_config.fsdp_version=3")],
)
def test_a_wrong_setting_of_the_notebook(values: Mapping[str, object], said: str, project: Project) -> None:
    NOTEBOOK.update(values, "the form")
    assert said in str(error_of(project))


def test_an_unknown_key_of_the_notebook(project: Project) -> None:
    NOTEBOOK.update({"sede": 1}, "the form")
    assert "Did you mean 'seed'?" in str(error_of(project))


# errors travel


def test_errors_can_be_pickled(project: Project) -> None:
    import pickle

    for error in (project.error("seed: x"), project.error("seed: 1: 2"), project.error("sede: 1")):
        again = pickle.loads(pickle.dumps(error))
        assert (str(again), vars(again)) == (str(error), vars(error))
