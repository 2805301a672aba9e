"""The schema keeps its promises: about itself, about the classes of the runtime, and about Accelerate's names."""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Iterator

import pytest
from projects import Project, error_of, given

from nbaccel.config import COMMON, KEYS, NOTEBOOK, SECTIONS, SHORTHANDS, Key, RunConfig, table
from nbaccel.config.params import filled
from nbaccel.config.secrets import MASK, is_secret, masked, without_secrets
from nbaccel.errors import ConfigError
from nbaccel.runtime import handlers

ALL = list(KEYS.values())
SECRETS = [key.name for key in ALL if key.is_secret]


def of_key(key: Key) -> str:
    return key.name


# what each key says of itself


@pytest.mark.parametrize("key", ALL, ids=of_key)
def test_a_key_is_described(key: Key) -> None:
    assert key.text.endswith(".")
    assert "\n" not in key.text
    assert re.fullmatch(r"[A-Z][A-Z0-9_]+", key.env)
    assert all(flag.startswith("-") and "_" not in flag for flag in key.flags)
    assert key.possible
    assert key.group
    assert key.needs is None or key.needs[0] in KEYS


def test_variables_and_flags_are_unique() -> None:
    flags = collections.Counter([*(flag for key in ALL for flag in key.flags), *SHORTHANDS])
    variables = collections.Counter([*(key.env for key in ALL), *(name for name, _, _ in SHORTHANDS.values() if name)])
    assert [name for name, count in (flags + variables).items() if count > 1] == []


def test_short_lists_name_keys() -> None:
    assert set(COMMON) <= KEYS.keys()
    assert {key for _, key, _ in SHORTHANDS.values()} <= KEYS.keys()
    assert {key.section for key in ALL} == {"", *SECTIONS}


def test_all_defaults_are_valid() -> None:
    values: dict[str, object] = {}
    for key in ALL:
        *sections, name = key.name.split(".")
        holder: dict[str, object] = values
        for section in sections:
            holder = holder.setdefault(section, {})  # type: ignore[assignment]
        holder[name] = key.default
    assert RunConfig.model_validate(values) == RunConfig()


def test_every_choice_is_valid_in_any_case(project: Project) -> None:
    for key in ALL:
        for choice in key.choices:
            for written in (choice, choice.lower(), choice.upper(), f" {choice} "):
                assert project.resolve(given("call", **{key.name: written})).value(key.name) == choice, key.name


# what is possible is possible, and nothing else

POSSIBLE: dict[str, tuple[list[object], list[object]]] = {
    "true, false": ([True, False, "true", "no", 0, "ON"], ["perhaps", 2, [True]]),
    "a text": (["word", "two words"], [1, ["a"], {"a": 1}, True]),
    "a file": (["x.json"], [1, ["a"]]),
    "a folder": (["here", "~/there"], [1, ["a"]]),
    "a host or address": (["10.0.0.1", "node-0"], [1, ["a"]]),
    "a mapping": ([{"a": 1}, {}, '{"a": 1}'], [1, "text", "[1]", [1]]),
    "a text, or a list of them": (["a", ["a", "b"], ()], [1, [1]]),
    "a list, or words with commas between": (["a", "a, b", ["a"], ()], [1, [1], {"a": 1}]),
    "names such as tensorboard, wandb, notebook, or all": (["wandb", "all", ["wandb"]], [1, [1]]),
    "the name of a file beside the project file": ([], [1, ["a"], "nowhere"]),
    'all, or indices such as "0,1"': (["all", "0,1", [0, 2], 1], ["x", -1, 1.5, [True], {"a": 1}]),
    "a port from 0 to 65535": ([0, 65535, "29500"], [-1, 65536, 1.5, True]),
    "a whole number from 0 to 2**32 - 1": ([0, 2**32 - 1], [-1, 2**32, True]),
    'a whole number from 1, or "auto"': ([1, "auto", "8"], [0, -1, "car", 1.5, True]),
    'a number from 0, or "auto"': ([0, 0.5, "auto", "1.5"], [-0.1, "car", True]),
    "a number between 0 and 1": ([0.5, "0.1"], [0, 1, -1, True]),
    "seconds, a number above 0": ([0.1, "30"], [0, -1, float("inf"), float("nan"), True]),
    "seconds, a number from 0": ([0, 0.1], [-1, float("inf"), float("nan"), True]),
    "three times true or false": ([True, (True, False, True), "true,false,no"], ["true", [True], 1]),
    "true, false, or a word of fsdp_sharding_strategy": ([True, "false", "FULL_SHARD", "no_shard"], ["perhaps", 2]),
    "0, 1, 2, 3, or rank:number pairs": (["0", 3, "0:1,1:2"], ["4", 4, "a", "0:", True]),
    "key=value,key=value": (["", "timeout=900", "a=1,b=2"], ["timeout", "=1", 5]),
    "a URL such as tcp://host:port, file:///path, env://": (["env://", "tcp://h:1", "file:///a"], ["h:1", 1]),
}


@pytest.mark.parametrize("key", [key for key in ALL if not key.choices and key.name != "params"], ids=of_key)
def test_what_is_possible_is_true_to_the_type(key: Key, project: Project) -> None:
    legal, illegal = POSSIBLE.get(key.possible) or _numbers(key.possible)
    for value in legal:
        project.resolve(given("call", **{key.name: value}))
    for value in illegal:
        message = str(error_of(project, given("call", **{key.name: value})))
        assert key.name in message
        assert key.possible in message or key.name == "profile"


def _numbers(possible: str) -> tuple[list[object], list[object]]:
    """Examples for `a whole number from 1 to 2`."""
    found = re.fullmatch(r"a (whole )?number(?: (from|above) ([\d.]+))?(?: to ([\d.]+))?", possible)
    assert found, f"no examples for {possible!r}"
    whole, kind, low, high = found.groups()
    step = 1 if whole else 0.25
    start = float(low) + (step if kind == "above" else 0) if low else -3.0
    legal: list[object] = [int(start), str(int(start))] if whole else [start, str(start)]
    illegal: list[object] = ["x", True, [1], *([0.5] if whole else [])]
    illegal += [float(low) - (step if kind == "from" else 0)] if low else []
    return [*legal, *([float(high)] if high else [])], [*illegal, *([float(high) + 1] if high else [])]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("a, b", ("a, b",)),
        ('["a, b", "c"]', ("a, b", "c")),
        ("['a', \"it's\"]", ("a", "it's")),
        (r'["\ud83c\udf89"]', ("\N{PARTY POPPER}",)),
        ("[]", ()),
        ("[ -f x ] && y", ("[ -f x ] && y",)),
        ("[ 1 ]", ("[ 1 ]",)),
        ('["a"], ["b"]', ('["a"], ["b"]',)),
        (['["a"]', "b"], ('["a"]', "b")),
    ],
)
def test_lines_are_one_text_or_a_list_of_texts(project: Project, text: object, lines: tuple[str, ...]) -> None:
    assert project.resolve(given("call", commands=text)).config.commands == lines


@pytest.mark.parametrize("key", [key for key in ALL if key.name != "params"], ids=of_key)
def test_null_is_a_value_where_it_says_so_and_else_means_the_default(key: Key, project: Project) -> None:
    value = project.resolve(given("call", **{key.name: None})).value(key.name)
    assert value == (None if key.is_nullable else key.default)


@pytest.mark.parametrize("key", [key for key in ALL if key.name not in ("params", "profile")], ids=of_key)
def test_a_variable_says_the_same_as_an_argument(key: Key, project: Project) -> None:
    legal, _ = ([*key.choices], []) if key.choices else POSSIBLE.get(key.possible) or _numbers(key.possible)
    for value in legal:
        if isinstance(value, str) and value:
            argued = project.resolve(given("call", **{key.name: value})).value(key.name)
            assert project.resolve(environ={key.env: value}).value(key.name) == argued


# the runtime's classes

CLASSES = {
    "autocast_config": handlers.AutocastKwargs,
    "ddp_config": handlers.DistributedDataParallelKwargs,
    "grad_scaler_config": handlers.GradScalerKwargs,
    "process_group_config": handlers.InitProcessGroupKwargs,
    "dataloader_config": handlers.DataLoaderConfiguration,
    "gradient_accumulation_config": handlers.GradientAccumulationPlugin,
    "project_config": handlers.ProjectConfiguration,
}
ELSEWHERE = {
    ("gradient_accumulation_config", "num_steps"): "gradient_accumulation_steps",
    ("project_config", "project_dir"): "project_dir",
}
OTHER_WORDS = {
    ("dataloader_config", "use_configured_sampler"): "the default, in other words",
    ("dataloader_config", "gradient_accumulation_kwargs"): "fields of GradientAccumulationPlugin, which has a section",
    ("project_config", "iteration_checkpoints"): "automatic_checkpoint_naming, in other words",
}
OTHER_DEFAULTS = {
    "process_group_config.backend": "the class says nccl, as Accelerate's, and means: as the device needs it",
    "gradient_accumulation_steps": "the class's None means: as configured",
}


@pytest.mark.parametrize("section", CLASSES)
def test_a_class_and_its_section_have_the_same_fields(section: str) -> None:
    fields = [field.name for field in dataclasses.fields(CLASSES[section])]
    held = [key.short_name for key in ALL if key.section == section]
    assert [name for name in fields if (section, name) not in ELSEWHERE | OTHER_WORDS] == held
    assert all(ELSEWHERE[section, name] in KEYS for name in fields if (section, name) in ELSEWHERE)


@pytest.mark.parametrize("section", CLASSES)
def test_a_class_and_its_section_have_the_same_defaults(section: str) -> None:
    for field in dataclasses.fields(CLASSES[section]):
        if (section, field.name) in OTHER_WORDS:
            continue
        name = ELSEWHERE.get((section, field.name), f"{section}.{field.name}")
        assert (KEYS[name].default == field.default) == (name not in OTHER_DEFAULTS), name


# Accelerate's names

NO_KEYS = {
    "help": "shows the flags",
    "config_file": "names a layer",
    "quiet": "a switch of the command",
    "module": "says what the script is",
    "no_python": "says what the script is",
    "no_tpu_cluster": "switches --tpu-cluster off",
    "use_parallelism_config": "the sizes say so",
}


def test_every_flag_of_accelerates_launch_is_a_flag_here() -> None:
    launch = pytest.importorskip("accelerate.commands.launch")
    known = {*(flag for key in ALL for flag in key.flags), *SHORTHANDS}
    flags = {
        name.replace("_", "-") for action in launch.launch_command_parser()._actions for name in action.option_strings
    }
    missing = {name.lstrip("-").replace("-", "_") for name in flags if name not in known and name.startswith("--")}
    assert missing == set(NO_KEYS)


def test_every_key_of_accelerates_files_is_a_key_here() -> None:
    args = pytest.importorskip("accelerate.commands.config.config_args")
    fields = {field.name for kind in (args.ClusterConfig, args.SageMakerConfig) for field in dataclasses.fields(kind)}
    assert fields - {key.name for key in ALL if not key.section} - set(SECTIONS) == set()


VARIABLES = {
    "ACCELERATE": "MIXED_PRECISION USE_CPU DEBUG_MODE GRADIENT_ACCUMULATION_STEPS CPU_AFFINITY DOWNCAST_BF16 USE_FSDP "
    "USE_DEEPSPEED USE_MEGATRON_LM GRADIENT_CLIPPING",
    "ACCELERATE_DYNAMO": "BACKEND MODE USE_FULLGRAPH USE_DYNAMIC USE_REGIONAL_COMPILATION",
    "ACCELERATE_FP8": "BACKEND OPT_LEVEL PAD_INNER_DIM ENABLE_FSDP_FLOAT8_ALL_GATHER USE_AUTOCAST_DURING_EVAL MARGIN "
    "INTERVAL FORMAT AMAX_HISTORY_LEN AMAX_COMPUTE_ALGO USE_MXFP8_BLOCK_SCALING",
    "ACCELERATE_DEEPSPEED": "ZERO_STAGE OFFLOAD_OPTIMIZER_DEVICE OFFLOAD_PARAM_DEVICE OFFLOAD_OPTIMIZER_NVME_PATH "
    "OFFLOAD_PARAM_NVME_PATH ZERO3_INIT ZERO3_SAVE_16BIT_MODEL CONFIG_FILE MOE_LAYER_CLS_NAMES",
    "FSDP": "VERSION SHARDING_STRATEGY RESHARD_AFTER_FORWARD OFFLOAD_PARAMS BACKWARD_PREFETCH STATE_DICT_TYPE "
    "AUTO_WRAP_POLICY TRANSFORMER_CLS_TO_WRAP MIN_NUM_PARAMS USE_ORIG_PARAMS SYNC_MODULE_STATES FORWARD_PREFETCH "
    "ACTIVATION_CHECKPOINTING IGNORED_MODULES CPU_RAM_EFFICIENT_LOADING",
    "PARALLELISM_CONFIG": "DP_REPLICATE_SIZE DP_SHARD_SIZE TP_SIZE CP_SIZE SP_SIZE CP_BACKEND CP_COMM_STRATEGY "
    "SP_BACKEND SP_SEQ_LENGTH SP_SEQ_LENGTH_IS_VARIABLE SP_ATTN_IMPLEMENTATION",
    "MEGATRON_LM": "TP_DEGREE PP_DEGREE USE_CUSTOM_FSDP NO_LOAD_OPTIM EOD_MASK_LOSS NO_SAVE_OPTIM GRADIENT_CLIPPING "
    "OPTIMIZER_CPU_OFFLOAD OVERLAP_CPU_OPTIMIZER_D2H_H2D USE_PRECISION_AWARE_OPTIMIZER NUM_MICRO_BATCHES "
    "DECODER_LAST_PIPELINE_NUM_LAYERS RECOMPUTE_ACTIVATIONS RECOMPUTE_GRANULARITY RECOMPUTE_METHOD "
    "RECOMPUTE_NUM_LAYERS SEQUENCE_PARALLELISM USE_DISTRIBUTED_OPTIMIZER ATTENTION_BACKEND ATTENTION_DROPOUT "
    "ATTENTION_SOFTMAX_IN_FP32 EXPERT_MODEL_PARALLEL_SIZE EXPERT_TENSOR_PARALLEL_SIZE CONTEXT_PARALLEL_SIZE "
    "HIDDEN_DROPOUT CALCULATE_PER_TOKEN_LOSS USE_ROTARY_POSITION_EMBEDDINGS",
    "AWS": "ACCESS_KEY_ID SECRET_ACCESS_KEY",
}
"""The variables that hold a value of the configuration, without those of ranks, of logging and of trackers."""


def _variables() -> Iterator[str]:
    for prefix, names in VARIABLES.items():
        yield from (f"{prefix}_{name}" for name in names.split())


def test_every_variable_of_accelerate_is_read() -> None:
    known = {*(key.env for key in ALL), *(name for name, _, _ in SHORTHANDS.values())}
    assert set(_variables()) - known == set()


OVERRIDES = ("ACCELERATE_FP8_OVERRIDE_FPROP", "ACCELERATE_FP8_OVERRIDE_DGRAD", "ACCELERATE_FP8_OVERRIDE_WGRAD")
OVERRIDDEN = "fp8_config.override_linear_precision"


@pytest.mark.parametrize(
    ("written", "value"),
    [
        (("true", "false", "1"), (True, False, True)),
        (("", "True", ""), (False, True, False)),
        (("false", "", ""), (False, False, False)),
    ],
)
def test_three_variables_set_the_parts_of_one_key(
    written: tuple[str, ...], value: tuple[bool, ...], project: Project
) -> None:
    resolved = project.resolve(environ=dict(zip(OVERRIDES, written, strict=True)))
    names = [f"the variable {name}" for name, word in zip(OVERRIDES, written, strict=True) if word]
    assert resolved.value(OVERRIDDEN) == value
    assert resolved.origin(OVERRIDDEN).place == " and ".join(names)


def test_the_three_variables_may_repeat_the_one_and_not_contradict_it(project: Project) -> None:
    environ = {"ACCELERATE_FP8_OVERRIDE_LINEAR_PRECISION": "True, false, false", OVERRIDES[0]: "true"}
    assert project.resolve(environ=environ).value(OVERRIDDEN) == (True, False, False)
    message = str(error_of(project, environ=environ | {OVERRIDES[1]: "true"}))
    assert "OVERRIDE_FPROP and the variable ACCELERATE_FP8_OVERRIDE_DGRAD" in message
    assert "ACCELERATE_FP8_OVERRIDE_LINEAR_PRECISION says" in message


# secrets


def test_the_keys_that_hold_secrets_are_marked() -> None:
    assert {key.name for key in ALL if re.search("secret|password|access_key", key.name)} == set(SECRETS)
    assert len(SECRETS) == 2


@pytest.mark.parametrize("name", [*SECRETS, "params.hf_token", "params.wandb.api_key", "params.PASSWORD"])
def test_a_secret_is_shown_nowhere(name: str, project: Project) -> None:
    NOTEBOOK.update({name: "hunter-one"}, "the form")
    resolved = project.resolve(given("call", **{name: "hunter-two"}))
    other = project.resolve()
    assert resolved.value(name) == "hunter-two"
    explanation = resolved.explain(name)
    shown = [str(explanation), repr(explanation), explanation._repr_html_(), repr(resolved.diff(other))]
    rows = table(resolved, [name])
    shown += [str(rows), rows._repr_html_()]
    assert [text for text in shown if "hunter" in text] == []
    assert all(MASK in text for text in shown)


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_is_in_no_error(name: str, project: Project) -> None:
    assert "hunter" not in str(error_of(project, given("call", **{name: ["hunter"]})))
    assert "hunter" not in str(error_of(project, given("call", **{name: "hunter ${nowhere}"})))
    assert "hunter" not in repr(project.resolve(given("call", **{name: "hunter"})).config)
    for line in (
        f"{name}: hunter\n{name}: hunter",
        f"{name}: 'hunter",
        f"seed: [1, {name}: hunter",
        f"{name}: !x hunter",
    ):
        assert "hunter" not in str(project.error(line))


def test_a_secret_in_a_env_file_is_in_no_error(project: Project) -> None:
    project.write(".env", "API_KEY:hunter two")
    assert "hunter" not in str(error_of(project))


def test_a_secret_parameter_of_the_wrong_type_is_in_no_error(project: Project) -> None:
    def train(api_key: int) -> None: ...

    with pytest.raises(ConfigError) as caught:
        filled(train, (), {}, project.resolve(given("call", params={"api_key": "hunter"})))
    assert "hunter" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("seed", 7, 7),
        ("params.monkey", "banana", "banana"),
        ("params.max_tokens", 512, 512),
        ("params.token", None, None),
        ("params.login", {"user": "me", "password": "x"}, {"user": "me", "password": MASK}),
        ("params.password", {"value": "x"}, MASK),
        ("params.logins", [{"api-key": "x"}], [{"api-key": MASK}]),
        ("tpu_env", ("HF_TOKEN=x", "A=1"), (f"HF_TOKEN={MASK}", "A=1")),
        ("commands", ["export WANDB_API_KEY=x; run a=1"], [f"export WANDB_API_KEY={MASK} run a=1"]),
    ],
)
def test_what_is_secret_is_told_by_names(name: str, value: object, shown: object) -> None:
    assert masked(name, value) == shown


def test_names_that_only_look_like_secrets_are_none() -> None:
    assert not any(map(is_secret, ("params.keyboard", "params.tokenizer", "params.max_tokens", "mixed_precision")))


@pytest.mark.parametrize(
    "name",
    [
        "pad_token",
        "params.eos_token",
        "params.data.mask-token",
        "loss_per_token",
        "label_key",
        "TEXT_KEY",
        "params.sort_key",
    ],
)
def test_tokens_of_a_vocabulary_and_keys_of_columns_are_no_secrets(name: str) -> None:
    assert not is_secret(name)
    assert masked(name, "<pad>") == "<pad>"


@pytest.mark.parametrize(
    "name",
    [
        "token",
        "params.hf_token",
        "user_token",
        "key",
        "text_api_key",
        "params.pad.token",
        "AUDIO_SECRET",
        "trigger_token",
        "params.batch_key",
        "message_key",
        "STATE_KEY",
    ],
)
def test_what_may_be_a_secret_is_one(name: str) -> None:
    assert is_secret(name)


def test_a_file_holds_null_in_place_of_a_secret() -> None:
    value = {"pad_token": "<pad>", "hub": {"token": "hunter", "name": "me"}, "logins": [{"api_key": "hunter"}]}
    held = {"pad_token": "<pad>", "hub": {"token": None, "name": "me"}, "logins": [{"api_key": MASK}]}
    assert without_secrets("params", value) == held
