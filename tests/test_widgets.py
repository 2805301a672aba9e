"""The configuration form, driven through its controls."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping

import ipywidgets
import pytest

from nbaccel.config import call_layer, resolve
from nbaccel.config.schema import COMMON
from nbaccel.errors import ConfigError
from nbaccel.machine import Gpu, Machine
from nbaccel.notebook.flags import parse
from nbaccel_widgets import ConfigForm

TWO_GPUS = Machine(usable_cores=8, physical_cores=4, gpus=(Gpu(0, "0"), Gpu(1, "1")))
CPU_ONLY = Machine(usable_cores=8, physical_cores=2)


def form_on(machine: Machine, environ: Mapping[str, str] | None = None) -> ConfigForm:
    return ConfigForm(machine, environ or {})


def test_every_key_has_a_labelled_control_of_its_kind() -> None:
    form = form_on(CPU_ONLY)
    assert list(form.controls) == list(COMMON)
    for name, control in form.controls.items():
        assert control.description == name
    kinds = {name: type(control) for name, control in form.controls.items()}
    assert kinds["mixed_precision"] is ipywidgets.Dropdown
    assert kinds["use_cpu"] is ipywidgets.Checkbox
    assert kinds["num_processes"] is ipywidgets.Text
    assert not form.controls["num_processes"].continuous_update


def test_an_untouched_form_sets_nothing() -> None:
    form = form_on(TWO_GPUS, {"ACCELERATE_MIXED_PRECISION": "bf16", "ACCELERATE_USE_CPU": "true"})
    assert form.values == {}
    assert form.line == "%%accelerate"
    assert form.controls["mixed_precision"].value == "bf16"
    assert form.controls["use_cpu"].value is True


def test_edits_become_checked_values_and_a_line() -> None:
    form = form_on(TWO_GPUS)
    form.controls["num_processes"].value = " 2 "
    form.controls["mixed_precision"].value = "bf16"
    form.controls["gpu_ids"].value = "1, 0"
    form.controls["sync_models"].value = False
    assert form.values == {"num_processes": 2, "mixed_precision": "bf16", "gpu_ids": (1, 0), "sync_models": False}
    assert form.line == ("%%accelerate --num-processes 2 --mixed-precision bf16 --gpu-ids '1, 0' --no-sync-models")
    form.controls["num_processes"].value = ""
    form.controls["mixed_precision"].value = "no"
    form.controls["gpu_ids"].value = ""
    form.controls["sync_models"].value = True
    assert form.values == {}


def test_the_line_means_what_the_values_say() -> None:
    form = form_on(TWO_GPUS)
    edits = {"mixed_precision": "bf16", "gpu_ids": "1, 0", "use_cpu": True, "sync_models": False, "timeout": "9.5"}
    for name, value in edits.items():
        form.controls[name].value = value
    magic, _, flags = form.line.partition(" ")
    assert magic == "%%accelerate"
    config = resolve(call_layer(parse(flags).settings), environ={}).config
    assert {name: getattr(config, name) for name in edits} == form.values


def test_note_says_who_wins_and_what_is_shadowed() -> None:
    form = form_on(CPU_ONLY, {"ACCELERATE_NUM_PROCESSES": "3"})
    note = form.notes["num_processes"]
    assert (
        "<b>3</b> from the variable ACCELERATE_NUM_PROCESSES (environment), <s>not set</s> from the default"
        in note.value
    )
    assert form.controls["num_processes"].placeholder == "3"
    form.controls["num_processes"].value = "4"
    assert "<b>4</b> from this form (notebook), <s>3</s> from the variable ACCELERATE_NUM_PROCESSES" in note.value


def test_summary_follows_the_plan() -> None:
    form = form_on(TWO_GPUS)
    assert "Would start 2 workers, by zygote, on cuda, 4 threads each." in form.summary.value
    form.controls["use_cpu"].value = True
    form.controls["num_processes"].value = "1"
    assert "Would start 1 worker, by zygote, on cpu, 8 threads each." in form.summary.value
    assert "%%accelerate --num-processes 1 --use-cpu" in form.summary.value


def test_summary_counts_all_machines() -> None:
    form = form_on(CPU_ONLY, {"NBACCEL_MAIN_PROCESS_IP": "10.0.0.1", "NBACCEL_MAIN_PROCESS_PORT": "29500"})
    form.controls["num_machines"].value = "2"
    assert "Would start 2 workers here, 4 over all machines" in form.summary.value


def test_summary_says_why_a_wish_cannot_be_carried_out() -> None:
    form = form_on(TWO_GPUS)
    form.controls["num_processes"].value = "3"
    assert "num_processes=3: there are 2 CUDA devices to use." in form.summary.value
    form.controls["num_processes"].value = "2"
    assert "Would start 2 workers" in form.summary.value


def test_wrong_values_are_explained_at_their_fields() -> None:
    form = form_on(CPU_ONLY)
    form.controls["num_processes"].value = "two"
    form.controls["seed"].value = "-1"
    assert (
        "&#x27;two&#x27; (from this form) is not valid. Possible: a whole number from 1."
        in form.notes["num_processes"].value
    )
    assert "Possible: a whole number from 0 to 2**32 - 1." in form.notes["seed"].value
    assert "Not valid, see above: num_processes, seed." in form.summary.value
    assert "is not valid" not in form.notes["timeout"].value
    assert form.values == {"num_processes": "two", "seed": "-1"}
    form.controls["num_processes"].value = form.controls["seed"].value = ""
    assert "Would start" in form.summary.value


def test_a_wrong_variable_is_explained_and_can_be_overruled() -> None:
    form = form_on(CPU_ONLY, {"ACCELERATE_MIXED_PRECISION": "bf17"})
    assert "Did you mean &#x27;bf16&#x27;?" in form.notes["mixed_precision"].value
    form.controls["mixed_precision"].value = "bf16"
    assert "<b>bf16</b> from this form (notebook), <s>bf17</s>" in form.notes["mixed_precision"].value
    assert form.values == {"mixed_precision": "bf16"}
    assert "Would start" in form.summary.value


def test_nothing_that_was_written_becomes_markup() -> None:
    attack = '<img src=x onerror="alert(1)">'
    form = form_on(CPU_ONLY, {"ACCELERATE_NUM_PROCESSES": attack, "NBACCEL_MAIN_PROCESS_IP": attack})
    form.controls["main_process_ip"].value = attack + "2"
    form.controls["seed"].value = attack
    shown = "".join(note.value for note in form.notes.values()) + form.summary.value
    assert "<img" not in shown
    assert shown.count("&lt;img") >= 4


def test_a_form_of_its_own_looks_at_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_NUM_PROCESSES", "1")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert "Would start 1 worker, by zygote, on cpu" in ConfigForm().summary.value
    monkeypatch.setenv("NBACCEL_PLATFORM", "nowhere")
    with pytest.raises(ConfigError):
        ConfigForm()


def test_without_ipywidgets_the_error_says_what_to_install() -> None:
    code = "import sys; sys.modules['ipywidgets'] = None; import nbaccel_widgets"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "MissingExtraError" in done.stderr
    assert "pip install 'nbaccel[widgets]'" in done.stderr
