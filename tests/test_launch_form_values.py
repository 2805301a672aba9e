"""What fields of the launch form stand for: defaults as they are, values made of parts, secrets, texts."""

from __future__ import annotations

import dataclasses
import enum
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import ipywidgets
import pytest
import torch
from pydantic import AfterValidator, AliasChoices, AliasPath, BaseModel, ConfigDict, Field, model_validator
from torch import nn

from nbaccel.machine import Machine
from nbaccel_widgets import LaunchForm
from nbaccel_widgets.launch_form.values import WrittenError, code_of

CPU_ONLY = Machine(usable_cores=8, physical_cores=2)


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


@dataclasses.dataclass
class Net:
    width: int = 8
    act: str = "relu"


@dataclasses.dataclass
class Deep(Net):
    depth: int = 2


@dataclasses.dataclass
class Holder:
    """Its annotations cannot be resolved."""

    net: Missing = dataclasses.field(default_factory=Net)  # noqa: F821
    rate: float = 0.5


class Aliased(BaseModel):
    lr: float = Field(0.1, alias="learning_rate")
    steps: int = Field(1, validation_alias=AliasChoices("num-steps", "n"))
    seed: int = Field(0, validation_alias=AliasPath("rng", "seed"))


class ByName(BaseModel):
    model_config = ConfigDict(validate_by_alias=False, validate_by_name=True)

    lr: float = Field(0.1, alias="learning_rate")


class Ordered(BaseModel):
    low: int = 1
    high: int = 2

    @model_validator(mode="after")
    def _check(self) -> Ordered:
        if self.low > self.high:
            raise ValueError("low above high")
        return self


@dataclasses.dataclass
class Even:
    size: int = 2

    def __post_init__(self) -> None:
        if self.size % 2:
            raise RuntimeError("size is odd")


@dataclasses.dataclass
class Typed:
    dtype: torch.dtype = torch.float32
    width: int = 3


@dataclasses.dataclass
class Login:
    lr: float = 0.1
    token: str = dataclasses.field(default_factory=lambda: os.environ["LOGIN"])


class Sized(Protocol):
    def size(self) -> int: ...


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No configuration but the test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("LOGIN", "hf_abc")


def form_of(function: Callable[..., Any], **namespace: Any) -> LaunchForm:
    return LaunchForm(function, machine=CPU_ONLY, namespace=namespace)


def written(function: Callable[..., Any], **fields: Any) -> LaunchForm:
    """The form of a function, its fields filled in; two underscores stand for a dot."""
    form = form_of(function, data=[1, 2], torch=torch)
    for name, value in fields.items():
        form.controls[name.replace("__", ".")].write(value)
    return form


# defaults


def default_objects(opt=torch.optim.AdamW, drop=nn.Dropout(0.5), dtype=torch.float32, by={"a": Colour.RED}): ...  # noqa: B006, B008
def no_choice(act: Literal["relu", "tanh"] = None, colour: Colour = None, wait: bool = None): ...  # noqa: RUF013
def not_allowed(act: Literal["relu"] = "gelu", epochs: Annotated[int, Field(ge=0)] = -1, size: int = 0.5): ...
def spaces(separator="\n", prompt="Q: ", blank: str = " "): ...
def by_place(opt=torch.optim.AdamW, act: Literal["relu"] = None, text=" a ", last=1, /): ...  # noqa: RUF013


@pytest.mark.parametrize("function", [default_objects, no_choice, not_allowed, spaces, by_place])
def test_an_untouched_form_leaves_every_default_to_the_function(function: Callable[..., Any]) -> None:
    form = form_of(function)
    assert not form.button.disabled
    assert form.call.values == ((), {})
    assert all("changed" not in control.note.value for control in form.controls.values())


def test_defaults_that_must_be_given_by_place_are_passed_as_they_are() -> None:
    assert written(by_place, last=2).call.values == ((torch.optim.AdamW, None, " a ", 2), {})


def test_none_can_be_chosen_where_it_is_the_default() -> None:
    form = written(no_choice, act="tanh", wait="yes")
    assert form.call.values == (("tanh",), {"wait": True})
    assert form.controls["colour"].written == "none"


def test_texts_keep_their_spaces() -> None:
    form = written(spaces, prompt=" A: ", blank="")
    assert form.call.values == ((), {"prompt": " A: ", "blank": ""})
    assert isinstance(form.controls["separator"].widget, ipywidgets.Textarea)
    form.controls["prompt"].write("Q:")
    assert form.call.values[1]["prompt"] == "Q:"


# values made of parts


def unannotated(cfg=Net()): ...  # noqa: B008
def beside_unknown(cfg: Net = Net(), other: Missing = None): ...  # noqa: B008, F821
def held(cfg=Holder()): ...  # noqa: B008
def subclass(cfg: Net = Deep()): ...  # noqa: B008
def aliased(cfg: Aliased = Aliased()): ...  # noqa: B008
def by_name(cfg: ByName = ByName()): ...  # noqa: B008


@pytest.mark.parametrize(
    ("function", "fields", "made", "code"),
    [
        (unannotated, {"cfg__width": 9}, Net(9), "Net(width=9, act='relu')"),
        (beside_unknown, {"cfg__width": 9}, Net(9), "Net(width=9, act='relu')"),
        (held, {"cfg__net__width": 9}, Holder(Net(9)), "Holder(net=Net(width=9, act='relu'), rate=0.5)"),
        (subclass, {"cfg__depth": 3}, Deep(depth=3), "Deep(width=8, act='relu', depth=3)"),
        (
            aliased,
            {"cfg__lr": 0.5, "cfg__steps": 7, "cfg__seed": 3},
            Aliased(learning_rate=0.5, **{"num-steps": 7}, rng={"seed": 3}),
            "Aliased(learning_rate=0.5, rng={'seed': 3}, **{'num-steps': 7})",
        ),
        (by_name, {"cfg__lr": 0.5}, ByName(lr=0.5), "ByName(lr=0.5)"),
    ],
)
def test_parts_become_what_the_default_is(
    function: Callable[..., Any], fields: dict[str, Any], made: Any, code: str
) -> None:
    form = written(function, **fields)
    (found,) = form.call.values[0]
    assert type(found) is type(made)
    assert found == made
    assert code_of(found) == code
    assert eval(code) == made


def ordered(pair: Ordered = Ordered()): ...  # noqa: B008
def even(pair: Even = Even()): ...  # noqa: B008


@pytest.mark.parametrize(
    ("function", "fields", "said"),
    [
        (ordered, {"pair__low": 5}, "pair: Value error, low above high"),
        (even, {"pair__size": 3}, "pair: RuntimeError: size is odd"),
    ],
)
def test_parts_that_do_not_fit_together_are_said_beside_the_button(
    function: Callable[..., Any], fields: dict[str, Any], said: str
) -> None:
    form = written(function, **fields)
    assert form.button.disabled
    assert said in form.status.value
    with pytest.raises(WrittenError, match=said):
        form.launch()
    form.clear()
    assert not form.button.disabled
    form.undo()
    assert form.button.disabled


def typed(first: Typed, second: Typed = Typed(), third: Typed | None = None): ...  # noqa: B008


def test_a_dataclass_may_have_parts_of_any_type() -> None:
    form = form_of(typed, torch=torch, own=Typed(width=1))
    form.controls["second.dtype"].write("torch.bfloat16")
    form.controls["third"].write("own")
    assert form.call.values[0] == (Typed(), Typed(torch.bfloat16), Typed(width=1))
    form.controls["third"].write("torch")
    assert "is not valid. Possible: " in form.controls["third"].note.value
    form.controls["second.dtype"].write("3")
    assert "3 is not valid. Possible: dtype: the name of a variable" in form.controls["second.dtype"].note.value


# what is written


def reads(items: Iterable[int], sized: Sized = None): ...


def test_what_is_given_by_a_name_is_passed_as_it_is() -> None:
    data = ["1", "2"]
    form = form_of(reads, items=data)
    assert form.call.values[0][0] is data
    form.controls["items"].write("[1, 2]")
    assert form.call.values[0][0] == [1, 2]
    form.controls["sized"].write("items")  # a protocol that cannot be checked is the function's own to check
    assert form.call.values[0][1] is data
    form.controls["items"].write("3")
    assert form.button.disabled


def refuse(value: Any) -> Any:
    raise TypeError("never")


def checked(value: Annotated[int, AfterValidator(refuse)] = 1, api_key: Annotated[str, Field(min_length=9)] = "k"): ...


def test_checks_that_raise_anything_are_said_at_their_field() -> None:
    form = written(checked, value=2, api_key="hf_x")
    assert "TypeError: never" in form.controls["value"].note.value
    said = form.controls["api_key"].note.value
    assert "is not valid" in said
    assert "hf_x" not in said


# secrets


def logs_in(api_key: str = "k1", cfg: Login = Login(0.1, "k2"), by={"token": "k3"}, /, last=1): ...  # noqa: B006, B008


def test_secrets_stay_hidden_at_any_depth() -> None:
    form = form_of(logs_in)
    form.controls["cfg.lr"].write(0.5)
    form.controls["by"].write("{'token': 'k4', 'all': [{'password': 'k5'}]}")
    form.controls["api_key"].write("k6")
    assert form.call.values[0] == ("k6", Login(0.5, "k2"), {"token": "k4", "all": [{"password": "k5"}]})
    assert form.code == (
        "notebook_launcher(logs_in, ('********', Login(lr=0.5, token='********'), "
        "{'token': '********', 'all': [{'password': '********'}]}))"
    )
    said = form.status.value + "".join(control.note.value for control in form.controls.values())
    assert not any(secret in said for secret in ("k1", "k2", "k3", "k4", "k5", "k6"))


def test_what_is_no_secret_is_shown() -> None:
    assert code_of({"token": None, "lr": 1, 3: 4}) == "{'token': None, 'lr': 1, 3: 4}"


def configures(cfg: dict = {"lr": 0.1, "token": "k1", "logins": [{"password": "k2"}, {"password": "k1"}]}, last=1): ...  # type: ignore[type-arg]  # noqa: B006


def needs(cfg: dict): ...  # type: ignore[type-arg]


def means(cfg: str | dict = "none"): ...  # type: ignore[type-arg]


def test_a_secret_stays_itself_where_what_is_around_it_is_edited() -> None:
    form = form_of(configures)
    cfg = form.controls["cfg"]
    shown = "{'lr': 0.1, 'token': '********', 'logins': [{'password': '*********'}, {'password': '********'}]}"
    assert cfg.written == shown
    cfg.write(shown.replace("0.1", "0.5"))
    assert form.call.values == (({"lr": 0.5, "token": "k1", "logins": [{"password": "k2"}, {"password": "k1"}]},), {})
    assert not any(secret in str(cfg.widget.get_state()) + form.code for secret in ("k1", "k2"))
    cfg.write("{'token': 'k3', 'key': ('*********', '***', 1)}")
    assert form.call.values[0] == ({"token": "k3", "key": ("k2", "***", 1)},)


@pytest.mark.parametrize("given", [{"lr": 1, "token": "k3"}, configures.__defaults__[0] | {"token": "k3"}])
@pytest.mark.parametrize("function", [needs, configures])
def test_secrets_that_are_filled_in_reach_the_function(function: Callable[..., Any], given: dict[str, Any]) -> None:
    form = LaunchForm(function, machine=CPU_ONLY, namespace={}, params={"cfg": given})
    cfg = form.controls["cfg"]
    assert form.call.values[0] == (given,)
    assert "k3" not in str(cfg.widget.get_state()) + form.code
    written = cfg.written
    form.clear()
    form.undo()
    assert (cfg.written, form.call.values[0]) == (written, (given,))


@pytest.mark.parametrize(
    ("function", "written"),
    [(needs, "{'token': '********'}"), (configures, "['**********']"), (means, "Cfg(token='********')")],
)
def test_asterisks_that_stand_for_no_secret_are_refused(function: Callable[..., Any], written: str) -> None:
    form = form_of(function)
    form.controls["cfg"].write(written)
    assert form.button.disabled
    assert "asterisks stand for a secret: write it, or the name of a variable" in form.controls["cfg"].note.value
