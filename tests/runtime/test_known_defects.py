"""Where Accelerate 1.15 does not do what it says, or hurts: each point with the test that shows nbaccel right.

`ELSEWHERE` names the tests in other files, by the point that they belong to; the rest of the points are tested here.
"""

from __future__ import annotations

import ast
import copy
import functools
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from runtime_ranks import run_ranks
from torch.utils.data import DataLoader

from nbaccel.cli.launch import command
from nbaccel.runtime.accelerator import Accelerator
from nbaccel.runtime.handlers import AutocastKwargs, DataLoaderConfiguration, GradScalerKwargs
from nbaccel.utils import FullyShardedDataParallelPlugin

TESTS = Path(__file__).parents[1]

ELSEWHERE = {
    "runtime/test_accelerator.py": {
        "split_batches of the constructor is never read": "test_settings_that_are_kept",
        "fp8 turns into fp16 where there is none": "test_wrong_arguments",
        "split_between_processes changes a dict, and pads no tuple": "test_split_of_a_dict",
        "a second Accelerator's arguments are ignored": "test_cell_run_twice_with_another_precision",
        "adjust_scheduler is always False": "test_states",
        "a window outlives its Accelerator": "test_new_accelerator_ends_an_interrupted_window",
        "the environment's accumulation beats the constructor's": "test_a_value_given_wins_over_the_environment",
    },
    "kernel/test_launcher.py": {
        "an unknown precision is an AttributeError": "test_bad_input_is_one_clear_error_before_any_process",
        "debug_launcher's ranks are alone or all the first": "test_debug_launcher_runs_on_the_cpu",
        "4.1-1 results: None, and lambdas fail": "test_a_lambda_returns_its_value",
        "4.1-1 results of all ranks": "test_all_ranks_values_on_request",
        "4.1-3 CPU ranks are alone": "test_bare_torch_distributed_sees_two_ranks",
        "4.1-5 signal handlers stay replaced": "test_the_kernel_is_as_it_was",
        "4.1-10 the kernel's model": "test_six_objects_from_cells_train_and_the_kernels_model_has_learned",
        "4.1-12 an Accelerator in the kernel": "test_a_kernel_that_used_threads_and_built_an_accelerator_can_launch",
    },
    "runtime/test_ranks.py": {
        "gather_for_metrics hides errors and keeps surplus samples": "test_on_ranks[check_metrics_are_exact]",
        "another precision needs a restart": "test_on_ranks[check_second_accelerator]",
        "loaders cut by the user are cut again": "test_on_ranks[check_loader_cut_by_the_user]",
        "a plateau is counted once per process": "test_on_ranks[check_scheduler_counts]",
    },
    "test_plan.py": {
        "ranks on a machine without GPUs believe that they are alone": "test_parts_of_one_process",
    },
    "runtime/test_fsdp.py": {
        "an FSDP plugin is ignored on CPUs": "test_on_two_ranks",
        "ParallelismConfig.to_json returns None": "test_parallelism_config",
    },
    "runtime/test_data_stream.py": {
        "a skipped loader loses its settings": "test_skipping_keeps_everything",
        "each batch is read one step too early": "test_no_batch_is_made_before_it_is_wanted",
    },
    "runtime/test_data_ranks.py": {
        "a stateful loader forgets the order on several ranks": "test_data_on_ranks[check_resume]",
    },
    "runtime/test_utils_memory.py": {
        "a decorator drops reduce_batch_size_fn": "test_the_next_size_can_be_chosen_in_both_forms",
    },
    "runtime/test_logging.py": {
        "get_logger needs a state": "test_loggers_need_no_state",
        "get_logger changes the root logger": "test_levels",
    },
    "runtime/test_checkpoint.py": {
        "sampler.bin is never written": "test_a_training_goes_on_as_if_nothing_had_happened",
        "the scaler's state": "test_the_scaler_of_fp16_comes_back",
        "the place in a window is not saved": "test_the_place_in_the_window_comes_back",
        "a full disk costs the last checkpoint": "test_a_full_disk_leaves_the_last_one",
        "a crash leaves half a checkpoint": "test_ten_kills_lose_nothing",
        "total_limit deletes before it saves": "test_numbers_go_on_and_the_oldest_go",
    },
    "runtime/test_checkpoint_ranks.py": {
        "ranks write loader states to one file": "test_two_processes",
        "missing random states are passed over": "test_one_process_and_more_processes",
    },
    "runtime/test_checkpoint_model.py": {
        "random states without GPUs end in a KeyError": "test_states_of_other_gpus_are_left_out",
    },
    "cli/test_launching.py": {
        "YAML: rdzv_backend, same_network, enable_cpu_affinity": "test_what_accelerate_drops_from_files_has_its_effect",
        "YAML beats the environment": "test_flags_beat_variables_beat_files",
        "--gradient_accumulation_steps is for DeepSpeed alone": "test_flags_beat_variables_beat_files",
    },
    "config/test_accelerate_files.py": {
        "YAML: downcast_bf16, tpu_use_sudo": "test_the_launch_takes_a_key_of_the_top_level_as_it_is_here",
        "fp8_config is written under names that nothing reads": "test_what_the_questionnaire_writes_is_read",
    },
    "cli/test_launch_flags.py": {
        "flags of Megatron and sequence parallelism: 'False' is true": "test_each_flag_of_accelerate_reaches_its_key",
        "a flag cannot say no": "test_switches_take_a_value_or_none",
    },
    "config/test_layers.py": {
        "a switch of the environment cannot be turned off": "test_a_higher_word_takes_what_contradicts_it_out_of_force",
        "nobody knows where a value came from": "test_all_layers_at_once_are_listed_in_order",
        "there is no project file": "test_the_project_file_is_found_upward",
    },
    "cli/test_config_commands.py": {
        "config default writes JSON and overwrites nothing": "test_default_writes_once",
    },
    "faces/test_configuration.py": {
        "notebook_launcher(mixed_precision=) has no effect": "test_what_accelerate_drops_reaches_accelerate_itself",
        "4.1-4 the precision of a launch": "test_what_accelerate_drops_reaches_accelerate_itself",
        "4.1-9 settings of a launch": "test_the_users_own_variable_and_arguments_of_the_call_stand_above_the_file",
    },
    "kernel/test_magic.py": {
        "4.1-2 the remote error is text in a box": "test_the_original_exception_can_be_caught_and_asked",
    },
    "kernel/test_faults.py": {
        "4.1-6 an interrupt takes 30 s": "test_interrupt_ends_everything_soon",
        "4.1-7 a port in use": "test_two_notebooks_at_once_do_not_meet",
        "4.1-9 time limit of a launch": "test_a_timeout_ends_the_run_and_names_who_was_not_done",
    },
    "runtime/test_parts_ranks.py": {
        "join_uneven_inputs does nothing on CPUs": "test_parts_on_ranks[check_join]",
    },
    "runtime/test_compiling.py": {
        "a plugin that says how to compile compiles nothing": "test_inductor",
    },
    "kernel/test_endings.py": {
        "4.1-8 the end of a forked training": "test_ending_the_training_before_the_model_goes_never_hangs",
    },
    "kernel/test_session.py": {
        "4.1-10 nothing lives from cell to cell": "test_variables_live_from_cell_to_cell_on_each_rank",
    },
    "kernel/test_fork.py": {
        "4.1-11 threads of the kernel": "test_threads_of_torch_in_the_kernel_do_no_harm",
    },
}


@pytest.mark.parametrize(("file", "point"), [(file, point) for file, points in ELSEWHERE.items() for point in points])
def test_the_tests_named_are_there(file: str, point: str) -> None:
    name, _, check = ELSEWHERE[file][point].rstrip("]").partition("[")
    assert name in functions_of(TESTS / file)
    if check:
        assert any(check in functions_of(script) for script in (TESTS / file).parent.glob("*_checks.py"))


@functools.cache
def functions_of(file: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef)}


# The runtime


def test_ranks_need_only_their_place(tmp_path: Path) -> None:
    """Accelerate: without `cpu=True` each believes it is alone; every rank writes an index; a plugin sets variables."""
    run_ranks(2, TESTS / "runtime" / "defect_checks.py", str(tmp_path), timeout_s=100)


def test_a_plugin_does_not_leak_into_the_next_accelerator() -> None:
    before = dict(os.environ)
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, cpu_ram_efficient_loading=True, activation_checkpointing=True
    )
    with_plugin = Accelerator(fsdp_plugin=plugin, mixed_precision="bf16")
    assert with_plugin.config.value("fsdp_config.fsdp_activation_checkpointing") is True
    assert dict(os.environ) == before
    after = Accelerator()
    assert after.config.value("fsdp_config.fsdp_activation_checkpointing") is False
    assert (after.distributed_type, after.mixed_precision) == ("NO", "no")


def test_fp16_on_the_cpu_is_fp16() -> None:
    """Accelerate: no autocast, no scaler, no word about it."""
    accelerator = Accelerator(mixed_precision="fp16", kwargs_handlers=[GradScalerKwargs(init_scale=8.0)])

    class Spying(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out = super().forward(x)
            seen.append(out.dtype)
            return out

    seen: list[torch.dtype] = []
    model = accelerator.prepare(Spying(2, 1))
    accelerator.backward(model(torch.ones(1, 2)).sum())
    assert seen == [torch.float16]
    assert accelerator.scaler is not None
    assert model.bias.grad.item() == 8.0


def test_downcasting_is_no_attribute_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_DOWNCAST_BF16", "true")
    assert Accelerator(mixed_precision="bf16").mixed_precision == "bf16"


def test_a_constructor_can_say_that_there_are_other_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accelerate: the variable and the argument are joined by "or"."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    given = Accelerator(cpu=False).config.explain("use_cpu")
    assert given.value is False
    assert [setting.value for setting in given.shadowed][:1] == ["true"]


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_prepared_models_can_be_pickled_and_copied(precision: str) -> None:
    model = Accelerator(mixed_precision=precision).prepare(torch.nn.Linear(2, 1))
    x = torch.ones(1, 2)
    for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert torch.equal(other(x), model(x))
        assert other.weight is not model.weight


def test_settings_are_read_without_touching_the_environment() -> None:
    """Accelerate empties `os.environ` for a moment: another thread, or a child that is born then, has none."""

    class Unchanging(dict[str, str]):
        def clear(self) -> None:
            raise AssertionError("emptied")

        def __setitem__(self, key: str, value: str) -> None:
            raise AssertionError(f"{key} set")

        def __delitem__(self, key: str) -> None:
            raise AssertionError(f"{key} deleted")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "environ", Unchanging(os.environ))
        found = AutocastKwargs(enabled=False).to_kwargs() | GradScalerKwargs(growth_interval=7).to_kwargs()
    assert found == {"enabled": False, "growth_interval": 7}


def test_one_micro_batch_is_not_divided() -> None:
    """Accelerate divides by 1: a kernel, a node of the graph and a saved tensor per step."""
    accelerator = Accelerator()
    loss = torch.nn.Parameter(torch.ones(()))
    found: list[Any] = []
    accelerator._precision.backward = found.append  # type: ignore[method-assign]
    accelerator.backward(loss)
    assert found[0] is loss


def test_a_loader_that_was_skipped_into_keeps_dropping_the_last_batch() -> None:
    config = DataLoaderConfiguration(non_blocking=True)
    accelerator = Accelerator(dataloader_config=config)
    loader = accelerator.prepare(DataLoader(range(11), batch_size=4, drop_last=True))  # type: ignore[arg-type]
    assert [batch.tolist() for batch in accelerator.skip_first_batches(loader, 1)] == [[4, 5, 6, 7]]
    assert [batch.tolist() for batch in loader] == [[0, 1, 2, 3], [4, 5, 6, 7]]


# The configuration


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to stand in, whose `home` is where the user's files are; no script is far."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("ACCELERATE_USE_CPU")
    (tmp_path / "train.py").touch()
    return tmp_path


def launched(*words: str) -> str:
    done = CliRunner().invoke(command, ["--dry-run", *words, "train.py"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_cpu_does_not_hide_the_users_file(folder: Path) -> None:
    (folder / "home/accelerate").mkdir(parents=True)
    (folder / "home/accelerate/default_config.yaml").write_text("mixed_precision: bf16\nnum_processes: 3\n")
    shown = launched("--cpu")
    assert "ACCELERATE_MIXED_PRECISION=bf16 \\\n" in shown
    assert "--nproc-per-node 3" in shown


def test_folders_for_offloading_reach_the_workers(folder: Path) -> None:
    shown = launched("--offload_param_device", "nvme", "--offload_param_nvme_path", "/fast")
    assert "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_NVME_PATH=/fast \\\n" in shown


def test_the_constructor_reads_the_project_file(folder: Path) -> None:
    """Accelerate: a file is for the command line alone."""
    (folder / ".accelerate").mkdir()
    (folder / ".accelerate/default_config.yaml").write_text("mixed_precision: bf16\ngradient_accumulation_steps: 3\n")
    accelerator = Accelerator()
    assert (accelerator.mixed_precision, accelerator.gradient_accumulation_steps) == ("bf16", 3)
    assert accelerator.config.explain("mixed_precision").place.endswith("default_config.yaml:1:18")
