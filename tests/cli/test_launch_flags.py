"""The flags of a launch: Accelerate's, each with its key; what may follow them; what their errors say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from nbaccel.cli.launch import PROGRAM, command
from nbaccel.cli.launch_flags import COMMON_OPTIONS, LAUNCH_OPTIONS, Line, keys_with_flags, read_line
from nbaccel.config import KEYS, resolve
from nbaccel.errors import ConfigError, PlanError

pytestmark = pytest.mark.usefixtures("nowhere")

FSDP, MEGATRON, MESH = "fsdp_config.fsdp_", "megatron_lm_config.megatron_lm_", "parallelism_config.parallelism_config_"

OF_ACCELERATE = [
    # flag, value, key, what the key is then
    ("--cpu", "", "use_cpu", True),
    ("--multi_gpu", "", "distributed_type", "MULTI_GPU"),
    ("--tpu", "", "distributed_type", "XLA"),
    ("--mixed_precision", "bf16", "mixed_precision", "bf16"),
    ("--num_processes", "3", "num_processes", 3),
    ("--num_machines", "2", "num_machines", 2),
    ("--num_cpu_threads_per_process", "5", "num_cpu_threads_per_process", 5),
    ("--enable_cpu_affinity", "", "enable_cpu_affinity", True),
    ("--dynamo_backend", "inductor", "dynamo_config.dynamo_backend", "inductor"),
    ("--dynamo_mode", "reduce-overhead", "dynamo_config.dynamo_mode", "reduce-overhead"),
    ("--dynamo_use_fullgraph", "", "dynamo_config.dynamo_use_fullgraph", True),
    ("--dynamo_use_dynamic", "", "dynamo_config.dynamo_use_dynamic", True),
    ("--dynamo_use_regional_compilation", "", "dynamo_config.dynamo_use_regional_compilation", True),
    ("--use_deepspeed", "", "distributed_type", "DEEPSPEED"),
    ("--use_fsdp", "", "distributed_type", "FSDP"),
    ("--use_megatron_lm", "", "distributed_type", "MEGATRON_LM"),
    ("--gpu_ids", "0,1", "gpu_ids", (0, 1)),
    ("--same_network", "", "same_network", True),
    ("--machine_rank", "1", "machine_rank", 1),
    ("--main_process_ip", "10.0.0.1", "main_process_ip", "10.0.0.1"),
    ("--main_process_port", "29500", "main_process_port", 29500),
    ("-t", "3", "tee", "3"),
    ("--tee", "0:1", "tee", "0:1"),
    ("--log_dir", "logs", "log_dir", "logs"),
    ("--role", "trainer", "role", "trainer"),
    ("--rdzv_backend", "c10d", "rdzv_backend", "c10d"),
    ("--rdzv_conf", "timeout=900", "rdzv_conf", "timeout=900"),
    ("--max_restarts", "2", "max_restarts", 2),
    ("--monitor_interval", "0.5", "monitor_interval", 0.5),
    ("--tpu_cluster", "", "tpu_use_cluster", True),
    ("--no_tpu_cluster", "", "tpu_use_cluster", False),
    ("--tpu_use_sudo", "", "tpu_use_sudo", True),
    ("--vm", "one", "tpu_vm", ("one",)),
    ("--env", "A=1", "tpu_env", ("A=1",)),
    ("--main_training_function", "train", "main_training_function", "train"),
    ("--downcast_bf16", "", "downcast_bf16", True),
    ("--deepspeed_config_file", "ds.json", "deepspeed_config.deepspeed_config_file", "ds.json"),
    ("--zero_stage", "3", "deepspeed_config.zero_stage", 3),
    ("--offload_optimizer_device", "cpu", "deepspeed_config.offload_optimizer_device", "cpu"),
    ("--offload_param_device", "nvme", "deepspeed_config.offload_param_device", "nvme"),
    ("--offload_optimizer_nvme_path", "/a", "deepspeed_config.offload_optimizer_nvme_path", "/a"),
    ("--offload_param_nvme_path", "/b", "deepspeed_config.offload_param_nvme_path", "/b"),
    ("--gradient_accumulation_steps", "4", "gradient_accumulation_steps", 4),
    ("--gradient_clipping", "0.5", "deepspeed_config.gradient_clipping", 0.5),
    ("--zero3_init_flag", "true", "deepspeed_config.zero3_init_flag", True),
    ("--zero3_save_16bit_model", "false", "deepspeed_config.zero3_save_16bit_model", False),
    ("--deepspeed_hostfile", "hosts", "deepspeed_config.deepspeed_hostfile", "hosts"),
    ("--deepspeed_exclusion_filter", "a@b", "deepspeed_config.deepspeed_exclusion_filter", "a@b"),
    ("--deepspeed_inclusion_filter", "c", "deepspeed_config.deepspeed_inclusion_filter", "c"),
    ("--deepspeed_multinode_launcher", "pdsh", "deepspeed_config.deepspeed_multinode_launcher", "pdsh"),
    ("--deepspeed_moe_layer_cls_names", "A,B", "deepspeed_config.deepspeed_moe_layer_cls_names", ("A", "B")),
    ("--fsdp_version", "2", f"{FSDP}version", 2),
    ("--fsdp_offload_params", "true", f"{FSDP}offload_params", True),
    ("--fsdp_min_num_params", "1e6", f"{FSDP}min_num_params", 1_000_000),
    ("--fsdp_sharding_strategy", "SHARD_GRAD_OP", f"{FSDP}sharding_strategy", "SHARD_GRAD_OP"),
    ("--fsdp_reshard_after_forward", "false", f"{FSDP}reshard_after_forward", False),
    ("--fsdp_auto_wrap_policy", "NO_WRAP", f"{FSDP}auto_wrap_policy", "NO_WRAP"),
    ("--fsdp_transformer_layer_cls_to_wrap", "A,B", f"{FSDP}transformer_layer_cls_to_wrap", ("A", "B")),
    ("--fsdp_backward_prefetch", "NO_PREFETCH", f"{FSDP}backward_prefetch", "NO_PREFETCH"),
    ("--fsdp_state_dict_type", "FULL_STATE_DICT", f"{FSDP}state_dict_type", "FULL_STATE_DICT"),
    ("--fsdp_forward_prefetch", "true", f"{FSDP}forward_prefetch", True),
    ("--fsdp_use_orig_params", "false", f"{FSDP}use_orig_params", False),
    ("--fsdp_cpu_ram_efficient_loading", "false", f"{FSDP}cpu_ram_efficient_loading", False),
    ("--fsdp_sync_module_states", "false", f"{FSDP}sync_module_states", False),
    ("--fsdp_activation_checkpointing", "true", f"{FSDP}activation_checkpointing", True),
    ("--fsdp_activation_checkpointing_offload", "true", f"{FSDP}activation_checkpointing_offload", True),
    ("--megatron_lm_tp_degree", "2", f"{MEGATRON}tp_degree", 2),
    ("--megatron_lm_use_custom_fsdp", "true", f"{MEGATRON}use_custom_fsdp", True),
    ("--megatron_lm_no_load_optim", "true", f"{MEGATRON}no_load_optim", True),
    ("--megatron_lm_eod_mask_loss", "true", f"{MEGATRON}eod_mask_loss", True),
    ("--megatron_lm_overlap_cpu_optimizer_d2h_h2d", "true", f"{MEGATRON}overlap_cpu_optimizer_d2h_h2d", True),
    ("--megatron_lm_no_save_optim", "true", f"{MEGATRON}no_save_optim", True),
    ("--megatron_lm_optimizer_cpu_offload", "true", f"{MEGATRON}optimizer_cpu_offload", True),
    ("--megatron_lm_use_precision_aware_optimizer", "true", f"{MEGATRON}use_precision_aware_optimizer", True),
    ("--megatron_lm_decoder_last_pipeline_num_layers", "3", f"{MEGATRON}decoder_last_pipeline_num_layers", 3),
    ("--megatron_lm_pp_degree", "2", f"{MEGATRON}pp_degree", 2),
    ("--megatron_lm_num_micro_batches", "8", f"{MEGATRON}num_micro_batches", 8),
    ("--megatron_lm_sequence_parallelism", "False", f"{MEGATRON}sequence_parallelism", False),
    ("--megatron_lm_recompute_activations", "true", f"{MEGATRON}recompute_activations", True),
    ("--megatron_lm_use_distributed_optimizer", "true", f"{MEGATRON}use_distributed_optimizer", True),
    ("--megatron_lm_gradient_clipping", "0", f"{MEGATRON}gradient_clipping", 0.0),
    ("--megatron_lm_recompute_granularity", "full", f"{MEGATRON}recompute_granularity", "full"),
    ("--megatron_lm_recompute_method", "block", f"{MEGATRON}recompute_method", "block"),
    ("--megatron_lm_recompute_num_layers", "1", f"{MEGATRON}recompute_num_layers", 1),
    ("--megatron_lm_attention_backend", "flash", f"{MEGATRON}attention_backend", "flash"),
    ("--megatron_lm_expert_model_parallel_size", "2", f"{MEGATRON}expert_model_parallel_size", 2),
    ("--megatron_lm_context_parallel_size", "2", f"{MEGATRON}context_parallel_size", 2),
    ("--megatron_lm_attention_dropout", "0.1", f"{MEGATRON}attention_dropout", 0.1),
    ("--megatron_lm_hidden_dropout", "0.1", f"{MEGATRON}hidden_dropout", 0.1),
    ("--megatron_lm_attention_softmax_in_fp32", "true", f"{MEGATRON}attention_softmax_in_fp32", True),
    ("--megatron_lm_expert_tensor_parallel_size", "2", f"{MEGATRON}expert_tensor_parallel_size", 2),
    ("--megatron_lm_calculate_per_token_loss", "true", f"{MEGATRON}calculate_per_token_loss", True),
    ("--megatron_lm_use_rotary_position_embeddings", "true", f"{MEGATRON}use_rotary_position_embeddings", True),
    ("--fp8_backend", "te", "fp8_config.backend", "te"),
    ("--fp8_use_autocast_during_eval", "", "fp8_config.use_autocast_during_eval", True),
    ("--fp8_margin", "1", "fp8_config.margin", 1),
    ("--fp8_interval", "2", "fp8_config.interval", 2),
    ("--fp8_format", "E4M3", "fp8_config.fp8_format", "E4M3"),
    ("--fp8_amax_history_len", "16", "fp8_config.amax_history_len", 16),
    ("--fp8_amax_compute_algo", "max", "fp8_config.amax_compute_algo", "max"),
    ("--fp8_override_linear_precision", "true,false,true", "fp8_config.override_linear_precision", (True, False, True)),
    ("--fp8_opt_level", "O1", "fp8_config.opt_level", "O1"),
    ("--fp8_enable_fsdp_float8_all_gather", "false", "fp8_config.enable_fsdp_float8_all_gather", False),
    ("--fp8_pad_inner_dim", "false", "fp8_config.pad_inner_dim", False),
    ("--aws_access_key_id", "id", "aws_access_key_id", "id"),
    ("--aws_secret_access_key", "hush", "aws_secret_access_key", "hush"),
    ("--debug", "", "debug", True),
    ("--mpirun_hostfile", "hosts", "mpirun_config.mpirun_hostfile", "hosts"),
    ("--parallelism_config_dp_replicate_size", "2", f"{MESH}dp_replicate_size", 2),
    ("--parallelism_config_dp_shard_size", "2", f"{MESH}dp_shard_size", 2),
    ("--parallelism_config_tp_size", "2", f"{MESH}tp_size", 2),
    ("--parallelism_config_cp_size", "2", f"{MESH}cp_size", 2),
    ("--parallelism_config_cp_backend", "torch", f"{MESH}cp_backend", "torch"),
    ("--parallelism_config_cp_comm_strategy", "alltoall", f"{MESH}cp_comm_strategy", "alltoall"),
    ("--parallelism_config_sp_size", "2", f"{MESH}sp_size", 2),
    ("--parallelism_config_sp_backend", "deepspeed", f"{MESH}sp_backend", "deepspeed"),
    ("--parallelism_config_sp_seq_length", "128", f"{MESH}sp_seq_length", 128),
    ("--parallelism_config_sp_seq_length_is_variable", "False", f"{MESH}sp_seq_length_is_variable", False),
    ("--parallelism_config_sp_attn_implementation", "sdpa", f"{MESH}sp_attn_implementation", "sdpa"),
]
OWN_OF_ACCELERATE = {
    "--help", "-h", "--config_file", "--quiet", "-q", "-m", "--module", "--no_python", "--use_parallelism_config",
}  # fmt: skip
"""Flags of its launch that are no keys."""


def read(*words: str) -> Line:
    return read_line(words, PROGRAM, LAUNCH_OPTIONS)


def value_of(line: Line, key: str) -> object:
    return resolve(line.settings, environ={}).value(key)


# --- Accelerate's flags -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("flag", "value", "key", "expected"), OF_ACCELERATE)
def test_each_flag_of_accelerate_reaches_its_key(flag: str, value: str, key: str, expected: object) -> None:
    script = Path("train.py")
    script.touch()
    words = [flag, *([value] if value else [])]
    line = read(*words, "train.py", "--lr", "1")
    assert value_of(line, key) == expected
    assert line.words == ("train.py", "--lr", "1")
    assert resolve(line.settings, environ={}).origin(key).place == f"the flag {flag.replace('_', '-')}"
    done = CliRunner().invoke(command, ["--dry-run", *words, "train.py", "--lr", "1"])
    assert done.exit_code == 0 or isinstance(done.exception, PlanError), done.output
    if done.exit_code == 0:
        assert done.output.rstrip().endswith("train.py --lr 1")


def test_the_table_has_all_flags_of_accelerate() -> None:
    code = (
        "import json; from accelerate.commands.launch import launch_command_parser as made\n"
        "print(json.dumps([flag for action in made()._actions for flag in action.option_strings]))"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    theirs = {flag for flag in json.loads(done.stdout) if "-" not in flag[2:]}
    assert theirs == {flag for flag, *_ in OF_ACCELERATE} | OWN_OF_ACCELERATE


@pytest.mark.parametrize(
    "words",
    [("--num_processes", "2"), ("--num-processes", "2"), ("--num_processes=2",), ("-n", "2"), ("-n2",), ("-n=2",)],
)
def test_spellings(words: tuple[str, ...]) -> None:
    line = read(*words, "train.py")
    assert value_of(line, "num_processes") == 2
    assert line.words == ("train.py",)


def test_what_accelerate_says_otherwise() -> None:
    assert read("-m", "-q", "--no_python", "--use-parallelism-config", "--config_file", "a.yaml", "x").options == {
        "module": "true", "quiet": "true", "no_python": "true", "use_parallelism_config": "true",
        "config_file": "a.yaml",
    }  # fmt: skip


# --- what may follow a flag -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected", "rest"),
    [
        (["--use-cpu"], True, ()),
        (["--no-use-cpu"], False, ()),
        (["--no-cpu"], False, ()),
        (["--cpu", "false"], False, ()),
        (["--cpu", "YES", "true"], True, ("true",)),
        (["--cpu=0"], False, ()),
        (["--cpu", "train.py"], True, ("train.py",)),
        (["--no-cpu", "false"], False, ("false",)),
        (["--cpu", "--no-cpu"], False, ()),
    ],
)
def test_switches_take_a_value_or_none(words: list[str], expected: bool, rest: tuple[str, ...]) -> None:
    line = read(*words)
    assert value_of(line, "use_cpu") is expected
    assert line.words == rest


def test_a_script_of_the_name_of_a_value(nowhere: Path) -> None:
    (nowhere / "true").touch()
    assert read("--cpu", "true").words == ("true",)


@pytest.mark.parametrize(("word", "rest"), [("SHARD_GRAD_OP", ()), ("full_shard", ()), ("train.py", ("train.py",))])
def test_a_switch_that_also_takes_words(word: str, rest: tuple[str, ...]) -> None:
    assert read("--fsdp_reshard_after_forward", word).words == rest


def test_flags_that_may_be_repeated() -> None:
    line = read("--vm", "one", "--vm=two", "--env", "A=1,B=2")
    assert value_of(line, "tpu_vm") == ("one", "two")
    assert value_of(line, "tpu_env") == ("A=1,B=2",)
    assert value_of(read("tpu_vm=zero", "--vm", "one"), "tpu_vm") == ("one",)


def test_a_mapping_as_a_value() -> None:
    line = read("--params", "{lr: 0.001, trainer: {epochs: 5}}", "--zero-optimization", '{"stage": 1}')
    assert value_of(line, "params.trainer.epochs") == 5
    assert value_of(line, "params.lr") == 1e-3
    assert value_of(line, "deepspeed_config.zero_optimization") == {"stage": 1}


def test_overrides_before_the_script(nowhere: Path) -> None:
    (nowhere / "a=b").touch()
    line = read("trainer.epochs=5", "-n", "2", "mixed_precision=bf16", "fsdp_config.fsdp_version=2", "a=b", "c=d")
    resolved = resolve(line.settings, environ={})
    assert resolved.value("params.trainer.epochs") == 5
    assert resolved.value("mixed_precision") == "bf16"
    assert resolved.value("fsdp_config.fsdp_version") == 2
    assert resolved.origin("params.trainer.epochs").place == "the override trainer.epochs="
    assert line.words == ("a=b", "c=d")  # a file of this name is the script


def test_two_dashes_end_the_flags() -> None:
    assert read("-n", "2", "--", "a=1", "-x", "--").words == ("a=1", "-x", "--")


def test_each_key_that_steers_a_launch_has_a_flag_of_its_own() -> None:
    flags = [flag for key in keys_with_flags() for flag in key.flags]
    assert len(flags) == len(set(flags))
    left_out = {key.name for key in KEYS.values()} - {key.name for key in keys_with_flags()}
    assert {"start_method", "output", "hang_after", "sync_models"} <= left_out
    assert all(KEYS[name].group in ("Start", "Output", "Training") for name in left_out)


GIVEN = "(given to nbaccel launch) is not valid. Possible: "

# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--num_proceses", "2"], f"the flag --num_proceses {GIVEN}what `nbaccel launch --help` lists."),
        (["--num_proceses", "2"], "Did you mean '--num-processes'?"),
        (["-x"], "the flag -x "),
        (["--start-method", "spawn"], "in notebooks only: start_method steers the workers that they start"),
        (["--no-sync-models"], "in notebooks only"),
        (["--num-processes"], f"--num-processes without a value {GIVEN}a whole number"),
        (["--config-file"], "--config-file without a value"),
        (["--no-cpu=true"], f"--no-cpu=true {GIVEN}--no-cpu alone"),
        (["-qm"], f"-q=m {GIVEN}-q alone"),
        (["--use-fsdp=false"], "--use-fsdp alone, or --distributed-type"),
        (["--use-fsdp", "--multi_gpu"], "--multi-gpu beside --use-fsdp"),
        (["distributed_type=FSDP", "--multi_gpu"], "--multi-gpu beside the override distributed_type="),
        (["--multi-gpu", "--cpu"], "--multi-gpu beside --cpu"),
        (["--params", "5"], "a mapping"),
    ],
)  # fmt: skip
def test_errors_name_the_flag_and_what_is_possible(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(read(*words).settings, environ={})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "words", [["--use-fsdp", "--use-fsdp"], ["--cpu", "false", "--multi-gpu"], ["--use-fsdp", "--cpu"]]
)
def test_what_does_not_contradict(words: list[str]) -> None:
    assert read(*words).settings["distributed_type"].value in ("FSDP", "MULTI_GPU")


# --- help -------------------------------------------------------------------------------------------------------------


def test_help_is_readable_and_grouped() -> None:
    text = CliRunner().invoke(command, ["--help"]).output
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    headings = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert headings[:4] == ["This command's own:", "Most needed:", "Machines:", "Start:"]
    assert set(headings[2:]) >= {f"{key.group}:" for key in keys_with_flags() if key.group != "Training"}
    assert text.index("--num-processes N") < text.index("--mixed-precision WORD") < text.index("--rdzv-backend WORD")
    for key in keys_with_flags():
        assert key.flags[0][2:] in text, key.name


def test_a_key_of_an_unknown_heading_comes_last() -> None:
    from nbaccel.cli.launch_help import _in_order

    assert _in_order({"Zebra", "TPU", "Machines"}) == ["Machines", "TPU", "Zebra"]


def test_flags_of_a_command_take_the_place_of_keys() -> None:
    assert read_line(["--timeout", "3"], "p", COMMON_OPTIONS).settings["timeout"].value == "3"
    from nbaccel.cli.test import OPTIONS

    assert read_line(["--timeout", "3"], "p", OPTIONS).options == {"timeout": "3"}
