"""Which layer wins, for every pair of layers and every kind of key; and how layers are found."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from projects import Project, error_of, given

from nbaccel.config import KEYS, LAYERS, NOTEBOOK, Layer, Resolved, call_layer
from nbaccel.errors import ConfigError, ConfigFileError

TOP, NESTED, PARAM = "gradient_accumulation_steps", "fsdp_config.fsdp_min_num_params", "params.trainer.epochs"
VARIABLES = {TOP: KEYS[TOP].env, NESTED: KEYS[NESTED].env, PARAM: "TRAINER_EPOCHS"}


@dataclass
class Asked:
    """What a test asks for: files are written at once, the rest is passed to `resolve`."""

    project: Project
    layers: list[Layer] = field(default_factory=list)
    environ: dict[str, str] = field(default_factory=dict)
    config_file: str | None = None

    def resolve(self) -> Resolved:
        return self.project.resolve(
            *self.layers, environ=self.environ, config_file=self.config_file, params=("trainer.epochs",)
        )


@dataclass(frozen=True)
class Level:
    """One of the things that can set a value.

    Attributes:
        name: what it is called here.
        layer: the layer that it is a part of.
        say: sets a key.
        place: where the value is then said to come from.
    """

    name: str
    layer: str
    say: Callable[[Asked, str, int], None]
    place: str


def _say_in_constructor(asked: Asked, key: str, value: int) -> None:
    asked.layers.insert(0, call_layer({key: value}, layer="constructor"))


def _say_in_call(asked: Asked, key: str, value: int) -> None:
    asked.layers.append(call_layer({key: value}, "the flag of {}".format))


def _say_in_notebook(asked: Asked, key: str, value: int) -> None:
    NOTEBOOK.update({key: value}, "the form")


def _say_in_environment(asked: Asked, key: str, value: int) -> None:
    asked.environ[VARIABLES[key]] = str(value)


def _say_in_dotenv(asked: Asked, key: str, value: int) -> None:
    asked.project.write(".env", f"# ours\n\n{VARIABLES[key]}={value}\n")


def _yaml(key: str, value: int) -> str:
    *sections, name = key.split(".")
    lines = [f"{'  ' * depth}{section}:" for depth, section in enumerate(sections)]
    return "\n".join([*lines, f"{'  ' * len(sections)}{name}: {value}", ""])


def _say_in_named_file(asked: Asked, key: str, value: int) -> None:
    asked.config_file = str(asked.project.write("named.yaml", _yaml(key, value)))


def _say_in_profile(asked: Asked, key: str, value: int) -> None:
    asked.project.write(".accelerate/dev.yaml", _yaml(key, value))
    asked.layers.append(given("call", profile="dev"))


def _say_in_project(asked: Asked, key: str, value: int) -> None:
    asked.project.write(".accelerate/default_config.yaml", _yaml(key, value))


def _say_for_user(asked: Asked, key: str, value: int) -> None:
    asked.project.write_user(_yaml(key, value))


LEVELS = [
    Level("constructor", "constructor", _say_in_constructor, "the argument {key}="),
    Level("call", "call", _say_in_call, "the flag of {key}"),
    Level("notebook", "notebook", _say_in_notebook, "the form"),
    Level("environment", "environment", _say_in_environment, "the variable {variable}"),
    Level("dotenv", "environment", _say_in_dotenv, "the variable {variable} in .env:3"),
    Level("named file", "file", _say_in_named_file, "named.yaml:{line}:{column}"),
    Level("profile", "project", _say_in_profile, ".accelerate/dev.yaml:{line}:{column}"),
    Level("project", "project", _say_in_project, ".accelerate/default_config.yaml:{line}:{column}"),
    Level("user", "user", _say_for_user, "{hub}/accelerate/default_config.yaml:{line}:{column}"),
]
PAIRS = list(itertools.combinations(LEVELS, 2))


def _place(level: Level, key: str, project: Project) -> str:
    depth = key.count(".")
    column = 2 * depth + len(key.rpartition(".")[2]) + 3
    return level.place.format(key=key, variable=VARIABLES[key], hub=project.hub, line=depth + 1, column=column)


@pytest.mark.parametrize("key", [TOP, NESTED, PARAM])
@pytest.mark.parametrize(("high", "low"), PAIRS, ids=[f"{high.name} over {low.name}" for high, low in PAIRS])
def test_the_higher_layer_wins(high: Level, low: Level, key: str, project: Project) -> None:
    asked = Asked(project)
    low.say(asked, key, 3)
    high.say(asked, key, 5)
    resolved = asked.resolve()
    assert resolved.value(key) == 5
    assert resolved.origin(key).layer == high.layer
    _assert_place(resolved.origin(key).place, high, key, project)
    if {high.name, low.name} == {"environment", "dotenv"}:  # a variable is set or it is not
        return
    shadowed = resolved.explain(key).shadowed[0]
    assert (str(shadowed.value), shadowed.layer) == ("3", low.layer)
    _assert_place(shadowed.place, low, key, project)


def _assert_place(place: str, level: Level, key: str, project: Project) -> None:
    assert place == _place(level, key, project)


@pytest.mark.parametrize("key", [TOP, NESTED])
@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name)
def test_any_layer_is_over_the_defaults(level: Level, key: str, project: Project) -> None:
    asked = Asked(project)
    level.say(asked, key, 5)
    resolved = asked.resolve()
    assert resolved.value(key) == 5
    assert [setting.layer for setting in resolved.chain[key]] == [level.layer, "default"]
    assert asked.project.resolve(environ={"HF_HOME": "/nowhere"}) is not None


def test_all_layers_at_once_are_listed_in_order(project: Project) -> None:
    asked = Asked(project)
    for number, level in enumerate(reversed(LEVELS), start=2):
        if level.name != "dotenv":
            level.say(asked, TOP, number)
    resolved = asked.resolve()
    layers = [setting.layer for setting in resolved.chain[TOP]]
    assert layers == ["constructor", "call", "notebook", "environment", "file", "project", "project", "user", "default"]
    assert tuple(dict.fromkeys(layers)) == LAYERS
    lines = str(resolved.explain(TOP)).splitlines()
    assert lines[0] == f"{TOP} = 10 from the argument {TOP}= (constructor)"
    assert lines[-1] == "  shadows 1 from the default (default)"
    assert len(lines) == 9


# how layers merge


def test_sections_merge_key_by_key(project: Project) -> None:
    project.write_user("fsdp_config: {fsdp_version: 2, fsdp_min_num_params: 1, fsdp_offload_params: true}")
    project.write(".accelerate/default_config.yaml", "fsdp_config:\n  fsdp_min_num_params: 2\n")
    config = project.resolve(given("call", fsdp_config={"fsdp_offload_params": False})).config.fsdp_config
    assert (config.fsdp_version, config.fsdp_min_num_params, config.fsdp_offload_params) == (2, 2, False)


def test_parameters_merge_at_any_depth(project: Project) -> None:
    project.write_user("params: {trainer: {lr: 0.1, optimizer: {name: sgd, momentum: 0.9}}, batch_size: 8}")
    project.write(".accelerate/default_config.yaml", "params: {trainer: {optimizer: {name: adam}}, seeds: [1, 2]}")
    resolved = project.resolve(given("call", params={"trainer": {"lr": 0.2}}))
    optimizer = {"name": "adam", "momentum": 0.9}
    assert resolved.config.params == {"trainer": {"lr": 0.2, "optimizer": optimizer}, "batch_size": 8, "seeds": [1, 2]}


@pytest.mark.parametrize(
    ("low", "high", "merged"),
    [
        ("{a: {b: 1}}", "{a: 2}", {"a": 2}),
        ("{a: 1}", "{a: {b: 2}}", {"a": {"b": 2}}),
        ("{a: {b: 1}}", "{a: null}", {"a": None}),
        ("{a: {b: {c: 1}}}", "{a: {b: 2}}", {"a": {"b": 2}}),
        ("{a: [1, 2]}", "{a: [3]}", {"a": [3]}),
        ("{a: 1}", "{}", {"a": 1}),
        ("{a: 1}", "null", {"a": 1}),
        ("{a: {b: 1}}", "{a.b: 2}", {"a": {"b": 2}}),
    ],
)
def test_a_plain_value_and_a_mapping_replace_each_other(
    low: str, high: str, merged: Mapping[str, Any], project: Project
) -> None:
    project.write_user(f"params: {low}")
    project.write(".accelerate/default_config.yaml", f"params: {high}")
    assert project.resolve().config.params == merged


def test_null_hides_what_lower_layers_say_and_absence_does_not(project: Project) -> None:
    project.write_user(
        "seed: 7\nmixed_precision: bf16\nfsdp_config: {fsdp_version: 2, fsdp_backward_prefetch: BACKWARD_PRE}"
    )
    project.write(
        ".accelerate/default_config.yaml",
        "seed: null\nmixed_precision: ~\nfsdp_config:\n  fsdp_version:\n  fsdp_backward_prefetch: null\n",
    )
    config = project.resolve().config
    assert (config.seed, config.mixed_precision) == (None, "no")
    assert (config.fsdp_config.fsdp_version, config.fsdp_config.fsdp_backward_prefetch) == (1, None)
    project.write(".accelerate/default_config.yaml", "fsdp_config:\n")
    assert project.resolve().config.fsdp_config.fsdp_version == 2


def test_an_empty_variable_is_not_given(project: Project) -> None:
    project.write_user("seed: 7")
    assert project.resolve(environ={"NBACCEL_SEED": " "}).config.seed == 7
    project.write(".env", "NBACCEL_SEED=")
    assert project.resolve().config.seed == 7


def test_an_empty_variable_does_not_hide_the_env_file(project: Project) -> None:
    project.write(".env", "NBACCEL_SEED=8")
    resolved = project.resolve(environ={"NBACCEL_SEED": ""})
    assert resolved.dotenv == {"NBACCEL_SEED": "8"}
    assert resolved.config.seed == 8


# a higher layer's word that takes another key of lower layers out of force

IMPLIED = [
    ({"num_processes": 2}, {"distributed_type": "NO"}, "distributed_type", None),
    ({"num_processes": "2"}, {"distributed_type": "NO_DISTRIBUTED"}, "distributed_type", None),
    ({"num_processes": 1}, {"distributed_type": "NO"}, "distributed_type", "NO"),
    ({"use_cpu": True}, {"distributed_type": "MULTI_GPU"}, "distributed_type", None),
    ({"use_cpu": True}, {"gpu_ids": "0,1"}, "gpu_ids", None),
    ({"use_cpu": False}, {"gpu_ids": "0,1"}, "gpu_ids", (0, 1)),
    ({"gpu_ids": "0"}, {"use_cpu": "yes"}, "use_cpu", False),
    ({"distributed_type": "NO"}, {"num_processes": 4}, "num_processes", None),
    ({"distributed_type": "MULTI_GPU"}, {"use_cpu": True}, "use_cpu", False),
]


@pytest.mark.parametrize(("high", "low", "key", "value"), IMPLIED)
def test_a_higher_word_takes_what_contradicts_it_out_of_force(
    high: Mapping[str, Any], low: Mapping[str, Any], key: str, value: object, project: Project
) -> None:
    NOTEBOOK.update(low, "the form")
    resolved = project.resolve(call_layer(high))
    assert resolved.value(key) == value
    if value != next(iter(low.values())) and value != (0, 1):
        (word,) = high
        assert resolved.origin(key).place == f"the argument {word}= ({word}={high[word]})"
        assert resolved.explain(key).shadowed[0].place == "the form"


@pytest.mark.parametrize(("low", "high", "key", "value"), IMPLIED)
def test_a_lower_word_does_not(
    low: Mapping[str, Any], high: Mapping[str, Any], key: str, value: object, project: Project
) -> None:
    NOTEBOOK.update(low, "the form")
    assert project.resolve(call_layer(high)).origin(key).layer == "call"


# files


def test_the_project_file_is_found_upward(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.write(".accelerate/default_config.yaml", "seed: 1")
    below = project.write("a/b/c.txt", "").parent
    monkeypatch.chdir(below)
    resolved = Project(below, project.hub).resolve()
    assert resolved.config.seed == 1
    assert resolved.origin("seed").place.endswith("project/.accelerate/default_config.yaml:1:7")


@pytest.mark.parametrize("name", ["default_config.yaml", "default_config.yml", "default_config.json"])
def test_project_and_user_files_are_yaml_or_json(name: str, project: Project) -> None:
    project.write(f".accelerate/{name}", '{"seed": 1}')
    project.write_user('{"num_processes": 2}', name)
    config = project.resolve().config
    assert (config.seed, config.num_processes) == (1, 2)


def test_the_user_file_is_in_the_folder_that_variables_name(project: Project) -> None:
    homes = {"HF_HOME": "hf", "XDG_CACHE_HOME": "xdg/huggingface", "HOME": "home/.cache/huggingface"}
    for seed, folder in enumerate(homes.values()):
        project.write(f"{folder}/accelerate/default_config.yaml", f"seed: {seed}")
    environ = {"HF_HOME": "hf", "XDG_CACHE_HOME": "xdg", "HOME": "home"}
    environ = {name: str(project.folder / where) for name, where in environ.items()}
    assert [project.resolve(environ={**environ, "HF_HOME": home}).config.seed for home in (environ["HF_HOME"], "")] == [
        0,
        1,
    ]
    assert project.resolve(environ={"HF_HOME": "", "HOME": environ["HOME"]}).config.seed == 2


def test_a_variable_names_the_file_and_an_argument_names_it_louder(project: Project) -> None:
    project.write("one.yaml", "seed: 1")
    project.write("two.yaml", "seed: 2")
    assert project.resolve(environ={"ACCELERATE_CONFIG_FILE": "one.yaml"}).config.seed == 1
    assert project.resolve(environ={"ACCELERATE_CONFIG_FILE": "one.yaml"}, config_file="two.yaml").config.seed == 2
    project.write(".env", "ACCELERATE_CONFIG_FILE=two.yaml")
    assert project.resolve().config.seed == 2
    assert project.resolve(environ={"ACCELERATE_CONFIG_FILE": "one.yaml"}).config.seed == 1


def test_a_changed_file_is_read_again(project: Project) -> None:
    project.write("more.yaml", "seed: 1")
    project.write(".accelerate/default_config.yaml", "include: ../more.yaml\nnum_processes: 2")
    assert project.resolve().config.seed == 1
    project.write("more.yaml", "seed: 22")
    assert project.resolve().config.seed == 22
    (project.folder / "more.yaml").unlink()
    with pytest.raises(ConfigFileError, match=r"there is no file more\.yaml"):
        project.resolve()


def test_reading_writes_nothing(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    project.write(".env", "NBACCEL_SEED=1\nOURS=2")
    project.write(".accelerate/default_config.yaml", "mixed_precision: bf16")
    environ = {"HF_HOME": str(project.hub), "ACCELERATE_NUM_PROCESSES": "2"}
    before, files = (dict(environ), dict(os.environ)), sorted(project.folder.rglob("*"))
    resolved = project.resolve(environ=environ)
    assert (environ, dict(os.environ)) == before
    assert sorted(project.folder.rglob("*")) == files
    assert resolved.dotenv == {"NBACCEL_SEED": "1", "OURS": "2"}


# include


def test_included_files_are_relative_to_the_file_and_below_it(project: Project) -> None:
    project.write("conf/base.yaml", "seed: 1\nnum_processes: 2\nfsdp_config: {fsdp_version: 2}")
    project.write("conf/more/second.yaml", "include: ../third.yaml\nnum_processes: 3\nmixed_precision: fp16")
    project.write("conf/third.yaml", "mixed_precision: bf16\ntimeout: 5")
    project.write(
        "conf/run.yaml", "seed: 9\ninclude: [base.yaml, more/second.yaml]\nfsdp_config: {fsdp_offload_params: true}"
    )
    resolved = project.resolve(config_file="conf/run.yaml")
    config = resolved.config
    assert (config.seed, config.num_processes, config.mixed_precision, config.timeout) == (9, 3, "fp16", 5.0)
    assert (config.fsdp_config.fsdp_version, config.fsdp_config.fsdp_offload_params) == (2, True)
    assert resolved.origin("timeout").place == "conf/third.yaml:2:10"
    assert resolved.origin("timeout").layer == "file"


def test_an_include_may_be_null_or_empty_or_absolute(project: Project) -> None:
    base = project.write("base.yaml", "seed: 1")
    assert project.values("include: null\nseed: 2") == {"seed": 2}
    assert project.values("include: []\nseed: 2") == {"seed": 2}
    assert project.values(f"include: {base}") == {"seed": 1}


@pytest.mark.parametrize(
    ("files", "place", "problem"),
    [
        ({"a": "include: a.yaml"}, "a.yaml:1:10", "a.yaml includes this file in its turn"),
        (
            {"a": "include: b.yaml", "b": "seed: 1\ninclude: [a.yaml]"},
            "b.yaml:2:10",
            "a.yaml includes this file in its turn",
        ),
        ({"a": "include: nowhere.yaml"}, "a.yaml:1:10", "there is no file nowhere.yaml"),
        ({"a": "include: ."}, "a.yaml:1:10", "there is no file"),
        ({"a": "include: 5"}, "a.yaml:1:10", "include: 5 is no path"),
        ({"a": "include: {b: c}"}, "a.yaml:1:10", "is no path"),
        ({"a": 'include: "a\\0b"'}, "a.yaml:1:10", "is no path"),
        ({"a": f"include: {'x' * 5000}"}, "a.yaml:1:10", "there is no file"),
        ({"a": "include: b.yaml", "b": "seed: x"}, "b.yaml:1:7", "seed='x'"),
        ({"a": "include: b.yaml", "b": "sede: 1"}, "b.yaml:1:1", "'sede'"),
    ],
)
def test_a_wrong_include_is_named(files: Mapping[str, str], place: str, problem: str, project: Project) -> None:
    for name, content in files.items():
        project.write(f"{name}.yaml", content)
    message = str(error_of(project, config_file="a.yaml"))
    assert place in message
    assert problem in message


def test_includes_are_neither_endless_nor_a_flood(project: Project) -> None:
    for number in range(60):
        project.write(f"{number}.yaml", f"include: {number + 1}.yaml")
    project.write("60.yaml", "seed: 1")
    assert "files include each other" in str(error_of(project, config_file="0.yaml"))
    assert project.resolve(config_file="50.yaml").config.seed == 1
    for number in range(15):
        project.write(f"{number}.yaml", f"include: [{number + 1}.yaml, {number + 1}.yaml]")
    project.write("15.yaml", "seed: 1")
    assert "it includes more than 100 files" in str(error_of(project, config_file="0.yaml"))


# profiles

PROFILE = {
    "constructor": lambda project: {"layers": [given("constructor", profile="dev")]},
    "call": lambda project: {"layers": [given("call", profile="dev")]},
    "notebook": lambda project: NOTEBOOK.update({"profile": "dev"}, "the form") or {},
    "environment": lambda project: {"environ": {"NBACCEL_PROFILE": "dev"}},
    "dotenv": lambda project: project.write(".env", "NBACCEL_PROFILE=dev") and {},
    "named file": lambda project: {"config_file": project.write("named.yaml", "profile: dev")},
    "project": lambda project: project.write(".accelerate/default_config.yaml", "profile: dev\nseed: 1") and {},
    "user": lambda project: project.write_user("profile: dev") and {},
}


@pytest.mark.parametrize("layer", PROFILE)
def test_any_layer_may_choose_the_profile(layer: str, project: Project) -> None:
    project.write(".accelerate/dev.yaml", "seed: 5")
    project.write(".accelerate/prod.yaml", "seed: 6")
    project.write(".accelerate/default_config.yaml", "seed: 1")
    asked = PROFILE[layer](project)
    resolved = project.resolve(*asked.pop("layers", ()), **asked)
    assert resolved.value("profile") == "dev"
    assert resolved.value("seed") == 5
    assert resolved.origin("seed").layer == "project"


def test_the_highest_layer_chooses_the_profile_and_null_means_none(project: Project) -> None:
    project.write(".accelerate/dev.yaml", "seed: 5")
    project.write(".accelerate/prod.json", '{"seed": 6}')
    project.write(".accelerate/default_config.yaml", "seed: 1\nprofile: dev")
    assert project.resolve().config.seed == 5
    assert project.resolve(environ={"NBACCEL_PROFILE": "prod"}).config.seed == 6
    assert project.resolve(given("call", profile=None), environ={"NBACCEL_PROFILE": "prod"}).config.seed == 1


def test_a_profile_may_stand_alone(project: Project) -> None:
    project.write(".accelerate/dev.yml", "seed: 5")
    assert project.resolve(given("call", profile="dev")).config.seed == 5


def test_an_unknown_profile_lists_those_that_exist(project: Project) -> None:
    with pytest.raises(ConfigError, match=r"profile='dev' \(from the argument profile=\).*none: there is no file"):
        project.resolve(given("call", profile="dev"))
    project.write(".accelerate/dev.yaml", "seed: 5")
    project.write(".accelerate/prod.yaml", "seed: 6")
    project.write(".accelerate/notes.txt", "")
    with pytest.raises(ConfigError, match=r"Possible: dev, prod\. Did you mean 'prod'\?") as caught:
        project.resolve(environ={"NBACCEL_PROFILE": "prd"})
    assert "the variable NBACCEL_PROFILE" in str(caught.value)
    with pytest.raises(ConfigError, match="Possible: dev, prod"):
        project.resolve(given("call", profile="../named"))


# .env and the user's own variables


def test_a_env_file_is_below_real_variables_and_knows_its_lines(project: Project) -> None:
    project.write(".env", '# ours\nexport NBACCEL_SEED=1\n\n\n  ACCELERATE_MIXED_PRECISION="bf16" # half\n')
    resolved = project.resolve(environ={"NBACCEL_SEED": "2"})
    assert (resolved.config.seed, resolved.config.mixed_precision) == (2, "bf16")
    assert resolved.origin("mixed_precision").place == "the variable ACCELERATE_MIXED_PRECISION in .env:5"
    assert resolved.origin("seed").place == "the variable NBACCEL_SEED"


def test_a_env_file_lies_beside_the_project_file(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.write(".accelerate/default_config.yaml", "")
    project.write(".env", "NBACCEL_SEED=1")
    below = project.write("a/b.txt", "").parent
    monkeypatch.chdir(below)
    assert Project(below, project.hub).resolve().config.seed == 1


@pytest.mark.parametrize(
    ("written", "value"),
    [("16", 16), ("1e-4", 1e-4), ("true", True), ("[1, 2]", [1, 2]), ("adam", "adam"), ("{a: 1}", {"a": 1})],
)
def test_own_variables_set_parameters_that_somebody_has_named(written: str, value: object, project: Project) -> None:
    project.write(".accelerate/default_config.yaml", "params: {batch_size: 8, trainer: {lr: 0.1}}")
    resolved = project.resolve(environ={"BATCH_SIZE": written, "TRAINER_LR": "0.2", "EPOCHS": "5"})
    assert resolved.config.params == {"batch_size": value, "trainer": {"lr": 0.2}}
    assert resolved.origin("params.batch_size").place == "the variable BATCH_SIZE"
    assert project.resolve(environ={"EPOCHS": "5"}, params=("epochs",)).config.params["epochs"] == 5


def test_a_variable_may_hold_all_parameters(project: Project) -> None:
    project.write(".accelerate/default_config.yaml", "params: {lr: 0.1, trainer: {epochs: 1, name: a}}")
    resolved = project.resolve(environ={"NBACCEL_PARAMS": '{"lr": 1e-3, "trainer": {"epochs": 5}}', "LR": "7"})
    assert resolved.config.params == {"lr": 1e-3, "trainer": {"epochs": 5, "name": "a"}}
    assert resolved.origin("params.trainer.epochs").place == "the variable NBACCEL_PARAMS"
    with pytest.raises(ConfigError, match=r"params='text' \(from the variable NBACCEL_PARAMS\).*Possible: a mapping"):
        project.resolve(environ={"NBACCEL_PARAMS": "text"})


def test_an_own_variable_of_the_env_file_knows_its_line(project: Project) -> None:
    project.write(".env", "# ours\nBATCH_SIZE=16")
    resolved = project.resolve(params=("batch_size",))
    assert resolved.origin("params.batch_size").place == "the variable BATCH_SIZE in .env:2"


@pytest.mark.parametrize("name", ["home", "path", "user", "name", "debug"])
def test_variables_of_the_system_set_no_parameter(name: str, project: Project) -> None:
    environ = {name.upper(): "/somewhere"}
    assert project.resolve(given("call", params={name: 1}), environ=environ).config.params == {name: 1}
    assert project.resolve(environ=environ, params=(name,)).config.params == {}
