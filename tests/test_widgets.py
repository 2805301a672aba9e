"""The configuration form, driven through its controls."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ipywidgets
import pytest
import yaml

from nbaccel.config import KEYS, NOTEBOOK, Resolved, resolve
from nbaccel.config.layers import PARAMS, plain_value
from nbaccel.config.schema import COMMON
from nbaccel.errors import ConfigError
from nbaccel.machine import Gpu, Machine
from nbaccel_widgets import ConfigForm
from nbaccel_widgets.config_form.copying import FORMS
from nbaccel_widgets.config_form.preview import HEADER
from nbaccel_widgets.config_form.sections import sections

GIB = 2**30
TWO_GPUS = Machine(usable_cores=8, physical_cores=4, gpus=tuple(Gpu(n, str(n), "H100", 80 * GIB) for n in (0, 1)))
CPU_ONLY = Machine(usable_cores=8, physical_cores=2, memory_bytes=16 * GIB)

PROJECT = """\
# ours
mixed_precision: fp16   # tuned
fsdp_config:
  fsdp_version: 2
params:
  lr: 0.001
"""

Open = Callable[..., ConfigForm]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with a project file; what is set for the notebook meanwhile is forgotten."""
    (tmp_path / ".accelerate").mkdir()
    (tmp_path / ".accelerate/default_config.yaml").write_text(PROJECT)
    monkeypatch.chdir(tmp_path)
    before = NOTEBOOK.layer()
    NOTEBOOK.replace({})
    yield tmp_path
    NOTEBOOK.replace(before)


@pytest.fixture
def opened(folder: Path) -> Open:
    def open_form(machine: Machine = CPU_ONLY, environ: Mapping[str, str] | None = None, **more: Any) -> ConfigForm:
        return ConfigForm(machine, {"HOME": str(folder / "home"), **(environ or {})}, **more)

    return open_form


def project(folder: Path) -> Path:
    return folder / ".accelerate/default_config.yaml"


def text_in(widget: Any) -> str:
    """All HTML below a widget, so that nothing is missed."""
    inner = "".join(text_in(child) for child in getattr(widget, "children", ()))
    return inner + (widget.value if isinstance(widget, ipywidgets.HTML) else "")


# --- what it is made of ---


def test_every_key_stands_under_a_tab_with_a_labelled_control_of_its_kind(opened: Open) -> None:
    form = opened()
    shown = {key for section in sections() for key in section.keys}
    assert shown == set(KEYS) - {PARAMS}
    for name in shown:
        label = form.row(name).control.description.split(" ")[0]
        assert name.endswith(label)
    kinds = {name: type(form.row(name).control) for name in shown}
    assert kinds["mixed_precision"] is ipywidgets.Dropdown
    assert kinds["use_cpu"] is ipywidgets.Dropdown
    assert kinds["num_processes"] is ipywidgets.Text
    assert kinds["deepspeed_config.zero_optimization"] is ipywidgets.Textarea
    assert kinds["aws_secret_access_key"] is ipywidgets.Password
    assert not form.row("num_processes").control.continuous_update


def test_tabs_are_filled_when_they_are_first_opened(opened: Open) -> None:
    form = opened()
    common, machines, *_ = form.body.tabs.children
    assert len(common.children) > 1
    assert machines.children == ()
    form.body.open("Machines")
    assert len(machines.children) > 1


def test_tabs_tell_how_many_keys_are_set(opened: Open) -> None:
    form = opened()
    titles = [form.body.tabs.get_title(number) for number in range(len(form.body.tabs.children))]
    assert titles == [
        "Common (1)", "Machines", "Running", "Training (1)", "Parallel (1)", "Data", "Project", "Parameters (1)",
    ]  # fmt: skip
    form.row("seed").control.value = "3"
    assert form.body.tabs.get_title(0) == "Common (2)"
    assert form.body.tabs.get_title(3) == "Training (2)"


def test_an_untouched_form_sets_nothing(opened: Open, folder: Path) -> None:
    form = opened(environ={"ACCELERATE_MIXED_PRECISION": "bf16"})
    for section in sections():
        form.body.open(section.title)
    assert form.values == {}
    assert NOTEBOOK.layer() == {}
    assert form.foot.copied.value == "%%accelerate"
    assert project(folder).read_text() == PROJECT


# --- the preview ---


def test_the_preview_shows_what_every_layer_says(opened: Open, folder: Path) -> None:
    form = opened(environ={"ACCELERATE_MIXED_PRECISION": "bf16"}, call={"seed": 1}, arguments={"seed": 2})
    note = form.row("mixed_precision").note
    columns = [name for name in HEADER.split("<th")[1:] if "</th>" in name]
    assert [name.split(">")[1].split("<")[0] for name in columns] == [
        "argument", "call", "notebook", "environment", "file", "project", "user", "default",
    ]  # fmt: skip
    cells = note.value.split("<td")[1:]
    assert len(cells) == 8
    assert "\N{CHECK MARK} bf16" in cells[3]
    assert "nba-winning" in cells[3]
    assert "<s>fp16</s>" in cells[5]
    assert "<s>no</s>" in cells[7]
    assert "the variable ACCELERATE_MIXED_PRECISION" in note.value
    assert ".accelerate/default_config.yaml:2:18" in note.value
    seed = form.row("seed").note.value.split("<td")[1:]
    assert "\N{CHECK MARK} 2" in seed[0]
    assert "<s>1</s>" in seed[1]


def test_an_edit_wins_over_environment_and_file_at_once(opened: Open) -> None:
    form = opened(environ={"ACCELERATE_MIXED_PRECISION": "bf16"})
    row = form.row("mixed_precision")
    assert dict(row.control.options)["(bf16, environment)"] == ""
    row.control.value = "no"
    cells = row.note.value.split("<td")[1:]
    assert "\N{CHECK MARK} no" in cells[2]
    assert "<s>bf16</s>" in cells[3]
    assert "the configuration form" in row.note.value
    assert "changed" in row.control.description
    assert {"nba-own", "nba-changed"} <= set(row.box._dom_classes)
    row.reset.click()
    assert "\N{CHECK MARK} bf16" in row.note.value
    assert form.values == {}
    assert "nba-own" not in row.box._dom_classes
    assert row.control.description == "mixed_precision"


def test_a_field_shows_what_holds_below(opened: Open) -> None:
    form = opened(environ={"ACCELERATE_NUM_PROCESSES": "3"})
    assert form.row("num_processes").control.placeholder == "3, environment"
    assert form.row("hang_after").control.placeholder == "60.0"
    assert form.row("seed").control.placeholder == "not set"


def test_a_key_without_effect_says_so(opened: Open) -> None:
    form = opened()
    assert "has no effect: distributed_type is not set, not FSDP" in form.row("fsdp_config.fsdp_version").note.value
    form.row("distributed_type").control.value = "FSDP"
    assert "has no effect" not in form.row("fsdp_config.fsdp_version").note.value


# --- this notebook ---


def test_edits_of_the_notebook_count_at_once_and_undo_is_its_undo(opened: Open) -> None:
    form = opened()
    form.row("num_processes").control.value = " 2 "
    form.row("use_cpu").control.value = "true"
    config = resolve(environ={}).config
    assert (config.num_processes, config.use_cpu) == (2, True)
    assert "+use_cpu: true" in form.foot.diff.value
    assert "Changes (2)" in form.foot.tabs.get_title(0)
    form.foot.undo.click()
    assert resolve(environ={}).config.use_cpu is False
    assert form.row("use_cpu").control.value == ""
    NOTEBOOK.update({"seed": "5"}, "%accelerate set seed")
    form.foot.refresh.click()
    assert form.row("seed").control.value == "5"
    form.foot.revert.click()
    assert NOTEBOOK.layer() == {}
    form.foot.undo.click()
    assert set(NOTEBOOK.layer()) == {"num_processes", "seed"}
    assert form.foot.save.disabled


def test_there_may_be_nothing_to_undo(opened: Open) -> None:
    form = opened()
    form.head.target.value = "project"
    form.foot.undo.click()
    assert "There is nothing to undo" in form.foot.said.value


def test_null_is_a_value_and_an_empty_field_is_none(opened: Open) -> None:
    form = opened(environ={"ACCELERATE_NUM_PROCESSES": "3"})
    form.row("num_processes").control.value = "null"
    assert form.values == {"num_processes": None}
    assert resolve(environ={"ACCELERATE_NUM_PROCESSES": "3"}).config.num_processes is None
    form.row("num_processes").control.value = ""
    assert form.values == {}


def test_wrong_values_are_explained_at_their_fields_and_set_nothing(opened: Open) -> None:
    form = opened()
    row = form.row("num_processes")
    row.control.value = "2"
    row.control.value = "two"
    assert "num_processes=&#x27;two&#x27; is not valid. Possible: a whole number from 1." in row.note.value
    assert 'role="alert"' in row.note.value
    assert row.control.value == "two"
    assert form.wrong.keys() == {"num_processes"}
    assert form.values == {"num_processes": "2"}
    row.control.value = "3"
    assert "is not valid" not in row.note.value
    assert form.wrong == {}
    assert form.values == {"num_processes": "3"}


def test_a_value_that_would_break_the_whole_is_not_kept(opened: Open) -> None:
    form = opened()
    form.row("profile").control.value = "prod"
    assert "there is no file" in form.row("profile").note.value
    assert NOTEBOOK.layer() == {}
    assert resolve(environ={}).config.profile is None


def test_what_breaks_outside_is_not_blamed_on_an_edit(opened: Open, folder: Path) -> None:
    form = opened()
    project(folder).write_text("mixed_precision: [fp16\n")
    form.row("seed").control.value = "3"
    assert form.values == {"seed": "3"}
    assert form.wrong == {}
    assert "cannot start" in form.head.outlook.value


def test_undo_takes_back_what_is_wrong_in_a_field_first(opened: Open) -> None:
    form = opened()
    form.row("seed").control.value = "3"
    form.row("timeout").control.value = "soon"
    form.foot.undo.click()
    assert form.wrong == {}
    assert form.row("timeout").control.value == ""
    assert form.values == {"seed": "3"}


def test_an_interpolation_that_leads_nowhere_is_not_kept(opened: Open) -> None:
    pytest.importorskip("omegaconf")
    form = opened()
    form.row("seed").control.value = "${nothing.like_this}"
    assert "nothing" in form.row("seed").note.value.split("nba-chain")[0]
    assert form.values == {}
    form.row("num_machines").control.value = "${params.lr}"
    assert form.values == {}


def test_a_wrong_variable_is_explained_and_can_be_overruled(opened: Open) -> None:
    form = opened(environ={"ACCELERATE_MIXED_PRECISION": "bf17"})
    row = form.row("mixed_precision")
    assert "Did you mean &#x27;bf16&#x27;?" in row.note.value
    assert "Not valid: <code>mixed_precision</code>" in form.head.outlook.value
    row.control.value = "bf16"
    assert "is not valid" not in row.note.value
    assert "can start" in form.head.outlook.value


# --- files ---


def test_changes_of_the_project_file_wait_as_a_diff_and_are_saved_with_its_comments(opened: Open, folder: Path) -> None:
    form = opened()
    form.head.target.value = "project"
    assert form.row("mixed_precision").control.value == "fp16"
    form.row("mixed_precision").control.value = "bf16"
    form.row("timeout").control.value = "60"
    form.row("params.lr").control.value = ""
    assert project(folder).read_text() == PROJECT
    diff = form.foot.diff.value
    assert "-mixed_precision: fp16   # tuned" in diff
    assert "+mixed_precision: bf16   # tuned" in diff
    assert "default_config.yaml (not saved yet)" in form.row("mixed_precision").note.value
    assert not form.foot.save.disabled
    form.foot.save.click()
    assert "Saved .accelerate/default_config.yaml." in form.foot.said.value
    assert project(folder).read_text() == (
        "# ours\nmixed_precision: bf16   # tuned\nfsdp_config:\n  fsdp_version: 2\ntimeout: 60\n"
    )
    assert ".accelerate/default_config.yaml:2:18" in form.row("mixed_precision").note.value
    assert form.foot.save.disabled
    assert "No changes of .accelerate/default_config.yaml" in form.foot.diff.value


def test_file_edits_can_be_undone_and_reverted(opened: Open, folder: Path) -> None:
    form = opened()
    form.head.target.value = "project"
    form.row("seed").control.value = "1"
    form.row("seed").control.value = "2"
    form.foot.undo.click()
    assert form.row("seed").control.value == "1"
    form.row("mixed_precision").reset.click()
    assert "\N{CHECK MARK} no" in form.row("mixed_precision").note.value
    form.foot.revert.click()
    assert form.values == {"mixed_precision": "fp16", "fsdp_config.fsdp_version": 2, "params.lr": 0.001}
    form.foot.undo.click()
    assert form.values == {"fsdp_config.fsdp_version": 2, "params.lr": 0.001, "seed": "1"}
    form.row("seed").control.value = ""
    form.row("mixed_precision").control.value = "fp16"
    assert form.foot.save.disabled


def test_wrong_fields_stand_in_the_way_of_saving(opened: Open, folder: Path) -> None:
    form = opened()
    form.head.target.value = "project"
    form.row("seed").control.value = "1"
    form.row("timeout").control.value = "soon"
    form.foot.save.click()
    assert "Not saved: correct timeout first." in form.foot.said.value
    assert project(folder).read_text() == PROJECT


def test_a_file_that_cannot_be_written_keeps_the_changes(opened: Open, folder: Path) -> None:
    form = opened()
    form.head.target.value = "project"
    form.row("seed").control.value = "1"
    project(folder).write_text("mixed_precision: [fp16\n")
    form.foot.save.click()
    assert "Not saved: " in form.foot.said.value
    assert "default_config.yaml:" in form.foot.said.value
    assert form.values["seed"] == "1"


def test_the_user_file_lies_below_the_project_and_is_made_when_it_is_saved(opened: Open, folder: Path) -> None:
    form = opened()
    form.head.target.value = "user"
    form.row("mixed_precision").control.value = "bf16"
    cells = form.row("mixed_precision").note.value.split("<td")[1:]
    assert "\N{CHECK MARK} fp16" in cells[5]
    assert "<s>bf16</s>" in cells[6]
    form.foot.save.click()
    written = (folder / "home/.cache/huggingface/accelerate/default_config.yaml").read_text()
    assert written.endswith("\nmixed_precision: bf16\n")
    assert "Saved home/.cache/huggingface/accelerate/default_config.yaml." in form.foot.said.value


def test_saving_says_what_accelerate_would_refuse(opened: Open, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(folder / "hf"))
    form = opened(environ={"HF_HOME": str(folder / "hf")})
    form.head.target.value = "user"
    form.row("seed").control.value = "3"
    form.foot.save.click()
    assert "its own commands refuse a file with seed" in form.foot.said.value


def test_a_file_that_was_named_is_offered(opened: Open, folder: Path) -> None:
    (folder / "named.yaml").write_text("seed: 3\n")
    form = opened(config_file="named.yaml")
    assert "\N{CHECK MARK} 3" in form.row("seed").note.value.split("<td")[5]
    form.head.target.value = "file"
    assert form.row("seed").control.value == "3"


def test_another_file_is_shown_as_the_named_one(opened: Open, folder: Path) -> None:
    (folder / "named.yaml").write_text("seed: 3\n")
    form = opened()
    form.head.target.value = "file"
    assert "Which file?" in form.foot.said.value
    form.head.path.value = "named.yaml"
    assert "It counts where it is named: by --config-file" in form.foot.said.value
    assert form.row("seed").control.value == "3"
    form.row("mixed_precision").control.value = "bf16"
    cells = form.row("mixed_precision").note.value.split("<td")[1:]
    assert "\N{CHECK MARK} bf16" in cells[4]
    form.head.path.value = "new.yaml"
    form.row("seed").control.value = "4"
    form.foot.save.click()
    assert (folder / "new.yaml").read_text().endswith("seed: 4\n")
    assert (folder / "named.yaml").read_text() == "seed: 3\n"
    form.head.path.value = "named.yaml"
    assert form.row("mixed_precision").control.value == "bf16"


@pytest.mark.parametrize("is_cleared", [False, True], ids=["no path yet", "path cleared"])
def test_a_file_that_is_not_named_yet_takes_no_changes(opened: Open, folder: Path, *, is_cleared: bool) -> None:
    NOTEBOOK.update({"seed": "5"}, "%accelerate set seed")
    (folder / "named.yaml").write_text("seed: 3\n")
    form = opened()
    form.head.target.value = "file"
    if is_cleared:
        form.head.path.value = "named.yaml"
        form.row("timeout").control.value = "9"
        form.head.path.value = ""
    before = NOTEBOOK.layer()
    assert "Which file?" in form.foot.said.value
    assert form.values == {}
    assert form.row("seed").control.value == ""
    form.row("seed").control.value = "4"
    assert "another file: nobody has said which. Write its path into the field File first." in form.wrong["seed"]
    assert "nobody has said which" in form.row("seed").note.value
    form.foot.undo.click()
    assert form.wrong == {}
    form.foot.undo.click()
    assert "There is nothing to undo" in form.foot.said.value
    form.revert()
    form.save()
    assert "Nothing to save: the file is not named yet." in form.foot.said.value
    assert form.foot.save.disabled
    assert form.foot.take_over.disabled
    assert "No changes of another file." in form.foot.diff.value
    assert NOTEBOOK.layer() == before
    form.head.path.value = "named.yaml"
    assert form.row("seed").control.value == "3"
    assert form.edits.is_pending is is_cleared
    assert (folder / "named.yaml").read_text() == "seed: 3\n"


def test_what_was_wrong_in_a_field_goes_with_its_layer(opened: Open) -> None:
    form = opened()
    form.row("timeout").control.value = "soon"
    form.head.target.value = "file"
    assert form.row("timeout").control.value == ""
    assert "is not valid" not in form.row("timeout").note.value


@pytest.mark.parametrize("layer", ["notebook", "project"])
@pytest.mark.parametrize(
    ("before", "after"),
    [("1", "true"), ("0", "false"), ("true", "1"), ("[1, 0]", "[true, false]"), ("[a: 1]", "[a: true]")],
)
def test_a_number_and_a_truth_value_are_two_things(
    opened: Open, folder: Path, layer: str, before: str, after: str
) -> None:
    project(folder).write_text(f"params:\n  flag: {before}\n")
    NOTEBOOK.update({"params.flag": plain_value(before)}, "%accelerate set params.flag")
    form = opened()
    form.head.target.value = layer
    form.body.open("Parameters")
    row = form.row("params.flag")
    for text in (after, before, after):
        row.control.value = text
        assert repr(form.values["params.flag"]) == repr(plain_value(text))
        assert ("params.flag" in form.edits.changed()) is (text == after)
        assert ("nba-changed" in row.box._dom_classes) is (text == after)
    assert "No changes" not in form.foot.diff.value
    form.foot.save.click()
    saved = resolve(environ={}).config.params["flag"] if layer == "notebook" else file_says(project(folder))["flag"]
    assert repr(saved) == repr(plain_value(after))


def test_a_pending_number_gives_way_to_a_truth_value(opened: Open) -> None:
    form = opened()
    form.head.target.value = "project"
    form.body.open("Parameters")
    row = form.row("params.lr")
    row.control.value = "1"
    row.control.value = "true"
    assert form.values["params.lr"] is True
    assert "\N{CHECK MARK} true" in row.note.value
    form.foot.undo.click()
    assert row.control.value == "1"


def test_a_truth_value_that_came_from_outside_is_shown(opened: Open) -> None:
    NOTEBOOK.update({"params.flag": 1}, "%accelerate set params.flag")
    form = opened()
    assert form.row("params.flag").control.value == "1"
    NOTEBOOK.update({"params.flag": True}, "%accelerate set params.flag")
    form.foot.refresh.click()
    assert form.row("params.flag").control.value == "true"


def file_says(path: Path) -> Mapping[str, Any]:
    """The parameters in a file."""
    params: Mapping[str, Any] = yaml.safe_load(path.read_text())["params"]
    return params


def test_what_an_included_file_says_cannot_be_reset(opened: Open, folder: Path) -> None:
    (folder / ".accelerate/base.yaml").write_text("seed: 9\n")
    project(folder).write_text(f"include: base.yaml\n{PROJECT}")
    form = opened()
    form.head.target.value = "project"
    row = form.row("seed")
    row.reset.click()
    assert "seed comes from an included file, .accelerate/base.yaml:1:7: change it there" in form.foot.said.value
    assert row.control.value == "9"
    assert not form.edits.is_pending
    row.control.value = "4"
    row.reset.click()
    assert row.control.value == "9"
    assert not form.edits.is_pending
    form.row("mixed_precision").reset.click()
    assert form.foot.said.value == '<span role="status"></span>'


def test_a_reset_shows_what_an_included_file_says(opened: Open, folder: Path) -> None:
    (folder / ".accelerate/base.yaml").write_text("mixed_precision: bf16\n")
    project(folder).write_text(f"include: base.yaml\n{PROJECT}")
    form = opened()
    form.head.target.value = "project"
    row = form.row("mixed_precision")
    row.reset.click()
    assert row.control.value == "bf16"
    assert "mixed_precision comes from an included file" in form.foot.said.value
    assert "-mixed_precision: fp16" in form.foot.diff.value
    form.foot.save.click()
    assert row.control.value == "bf16"
    assert "mixed_precision" not in project(folder).read_text()


def test_lists_of_lines_are_saved_as_lists(opened: Open, folder: Path) -> None:
    project(folder).write_text("commands: [a, b]\n")
    form = opened()
    form.head.target.value = "project"
    row = form.row("commands")
    assert row.control.value == '["a", "b"]'
    row.control.value = '["a", "c, d"]'
    form.foot.save.click()
    assert yaml.safe_load(project(folder).read_text()) == {"commands": ["a", "c, d"]}
    row.control.value = '["a",  "c, d"]'
    assert not form.edits.is_pending
    row.control.value = "[ -f x ] && y"
    form.foot.save.click()
    assert resolve(environ={}).config.commands == ("[ -f x ] && y",)


def test_changes_outside_are_seen_at_a_refresh(opened: Open, folder: Path) -> None:
    environ = {"HOME": str(folder / "home")}
    form = ConfigForm(CPU_ONLY, environ)
    project(folder).write_text("mixed_precision: bf16\n")
    environ["ACCELERATE_NUM_PROCESSES"] = "2"
    form.foot.refresh.click()
    assert "\N{CHECK MARK} bf16" in form.row("mixed_precision").note.value
    assert "\N{CHECK MARK} 2" in form.row("num_processes").note.value


def test_a_broken_file_does_not_keep_the_form_closed(opened: Open, folder: Path) -> None:
    project(folder).write_text("mixed_precision: [fp16\n")
    form = opened(environ={"ACCELERATE_NUM_PROCESSES": "2"})
    assert "cannot start" in form.head.outlook.value
    assert ".accelerate/default_config.yaml:" in form.head.outlook.value
    assert "\N{CHECK MARK} 2" in form.row("num_processes").note.value
    project(folder).write_text("mixed_precison: fp16\n")
    form.foot.refresh.click()
    assert "mixed_precison" in form.head.outlook.value
    project(folder).write_text(PROJECT)
    form.foot.refresh.click()
    assert "can start" in form.head.outlook.value


def test_what_is_set_for_the_notebook_can_be_taken_over_into_a_file(opened: Open, folder: Path) -> None:
    form = opened()
    form.row("num_processes").control.value = "2"
    form.row("aws_secret_access_key").control.value = "hidden"
    assert form.foot.take_over.disabled
    form.head.target.value = "project"
    form.foot.take_over.click()
    assert "1 key taken over, not saved yet. Left out: aws_secret_access_key." in form.foot.said.value
    form.foot.save.click()
    assert "num_processes: 2" in project(folder).read_text()
    assert "hidden" not in project(folder).read_text()


def test_secrets_are_never_shown_and_never_written(opened: Open, folder: Path) -> None:
    form = opened(environ={"AWS_SECRET_ACCESS_KEY": "s3cr3t-variable"})
    form.row("compute_environment").control.value = "AMAZON_SAGEMAKER"
    form.body.open("Machines")
    row = form.row("aws_secret_access_key")
    row.control.value = "s3cr3t-edit"
    shown = text_in(form) + form.foot.copied.value + str(row.control.placeholder)
    assert "s3cr3t" not in shown
    assert "********" in row.note.value
    assert "Left out: aws_secret_access_key (secret)." in form.foot.remark.value
    assert "aws" not in form.foot.copied.value
    form.head.target.value = "project"
    row.control.value = "s3cr3t-file"
    assert "the variable AWS_SECRET_ACCESS_KEY" in row.note.value
    assert "s3cr3t" not in text_in(form)
    assert not form.edits.is_pending


# --- what is shown ---


def test_only_what_makes_sense_is_shown(opened: Open) -> None:
    form = opened()
    form.body.open("Parallel")
    page = form.body.tabs.children[4]
    assert form.row("ddp_config.static_graph").box in shown_rows(page)
    assert form.row("fsdp_config.fsdp_offload_params").box not in shown_rows(page)
    assert form.row("fsdp_config.fsdp_version").box in shown_rows(page), "somebody has set it"
    assert "deepspeed_config (with distributed_type DEEPSPEED)" in text_in(page)
    form.row("distributed_type").control.value = "FSDP"
    assert form.row("fsdp_config.fsdp_offload_params").box in shown_rows(page)
    assert form.row("ddp_config.static_graph").box not in shown_rows(page)
    assert form.row("fsdp_config.fsdp_min_num_params").box not in shown_rows(page)
    form.row("fsdp_config.fsdp_auto_wrap_policy").control.value = "SIZE_BASED_WRAP"
    assert form.row("fsdp_config.fsdp_min_num_params").box in shown_rows(page)


def shown_rows(page: Any) -> list[Any]:
    found = []
    for child in page.children:
        found += [child] if "nba-row" in child._dom_classes else shown_rows(child) if hasattr(child, "children") else []
    return found


def test_a_search_finds_rows_of_all_sections(opened: Open) -> None:
    form = opened()
    form.head.search.value = "precision"
    assert shown_rows(form.body.results)[0] is form.row("mixed_precision").box
    assert form.body.tabs.layout.display == "none"
    form.head.search.value = "ACCELERATE_MIXED"
    assert [form.row("mixed_precision").box] == shown_rows(form.body.results)
    form.row("mixed_precision").control.value = "bf16"
    assert form.values == {"mixed_precision": "bf16"}
    form.head.search.value = "nothing like this"
    assert "Nothing found" in text_in(form.body.results)
    form.head.search.value = ""
    assert form.body.results.layout.display == "none"
    assert form.body.tabs.layout.display == ""


def test_a_filter_leaves_only_what_is_set(opened: Open) -> None:
    form = opened()
    form.head.only_given.value = True
    assert shown_rows(form.body.tabs.children[0]) == [form.row("mixed_precision").box]
    form.body.open("Data")
    assert "Nothing is set here" in text_in(form.body.tabs.children[5])
    form.head.search.value = "fsdp"
    assert shown_rows(form.body.results) == [form.row("fsdp_config.fsdp_version").box]


def test_the_users_own_parameters_are_rows_too(opened: Open) -> None:
    form = opened(environ={"LR": "0.1"})
    form.body.open("Parameters")
    page = form.body.tabs.children[-1]
    assert shown_rows(page) == [form.row("params.lr").box]
    assert "the variable LR" in form.row("params.lr").note.value
    form.body.adding.name.value, form.body.adding.value.value = "trainer.epochs", "5"
    form.body.adding.button.click()
    assert form.values == {"params.trainer.epochs": 5}
    assert form.row("params.trainer.epochs").box in shown_rows(page)
    form.body.adding.name.value = "not a name"
    form.body.adding.button.click()
    assert "is no name" in form.body.adding.said.value
    form.body.adding.name.value, form.body.adding.value.value = "layers", "{width: 3, kinds: [a, b]}"
    form.body.adding.button.click()
    assert form.values["params.layers.kinds"] == ["a", "b"]
    form.row("params.layers.kinds").control.value = "[c]"
    assert resolve(environ={}).config.params["layers"] == {"width": 3, "kinds": ["c"]}
    form.row("params.trainer.epochs").control.value = '"5"'
    assert form.values["params.trainer.epochs"] == "5"
    assert form.row("params.trainer.epochs").control.value == '"5"'


@pytest.mark.parametrize("layer", ["notebook", "project"])
def test_a_parameter_takes_the_place_of_what_was_inside_it(opened: Open, folder: Path, layer: str) -> None:
    form = opened()
    form.head.target.value = layer
    form.edit("params.lr", "")
    form.edit("params.net", "{width: 3, depth: 2}")
    form.edit("params.net.width", "4")
    assert {key: form.values[key] for key in form.values if "net" in key} == {
        "params.net.width": 4,
        "params.net.depth": 2,
    }
    form.edit("params.net", "5")
    assert "+  net: 5" in form.foot.diff.value
    assert "net=5" in form.foot.copied.value
    form.edit("params.net.width", "4")
    assert "net.width=4" in form.foot.copied.value
    assert "params.net" not in form.values


def test_settings_that_lie_inside_each_other_do_no_harm(opened: Open) -> None:
    form = opened()
    NOTEBOOK.update({"params.net": 3}, "%accelerate set params.net")
    NOTEBOOK.update({"params.net.width": 4}, "%accelerate set params.net.width")
    for text in ("%%accelerate line", "environment exports", "notebook_launcher(...) call", "command"):
        form.foot.form.value = text
        form.foot.refresh.click()
        assert "net" in form.foot.copied.value


def test_a_wrong_file_cannot_be_copied_as_a_call(opened: Open, folder: Path) -> None:
    project(folder).write_text("mixed_precision: bf17\n")
    form = opened()
    form.head.target.value = "project"
    assert form.row("mixed_precision").control.value == "bf17"
    form.foot.form.value = "notebook_launcher(...) call"
    assert form.foot.copied.value == ""
    assert "bf17" in form.foot.remark.value


def test_mappings_and_lists_are_written_as_yaml(opened: Open) -> None:
    form = opened()
    form.row("deepspeed_config.zero_optimization").control.value = "stage: 2\noverlap_comm: true"
    assert form.values == {"deepspeed_config.zero_optimization": {"stage": 2, "overlap_comm": True}}
    form.row("deepspeed_config.zero_optimization").control.value = "[1, 2]"
    assert "Possible: a mapping" in form.row("deepspeed_config.zero_optimization").note.value
    form.row("gpu_ids").control.value = "1, 0"
    assert resolve(environ={}).config.gpu_ids == (1, 0)
    form.row("log_with").control.value = "tensorboard, wandb"
    assert resolve(environ={}).config.log_with == ("tensorboard", "wandb")


def test_nothing_that_was_written_becomes_markup(opened: Open, folder: Path) -> None:
    attack = "<script>alert(1)</script>"
    environ = {"ACCELERATE_NUM_PROCESSES": attack, "NBACCEL_MAIN_PROCESS_IP": attack}
    project(folder).write_text(f"project_name: '{attack}'\nparams:\n  '{attack}': '{attack}'\n")
    form = opened(environ=environ)
    form.row("main_process_ip").control.value = attack + "2"
    form.row("seed").control.value = attack
    form.body.adding.name.value = attack
    form.body.adding.button.click()
    for title in ("Project", "Parameters", "Common"):
        form.body.open(title)
    form.head.target.value = "project"
    form.row("base_job_name").control.value = attack
    shown = text_in(form)
    assert "<script" not in shown
    assert shown.count("&lt;script&gt;") > 8


# --- what a launch would do ---


def test_the_outlook_follows_the_plan(opened: Open) -> None:
    form = opened(TWO_GPUS)
    assert "2 workers by zygote</b> on cuda (GPUs 0,1), DDP, fp16, 4 CPU threads each" in form.head.outlook.value
    form.row("distributed_type").control.value = "FSDP"
    form.row("mixed_precision").control.value = "bf16"
    assert "FSDP on dp_shard 2, bf16" in form.head.outlook.value
    form.row("num_processes").control.value = "3"
    assert "cannot start" in form.head.outlook.value
    assert "num_processes=3 (from the configuration form): there are 2 CUDA devices" in form.head.outlook.value
    form.row("num_processes").control.value = "1"
    assert "1 worker by zygote</b> on cuda (GPUs 0,1), one process" in form.head.outlook.value


def test_the_outlook_counts_all_machines(opened: Open) -> None:
    form = opened(CPU_ONLY, {"NBACCEL_MAIN_PROCESS_IP": "10.0.0.1", "NBACCEL_MAIN_PROCESS_PORT": "29500"})
    form.row("num_machines").control.value = "2"
    assert "2 workers here, 4 over 2 machines by zygote" in form.head.outlook.value


def test_the_effective_batch_counts_workers_and_accumulation(opened: Open) -> None:
    form = opened(TWO_GPUS)
    assert "a loader&#x27;s batch \N{MULTIPLICATION SIGN} 2 (2 workers)" in form.head.outlook.value
    form.row("gradient_accumulation_steps").control.value = "4"
    form.body.adding.name.value, form.body.adding.value.value = "batch_size", "16"
    form.body.adding.button.click()
    assert "128 = 16 \N{MULTIPLICATION SIGN} 2 workers \N{MULTIPLICATION SIGN} 4 accumulated" in form.head.outlook.value
    form.head.batch.value = "8"
    assert "</b> 64 = 8" in form.head.outlook.value
    form.row("dataloader_config.split_batches").control.value = "true"
    assert "</b> 32 = 8 \N{MULTIPLICATION SIGN} 4 accumulated" in form.head.outlook.value


@pytest.mark.parametrize(
    ("settings", "gib"),
    [
        ({"mixed_precision": "no"}, 20),  # weights, gradients, two states, DDP's buckets: 5 times 4 bytes
        ({"mixed_precision": "no", "ddp_config.gradient_as_bucket_view": "true"}, 16),
        ({"mixed_precision": "bf16"}, 22),
        ({"mixed_precision": "no", "num_processes": "1"}, 16),
        ({"mixed_precision": "no", "distributed_type": "FSDP"}, 8),
        (
            {
                "mixed_precision": "no",
                "distributed_type": "FSDP",
                "fsdp_config.fsdp_sharding_strategy": "SHARD_GRAD_OP",
            },
            10,
        ),
    ],
)
def test_the_memory_is_estimated_by_what_is_sharded(opened: Open, settings: Mapping[str, str], gib: float) -> None:
    form = opened(TWO_GPUS)
    form.head.parameters.value = str(GIB)
    for key, value in settings.items():
        form.row(key).control.value = value
    assert f"about {gib}.0 GiB of 80.0 GiB for weights" in form.head.outlook.value
    assert "too much" not in form.head.outlook.value
    form.head.parameters.value = "70B"
    assert "too much" in form.head.outlook.value


def test_memory_needs_a_number_of_parameters(opened: Open) -> None:
    form = opened(CPU_ONLY)
    assert "say above how many parameters the model has" in form.head.outlook.value
    form.head.parameters.value = "many"
    assert "say above" in form.head.outlook.value
    form.head.parameters.value = "0.5 billion"
    assert "Memory per worker</b> about 10.2 GiB of 8.0 GiB" in form.head.outlook.value


# --- copying ---


EDITS = {
    "mixed_precision": "bf16",
    "gpu_ids": "1, 0",
    "use_cpu": "true",
    "sync_models": "false",
    "timeout": "9.5",
    "fsdp_config.fsdp_version": "2",
    "deepspeed_config.fp16": "{enabled: true}",
    "ddp_config.static_graph": "true",
    "num_machines": "2",
    "commands": '["a, b", "echo ${HOME} \N{SNOWMAN} \N{PARTY POPPER}"]',
    "params.note": "it's <b>",
    "params.odd": "{1st choice: [x]}",
    "params.seed": "7",
    "params.sizes": "[1, 2]",
}


def edited(opened: Open, form_name: str) -> str:
    form = opened(TWO_GPUS)
    for key, value in EDITS.items():
        form.row(key).control.value = value
    assert form.wrong == {}
    form.foot.form.value = form_name
    return str(form.foot.copied.value)


def meant() -> Mapping[str, object]:
    resolved = resolve(environ={})
    return {key: resolved.value(key) for key in EDITS if key != "params.odd"} | {"params": resolved.config.params}


def read_line(text: str) -> Resolved:
    from nbaccel.config import call_layer
    from nbaccel.notebook.flags import parse

    magic, _, flags = text.partition(" ")
    assert magic == "%%accelerate"
    return resolve(call_layer(parse(flags).settings), environ={})


def read_command(text: str) -> Resolved:
    from nbaccel.cli import launch_flags

    words = shlex.split(text)
    assert words[:2] == ["nbaccel", "launch"]
    line = launch_flags.read_line(words[2:], "nbaccel launch", launch_flags.LAUNCH_OPTIONS)
    assert line.words == ("train.py",)
    return resolve(line.settings, environ={})


def read_exports(text: str) -> Resolved:
    done = subprocess.run(["env", "-i", "sh", "-c", f"{text}\nenv -0"], capture_output=True, check=True)
    environ = dict(entry.split("=", 1) for entry in done.stdout.decode().split("\0") if entry)
    return resolve(environ=environ)


def read_call(text: str) -> Resolved:
    from nbaccel.notebook.launcher import resolve_call

    given: dict[str, Any] = {}
    exec(text, {"notebook_launcher": lambda function, **named: given.update(named), "train": None})
    names = {"master_addr": "main_process_ip", "use_port": "main_process_port"}
    names |= {"node_rank": "machine_rank", "num_nodes": "num_machines"}
    return resolve_call(**{names.get(name, name): value for name, value in given.items()})


READERS = {
    "%%accelerate line": read_line,
    "command": read_command,
    "environment exports": read_exports,
    "notebook_launcher(...) call": read_call,
}


@pytest.mark.parametrize("form_name", FORMS)
def test_what_is_copied_means_what_the_fields_say(opened: Open, form_name: str) -> None:
    text = edited(opened, form_name)
    wanted = meant()
    NOTEBOOK.replace({})
    resolved = READERS[form_name](text)
    different = {key for key in wanted if resolved.value(key) != wanted[key]}
    assert different == ({"sync_models"} if form_name == "command" else set())  # the command has no such flag


def test_the_command_tells_what_it_cannot_say(opened: Open) -> None:
    form = opened()
    form.row("start_method").control.value = "spawn"
    form.foot.form.value = "command"
    assert form.foot.copied.value == "nbaccel launch train.py"
    assert "Left out: start_method (for notebooks only)." in form.foot.remark.value


@pytest.mark.parametrize("form_name", FORMS)
def test_a_null_is_copied_as_a_null_or_named(opened: Open, form_name: str) -> None:
    nulls = [key.name for key in KEYS.values() if key.is_nullable and not key.is_secret and key.name != "profile"]
    NOTEBOOK.update(dict.fromkeys([*nulls, "mixed_precision"]), "%accelerate set")
    form = opened()
    form.foot.form.value = form_name
    remark = form.foot.remark.value
    left = set(re.findall(r"[\w.]+(?=,| \()", remark)) - {"empty"}
    assert {"project_dir", "mixed_precision"} <= left < {*nulls, "mixed_precision"}
    assert "(null or empty, for which there is no word)" in remark
    assert not left & {"num_processes", "gpu_ids", "dispatch_batches"}
    NOTEBOOK.replace({})
    resolved = READERS[form_name](form.foot.copied.value)
    said = {key for key in nulls if resolved.origin(key).layer != "default"}
    assert said == set(nulls) - left
    assert {key for key in said if resolved.value(key) is not None} == set()


# --- where it is shown ---


def test_where_no_widget_can_be_shown_there_is_a_table(opened: Open) -> None:
    form = opened()
    assert "mixed_precision" in repr(form)
    if hasattr(ipywidgets.VBox, "_repr_mimebundle_"):
        bundle = form._repr_mimebundle_()
        assert bundle["application/vnd.jupyter.widget-view+json"]["model_id"] == form.model_id
        assert "fp16" in bundle["text/html"]
        assert "fp16" in bundle["text/plain"]


def test_a_form_of_its_own_looks_at_this_machine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_NUM_PROCESSES", "1")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setenv("HF_HOME", str(folder / "home"))
    form = ConfigForm()
    assert "1 worker by zygote</b> on cpu" in form.head.outlook.value
    monkeypatch.setenv("NBACCEL_PLATFORM", "nowhere")
    with pytest.raises(ConfigError):
        ConfigForm()


def test_common_keys_come_first(opened: Open) -> None:
    form = opened()
    shown = [row.children[0].description for row in shown_rows(form.body.tabs.children[0])]
    assert shown == [key for key in COMMON if key not in hidden_without_machines()]


def hidden_without_machines() -> set[str]:
    return {key for key in COMMON if KEYS[key].needs == ("num_machines", ("2 or more",))}


def test_without_ipywidgets_the_error_says_what_to_install() -> None:
    code = "import sys; sys.modules['ipywidgets'] = None; import nbaccel_widgets"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env={**os.environ})
    assert "MissingExtraError" in done.stderr
    assert "pip install 'nbaccel[widgets]'" in done.stderr
