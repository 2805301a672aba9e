"""The launch form: fields made of a function, driven through its controls, with real launches."""

from __future__ import annotations

import dataclasses
import enum
import functools
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

import ipywidgets
import pytest
import traitlets
from pydantic import BaseModel, Field

from harness import wait_until
from nbaccel.errors import CallError, ConfigError, StateError
from nbaccel.machine import Gpu, Machine
from nbaccel.wire.messages import Shown
from nbaccel_widgets import LaunchForm
from nbaccel_widgets.launch_form.compare import compared
from nbaccel_widgets.launch_form.output import OutputScreen
from nbaccel_widgets.launch_form.parameters import leaves, parameters_of
from nbaccel_widgets.launch_form.values import WrittenError, code_of

CPU_ONLY = Machine(usable_cores=8, physical_cores=2)
ATTACK = "<script>alert(1)</script>"


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


@dataclasses.dataclass
class Net:
    """A net.

    Args:
        width: Neurons of a layer.
    """

    width: Annotated[int, Field(ge=1, le=64)] = 8
    act: Literal["relu", "tanh"] = "relu"


class Optim(BaseModel):
    lr: float = Field(0.1, gt=0, le=1, description="Step size")


def train(
    data: list[int],
    lr: Annotated[float, Field(gt=0, le=1)] = 0.1,
    epochs: int = 3,
    net: Net = Net(),  # noqa: B008 - what users write
    optim: Optim = Optim(),  # noqa: B008
    colour: Colour = Colour.RED,
    out: Path = Path("runs"),
    verbose: bool = False,
    name: Optional[str] = None,  # noqa: UP045 - both ways of writing it
    limit: int | None = None,
    *,
    momentum=0.9,
) -> dict[str, object]:
    """Train.

    Args:
        lr: Step size of
            the optimizer.
        epochs (int): How often the data are seen.
    """
    print(f"training with {lr}")
    return {"loss": lr * epochs + net.width, "sum": sum(data), "name": name}


def fail(text: str = "broken") -> None:
    raise ValueError(text)


def sleep(seconds: float = 60.0) -> None:
    time.sleep(seconds)


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No configuration but the test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path))


def form_of(function: Callable[..., Any], machine: Machine = CPU_ONLY, **settings: Any) -> LaunchForm:
    return LaunchForm(function, machine=machine, namespace={"data": [1, 2], "other": 5}, **settings)


def write(form: LaunchForm, **values: Any) -> None:
    for name, value in values.items():
        (form.controls.get(name) or form.settings[name]).write(value)


def ended(form: LaunchForm) -> None:
    """Wait until the last run is over and the form has taken note of it."""
    assert wait_until(lambda: form.runs[-1].is_over and not form.button.disabled, 90)


def note(form: LaunchForm, name: str) -> str:
    return str((form.controls.get(name) or form.settings[name]).note.value)


# fields


def test_annotations_and_defaults_make_fields() -> None:
    kinds = {field.name: field.kind for field in leaves(parameters_of(train))}
    assert kinds == {
        "data": "object", "lr": "number", "epochs": "whole", "net.width": "whole", "net.act": "choice",
        "optim.lr": "number", "colour": "choice", "out": "path", "verbose": "switch", "name": "text",
        "limit": "whole", "momentum": "number",
    }  # fmt: skip


def test_fields_say_what_is_possible_and_what_they_are_for() -> None:
    fields = {field.name: field for field in leaves(parameters_of(train))}
    assert fields["lr"].possible == "a number above 0 up to 1"
    assert fields["net.width"].possible == "a whole number from 1 to 64"
    assert fields["limit"].possible == "a whole number, or nothing"
    assert fields["colour"].possible == "RED, BLUE"
    assert (fields["lr"].text, fields["epochs"].text) == ("Step size of", "How often the data are seen.")
    assert (fields["net.width"].text, fields["optim.lr"].text) == ("Neurons of a layer.", "Step size")


def test_every_control_has_a_label_of_its_own_and_suits_its_field() -> None:
    form = form_of(train)
    for name, control in {**form.controls, **form.settings}.items():
        assert control.widget.description == name
    kinds = {name: type(control.widget).__name__ for name, control in form.controls.items()}
    assert kinds["lr"] == "FloatText"
    assert kinds["net.width"] == "IntText"
    assert kinds["colour"] == "Dropdown"
    assert kinds["verbose"] == "Checkbox"
    assert kinds["limit"] == "Text"
    assert isinstance(form.settings["use_cpu"].widget, ipywidgets.Dropdown)


def test_callables_of_all_sorts_tell_their_parameters() -> None:
    class Trainer:
        def __call__(self, lr: float = 0.5) -> None: ...

        def fit(self, steps: int, /, *rest: int, **more: int) -> None: ...

    for function, names in (
        (Trainer(), ["lr"]),
        (Trainer().fit, ["steps"]),
        (functools.partial(train, [1], lr=0.2), [one.name for one in parameters_of(train)][1:]),
    ):
        assert [one.name for one in parameters_of(function)] == names


@pytest.mark.parametrize("nothing", [3, "train", max])
def test_what_has_no_parameters_to_tell_is_refused(nothing: Any) -> None:
    with pytest.raises(CallError, match=r"cannot be called|does not tell its parameters"):
        parameters_of(nothing)


def test_unknown_keys_are_refused() -> None:
    with pytest.raises(CallError, match="'colour' is no key of the configuration"):
        form_of(train, colour=1)


# writing


def test_an_untouched_form_calls_the_function_as_it_is() -> None:
    form = form_of(train)
    assert form.code == "notebook_launcher(train, (data,))"
    assert not form.button.disabled
    assert "Would start 2 workers" in form.status.value


def test_what_is_written_becomes_a_call() -> None:
    form = form_of(train, num_processes=2)
    write(form, lr=0.5, colour="BLUE", out=" logs ", verbose=True, limit="7", momentum=0.5, mixed_precision="bf16")
    form.controls["net.width"].write(9)
    args, kwargs = form.call.values
    assert args == ([1, 2], 0.5)
    assert kwargs == {
        "net": Net(width=9), "colour": Colour.BLUE, "out": Path("logs"), "verbose": True, "limit": 7, "momentum": 0.5,
    }  # fmt: skip
    assert form.call.settings == {"num_processes": 2, "mixed_precision": "bf16"}
    assert form.code == (
        "notebook_launcher(train, (data, 0.5), num_processes=2, mixed_precision='bf16', kwargs={'net': Net(width=9, "
        "act='relu'), 'colour': Colour.BLUE, 'out': Path('logs'), 'verbose': True, 'limit': 7, 'momentum': 0.5})"
    )


@pytest.mark.parametrize(
    ("name", "written", "said"),
    [
        ("lr", 2.0, "2.0 is not valid. Possible: a number above 0 up to 1."),
        ("net.width", 65, "65 is not valid. Possible: a whole number from 1 to 64."),
        ("limit", "many", "&#x27;many&#x27; is not valid. Possible: a whole number, or nothing."),
        ("data", "", "a value is needed."),
        ("data", "dat", "there is no variable &#x27;dat&#x27; in the notebook. Did you mean &#x27;data&#x27;?"),
        ("data", "other", "5 is not valid. Possible: list[int]"),
        ("data", "other.size", "a int has no attribute &#x27;size&#x27;"),
        ("out", "", "a value is needed."),
        ("num_processes", "two", "Possible: a whole number from 1."),
    ],
)
def test_wrong_input_is_explained_at_its_field_and_cannot_be_launched(name: str, written: Any, said: str) -> None:
    form = form_of(train)
    write(form, **{name: written})
    assert said in note(form, name)
    assert "\N{BALLOT X}" in note(form, name)
    assert form.button.disabled
    assert form.button.tooltip == f"Not valid, see above: {name}."
    with pytest.raises((WrittenError, ConfigError)):
        form.launch()
    assert form.runs == []


def test_what_this_machine_cannot_do_is_said_beside_the_button() -> None:
    form = form_of(train, Machine(usable_cores=8, physical_cores=4, gpus=(Gpu(0, "0"),)))
    write(form, num_processes="3")
    assert form.button.disabled
    assert "num_processes=3 (from this form): there is 1 CUDA device" in form.status.value


def test_parameters_of_the_configuration_are_the_defaults(tmp_path: Path) -> None:
    (tmp_path / ".accelerate").mkdir()
    file = tmp_path / ".accelerate" / "default_config.yaml"
    file.write_text("params:\n  lr: 0.25\n  net:\n    width: 3\nmixed_precision: bf16\n")
    form = form_of(train)
    assert (form.controls["lr"].written, form.controls["net.width"].written) == (0.25, 3)
    assert "default_config.yaml:2" in note(form, "lr")
    assert "default_config.yaml:5" in note(form, "mixed_precision")
    assert form.code == "notebook_launcher(train, (data,))"


def test_values_can_be_literals_and_parts_of_variables() -> None:
    form = form_of(lambda a, b=(1, 2): None)
    form.controls["a"].write("[1, {'x': None}]")
    form.controls["b"].write("data.append")
    assert form.call.values[0][0] == [1, {"x": None}]
    assert form.code == "notebook_launcher(<lambda>, ([1, {'x': None}], data.append))"
    form.controls["a"].write("1 +")
    assert "is no variable&#x27;s name, and no value such as 3" in note(form, "a")


def test_secrets_stay_hidden() -> None:
    form = form_of(lambda api_key="abc": None)
    assert isinstance(form.controls["api_key"].widget, ipywidgets.Password)
    form.controls["api_key"].write("xyz")
    assert form.call.values == ((), {"api_key": "xyz"})
    assert "xyz" not in form.code + note(form, "api_key") + form.status.value
    assert "abc" not in note(form, "api_key")


def test_undo_takes_defaults_back() -> None:
    form = form_of(train)
    write(form, lr=0.5, seed="3")
    assert form.undo_button.disabled
    form.defaults_button.click()
    assert (form.controls["lr"].written, form.settings["seed"].written) == (0.1, "")
    form.undo_button.click()
    assert (form.controls["lr"].written, form.settings["seed"].written) == (0.5, "3")
    assert form.undo_button.disabled


@pytest.mark.parametrize(
    "value", [1, "a", None, [1, (2,)], {"a": Path("b")}, Colour.RED, Net(3), Optim(lr=0.5), float("1e-5"), True]
)
def test_code_of_a_value_makes_it_again(value: Any) -> None:
    assert eval(code_of(value)) == value


# launching


def test_a_launch_runs_on_workers_and_is_remembered() -> None:
    form = form_of(train, num_processes=2)
    write(form, lr=0.5)
    form.button.click()
    ended(form)
    (run,) = form.runs
    assert run.job.ranks == (0, 1)
    assert run.result == {"loss": 9.5, "sum": 3, "name": None}
    assert dict(run.numbers) == {"loss": 9.5, "sum": 3.0}
    assert run.settings == {"num_processes": "2"}
    assert not form.button.disabled
    shown = form._past.shown.value
    for cell in ('<th scope="col">loss</th>', '<th scope="col">lr</th>', "9.5", "done", "<code>0.5</code>"):
        assert cell in shown
    assert "epochs" not in shown
    texts = [output["text"] for output in form.stage.children[-1].outputs]
    assert "training with 0.5\n" in "".join(texts)
    assert "<style>" in form.stage.children[0].value


def test_runs_are_compared_used_again_and_removed() -> None:
    form = form_of(train, num_processes=1)
    for lr in (0.5, 0.25):
        write(form, lr=lr)
        form.launch().result(60)
        ended(form)
    first, second = form.runs
    assert "\N{BLACK DIAMOND}" in form._past.shown.value
    form._past.other.value = first.number
    shown = form._past.comparison.value
    assert "<td>lr</td><td><b>\N{NOT EQUAL TO}</b></td><td><code>0.5</code></td><td><code>0.25</code></td>" in shown
    assert "-0.75 (-7.9%)" in shown
    assert second.call in shown.replace("&#x27;", "'")
    form._past.chosen.value = first.number
    form._past.use_button.click()
    assert form.controls["lr"].written == 0.5
    form.undo()
    assert form.controls["lr"].written == 0.25
    form._past.remove_button.click()
    assert form.runs == [second]
    assert compared(second, second).count("\N{NOT EQUAL TO}") == 0


def logs(slope: float = 1.0) -> None:
    from nbaccel import Accelerator

    accelerator = Accelerator()
    for step in range(3):
        accelerator.log({"train/loss": slope * step, "lr": 0.1}, step=step)


def test_curves_of_two_runs_are_drawn_together() -> None:
    form = form_of(logs, num_processes=1)
    for slope in (1.0, 2.0):
        write(form, slope=slope)
        form.launch().result(60)
        ended(form)
    first, second = form.runs
    drawn = compared(first, second)
    assert drawn.count("<svg") == 1
    for run in (first, second):
        assert f"run {run.number}: train/loss" in drawn


def test_one_run_at_a_time() -> None:
    form = form_of(sleep, num_processes=1)
    job = form.launch()
    assert form.button.disabled
    assert f"Run {job.number} is going on; stop it, or wait for its end." in form.status.value
    with pytest.raises(StateError, match=f"run {job.number} is going on"):
        form.launch()
    form.button.click()
    assert len(form.runs) == 1
    form._past.remove(form.runs[0])
    assert len(form.runs) == 1
    job.cancel()
    ended(form)
    assert not form.button.disabled
    assert "stopped" in form._past.shown.value


def test_a_failed_run_says_why_in_the_table() -> None:
    form = form_of(fail, num_processes=1)
    write(form, text=ATTACK)
    form.launch()
    ended(form)
    shown = form._past.shown.value
    assert "failed" in shown
    assert "rank 0 of 1 failed: ValueError" in shown
    area = form.stage.children[-1]
    assert wait_until(lambda: any("ValueError" in output["text"] for output in area.outputs), 20)
    assert form.runs[0].result is None


def test_what_cannot_be_sent_is_said_and_nothing_is_remembered() -> None:
    form = LaunchForm(lambda thing: None, machine=CPU_ONLY, namespace={"thing": (one for one in [1])})
    form.button.click()
    assert "cannot be sent" in form.status.value
    assert form.runs == []


def test_nothing_that_was_written_becomes_markup() -> None:
    form = form_of(lambda text="", **rest: {text: 1.0, "name": text}, num_processes=1)
    write(form, text=ATTACK)
    write(form, seed=ATTACK)
    said = note(form, "seed") + note(form, "text") + form.status.value
    write(form, seed="")
    form.launch().result(60)
    ended(form)
    said += form.status.value + form._past.shown.value + form._past.comparison.value + form.stage.children[0].value
    assert "<script" not in said
    assert "&lt;script" in said


# the output area


def test_the_output_area_takes_text_pictures_updates_and_results() -> None:
    screen = OutputScreen()
    screen.begin((0, 1))
    screen.text(1, "a")
    screen.text(1, "b\n")
    screen.text(2, "warned\n")
    screen.rich(0, Shown("display", 0, {"image/png": b"png"}, {}, {"display_id": "one"}))
    screen.rich(1, Shown("result", 0, {"text/plain": "1"}))
    screen.rich(0, Shown("result", 0, {"text/plain": "0"}))
    screen.rich(0, Shown("update", 0, {"text/plain": "new"}, {}, {"display_id": "one"}))
    screen.end()
    assert [output.get("text") or output["data"] for output in screen.area.outputs] == [
        "ab\n", "warned\n", {"text/plain": "new"}, {"text/plain": "0"},
    ]  # fmt: skip
    screen.rich(0, Shown("display", 0, {"image/png": b"png"}))
    screen.end()
    assert screen.area.outputs[4]["data"] == {"image/png": "cG5n"}
    screen.rich(0, Shown("clear", 0))
    screen.text(1, "line\n" * 10_000)
    screen.end()
    assert len(screen.area.outputs[0]["text"]) < 21_000
    with pytest.raises(EOFError, match="cannot ask"):
        screen.ask(0, "name? ", password=False)


def test_a_long_line_and_a_progress_bar_leave_their_end() -> None:
    screen = OutputScreen()
    screen.begin((0,))
    screen.text(1, "before\n")
    screen.text(1, "x" * 30_000)
    screen.end()
    assert screen.area.outputs[0]["text"] == f"...\n{'x' * 20_000}"
    screen.rich(0, Shown("clear", 0))
    screen.text(1, "before\n")
    for step in range(2000):
        screen.text(1, f"\r{step:>5} of 2000 steps")
    screen.end()
    assert screen.area.outputs[0]["text"] == "before\n 1999 of 2000 steps"


def test_the_last_lines_are_not_overtaken_by_older_ones() -> None:
    held, released = threading.Event(), threading.Event()

    class Slow(ipywidgets.Output):
        @traitlets.validate("outputs")
        def _hold(self, proposal: Any) -> Any:
            if not held.is_set():
                held.set()
                released.wait(20)
            return proposal["value"]

    screen = OutputScreen()
    screen.begin((0,))
    screen.area = Slow()
    screen.text(1, "first\n")  # a timer sends it
    assert held.wait(20)
    screen.text(1, "last\n")
    ending = threading.Thread(target=screen.end)
    ending.start()
    threads = [ending, *(one for one in threading.enumerate() if isinstance(one, threading.Timer))]
    for thread in threads:
        thread.join(1)  # long enough for all that need not wait
    released.set()
    for thread in threads:
        thread.join(20)
    assert screen.area.outputs[0]["text"] == "first\nlast\n"
