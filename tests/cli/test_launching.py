"""What a launch does: all layers together decide on the command line of torch's launcher and on the environment."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from nbaccel.cli.launch import PROGRAM, command
from nbaccel.cli.launch_flags import LAUNCH_OPTIONS, read_line
from nbaccel.cli.launching import launch
from nbaccel.config import Resolved, call_layer, resolve
from nbaccel.config.launched import LAUNCHED
from nbaccel.errors import ConfigError, ConfigFileError, PlanError
from nbaccel.launch.torchrun import Target, command_line, environment, plain_command_line, variables_set
from nbaccel.machine import Gpu, Machine
from nbaccel.plan import Plan, settle

SCRIPT = Target(("train.py", "--lr", "1"))
MEETING = {"num_machines": 2, "num_processes": 4, "main_process_ip": "10.0.0.1", "main_process_port": 29500}
THREE_GPUS = Machine(usable_cores=8, physical_cores=4, gpus=(Gpu(0, "4"), Gpu(1, "GPU-5"), Gpu(2, "6")))
GENERAL = "num_machines: 2\nnum_processes: 4\nmachine_rank: 1\nmain_process_ip: 10.0.0.1\nmain_process_port: 29500\n"


def planned(machine: Machine | None = None, **given: object) -> tuple[Resolved, Plan]:
    resolved = resolve(call_layer(given), environ={})
    return resolved, settle(resolved, machine or Machine(usable_cores=8, physical_cores=4))


def line_for(**given: object) -> str:
    return " ".join(command_line(*planned(**given), SCRIPT)[1:])


def dry_run(*words: str) -> Result:
    Path("train.py").touch()
    return CliRunner().invoke(command, ["--dry-run", *words, "train.py"], catch_exceptions=False)


# --- the command line -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "ways"),
    [
        ({}, "--nproc-per-node 4 --max-restarts 0 --standalone --local-addr 127.0.0.1"),
        ({"num_processes": 2, "max_restarts": 3, "monitor_interval": 5, "role": "r", "tee": "0:3,1:1", "log_dir": "/x"},
         ("--nproc-per-node 2 --max-restarts 3 --monitor-interval 5.0 --role r --tee 0:3,1:1 --log-dir /x "
         "--standalone --local-addr 127.0.0.1")),
        ({**MEETING, "machine_rank": 1, "rdzv_conf": "timeout=900"},
         ("--nproc-per-node 2 --max-restarts 0 --nnodes 2 --node-rank 1 --master-addr 10.0.0.1 --master-port 29500 "
         "--rdzv-conf timeout=900")),
        ({**MEETING, "rdzv_backend": "c10d"},
         ("--nproc-per-node 2 --max-restarts 0 --nnodes 2 --rdzv-backend c10d --rdzv-endpoint 10.0.0.1:29500 "
         "--rdzv-conf is_host=true")),
        ({**MEETING, "rdzv_backend": "c10d", "machine_rank": 1, "rdzv_conf": "timeout=9, read_timeout=8"},
         ("--nproc-per-node 2 --max-restarts 0 --nnodes 2 --rdzv-backend c10d --rdzv-endpoint 10.0.0.1:29500 "
         "--rdzv-conf timeout=9, read_timeout=8,is_host=false")),
        ({**MEETING, "rdzv_backend": "c10d", "rdzv_conf": "is_host=1"},
         ("--nproc-per-node 2 --max-restarts 0 --nnodes 2 --rdzv-backend c10d --rdzv-endpoint 10.0.0.1:29500 "
         "--rdzv-conf is_host=1")),
        ({**MEETING, "rdzv_backend": "c10d", "same_network": True, "main_process_ip": "fe80::1"},
         "--nproc-per-node 2 --max-restarts 0 --nnodes 2 --rdzv-backend c10d --rdzv-endpoint [fe80::1]:29500"),
        ({**MEETING, "rdzv_backend": "etcd"},
         "--nproc-per-node 2 --max-restarts 0 --nnodes 2 --rdzv-backend etcd --rdzv-endpoint 10.0.0.1:29500"),
    ],
)  # fmt: skip
def test_the_command_line_says_what_was_resolved(given: dict[str, object], ways: str) -> None:
    assert line_for(**given) == f"-m torch.distributed.run {ways} train.py --lr 1"


@pytest.mark.parametrize(
    ("target", "end"),
    [
        (Target(("pkg.train", "-m"), is_module=True), "127.0.0.1 --module pkg.train -m"),
        (Target(("./run.sh",), is_program=True), "127.0.0.1 --no-python ./run.sh"),
    ],
)
def test_modules_and_programs(target: Target, end: str) -> None:
    assert " ".join(command_line(*planned(), target)).endswith(end)


def test_a_plain_command_line_starts_each_worker_once() -> None:
    line = plain_command_line(*planned(max_restarts=3, tee="3", num_processes=1), Target(("x",), is_module=True))
    assert " ".join(line[3:]) == ("--nproc-per-node 1 --max-restarts 0 --standalone --local-addr 127.0.0.1 --module x")


@pytest.mark.parametrize(
    "given", [{"tee": "4"}, {"tee": "0:9"}, {**MEETING, "rdzv_conf": "timeout"}, {**MEETING, "rdzv_conf": "a=1,=2"}]
)
def test_what_torch_would_answer_with_a_traceback(given: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"(tee|rdzv_conf)=.* \(from the argument .*\) is not valid"):
        line_for(**given)


# --- the environment --------------------------------------------------------------------------------------------------


def test_chosen_gpus_and_threads() -> None:
    environ = environment(*planned(THREE_GPUS, gpu_ids="2,1"), {"CUDA_VISIBLE_DEVICES": "4,GPU-5,6", "HOME": "/h"})
    assert (environ["HOME"], environ["CUDA_VISIBLE_DEVICES"], environ["OMP_NUM_THREADS"]) == ("/h", "6,GPU-5", "4")
    assert "ACCELERATE_USE_CPU" not in environ
    assert "ACCELERATE_GPU_IDS" not in environ


@pytest.mark.parametrize(
    ("given", "environ", "threads"),
    [
        ({}, {}, "2"),
        ({}, {"OMP_NUM_THREADS": "7"}, "7"),
        ({"num_cpu_threads_per_process": 3}, {"OMP_NUM_THREADS": "7"}, "3"),
    ],
)
def test_threads(given: dict[str, object], environ: dict[str, str], threads: str) -> None:
    assert environment(*planned(**given), environ)["OMP_NUM_THREADS"] == threads


def test_one_machine_stays_within_itself() -> None:
    assert environment(*planned(), {})["GLOO_SOCKET_IFNAME"] == environment(*planned(), {})["NCCL_SOCKET_IFNAME"]
    assert environment(*planned(), {"GLOO_SOCKET_IFNAME": "eth1"})["GLOO_SOCKET_IFNAME"] == "eth1"
    assert "GLOO_SOCKET_IFNAME" not in environment(*planned(**MEETING), {})


def test_variables_set_are_those_that_change() -> None:
    found = variables_set(*planned(mixed_precision="bf16", use_cpu=True), {"ACCELERATE_USE_CPU": "true", "HOME": "/h"})
    assert found["ACCELERATE_MIXED_PRECISION"] == "bf16"
    assert LAUNCHED in found
    assert not {"HOME", "ACCELERATE_USE_CPU"} & set(found)


# --- all layers together ----------------------------------------------------------------------------------------------


def test_what_accelerate_drops_from_files_has_its_effect(nowhere: Path) -> None:
    Path("config.yaml").write_text(
        f"{GENERAL}rdzv_backend: c10d\nsame_network: true\nenable_cpu_affinity: true\ndowncast_bf16: 'no'\n"
        "fp8_config:\n  amax_history_length: 16\n  amax_compute_algorithm: max\n  optimization_level: O1\n"
        "  override_linear_precision: true\n"
    )
    done = dry_run("--config_file", "config.yaml")
    assert done.exit_code == 0
    assert "--rdzv-backend c10d --rdzv-endpoint 10.0.0.1:29500 train.py" in done.stdout  # same_network: no is_host
    for variable in (
        "ACCELERATE_CPU_AFFINITY=true", "ACCELERATE_FP8_AMAX_HISTORY_LEN=16", "ACCELERATE_FP8_AMAX_COMPUTE_ALGO=max",
        "ACCELERATE_FP8_OPT_LEVEL=O1", "ACCELERATE_FP8_OVERRIDE_WGRAD=true",
    ):  # fmt: skip
        assert f"{variable} \\\n" in done.stdout
    Path("config.yaml").write_text(f"{GENERAL}rdzv_backend: c10d\nsame_network: false\n")
    assert "--rdzv-conf is_host=false train.py" in dry_run("--config_file", "config.yaml").stdout


def test_flags_beat_variables_beat_files(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".accelerate").mkdir()
    Path(".accelerate/default_config.yaml").write_text(
        "mixed_precision: fp16\ngradient_accumulation_steps: 2\nuse_cpu: true"
    )
    Path(".accelerate/dev.yaml").write_text("num_processes: 3")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "5")
    done = dry_run("--mixed-precision", "bf16", "--profile", "dev")
    assert "ACCELERATE_MIXED_PRECISION=bf16 \\\n" in done.stdout
    assert "--nproc-per-node 3" in done.stdout
    shown = dry_run("--profile", "dev", "gradient_accumulation_steps=7")
    assert "ACCELERATE_MIXED_PRECISION=fp16 \\\n" in shown.stdout
    assert "ACCELERATE_GRADIENT_ACCUMULATION_STEPS=7 \\\n" in shown.stdout


def test_variables_of_the_project_reach_the_workers(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("ACCELERATE_MIXED_PRECISION=bf16\nDATA=/data\nHF_TOKEN=hush\nLEVEL=low\n")
    monkeypatch.setenv("LEVEL", "high")
    done = dry_run()
    assert "ACCELERATE_MIXED_PRECISION=bf16 \\\n" in done.stdout
    assert "HF_TOKEN=******** \\\n" in done.stdout
    assert "DATA=******** \\\n" in done.stdout
    assert "LEVEL" not in done.stdout
    resolved = resolve()
    found = environment(resolved, settle(resolved, Machine()), {"LEVEL": "high"})
    assert (found["DATA"], found["HF_TOKEN"], found["LEVEL"]) == ("/data", "hush", "high")


def test_secrets_are_not_shown(nowhere: Path) -> None:
    done = dry_run("--aws_secret_access_key", "hush", "--aws_access_key_id", "me")
    assert "AWS_SECRET_ACCESS_KEY=******** \\\n" in done.stdout
    assert "hush" not in done.stdout


def test_a_dry_run_is_a_command_of_the_shell(nowhere: Path) -> None:
    Path("a train.py").touch()
    words = ["--dry-run", "--project-dir", "a b", "-n", "2", "a train.py", "--text", "it's"]
    done = CliRunner().invoke(command, words, catch_exceptions=False)
    assert done.exit_code == 0
    *variables, line = done.stdout.splitlines()
    assert all(re.fullmatch(r"[A-Z0-9_]+=('.*'|\S*) \\", variable) for variable in variables)
    assert line.endswith("""127.0.0.1 'a train.py' --text 'it'"'"'s'""")


def test_how_notebooks_start_workers_does_not_matter(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBACCEL_START_METHOD", "inline")
    assert "--nproc-per-node 2" in dry_run("-n", "2").stdout


# --- what is said before ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("level", "shown"),
    [("", []), ("warning", []), ("info", ["by torchrun"]), ("DEBUG", ["the flag -n", "by torchrun"])],
)
def test_the_log_level_says_how_much(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch, level: str, shown: list[str]
) -> None:
    monkeypatch.setenv("ACCELERATE_LOG_LEVEL", level)
    done = dry_run("-n", "2")
    lines = done.stderr.splitlines()
    assert len(lines) == len(shown)
    assert all(text in line for text, line in zip(shown, lines, strict=True))


def test_notes_on_old_files_are_shown_unless_quiet(nowhere: Path) -> None:
    Path("old.yaml").write_text("fp16: true\nuse_xpu: false\n")
    done = dry_run("--config-file", "old.yaml")
    assert [line.partition(" ")[0] for line in done.stderr.splitlines()] == ["note:", "note:"]
    assert "mixed_precision: fp16" in done.stderr
    assert dry_run("--config-file", "old.yaml", "--quiet").stderr == ""


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "kind", "message"),
    [
        (
            [],
            ConfigError,
            r"a line without a script \(given to nbaccel launch\) is not valid. Possible: nbaccel launch",
        ),
        (["trian.py"], ConfigError, r"the script 'trian.py' .* a file that exists. Did you mean 'train.py'\?"),
        (["no/where.py"], ConfigError, "a file that exists"),
        (["-m", "--no-python", "x"], ConfigError, "--module beside --no-python"),
        (["--config-file", "none.yaml", "train.py"], ConfigFileError, "none.yaml: there is no such file"),
        (["--num-processes", "two", "train.py"], ConfigError, r"num_processes='two' \(from the flag --num-processes\)"),
        (["--gpu-ids", "7", "train.py"], PlanError, r"gpu_ids=7 \(from the flag --gpu-ids\)"),
        (["--num_machines", "2", "train.py"], PlanError, "the machines must know where to meet"),
    ],
)
def test_errors_come_before_anything_is_started(
    nowhere: Path, words: list[str], kind: type[Exception], message: str
) -> None:
    Path("train.py").touch()
    with pytest.raises(kind, match=message):
        launch(read_line(words, PROGRAM, LAUNCH_OPTIONS), PROGRAM)


def test_an_error_in_a_file_names_the_line(nowhere: Path) -> None:
    Path("config.yaml").write_text("mixed_precision: fp17\n")
    Path("train.py").touch()
    with pytest.raises(ConfigError, match=r"config.yaml:1:\d+\) is not valid. Possible: no, bf16, fp16, fp8"):
        launch(read_line(["--config-file", "config.yaml", "train.py"], PROGRAM, LAUNCH_OPTIONS), PROGRAM)
