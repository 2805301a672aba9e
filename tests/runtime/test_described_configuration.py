"""The described surface: files, variables, commands and structured configuration, each with its effect."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner
from pydantic import BaseModel

from nbaccel.cli.config import command as config_command
from nbaccel.cli.launch import command as launch_command
from nbaccel.cli.test import command as selftest_command
from nbaccel.config import Resolved, resolve
from nbaccel.config.params import filled
from nbaccel.config.snapshot import FILE
from nbaccel.errors import NbaccelError, PlanError
from nbaccel.launch.torchrun import Target, command_line, environment
from nbaccel.machine import Gpu, Machine
from nbaccel.plan import Topology, choose_parts, settle
from nbaccel.runtime.accelerator import Accelerator

pytestmark = pytest.mark.slow

GPUS = Machine(usable_cores=8, physical_cores=4, gpus=tuple(Gpu(index, str(index)) for index in range(4)))
CORES = Machine(usable_cores=8, physical_cores=4)


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder and home, and an environment that sets no key."""
    for name in list(os.environ):
        if name.startswith(("ACCELERATE_", "NBACCEL_", "FSDP_", "HF_", "XDG_", "CUDA_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


def write(name: str, text: str) -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


# --- precedence ---

PROJECT, USER = ".accelerate/default_config.yaml", "../.cache/huggingface/accelerate/default_config.yaml"


def test_arguments_over_variables_over_files(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def steps(**arguments: Any) -> int:
        return Accelerator(cpu=True, **arguments).gradient_accumulation_steps

    seen = [steps()]
    write(USER, "gradient_accumulation_steps: 2")
    seen.append(steps())
    write(PROJECT, "gradient_accumulation_steps: 3")
    seen.append(steps())
    monkeypatch.setenv("ACCELERATE_CONFIG_FILE", str(write("named.yaml", "gradient_accumulation_steps: 4")))
    seen.append(steps())
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "5")
    seen += [steps(), steps(gradient_accumulation_steps=6)]
    assert seen == [1, 2, 3, 4, 5, 6]
    told = dry_run("--config_file", "named.yaml", "--gradient_accumulation_steps", "7")
    assert "ACCELERATE_GRADIENT_ACCUMULATION_STEPS=7" in told


# --- the keys of files ---

SEVERAL = "num_machines: 2\nnum_processes: 4\nmain_process_ip: 10.0.0.1\nmain_process_port: 29500\n"
FSDP = "distributed_type: FSDP\nnum_processes: 4\n"
DEEPSPEED = (
    "deepspeed_config: {zero_optimization: {stage: 2}, offload_optimizer_device: cpu, "
    "gradient_accumulation_steps: auto, train_batch_size: auto}"
)


class Seen:
    """What a file means: values, the command line and the variables of its launch, and the parts of a process."""

    def __init__(self, resolved: Resolved, machine: Machine = GPUS) -> None:
        self.resolved, self.machine = resolved, machine

    def __getitem__(self, key: str) -> Any:
        return self.resolved.value(key)

    @property
    def line(self) -> str:
        plan = settle(self.resolved, self.machine)
        return " ".join(command_line(self.resolved, plan, Target(("train.py",))))

    @property
    def variables(self) -> Mapping[str, str]:
        return environment(self.resolved, settle(self.resolved, self.machine), {})

    @property
    def parts(self) -> Any:
        return choose_parts(self.resolved.config, self.machine, Topology(0, 4, 0, 4))


Look = Callable[[Seen], Any]
KEYS: Mapping[str, list[tuple[str, Look, Any]]] = {
    "compute_environment": [
        ("compute_environment: LOCAL_MACHINE", lambda seen: seen.parts.device, "cuda:0"),
        ("compute_environment: CLUSTER", lambda seen: seen["compute_environment"], "CLUSTER"),
        ("compute_environment: AMAZON_SAGEMAKER", lambda seen: seen.parts, "AMAZON_SAGEMAKER"),
    ],
    "distributed_type": [
        ("distributed_type: NO", lambda seen: seen["distributed_type"], "NO"),
        ("distributed_type: NO_DISTRIBUTED", lambda seen: seen["distributed_type"], "NO"),
        ("distributed_type: MULTI_GPU", lambda seen: (seen.parts.device, seen.parts.strategy), ("cuda:0", "ddp")),
        ("distributed_type: MULTI_CPU", lambda seen: (seen.parts.device, seen.parts.strategy), ("cpu", "ddp")),
        ("distributed_type: TPU", lambda seen: seen["distributed_type"], "XLA"),
        ("distributed_type: FSDP", lambda seen: seen.parts.strategy, "fsdp"),
        ("distributed_type: DEEPSPEED", lambda seen: seen.parts, "DEEPSPEED"),
        ("distributed_type: MEGATRON_LM", lambda seen: seen.parts, "MEGATRON_LM"),
    ],
    "num_processes": [("num_processes: 3", lambda seen: "--nproc-per-node 3" in seen.line, True)],
    "num_machines": [(SEVERAL, lambda seen: "--nnodes 2" in seen.line, True)],
    "machine_rank": [(SEVERAL + "machine_rank: 1", lambda seen: "--node-rank 1" in seen.line, True)],
    "gpu_ids": [
        ("gpu_ids: null", lambda seen: seen["gpu_ids"], None),
        ("gpu_ids: all", lambda seen: "--nproc-per-node 4" in seen.line, True),
        ('gpu_ids: "0,1,2,3"', lambda seen: seen["gpu_ids"], (0, 1, 2, 3)),
        ("gpu_ids: [1, 3]", lambda seen: seen.variables["CUDA_VISIBLE_DEVICES"], "1,3"),
    ],
    "main_process_ip": [(SEVERAL, lambda seen: "--master-addr 10.0.0.1" in seen.line, True)],
    "main_process_port": [(SEVERAL, lambda seen: "--master-port 29500" in seen.line, True)],
    "main_training_function": [("main_training_function: train", lambda seen: seen["main_training_function"], "train")],
    "rdzv_backend": [(SEVERAL + "rdzv_backend: c10d", lambda seen: "--rdzv-backend c10d" in seen.line, True)],
    "same_network": [(SEVERAL + "same_network: true", lambda seen: seen["same_network"], True)],
    "mixed_precision": [
        ('mixed_precision: "no"', lambda seen: seen.parts.precision, "no"),
        ("mixed_precision: no", lambda seen: seen.parts.precision, "no"),
        ("mixed_precision: fp16", lambda seen: seen.variables["ACCELERATE_MIXED_PRECISION"], "fp16"),
        ("mixed_precision: bf16", lambda seen: seen.parts.precision, "bf16"),
        ("mixed_precision: fp8", lambda seen: seen.parts, "fp8"),
    ],
    "downcast_bf16": [
        ("downcast_bf16: 'yes'", lambda seen: seen["downcast_bf16"], True),
        ("downcast_bf16: 'no'", lambda seen: seen["downcast_bf16"], False),
    ],
    "dynamo_backend": [
        ("dynamo_backend: null", lambda seen: seen["dynamo_config.dynamo_backend"], "no"),
        ("dynamo_backend: inductor", lambda seen: seen["dynamo_config.dynamo_backend"], "inductor"),
    ],
    "use_cpu": [("use_cpu: true", lambda seen: seen.parts.device, "cpu")],
    "deepspeed_config": [
        ("deepspeed_config: {}", lambda seen: seen.parts.strategy, "ddp"),
        (
            DEEPSPEED,
            lambda seen: (seen["deepspeed_config.zero_stage"], seen["deepspeed_config.train_batch_size"]),
            (2, "auto"),
        ),
        (
            "deepspeed_config: ds.json",
            lambda seen: seen["deepspeed_config.deepspeed_config_file"].endswith("ds.json"),
            True,
        ),
    ],
    "fsdp_config": [
        ("fsdp_config: {}", lambda seen: seen.parts.strategy, "ddp"),
        (
            FSDP + "fsdp_config: {fsdp_auto_wrap_policy: TRANSFORMER_LAYER_AUTO_WRAP_POLICY}",
            lambda seen: seen["fsdp_config.fsdp_auto_wrap_policy"],
            "TRANSFORMER_BASED_WRAP",
        ),
        (
            FSDP + "fsdp_config: {fsdp_transformer_layer_cls_to_wrap: [A, B]}",
            lambda seen: seen["fsdp_config.fsdp_transformer_layer_cls_to_wrap"],
            ("A", "B"),
        ),
        (
            FSDP + 'fsdp_config: {fsdp_transformer_layer_cls_to_wrap: "A, B"}',
            lambda seen: seen.variables["FSDP_TRANSFORMER_CLS_TO_WRAP"],
            "A,B",
        ),
        (
            FSDP + "fsdp_config: {fsdp_offload_params: true}",
            lambda seen: seen.variables["FSDP_OFFLOAD_PARAMS"],
            "true",
        ),
        (
            FSDP + "fsdp_config: {fsdp_sharding_strategy: SHARD_GRAD_OP}",
            lambda seen: seen.variables["FSDP_SHARDING_STRATEGY"],
            "SHARD_GRAD_OP",
        ),
        (FSDP + "fsdp_config: {fsdp_sharding_strategy: NO_SHARD}", lambda seen: seen.parts.strategy, "ddp"),
        (
            FSDP + "fsdp_config: {fsdp_backward_prefetch: BACKWARD_PRE}",
            lambda seen: seen.variables["FSDP_BACKWARD_PREFETCH"],
            "BACKWARD_PRE",
        ),
    ],
    "megatron_lm_config": [("megatron_lm_config: {}", lambda seen: seen.parts.strategy, "ddp")],
    "tpu_config": [("tpu_config: {}", lambda seen: seen.parts.strategy, "ddp")],
}
DESCRIBED_KEYS = (
    "compute_environment distributed_type num_processes num_machines machine_rank gpu_ids main_process_ip "
    "main_process_port main_training_function rdzv_backend same_network mixed_precision downcast_bf16 dynamo_backend "
    "use_cpu deepspeed_config fsdp_config megatron_lm_config tpu_config"
)
COMES_LATER: Mapping[str, tuple[type[NbaccelError], str]] = {
    "compute_environment: AMAZON_SAGEMAKER": (PlanError, "starts no jobs at SageMaker"),
    "distributed_type: DEEPSPEED": (PlanError, "does not support DeepSpeed"),
    "distributed_type: MEGATRON_LM": (PlanError, "does not support Megatron-LM"),
    "mixed_precision: fp8": (PlanError, "no fp8 arithmetic"),
}
"""What belongs to libraries that are not there yet, or never will be: the error, and words of its message."""
ALL = [row for rows in KEYS.values() for row in rows]


@pytest.mark.parametrize("form", ["yaml", "json"])
@pytest.mark.parametrize(("text", "look", "expected"), ALL, ids=[text.replace("\n", ", ") for text, _, _ in ALL])
def test_a_key_of_a_file(text: str, look: Look, expected: Any, form: str) -> None:
    write("ds.json", '{"zero_optimization": {"stage": 2}, // a comment\n "train_batch_size": "auto"}')
    content = text if form == "yaml" else json.dumps(yaml.safe_load(text))
    seen = Seen(resolve(config_file=write(f"named.{form}", content)))
    if text in COMES_LATER:
        error, words = COMES_LATER[text]
        with pytest.raises(error, match=words):
            look(seen)
    else:
        assert look(seen) == expected


def test_the_tables_are_complete() -> None:
    assert list(KEYS) == DESCRIBED_KEYS.split()
    assert set(COMES_LATER) <= {text for text, _, _ in ALL}
    assert list(VARIABLES) == DESCRIBED_VARIABLES.split()


# --- variables ---

VARIABLES: Mapping[str, tuple[str, Look, Any]] = {
    "ACCELERATE_USE_CPU": ("true", lambda seen: seen.parts.device, "cpu"),
    "ACCELERATE_NUM_PROCESSES": ("3", lambda seen: "--nproc-per-node 3" in seen.line, True),
    "ACCELERATE_GPU_IDS": ("0,1,3", lambda seen: seen.variables.get("CUDA_VISIBLE_DEVICES"), "0,1,3"),
    "ACCELERATE_MIXED_PRECISION": ("bf16", lambda seen: seen.parts.precision, "bf16"),
    "BATCH_SIZE": ("16", lambda seen: seen["params.batch_size"], 16),
}
DESCRIBED_VARIABLES = (
    "ACCELERATE_USE_CPU ACCELERATE_NUM_PROCESSES ACCELERATE_GPU_IDS ACCELERATE_MIXED_PRECISION BATCH_SIZE"
)


@pytest.mark.parametrize("name", VARIABLES)
def test_a_variable(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written, look, expected = VARIABLES[name]
    write(PROJECT, "params: {batch_size: 1}")
    assert look(Seen(resolve())) != expected
    monkeypatch.setenv(name, written)
    assert look(Seen(resolve())) == expected


def test_own_variables_reach_the_function(monkeypatch: pytest.MonkeyPatch) -> None:
    def train(batch_size: int = 8) -> int:
        return batch_size

    monkeypatch.setenv("BATCH_SIZE", "16")
    assert train(**filled(train, (), {}, resolve(params=("batch_size",)))) == 16


def test_the_log_level_shows_how_it_was_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    write(PROJECT, "num_processes: 2\nmixed_precision: bf16")
    assert "mixed_precision" not in said_by_launch()
    monkeypatch.setenv("ACCELERATE_LOG_LEVEL", "DEBUG")
    said = said_by_launch()
    assert "mixed_precision" in said
    assert f"{PROJECT}:2" in said


# --- commands ---


def dry_run(*words: str) -> str:
    write("train.py", "")
    done = CliRunner().invoke(launch_command, ["--dry-run", *words, "train.py"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def said_by_launch() -> str:
    write("train.py", "")
    return CliRunner().invoke(launch_command, ["--dry-run", "train.py"], catch_exceptions=False).stderr


def nbaccel(*words: str, answers: str = "") -> str:
    line = [sys.executable, "-m", "nbaccel.cli.main", *words]
    done = subprocess.run(line, capture_output=True, text=True, timeout=110, input=answers)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_config_asks_and_writes() -> None:
    answers = "\nMULTI_GPU\n" + "\n" * 40
    asked = CliRunner().invoke(config_command, ["--config_file", "mine.yaml"], input=answers).output
    assert yaml.safe_load(Path("mine.yaml").read_text())["distributed_type"] == "MULTI_GPU"
    for word in ("Machines", "DeepSpeed", "FSDP", "Megatron-LM", "gloo", "nccl", "mpi", "Number format"):
        assert word in asked, word
    assert "Where" in CliRunner().invoke(config_command, [], input="\n" * 40).output


def test_launch_hands_a_script_its_arguments() -> None:
    write("train.py", "import sys\nfrom nbaccel import Accelerator\nprint(Accelerator().mixed_precision, sys.argv[1:])")
    write("f.yaml", "use_cpu: true\nnum_processes: 1\nmixed_precision: bf16")
    assert "bf16 ['--lr', '0.1']" in nbaccel("launch", "--config_file", "f.yaml", "train.py", "--lr", "0.1")


def test_test_takes_a_file() -> None:
    write("f.yaml", "use_cpu: true\nmixed_precision: fp8")
    with pytest.raises(PlanError, match=r"mixed_precision='fp8' \(from f\.yaml:2:18\)"):
        CliRunner().invoke(selftest_command, ["--config_file", "f.yaml"], catch_exceptions=False)


def test_the_state_prints_what_is_in_force() -> None:
    write(PROJECT, "mixed_precision: bf16")
    shown = repr(Accelerator(cpu=True, gradient_accumulation_steps=2).state)
    assert [f"{PROJECT}:1" in shown, "gradient_accumulation_steps" in shown] == [True, True]


# --- structured configuration ---


def test_hydra_composes_overrides_and_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    hydra = pytest.importorskip("hydra")
    write("conf/config.yaml", "defaults: [trainer: small, _self_]\nprecision: 'no'\n")
    write("conf/trainer/small.yaml", "batch_size: 4\nsteps: 1\nsamples: ${.batch_size}\n")
    write("conf/trainer/large.yaml", "batch_size: 64\nsteps: 8\nsamples: ${trainer.batch_size}\n")
    seen = []

    def main(cfg: Any) -> None:
        accelerator = Accelerator(
            cpu=True, mixed_precision=cfg.precision, gradient_accumulation_steps=cfg.trainer.steps
        )
        seen.append((accelerator.mixed_precision, accelerator.gradient_accumulation_steps, cfg.trainer.samples))

    quiet = ["hydra/job_logging=none", "hydra/hydra_logging=none"]
    monkeypatch.setattr(sys, "argv", ["train.py", "--multirun", "precision=no,bf16", "trainer=small,large", *quiet])
    hydra.main(config_path=str(Path("conf").absolute()), config_name="config", version_base=None)(main)()
    assert seen == [("no", 1, 4), ("no", 8, 64), ("bf16", 1, 4), ("bf16", 8, 64)]
    monkeypatch.setattr(sys, "argv", ["train.py", "trainer.batch_size=5", *quiet])
    hydra.main(config_path=str(Path("conf").absolute()), config_name="config", version_base=None)(main)()
    assert seen[-1] == ("no", 1, 5)


def test_omegaconf_fills_in() -> None:
    omegaconf = pytest.importorskip("omegaconf")
    cfg = omegaconf.OmegaConf.create({"policy": "NO_WRAP", "fsdp": {"fsdp_auto_wrap_policy": "${policy}"}})
    accelerator = Accelerator(cpu=True, fsdp_config=cfg.fsdp)
    assert accelerator.config.value("fsdp_config.fsdp_auto_wrap_policy") == "NO_WRAP"
    write(PROJECT, "params: {trainer: {batch_size: 8}, total: '${params.trainer.batch_size}'}")
    assert resolve().value("params.total") == 8


class FsdpSettings(BaseModel):
    fsdp_version: int = 2
    fsdp_min_num_params: int = 5


def test_pydantic_models_and_env_files_with_prefix() -> None:
    write(".env", "ACCELERATE_MIXED_PRECISION=bf16\n")
    accelerator = Accelerator(cpu=True, fsdp_config=FsdpSettings(fsdp_min_num_params=7))
    assert accelerator.config.value("fsdp_config.fsdp_min_num_params") == 7
    assert accelerator.mixed_precision == "bf16"


@pytest.mark.parametrize(("profile", "precision"), [("dev", "no"), ("staging", "fp16"), ("prod", "bf16")])
def test_environments_over_a_base(profile: str, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write(PROJECT, "mixed_precision: bf16\ngradient_accumulation_steps: 4")
    write(".accelerate/dev.yaml", "mixed_precision: 'no'")
    write(".accelerate/staging.yaml", "mixed_precision: fp16")
    write(".accelerate/prod.yaml", "use_cpu: true")
    monkeypatch.setenv("NBACCEL_PROFILE", profile)
    resolved = resolve()
    assert (resolved.config.mixed_precision, resolved.config.gradient_accumulation_steps) == (precision, 4)


def test_templates_are_filled_in_at_the_start() -> None:
    pytest.importorskip("omegaconf")
    write(PROJECT, "project_dir: p\nmain_process_port: '${free_port}'\nlog_dir: '${run_dir}/logs'")
    resolved = resolve()
    assert 0 < resolved.config.main_process_port < 65536  # type: ignore[operator]
    assert resolved.config.log_dir == f"{resolved.run_dir}/logs"
    assert resolved.run_dir.startswith("p/runs/")


def test_a_checkpoint_holds_the_configuration_and_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("omegaconf")
    monkeypatch.setenv("HF_TOKEN", "hush-hush")
    write(PROJECT, "mixed_precision: bf16\nparams: {hub: {token: '${oc.env:HF_TOKEN}'}}")
    accelerator = Accelerator(cpu=True)
    assert accelerator.config.value("params.hub.token") == "hush-hush"
    accelerator.prepare(torch.nn.Linear(1, 1))
    accelerator.save_state("saved")
    kept = (Path("saved") / FILE).read_text()
    assert yaml.safe_load(kept)["config"]["mixed_precision"] == "bf16"
    assert "hush-hush" not in kept + repr(accelerator.state) + str(accelerator.config.explain("params.hub.token"))
