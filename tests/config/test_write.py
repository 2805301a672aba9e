"""Files are changed: nothing else in them is, nothing wrong is written, and nothing is lost."""

from __future__ import annotations

import json
import os
import random
import signal
import stat
import subprocess
import sys
import time
from typing import Any

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as some
from projects import Project

from nbaccel.config.files import write
from nbaccel.config.files.read import read_layer
from nbaccel.config.files.write import (
    HEADER,
    UNSET,
    changed_text,
    modernized_text,
    write_changes,
    write_modernized,
    write_text,
)
from nbaccel.errors import ConfigError, ConfigFileError

OLD = """\
# ours
---
# how many
num_processes: null      # all
use_cpu: True
mixed_precision: no

fsdp_config:
    fsdp_version: 1  # the old one
    # fsdp_offload_params: true

# how long
timeout: 5.0
gpu_ids: # these
- 1
- 2  # and that
params: {a: 1,   b: [1,2], c: {d: 5}}
newer_key: stays
# the end
"""


def after(project: Project, text: str, changes: dict[str, Any], name: str = "named.yaml") -> str:
    return changed_text(project.write(name, text), changes)[1]


# --- what stays ---


def test_a_change_touches_its_own_lines_alone(project: Project) -> None:
    changes = {"num_processes": 4, "fsdp_config.fsdp_version": 2, "fsdp_config.fsdp_use_orig_params": False}
    changes |= {"timeout": UNSET, "gpu_ids": (0, 1), "params.c.d": UNSET, "params.lr": 0.1, "seed": 3}
    assert (
        after(project, OLD, changes)
        == """\
# ours
---
# how many
num_processes: 4      # all
use_cpu: True
mixed_precision: no

fsdp_config:
    fsdp_version: 2  # the old one
    fsdp_use_orig_params: false
    # fsdp_offload_params: true

# how long
gpu_ids: '0,1' # these
params: {a: 1,   b: [1,2], lr: 0.1}
newer_key: stays
seed: 3
# the end
"""
    )


def test_nothing_to_change_changes_nothing(project: Project) -> None:
    same = {"use_cpu": "yes", "role": UNSET, "timeout": 5, "gpu_ids": None, "params": {"a": 1, "b": [1, 2]}}
    before, now = changed_text(project.write("named.yaml", OLD), {**same, "gpu_ids": UNSET})
    assert before == OLD
    assert now == OLD.replace("gpu_ids: # these\n- 1\n- 2  # and that\n", "")


@pytest.mark.parametrize(
    ("text", "changes", "expected"),
    [
        ("seed: 1", {"role": "x"}, "seed: 1\nrole: x\n"),
        ("seed: 1\r\nrole: y # c\r\n", {"seed": 2, "debug": True}, "seed: 2\r\nrole: y # c\r\ndebug: true\r\n"),
        ("  seed: 1\n...\n", {"role": "x"}, "  seed: 1\n  role: x\n...\n"),
        ("# only\n", {"seed": 1}, "# only\nseed: 1\n"),
        ("---\n", {"seed": 1}, "---\nseed: 1\n"),
        ("null\n", {"seed": 1}, "\nseed: 1\n"),
        ("{} # c\n", {"seed": 1}, "{seed: 1} # c\n"),
        ('{"seed": 1, # c\n "role": "y"}', {"debug": True}, '{"seed": 1, # c\n "role": "y", "debug": true}'),
        ("{seed: 1, role: y}", {"seed": UNSET}, "{role: y}"),
        ("{seed: 1, role: y}", {"role": UNSET}, "{seed: 1}"),
        ("fsdp_config: {}  # c\nseed: 1\n", {"fsdp_config.fsdp_version": 2},
         "fsdp_config:  # c\n  fsdp_version: 2\nseed: 1\n"),
        ("fsdp_config: ~\n", {"fsdp_config.fsdp_version": 2}, "fsdp_config:\n  fsdp_version: 2\n"),
        ("fsdp_config:\n", {"fsdp_config.fsdp_version": 2}, "fsdp_config:\n  fsdp_version: 2\n"),
        ("{fsdp_config: }\n", {"fsdp_config.fsdp_version": 2}, "{fsdp_config: {fsdp_version: 2} }\n"),
        ("{debug}\n", {"debug": True}, "{debug: true}\n"),
        ("params: {a: [1, 0], b: [{c: 1}]}\n", {"params.a": [True, False], "params.b": [{"c": True}]},
         "params: {a: [true, false], b: [{c: true}]}\n"),
        ("params: {a: [5, {b: 1.0}]}\n", {"params.a": (5.0, {"b": 1})}, "params: {a: [5, {b: 1.0}]}\n"),
        ("fsdp_config:\n  fsdp_version: 2\nseed: 1\n", {"fsdp_config.fsdp_version": UNSET}, "seed: 1\n"),
        ("fsdp_config:\n  fsdp_version: 2\nseed: 1\n", {"fsdp_config": UNSET}, "seed: 1\n"),
        ("fsdp_config: {}\nseed: 1\n", {"fsdp_config": UNSET}, "seed: 1\n"),
        ("role: |\n  a\n  b\n# c\nseed: 1\n", {"role": "x"}, "role: x\n# c\nseed: 1\n"),
        ("role: |\n  a\n\n# c\nseed: 1\n", {"role": UNSET}, "\n# c\nseed: 1\n"),
        ("role: a\n  b\nseed: 1\n", {"role": "x"}, "role: x\nseed: 1\n"),
        ("role: a", {"role": UNSET}, ""),
        ("params:\n  a.b: 1\n", {"params.a.b": 2}, "params:\n  a.b: 2\n"),
        ("params:\n  a:\n", {"params.a.b": 2}, "params:\n  a:\n    b: 2\n"),
        ("params:\n  a:\n    b: 1\n    c: 2\n", {"params.a": 3}, "params:\n  a: 3\n"),
        ("log_with: [x]  # c\n", {"log_with": ["y", "z"]}, "log_with: 'y,z'  # c\n"),
        ("deepspeed_config: a.json\n", {"deepspeed_config.zero_stage": 3},
         "deepspeed_config:\n  deepspeed_config_file: a.json\n  zero_stage: 3\n"),
        ("fsdp_config.fsdp_version: 1\n", {"fsdp_config.fsdp_version": 2}, "fsdp_config:\n  fsdp_version: 2\n"),
        ("fdsp_version: 1\nseed: 1\n", {"fdsp_version": UNSET}, "seed: 1\n"),
    ],
)  # fmt: skip
def test_forms_of_text(project: Project, text: str, changes: dict[str, Any], expected: str) -> None:
    assert after(project, text, changes) == expected


@pytest.mark.parametrize(
    ("text", "changes", "expected"),
    [
        ("a: &a\n  fsdp_version: 1\nfsdp_config: *a  # c\n", {"fsdp_config.fsdp_version": 2},
         "a: &a\n  fsdp_version: 1\nfsdp_config:  # c\n  <<: *a\n  fsdp_version: 2\n"),
        ("a: &a {fsdp_version: 1}\nfsdp_config:\n  <<: *a\n", {"fsdp_config.fsdp_version": 2},
         "a: &a {fsdp_version: 1}\nfsdp_config:\n  <<: *a\n  fsdp_version: 2\n"),
        ("seed: &a 1  # c\n", {"seed": 2}, "seed: &a 2  # c\n"),
        ("gpu_ids: &a # c\n  - 1\n", {"gpu_ids": "all"}, "gpu_ids: &a all # c\n"),
        ("fsdp_config: &a\nseed: 1\n", {"fsdp_config.fsdp_version": 2},
         "fsdp_config: &a\n  fsdp_version: 2\nseed: 1\n"),
        ("seed: &a 1\nmax_restarts: *a\n", {"max_restarts": 2}, "seed: &a 1\nmax_restarts: 2\n"),
    ],
)  # fmt: skip
def test_anchors_stay(project: Project, text: str, changes: dict[str, Any], expected: str) -> None:
    assert after(project, text, changes) == expected


@pytest.mark.parametrize(
    ("text", "changes", "problem"),
    [
        ("seed: &a 1\nmax_restarts: *a\n", {"seed": 2}, "would change max_restarts, too"),
        ("a: &a\n  fsdp_version: 1\nfsdp_config: *a\n", {"fsdp_config.fsdp_version": UNSET}, "comes from an anchor"),
    ],
)
def test_what_anchors_share_is_not_changed_behind_ones_back(
    project: Project, text: str, changes: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigFileError, match=problem):
        after(project, text, changes)


def test_json_stays_json(project: Project) -> None:
    text = json.dumps({"num_processes": 2, "é": 1, "params": {"a": {"b": 1}}, "fp16": True}, indent=2)
    now = after(
        project, text, {"params.a.b": UNSET, "mixed_precision": "bf16", "fsdp_config.fsdp_version": 2}, "x.json"
    )
    assert json.loads(now) == {
        "num_processes": 2, "é": 1, "mixed_precision": "bf16", "fsdp_config": {"fsdp_version": 2}
    }  # fmt: skip
    assert now.startswith('{\n  "num_processes": 2,\n')
    assert list(json.loads(now)) == ["num_processes", "é", "mixed_precision", "fsdp_config"]
    assert after(project, '{\n\t"seed": 1\n}\n', {"seed": 2}) == '{\n\t"seed": 2\n}\n'
    assert after(project, "", {"seed": 2}, "y.json") == '{\n  "seed": 2\n}\n'


def test_a_new_file_says_whose_it_is(project: Project) -> None:
    path = project.folder / ".accelerate" / "default_config.yaml"
    assert write_changes(path, {"seed": UNSET}) == ("", "")
    assert not path.exists()
    write_changes(path, {"fsdp_config": {"fsdp_version": 2}, "params": {"a": {"b": [1, {"c": None}]}}})
    assert path.read_text() == (
        f"{HEADER}fsdp_config:\n  fsdp_version: 2\nparams:\n  a:\n    b: [1, {{c: null}}]\n"
    )  # fmt: skip


names = some.text("abcxyz_1 é:#'\"{}[]&*!|>%@`\\-", min_size=1, max_size=6).filter(lambda name: "." not in name)
leaves = (
    some.none() | some.booleans() | some.integers() | some.floats(allow_nan=False)
    | some.text(some.characters(exclude_categories=["Cs"]), max_size=12)
    | some.sampled_from(["no", "1e-4", "12:30", "~", "2020-01-01", "0x1f", "a: b", "# c", "<<", "=", "\n", "a\nb"])
)  # fmt: skip
values = some.recursive(leaves, lambda inner: some.lists(inner, max_size=3), max_leaves=4)


@settings(max_examples=50, deadline=None)
@given(data=some.data(), is_json=some.booleans())
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, data: some.DataObject, is_json: bool
) -> None:
    path = tmp_path_factory.mktemp("files") / ("x.json" if is_json else "x.yaml")
    held: dict[str, Any] = {}
    for name, value in data.draw(some.dictionaries(names, values, min_size=1, max_size=4)).items():
        assume(not (is_json and "inf" in repr(value)))
        path.write_bytes(changed_text(path, {f"params.{name}": value})[1].encode())
        held[f"params.{name}"] = value
    for name in list(held)[::2]:
        path.write_bytes(changed_text(path, {name: UNSET})[1].encode())
        del held[name]
    read = {key: setting.value for key, setting in read_layer(path, "file").settings.items()}
    assert read == held


PARTS = (
    "# c\n", "\n", "seed: 1 # s\n", "fsdp_config:\n  fsdp_version: 1\n  # deeper\n", "role: |\n  x\n\n",
    "gpu_ids:\n- 1\n", "params: {a: 1,\n  b: 2}\n", "debug: no\n",
    "params:\n# left\n  a: 1\n    # right\n  b: |\n    x\n",
)  # fmt: skip


@settings(max_examples=50, deadline=None)
@given(
    lines=some.lists(some.sampled_from(PARTS), max_size=9, unique_by=lambda part: part.partition(":")[0]),
    key=some.sampled_from(
        ["seed", "fsdp_config.fsdp_version", "fsdp_config.fsdp_forward_prefetch", "role", "params.b"]
    ),
    value=some.sampled_from([1, UNSET]),
)
def test_no_comment_is_lost(tmp_path_factory: pytest.TempPathFactory, lines: list[str], key: str, value: Any) -> None:
    path = tmp_path_factory.mktemp("files") / "x.yaml"
    path.write_text("".join(lines))
    value = str(value) if key == "role" and value is not UNSET else value
    before, now = changed_text(path, {key: value})
    comments = [[line.strip() for line in text.splitlines() if line.lstrip().startswith("#")] for text in (before, now)]
    assert comments[0] == [line for line in comments[1] if line != HEADER.strip()]
    others = {name: held for name, held in (yaml.safe_load(before) or {}).items() if name != key.partition(".")[0]}
    assert others.items() <= (yaml.safe_load(now) or {}).items()


# --- today's words ---


@pytest.mark.parametrize(
    ("text", "changes", "expected"),
    [
        ("fp16: true  # half\n", {"mixed_precision": "bf16"}, "mixed_precision: bf16  # half\n"),
        ("mixed_precision: no\nfp16: true\n", {"mixed_precision": "bf16"}, "mixed_precision: bf16\n"),
        ("fp16: true\n", {"mixed_precision": UNSET}, ""),
        ("fsdp_config:\n  sharding_strategy: 1  # c\n", {"fsdp_config.fsdp_sharding_strategy": "NO_SHARD"},
         "fsdp_config:\n  fsdp_sharding_strategy: NO_SHARD  # c\n"),
        ("fsdp_config:\n  version: 1\n", {"fsdp_config.fsdp_version": 2}, "fsdp_config:\n  fsdp_version: 2\n"),
        ("dynamo_backend: EAGER  # c\n", {"dynamo_config.dynamo_backend": "inductor"},
         "dynamo_config:\n  dynamo_backend: inductor  # c\n"),
        ('{"fp16": true, # c\n}', {"mixed_precision": "no"}, '{"mixed_precision": \'no\', # c\n}'),
    ],
)  # fmt: skip
def test_an_old_name_gives_way_when_its_key_is_set(
    project: Project, text: str, changes: dict[str, Any], expected: str
) -> None:
    assert after(project, text, changes) == expected


def test_a_whole_file_in_todays_words(project: Project) -> None:
    text = (
        "# mine\nfp16: true # half\ndistributed_type: TPU\ndynamo_backend: EAGER  # c\nuse_xpu: true\n"
        "fsdp_config:\n  sharding_strategy: 1\n  fsdp_auto_wrap_policy: TRANSFORMER_LAYER_AUTO_WRAP_POLICY\n"
        "tpu_config:\n  name: pod\n  zone: here\nnum_processes: -1\nnewer: x\nparams: {a.b: 1}\n"
    )
    path = project.write("named.yaml", text)
    write_modernized(path)
    assert path.read_text() == (
        "# mine\nmixed_precision: fp16 # half\ndistributed_type: XLA\n"
        "fsdp_config:\n  fsdp_sharding_strategy: FULL_SHARD\n  fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP\n"
        "num_processes: -1\nnewer: x\nparams: {a.b: 1}\n"
        "dynamo_config:\n  dynamo_backend: eager  # c\ntpu_name: pod\ntpu_zone: here\n"
    )
    assert modernized_text(path)[0] == modernized_text(path)[1]


def test_what_an_anchor_brings_in_keeps_its_words(project: Project) -> None:
    text = "a: &a\n  sharding_strategy: FULL_SHARD\nfsdp_config:\n  <<: *a\n"
    assert modernized_text(project.write("named.yaml", text)) == (text, text)


# --- what is refused ---


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_processes": 0}, r"num_processes=0 \(for named.yaml\) is not valid. Possible: a whole number from 1"),
        ({"mixed_precision": "bf61"}, "Did you mean 'bf16'"),
        ({"num_proceses": 2}, "Did you mean 'num_processes'"),
        ({"fsdp_config.fsdp_reshard": True}, "Did you mean 'fsdp_config.fsdp_reshard_after_forward'"),
        ({"num_proceses": UNSET}, "Did you mean 'num_processes'"),
        ({"params.a": object()}, "a number, a text, true, false, null"),
        ({"params.a": [{1: 2}]}, "a number, a text"),
        ({"fsdp_config": 5}, r"fsdp_config=5 \(for named.yaml\) is not valid. Possible: a mapping"),
        ({"params.x.deeper": 1}, "params.x is 5 there"),
        ({"deepspeed_config.optimizer": {"a": object()}}, "a number, a text"),
        ({"aws_secret_access_key": "very"}, "the variable AWS_SECRET_ACCESS_KEY, in the environment or"),
        ({"params.hub.token": "very"}, "the variable HUB_TOKEN, in the environment"),
        ({"params.hub": {"name": "x", "token": ["very"]}}, r"params.hub.token=\*+ "),
        ({"tpu_env": ["HF_TOKEN=very"]}, r"tpu_env=\*+"),
    ],
)
def test_what_is_wrong_is_refused_before_anything_is_written(
    project: Project, changes: dict[str, Any], message: str
) -> None:
    path = project.write("named.yaml", "params: {x: 5}\n")
    with pytest.raises(ConfigError, match=message) as raised:
        write_changes(path, {"seed": 1, **changes})
    assert "very" not in str(raised.value)
    assert path.read_text() == "params: {x: 5}\n"


def test_json_has_no_infinity(project: Project) -> None:
    with pytest.raises(ConfigError, match=r"params.a=inf .* what this kind of file can hold"):
        after(project, "", {"params.a": float("inf")}, "x.json")
    assert after(project, "", {"params.a": float("inf")}).endswith("a: .inf\n")


def test_a_comment_does_not_fall_into_a_text(project: Project) -> None:
    text = "role: |\n  x\n\nfsdp_config:\n  fsdp_version: 1\n  # deeper\nseed: 1\n"
    assert after(project, text, {"fsdp_config": UNSET}) == "role: |\n  x\n\n# deeper\nseed: 1\n"


def test_a_secret_may_be_named(project: Project) -> None:
    assert "token: '${oc.env:HF_TOKEN}'" in after(project, "", {"params.hub.token": "${oc.env:HF_TOKEN}"})
    assert "num_processes: '${oc.env:N}'" in after(project, "", {"num_processes": "${oc.env:N}"})
    assert "token: null" in after(project, "", {"params.hub.token": None})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nbaccel_snapshot: 1\nconfig: {seed: 1}\n", "this is the record of a run"),
        ("seed: [1\n", "named.yaml:2:1"),
        ("- 1\n", "the file is no mapping"),
    ],
)
def test_files_that_cannot_be_changed(project: Project, text: str, message: str) -> None:
    path = project.write("named.yaml", text)
    for change in (lambda: write_changes(path, {"seed": 2}), lambda: write_modernized(path)):
        with pytest.raises(ConfigFileError, match=message):
            change()
    assert path.read_text() == text


@pytest.mark.parametrize("name", ["x.yaml", "x.json"])
def test_half_a_character_is_refused(project: Project, name: str) -> None:
    with pytest.raises(ConfigFileError, match=name):
        write_changes(project.folder / name, {"params.a": "\ud800"})
    assert not (project.folder / name).exists()


def test_todays_words_for_no_file(project: Project) -> None:
    with pytest.raises(ConfigFileError, match="no such file"):
        modernized_text(project.folder / "missing.yaml")


# --- on the disk ---


def test_mode_and_link_stay(project: Project) -> None:
    target = project.write("real.yaml", "seed: 1\n")
    target.chmod(0o640)
    link = project.folder / "link.yaml"
    link.symlink_to(target)
    write_changes(link, {"seed": 2})
    assert link.is_symlink()
    assert target.read_text() == "seed: 2\n"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


def test_a_new_file_has_the_mode_of_new_files(project: Project) -> None:
    write_text(project.folder / "a" / "b.yaml", "x")
    (project.folder / "other").write_text("x")
    assert (project.folder / "a" / "b.yaml").stat().st_mode == (project.folder / "other").stat().st_mode


def test_what_cannot_be_written_says_why(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    path = project.write("file", "seed: 1\n")
    with pytest.raises(ConfigFileError, match=r"cannot be written: (File exists|Not a directory)"):
        write_text(path / "inside.yaml", "x")
    with pytest.raises(ConfigFileError, match="cannot be written"):
        write_changes(path / "inside.yaml", {"seed": 1})
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # tests may run as root, who may write everything
    with pytest.raises(ConfigFileError, match="it is read-only"):
        write_text(path, "x")
    assert path.read_text() == "seed: 1\n"


def test_a_full_disk_leaves_the_old_file(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    path = project.write("named.yaml", "seed: 1\n")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigFileError, match="No space left"):
        write_text(path, "seed: 2\n")
    assert [file.name for file in project.folder.iterdir()] == ["named.yaml"]
    assert path.read_text() == "seed: 1\n"


def test_folders_that_cannot_be_locked_are_written_to(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)
    write_changes(project.folder / "x.yaml", {"seed": 1})
    assert "seed: 1" in (project.folder / "x.yaml").read_text()


_WRITER = """
import itertools, pathlib, sys
from nbaccel.config.files.write import write_text
path = pathlib.Path(sys.argv[1])
print("ready", flush=True)
for number in itertools.count():
    write_text(path, f"# {number % 10}\\n" + f"seed: {number % 10}\\n" * 20_000)
"""


def test_a_killed_writer_leaves_a_whole_file(project: Project) -> None:
    path = project.write("named.yaml", "# 0\n" + "seed: 0\n" * 20_000)
    for _ in range(4):
        writer = subprocess.Popen([sys.executable, "-c", _WRITER, path], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(random.uniform(0.01, 0.08))
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
        head, *lines = path.read_text().splitlines()
        assert lines == [f"seed: {head[2:]}"] * 20_000


_CHANGER = """
import pathlib, sys
from nbaccel.config.files.write import write_changes
for number in range(15):
    write_changes(pathlib.Path(sys.argv[1]), {f"params.{sys.argv[2]}{number}": number})
"""


def test_two_writers_lose_nothing(project: Project) -> None:
    path = project.write("named.yaml", "# mine\nseed: 1\n")
    writers = [subprocess.Popen([sys.executable, "-c", _CHANGER, path, name]) for name in "ab"]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    held = yaml.safe_load(path.read_text())
    assert held == {"seed": 1, "params": {f"{name}{number}": number for name in "ab" for number in range(15)}}
    assert [file.name for file in project.folder.iterdir()] == ["named.yaml"]


def test_all_that_is_said_is_found_again(project: Project) -> None:
    path = project.write(
        "named.yaml", "num_proceses: 3\nfp16: true\nfsdp_config: {version: 2}\ndeepspeed_config: x.json\n"
    )
    found = {key: setting.value for key, setting in write.settings_of_text(path, "file").items()}
    assert found == {
        "num_proceses": 3, "mixed_precision": "fp16", "fsdp_config.fsdp_version": 2,
        "deepspeed_config.deepspeed_config_file": "x.json",
    }  # fmt: skip
