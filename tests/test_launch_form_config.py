"""The launch form and the configuration: what a launch fills in, what is set, and the line that does the same."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import wait_until
from nbaccel.config import NOTEBOOK
from nbaccel.errors import ConfigError
from nbaccel.machine import Machine
from nbaccel.notebook.launcher import resolve_call
from nbaccel_widgets import LaunchForm

CPU_ONLY = Machine(usable_cores=8, physical_cores=2)


@dataclasses.dataclass
class Net:
    width: int = 8
    act: str = "relu"


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No configuration but the test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    yield
    NOTEBOOK.replace({})


def form_of(function: Callable[..., Any], **given: Any) -> LaunchForm:
    return LaunchForm(function, machine=CPU_ONLY, **{"namespace": {}, **given})


def train(lr: float = 0.1, net: Net = Net(act="tanh"), epochs: int = 1) -> dict[str, Any]:  # noqa: B008
    return {"lr": lr, "net": str(net)}


def takes_mapping(trainer: dict[str, Any], lr: float = 0.1) -> None: ...


def takes_all(params: Any, other: Any = None) -> None: ...


def has_mapping(trainer: Any = {}) -> None: ...  # noqa: B006


# what the configuration fills in


def test_fields_follow_the_configuration_until_they_are_touched() -> None:
    form = form_of(train)
    NOTEBOOK.update({"params.lr": 0.5, "params.epochs": 3}, "%accelerate set")
    form.controls["net.width"].write(9)
    assert (form.controls["lr"].written, form.controls["epochs"].written) == (0.5, 3)
    assert "From %accelerate set." in form.controls["lr"].note.value
    form.controls["lr"].write(0.25)
    NOTEBOOK.update({"params.lr": 0.75}, "%accelerate set")
    NOTEBOOK.unset("params.epochs")
    form.controls["net.width"].write(10)
    assert (form.controls["lr"].written, form.controls["epochs"].written) == (0.25, 1)
    assert "<code>0.75</code>" in form.controls["lr"].note.value
    form.clear()
    assert form.controls["lr"].written == 0.75


@pytest.mark.parametrize("function", [takes_mapping, has_mapping])
def test_secrets_of_the_configuration_stay_themselves_beside_what_is_edited(function: Callable[..., Any]) -> None:
    form = form_of(function)
    NOTEBOOK.update({"params.trainer": {"lr": 0.1, "token": "k1"}}, "%accelerate set")
    form._refresh()
    trainer = form.controls["trainer"]
    assert (trainer.written, trainer.is_touched) == ("{'lr': 0.1, 'token': '********'}", False)
    trainer.write("{'lr': 0.5, 'token': '********'}")
    assert form.call.values[0] == ({"lr": 0.5, "token": "k1"},)
    NOTEBOOK.update({"params.trainer": {"lr": 0.1, "token": "k2"}}, "%accelerate set")
    form._refresh()
    assert form.call.values[0] == ({"lr": 0.5, "token": "k1"},)
    form.clear()
    assert trainer.written == "{'lr': 0.1, 'token': '*********'}"


def test_a_launch_shows_and_records_what_the_run_gets() -> None:
    form = form_of(train, num_processes=1)
    NOTEBOOK.update({"params.lr": 0.5, "params.net.width": 3}, "%accelerate set")
    job = form.launch()
    assert job.result(60) == {"lr": 0.5, "net": "Net(width=3, act='relu')"}
    assert wait_until(lambda: form.runs[-1].is_over, 30)
    assert form.runs[-1].parameters == {"lr": "0.5", "net.width": "3", "net.act": "'relu'", "epochs": "1"}
    assert form.controls["net.act"].written == "relu"


@pytest.mark.parametrize(
    ("function", "field", "value"),
    [
        (takes_mapping, "trainer", {"epochs": 5}),
        (has_mapping, "trainer", {"epochs": 5}),
        (takes_all, "params", {"trainer": {"epochs": 5}}),
    ],
)
def test_mappings_of_the_configuration_fill_parameters_in(
    function: Callable[..., Any], field: str, value: dict[str, Any]
) -> None:
    NOTEBOOK.update({"params.trainer.epochs": 5}, "%accelerate set")
    form = form_of(function)
    assert form.controls[field].value() == value
    assert form.code == f"notebook_launcher({function.__name__})"
    assert "From %accelerate set." in form.controls[field].note.value
    NOTEBOOK.replace({})
    form.clear()
    assert form.button.disabled == (function is not has_mapping)


def test_a_value_that_does_not_fit_is_left_to_the_launch_to_refuse() -> None:
    NOTEBOOK.update({"params.lr": "much"}, "%accelerate set")
    form = form_of(train)
    assert form.controls["lr"].written == 0.1
    assert "From" not in form.controls["lr"].note.value
    form.button.click()
    assert "params.lr=&#x27;much&#x27; (from %accelerate set) is not valid" in form.status.value


def unannotated(net=Net(act="tanh")) -> None: ...  # noqa: B008


def test_parts_that_the_configuration_lacks_are_passed() -> None:
    NOTEBOOK.update({"params.net.width": 3}, "%accelerate set")
    assert form_of(unannotated).call.values == ((Net(3, "tanh"),), {})


def test_keys_tell_what_is_configured_now() -> None:
    form = form_of(train)
    form.settings["use_cpu"].write("false")
    NOTEBOOK.update({"use_cpu": True, "seed": 7}, "%accelerate set")
    form.controls["lr"].write(0.5)
    assert form.settings["use_cpu"].widget.options[0] == ("true (as configured)", "")
    assert form.settings["use_cpu"].written == "false"
    assert form.settings["seed"].widget.placeholder == "7"


# what is filled in from the beginning


def test_parameters_are_filled_in_from_the_beginning() -> None:
    NOTEBOOK.update({"params.trainer.epochs": 5}, "%accelerate set")
    form = form_of(takes_mapping, params={"lr": 0.5, "trainer": {"wait": True}})
    assert form.call.values == (({"epochs": 5, "wait": True}, 0.5), {})
    form.clear()
    assert form.code == "notebook_launcher(takes_mapping)"
    form = form_of(train, params={"net": {"width": 3}})
    assert form.call.values == ((), {"net": Net(3, "tanh")})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"params": {"lrr": 1}}, r"the parameter 'lrr' \(from the argument params=\).* Did you mean 'lr'\?"),
        ({"params": {"lr": "much"}}, r"params.lr='much' \(from the argument params=\) is not valid"),
        ({"params": {"lr": float("inf")}}, r"lr=inf \(from the argument params=\) .* a number field can hold"),
        ({"params": 3}, r"3 \(a int\) \(the argument params=\) is not valid. Possible: a mapping"),
        ({"seed": "much"}, r"seed='much' \(from the argument seed=\) is not valid"),
        ({"mixed_precision": "fp17"}, r"mixed_precision='fp17' .* Did you mean"),
    ],
)
def test_what_is_filled_in_must_be_valid(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        form_of(train, **given)


def test_none_is_not_given_and_null_is() -> None:
    form = form_of(train, seed=None, mixed_precision=None, timeout="none")
    assert form.code == "notebook_launcher(train, timeout='none')"
    NOTEBOOK.update({"seed": 42, "xla_spmd": True}, "%accelerate set")
    form = form_of(train, keys=("seed", "xla_spmd"))
    form.settings["seed"].write("None")
    form.settings["xla_spmd"].write("none")
    resolved = resolve_call(**form.call.settings)
    assert (resolved.config.seed, resolved.config.xla_spmd) == (None, None)
    assert form.code == "notebook_launcher(train, seed='none', xla_spmd='none')"


def test_a_configuration_file_is_read_and_handed_on(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("num_processes: 1\nparams:\n  lr: 0.5\n")
    form = form_of(train, config="own.yaml", seed=3)
    assert "Would start 1 worker" in form.status.value
    assert form.controls["lr"].written == 0.5
    assert form.code == "notebook_launcher(train, seed=3, config='own.yaml')"
    assert form.launch().result(60)["lr"] == 0.5
    assert len(form.runs[-1].job.ranks) == 1
    assert form.runs[-1].call == form.code
    assert wait_until(lambda: form.runs[-1].is_over, 30)
    (tmp_path / "own.yaml").unlink()
    form.controls["lr"].write(0.25)
    assert "own.yaml: there is no such file" in form.status.value
    assert form.button.disabled


# the line of code


def test_sections_and_keys_of_other_names_are_in_the_line() -> None:
    form = form_of(train, num_machines=1, main_process_port=7000, **{"fsdp_config.fsdp_version": 2})
    assert form.code == "notebook_launcher(train, num_nodes=1, use_port=7000, fsdp_config={'fsdp_version': 2})"
    assert resolve_call(**form.call.settings).config.fsdp_config.fsdp_version == 2


class Trainer:
    def __call__(self, lr: float = 0.1) -> None: ...

    def fit(self, lr: float = 0.1) -> None: ...


TRAINER = Trainer()
PARTIAL = functools.partial(train, 0.5)


@pytest.mark.parametrize(
    ("function", "namespace", "name"),
    [
        (train, {}, "train"),
        (train, {"_1": train, "mine": train}, "mine"),
        (train, {"mine": train, "train": train}, "train"),
        (TRAINER.fit, {"trainer": TRAINER}, "trainer.fit"),
        (TRAINER.fit, {}, "Trainer(...).fit"),
        (TRAINER, {"Trainer": Trainer, "trainer": TRAINER}, "trainer"),
        (TRAINER, {}, "Trainer(...)"),
        (PARTIAL, {"quick": PARTIAL}, "quick"),
        (PARTIAL, {"train": train}, "partial(...)"),
    ],
)
def test_the_line_calls_the_very_object(function: Callable[..., Any], namespace: dict[str, Any], name: str) -> None:
    assert form_of(function, namespace=namespace).code == f"notebook_launcher({name})"
