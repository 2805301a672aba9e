"""The questionnaire: what is asked when, how answers are read, and what they set."""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from typing import Any

import pytest

from nbaccel.config import KEYS, call_layer, resolve
from nbaccel.config.questions import Question, ask, keys_asked, questions, settings_of
from nbaccel.errors import ConfigError


def asked(answers: Mapping[str, str], held: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """All answers, where one line is given for each question that is named, and an empty one for the others."""
    return ask(questions(held), lambda question: answers.get(question.name, ""))


def scripted(*lines: str) -> tuple[dict[str, Any], list[Question]]:
    """The answers to a few questions, line by line, and the questions as they were put."""
    few = [
        Question("mixed_precision", "Precision?", KEYS["mixed_precision"].choices, "no"),
        Question("num_processes", "How many?"),
        Question("use_fsdp", "FSDP?", ("yes", "no"), False),
        Question("fsdp_config.fsdp_version", "Which?", (), 2, lambda answers: bool(answers.get("use_fsdp"))),
    ]
    put: list[Question] = []
    rest = list(lines)

    def answer(question: Question) -> str:
        put.append(question)
        return rest.pop(0)

    return ask(few, answer), put


# --- which questions ---


def test_who_only_presses_enter_gets_few_questions_and_the_defaults() -> None:
    answers = asked({})
    assert list(answers) == [
        "compute_environment", "distributed_type", "num_machines", "debug", "use_cpu", "process_group_config.backend",
        "use_dynamo", "use_deepspeed", "use_fsdp", "use_megatron_lm", "num_processes", "gpu_ids",
        "enable_cpu_affinity", "mixed_precision", "gradient_accumulation_steps", "project_dir", "log_with", "save_to",
    ]  # fmt: skip
    assert settings_of(answers) == {
        "compute_environment": "LOCAL_MACHINE", "num_machines": 1, "debug": False, "use_cpu": False,
        "enable_cpu_affinity": False, "mixed_precision": "no", "gradient_accumulation_steps": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("answers", "put", "not_put"),
    [
        ({"distributed_type": "NO"}, "use_cpu use_deepspeed gpu_ids", "num_machines num_processes use_fsdp debug"),
        ({"num_machines": "2"}, "machine_rank main_process_ip main_process_port same_network rdzv_backend", "gpu_ids"),
        ({"num_machines": "2", "same_network": "yes"}, "same_network", "rdzv_backend"),
        ({"distributed_type": "MULTI_CPU"}, "mpirun_config.mpirun_hostfile use_fsdp", "use_deepspeed gpu_ids use_cpu"),
        ({"distributed_type": "XLA"}, "tpu_use_cluster num_processes main_training_function",
         "use_fsdp use_deepspeed process_group_config.backend tpu_name downcast_bf16"),
        ({"distributed_type": "XLA", "tpu_use_cluster": "y", "mixed_precision": "bf16"}, "tpu_name downcast_bf16", ""),
        ({"compute_environment": "AMAZON_SAGEMAKER"}, "iam_role_name distributed_type mixed_precision",
         "num_machines use_fsdp gpu_ids aws_secret_access_key"),
        ({"use_dynamo": "y"}, "dynamo_config.dynamo_backend customize_dynamo", "dynamo_config.dynamo_mode"),
        ({"use_dynamo": "y", "customize_dynamo": "y"}, "dynamo_config.dynamo_mode", ""),
        ({"use_deepspeed": "y"}, "deepspeed_config.zero_stage deepspeed_config.gradient_clipping",
         "use_fsdp deepspeed_config.zero3_init_flag gradient_accumulation_steps deepspeed_config.deepspeed_hostfile"),
        ({"use_deepspeed": "y", "deepspeed_config.zero_stage": "3", "num_machines": "2"},
         "deepspeed_config.zero3_init_flag deepspeed_config.offload_param_device deepspeed_config.deepspeed_hostfile",
         "deepspeed_config.offload_param_nvme_path"),
        ({"use_deepspeed": "y", "deepspeed_config.deepspeed_config_file": "ds.json"}, "num_processes",
         "deepspeed_config.zero_stage mixed_precision"),
        ({"use_fsdp": "y"}, "fsdp_config.fsdp_reshard_after_forward use_parallelism_config",
         "fsdp_config.fsdp_sharding_strategy fsdp_config.fsdp_min_num_params use_megatron_lm"),
        ({"use_fsdp": "y", "fsdp_config.fsdp_version": "1"}, "fsdp_config.fsdp_sharding_strategy",
         "fsdp_config.fsdp_reshard_after_forward use_parallelism_config"),
        ({"use_fsdp": "y", "fsdp_config.fsdp_auto_wrap_policy": "1"}, "fsdp_config.fsdp_transformer_layer_cls_to_wrap",
         "fsdp_config.fsdp_min_num_params"),
        ({"use_fsdp": "y", "use_parallelism_config": "y", "parallelism_config.parallelism_config_cp_size": "2"},
         "parallelism_config.parallelism_config_cp_comm_strategy", ""),
        ({"use_megatron_lm": "y", "megatron_lm_config.megatron_lm_pp_degree": "2"},
         "megatron_lm_config.megatron_lm_num_micro_batches", "megatron_lm_config.megatron_lm_sequence_parallelism"),
        ({"mixed_precision": "fp8", "fp8_config.backend": "te"}, "fp8_config.margin",
         "fp8_config.opt_level fp8_config.pad_inner_dim"),
        ({"mixed_precision": "4", "fp8_config.backend": "msamp"}, "fp8_config.opt_level", "fp8_config.margin"),
    ],
)  # fmt: skip
def test_an_answer_leads_to_other_questions(answers: dict[str, str], put: str, not_put: str) -> None:
    found = asked(answers)
    assert set(put.split()) <= set(found)
    assert not set(not_put.split()) & set(found)


@pytest.mark.parametrize(
    ("gate", "kind"), [("use_fsdp", "FSDP"), ("use_deepspeed", "DEEPSPEED"), ("use_megatron_lm", "MEGATRON_LM")]
)
def test_a_strategy_is_the_kind_of_the_run(gate: str, kind: str) -> None:
    assert settings_of(asked({"distributed_type": "MULTI_GPU", gate: "yes"}))["distributed_type"] == kind
    assert settings_of(asked({"distributed_type": "MULTI_GPU"}))["distributed_type"] == "MULTI_GPU"


def test_all_answers_are_legal_together() -> None:
    many = {"use_fsdp": "y", "use_dynamo": "y", "num_machines": "2", "gpu_ids": "0,1", "log_with": "tensorboard, wandb"}
    set_by = settings_of(asked({**many, "project_dir": "out", "mixed_precision": "bf16"}))
    resolved = resolve(call_layer(set_by), environ={"HF_HOME": "/none"}, folder="/")
    assert resolved.config.fsdp_config.fsdp_version == 2
    assert resolved.config.log_with == ("tensorboard", "wandb")


def test_each_question_about_a_key_is_the_schemas() -> None:
    for question in questions():
        if question.is_key:
            known = KEYS[question.name]
            assert question.text == known.text
            assert question.is_switch == known.is_switch
            assert known.env in question.help
            assert not known.is_secret
    assert "process_group_config.backend" in keys_asked(questions())
    assert "use_fsdp" not in keys_asked(questions())


def test_what_is_there_already_is_the_default() -> None:
    held = {
        "distributed_type": "FSDP", "fsdp_config.fsdp_version": 1, "gpu_ids": (0, 1), "mixed_precision": "bf16",
        "dynamo_config.dynamo_backend": "eager", "debug": True,
    }  # fmt: skip
    again = settings_of(asked({}, held))
    assert held.items() <= again.items()
    assert "distributed_type" not in settings_of(asked({"use_fsdp": "no"}, held))
    by_name = {question.name: question for question in questions(held)}
    assert by_name["gpu_ids"].prompt.endswith("gpu_ids [0,1]: ")
    assert by_name["debug"].prompt.endswith("debug [yes/no, yes]: ")
    held = {"distributed_type": "FSDP", "fsdp_config.fsdp_version": 2}
    mesh = settings_of(asked({}, {**held, "parallelism_config.parallelism_config_tp_size": 2}))
    assert mesh["parallelism_config.parallelism_config_tp_size"] == 2


def test_a_held_kind_that_is_no_choice_is_no_default() -> None:
    kind = next(one for one in questions({"distributed_type": "DATA_PARALLEL"}) if "MULTI_GPU" in one.choices)
    assert kind.default is None


def test_where_to_keep_it() -> None:
    assert asked({})["save_to"] == "project"
    assert asked({"save_to": "2"})["save_to"] == "user"
    assert all(question.name != "save_to" for question in questions(asks_where=False))


# --- how answers are read ---


@pytest.mark.parametrize("line", ["bf16", "BF16", " bf16 ", "3"])
def test_a_choice_by_word_or_number(line: str) -> None:
    assert scripted(line, "", "")[0]["mixed_precision"] == "bf16"


@pytest.mark.parametrize(
    ("line", "meant"),
    [("y", True), ("YES", True), ("true", True), ("1", True), ("2", False), ("n", False), ("", False)],
)
def test_yes_and_no(line: str, meant: bool) -> None:
    assert scripted("", "", line, "")[0]["use_fsdp"] is meant if meant else not scripted("", "", line)[0]["use_fsdp"]


def test_a_number_that_is_a_word_is_the_word() -> None:
    assert Question("x", "?", ("2", "1")).read("2") == "2"


def test_left_out() -> None:
    answers, _ = scripted("", "", "")
    assert answers == {"mixed_precision": "no", "num_processes": None, "use_fsdp": False}
    assert scripted("-", "4", "")[0]["mixed_precision"] is None
    assert "mixed_precision" not in settings_of(scripted("-", "4", "")[0])


@pytest.mark.parametrize(
    ("question", "line", "message"),
    [
        (Question("mixed_precision", "?", ("no", "bf16"), "no"), "bf61", "a number from 1 to 2. Did you mean 'bf16'"),
        (Question("mixed_precision", "?", ("no", "bf16"), "no"), "3", "a number from 1 to 2"),
        (Question("mixed_precision", "?", ("no", "bf16"), "no"), "0", "a number from 1 to 2"),
        (Question("num_processes", "?"), "many", "a whole number from 1"),
        (Question("use_fsdp", "?", ("yes", "no"), False), "perhaps", "yes, no"),
        (Question("debug", "?", ("yes", "no"), False), "perhaps", "yes, no"),
    ],
)
def test_a_wrong_answer_says_what_is_possible(question: Question, line: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        question.read(line)


def test_a_wrong_answer_is_asked_for_again_with_the_reason() -> None:
    answers, put = scripted("bf61", "bf16", "0", "2", "")
    assert answers["mixed_precision"] == "bf16"
    assert answers["num_processes"] == 2
    assert [question.name for question in put] == ["mixed_precision", "mixed_precision", "num_processes",
                                                   "num_processes", "use_fsdp"]  # fmt: skip
    assert "Did you mean 'bf16'" in put[1].note
    assert put[1].note in put[1].prompt
    assert [put[0].note, put[2].note, put[4].note] == ["", "", ""]


def test_back_and_its_default() -> None:
    answers, put = scripted("bf16", "3", "<", "<", "", "", "y", "<", "n")
    assert answers == {"mixed_precision": "bf16", "num_processes": 3, "use_fsdp": False}
    assert put[3].default == 3
    assert put[4].default == "bf16"
    assert "[bf16]" in put[4].prompt


def test_back_skips_what_was_not_asked_and_stops_at_the_first() -> None:
    answers, put = scripted("<", "", "", "y", "<", "", "1")
    assert put[1].note == "This is the first question."
    assert answers["fsdp_config.fsdp_version"] == 1
    assert [question.name for question in put][-3:] == [
        "fsdp_config.fsdp_version",
        "use_fsdp",
        "fsdp_config.fsdp_version",
    ]


def test_help() -> None:
    _, put = scripted("?", "", "", "?", "")
    assert "ACCELERATE_MIXED_PRECISION" in put[1].prompt
    assert "--mixed-precision" in put[1].note
    assert "goes back" in put[4].note


def test_plain_input_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts: list[str] = []
    lines = iter(["1"])

    def answer(prompt: str) -> str:
        prompts.append(prompt)
        return next(lines, "")

    monkeypatch.setattr(builtins, "input", answer)
    answers = ask(questions(), lambda question: input(question.prompt))
    assert answers["compute_environment"] == "LOCAL_MACHINE"
    assert prompts[0] == (
        "\nWhat kind of place the run is started at.\n"
        "  1) LOCAL_MACHINE  2) CLUSTER  3) AMAZON_SAGEMAKER\ncompute_environment [LOCAL_MACHINE]: "
    )


def test_who_ends_it_ends_it() -> None:
    def answer(question: Question) -> str:
        raise EOFError

    with pytest.raises(EOFError):
        ask(questions(), answer)
