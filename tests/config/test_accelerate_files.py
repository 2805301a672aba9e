"""Configuration files of Accelerate mean here what they mean there: the installed version is asked, case by case."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import re
from argparse import Namespace
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import yaml
from projects import Project, error_of

from nbaccel.config import KEYS, Key

pytestmark = pytest.mark.slow

launch = pytest.importorskip("accelerate.commands.launch")
questions = pytest.importorskip("accelerate.commands.config.cluster")
config_args = pytest.importorskip("accelerate.commands.config.config_args")
launching = pytest.importorskip("accelerate.utils.launch")

# what Accelerate makes of a file


@dataclasses.dataclass(frozen=True)
class Launched:
    """What `accelerate launch` makes of a file: arguments, and variables for the script."""

    args: Namespace
    environ: Mapping[str, str]


@pytest.fixture(autouse=True)
def plain_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variables of Accelerate's around, and 8-bit floats as if there were hardware for them."""
    for name in [name for name in os.environ if re.match("ACCELERATE|FSDP|MEGATRON|PARALLELISM", name)]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(launching, "is_fp8_available", lambda: True)
    monkeypatch.setattr(launching, "_get_mpirun_args", lambda: ("mpirun", "-f", "-n", "-ppn", ""))


def launched(file: Path) -> Launched:
    args = launch.launch_command_parser().parse_args(["--config_file", str(file), "script.py"])
    args, defaults, _ = launch._validate_launch_command(args)
    before = dict(os.environ)
    if args.use_deepspeed:
        args.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
        _, environ = launching.prepare_deepspeed_cmd_env(args)
    elif args.use_fsdp or args.multi_gpu or args.use_megatron_lm:
        environ = launching.prepare_multi_gpu_env(args)
    else:
        _, environ = launching.prepare_simple_launcher_cmd_env(args)
    return Launched(args, {name: text for name, text in environ.items() if before.get(name) != text})


def same(written: object, value: object) -> bool:
    """Whether a text or value of Accelerate's is the value that was read here."""
    if isinstance(written, Enum):
        written = written.value
    if isinstance(value, tuple):
        parts = re.sub(r"[\s()\[\]']", "", written).split(",") if isinstance(written, str) else written
        return isinstance(parts, list | tuple) and len(parts) == len(value) and all(map(same, parts, value))
    if isinstance(value, bool):
        return str(written).strip().lower() in (("true", "1") if value else ("false", "0"))
    if isinstance(value, int | float) and isinstance(written, int | float | str):
        return float(written) == value
    return str(written).strip().lower() == str(value).lower()


# one file per key and value

WORDS: Mapping[str, list[object]] = {
    "a text": ["one", "one/two"],
    "a file": ["here/one.json"],
    "a folder": ["here/one"],
    "a list, or words with commas between": ["OneLayer", "OneLayer,TwoLayer", ["OneLayer", "TwoLayer"]],
    "three times true or false": [[True, False, True]],
    'a whole number from 1, or "auto"': [4, "auto"],
    'a number from 0, or "auto"': [0.5, "auto"],
    "true, false, or a word of fsdp_sharding_strategy": [True, False, "SHARD_GRAD_OP"],
}


def examples(key: Key) -> list[object]:
    if key.choices:
        return list(key.choices)
    if key.possible == "true, false":
        return [True, False]
    if key.possible in WORDS:
        return WORDS[key.possible]
    assert "number" in key.possible, key.possible
    return [0.5] if "a number" in key.possible else [1, 2]


BASES: Mapping[str, Mapping[str, Any]] = {
    "fsdp_config": {"distributed_type": "FSDP", "fsdp_config": {"fsdp_cpu_ram_efficient_loading": False}},
    "deepspeed_config": {"distributed_type": "DEEPSPEED"},
    "megatron_lm_config": {"distributed_type": "MEGATRON_LM"},
    "fp8_config": {"distributed_type": "MULTI_GPU", "mixed_precision": "fp8"},
    "dynamo_config": {"distributed_type": "MULTI_GPU"},
    "parallelism_config": {
        "distributed_type": "FSDP",
        "fsdp_config": {"fsdp_version": 2},
        "parallelism_config": {"parallelism_config_cp_size": 2, "parallelism_config_sp_size": 2},
    },
    "mpirun_config": {"distributed_type": "NO"},
}
GROUPS = {
    "FSDP Arguments": "fsdp_config",
    "DeepSpeed Arguments": "deepspeed_config",
    "Megatron-LM Arguments": "megatron_lm_config",
    "FP8 Arguments": "fp8_config",
    "ParallelismConfig Arguments": "parallelism_config",
    "MPI Arguments": "mpirun_config",
}


def sections_keys() -> Iterator[tuple[str, str]]:
    """The keys that `accelerate launch` takes out of a file's sections, by its parser."""
    parser = launch.launch_command_parser()
    for group in parser._action_groups:
        section = GROUPS.get(group.title or "")
        for action in group._group_actions if section else ():
            yield str(section), action.dest
    yield from (("dynamo_config", action.dest) for action in parser._actions if action.dest.startswith("dynamo_"))


def today(section: str, name: str) -> Key:
    return KEYS.get(f"{section}.{name}") or KEYS[f"{section}.{name.removeprefix('fp8_')}"]


CASES = [
    pytest.param(section, name, value, id=f"{section}.{name}={value}")
    for section, name in sections_keys()
    for value in examples(today(section, name))
]


def with_base(section: str, values: Mapping[str, object]) -> dict[str, Any]:
    content: dict[str, Any] = {"num_processes": 4, "main_process_port": 0, "use_cpu": False, **BASES[section]}
    if "fsdp_version" in values:
        return {**content, section: dict(values)}
    return {**content, section: {**content.get(section, {}), **values}}


ONLY_HERE: Mapping[tuple[str, str], str] = {
    ("dynamo_backend", "ipex"): "a word of Accelerate 0.15 to 1.10, which 1.15 refuses",
}
"""Values that the installed version refuses, and why they are understood here."""


@pytest.mark.parametrize(("section", "name", "value"), CASES)
def test_a_key_of_a_section_means_the_same(section: str, name: str, value: object, project: Project) -> None:
    file = project.write("config.yaml", yaml.safe_dump(with_base(section, {name: value})))
    key = today(section, name)
    here = project.resolve(config_file=file).value(key.name)
    if (name, str(value)) in ONLY_HERE:
        with pytest.raises(ValueError):
            launched(file)
        return
    there = launched(file)
    assert same(there.environ.get(key.env, getattr(there.args, name)), here)
    if key.env in there.environ:
        assert project.resolve(environ=there.environ).value(key.name) == here


@pytest.mark.parametrize("section", BASES)
def test_a_section_with_all_its_keys_means_the_same_in_yaml_and_json(section: str, project: Project) -> None:
    names = [name for of, name in sections_keys() if of == section]
    values = {name: examples(today(section, name))[-1] for name in names}
    if section == "deepspeed_config":
        values["gradient_accumulation_steps"] = 4  # as a variable, "auto" is an error there too
    content = with_base(section, values)
    file = project.write("config.yaml", yaml.safe_dump(content))
    config = project.resolve(config_file=file).config
    assert project.resolve(config_file=project.write("config.json", json.dumps(content, indent=2))).config == config
    assert project.resolve(config_file=project.write("text.yaml", json.dumps(content, indent="\t"))).config == config
    there = launched(file)
    again = project.resolve(environ=there.environ)
    for name in names:
        key = today(section, name).name
        if KEYS[key].env in there.environ:
            assert again.value(key) == project.resolve(config_file=file).value(key), name


# the top level

FIELDS = {field.name: field for field in dataclasses.fields(config_args.ClusterConfig)}
TOP = [name for name in FIELDS if name not in BASES]
TOP_VALUES: Mapping[str, list[object]] = {
    "compute_environment": ["LOCAL_MACHINE"],
    "distributed_type": [kind.value for kind in config_args.DistributedType],
    "num_processes": [1, 4],
    "num_machines": [1, 2],
    "machine_rank": [0, 1],
    "gpu_ids": ["all", "0,1", "3"],
    "main_process_ip": ["10.0.0.1", "node-0"],
    "main_process_port": [0, 29501],
    "main_training_function": ["main", "train"],
    "rdzv_backend": ["static", "c10d"],
    "mixed_precision": ["no", "fp16", "bf16", "fp8"],
    "downcast_bf16": [True, False, "no", "yes"],
    "tpu_name": ["one"],
    "tpu_zone": ["here"],
    "command_file": ["/here/run.sh"],
    "commands": [["pip install x", "echo a, b"], []],
    "tpu_vm": [["one", "two"], [""]],
    "tpu_env": [["A=1", "B=2"], []],
}
"""What the questionnaire can write; where nothing stands: true and false."""
TEXT_OF_SWITCH = {"downcast_bf16": "Accelerate keeps the text yes or no"}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name in TOP for value in TOP_VALUES.get(name, [True, False])]
)
def test_a_key_of_the_top_level_means_the_same(name: str, value: object, project: Project) -> None:
    content = {"distributed_type": "NO", name: value}
    file = project.write("config.yaml", yaml.safe_dump(content))
    there = getattr(config_args.load_config_from_file(str(file)), name)
    here = project.resolve(config_file=file).value(name)
    if name in TEXT_OF_SWITCH and isinstance(there, str):
        there = there == "yes"
    assert same(there, here if name != "gpu_ids" or here == "all" else tuple(here))


IGNORED_THERE: Mapping[str, tuple[object, object]] = {
    "rdzv_backend": ("c10d", "static"),
    "same_network": (True, False),
    "enable_cpu_affinity": (True, False),
    "downcast_bf16": (True, False),
    "tpu_use_sudo": (True, False),
}
"""Keys whose value in a file Accelerate's launch passes over, since its flags have defaults: value, what it takes."""


@pytest.mark.parametrize("name", [name for name in TOP if name not in ("compute_environment", "distributed_type")])
def test_the_launch_takes_a_key_of_the_top_level_as_it_is_here(name: str, project: Project) -> None:
    value = IGNORED_THERE.get(name, (TOP_VALUES.get(name, [True])[-1], None))[0]
    content = {"distributed_type": "XLA" if name.startswith("tpu") else "NO", "num_processes": 1, name: value}
    file = project.write("config.yaml", yaml.safe_dump(content))
    args = launch.launch_command_parser().parse_args(["--config_file", str(file), "script.py"])
    args, _, _ = launch._validate_launch_command(args)
    here = project.resolve(config_file=file).value(name)
    if name in IGNORED_THERE:
        assert getattr(args, name) == IGNORED_THERE[name][1]
        assert here == value
    else:
        assert same(getattr(args, name), here)


DEFAULTS_DIFFER = {
    "num_processes": "there -1, for which a flag must be given; here: as the devices are",
    "distributed_type": "must be given there",
    "mixed_precision": "there None, which its launch takes for no",
}


def test_the_defaults_are_the_same(project: Project) -> None:
    there = config_args.ClusterConfig(
        compute_environment="LOCAL_MACHINE", distributed_type="NO", mixed_precision=None, use_cpu=False, debug=False
    )
    here = project.resolve()
    differing = {name for name in TOP if not same(getattr(there, name), here.value(name))}
    assert differing == set(DEFAULTS_DIFFER)


SECTIONS_DEFAULTS_DIFFER: Mapping[str, tuple[object, object]] = {
    "zero_stage": (None, 2),
    "dynamo_backend": (None, "no"),
    "dynamo_use_dynamic": (False, None),
}
"""There mostly None, until the class that reads them says what is the default here; one switch is never unset there."""


def test_the_defaults_of_sections_are_those_of_the_launch(project: Project) -> None:
    args = launch.launch_command_parser().parse_args(["script.py"])
    here = project.resolve()
    defaults = {name: (getattr(args, name), here.value(today(section, name).name)) for section, name in sections_keys()}
    differing = {name: (there, value) for name, (there, value) in defaults.items() if not same(there, value)}
    assert differing == SECTIONS_DEFAULTS_DIFFER


# what the questionnaire writes

WRITTEN = re.compile(r"""(\w+_config)\[(prefix \+ )?"(\w+)"\] = """)
OLD_NAMES = {
    "amax_history_length": "amax_history_len",
    "amax_compute_algorithm": "amax_compute_algo",
    "optimization_level": "opt_level",
}
"""Names that Accelerate's questionnaire writes and its launch does not read; here both are understood."""


def questions_keys() -> list[tuple[str, str]]:
    found = WRITTEN.findall(inspect.getsource(questions))
    prefixes = {
        "dynamo_config": "dynamo_",
        "parallelism_config": "parallelism_config_",
        "megatron_lm_config": "megatron_lm_",
    }
    return sorted({(section, f"{prefixes[section] if prefix else ''}{name}") for section, prefix, name in found})


def test_the_questionnaire_is_understood() -> None:
    assert len(questions_keys()) > 50
    assert {section for section, _ in questions_keys()} == set(BASES)


@pytest.mark.parametrize(("section", "name"), questions_keys())
def test_what_the_questionnaire_writes_is_read(section: str, name: str, project: Project) -> None:
    key = KEYS[f"{section}.{OLD_NAMES.get(name, name)}"]
    for value in examples(key):
        file = project.write("config.yaml", yaml.safe_dump({"distributed_type": "NO", section: {name: value}}))
        resolved = project.resolve(config_file=file)
        assert same(value, resolved.value(key.name))
        assert len(resolved.notes) == (name in OLD_NAMES)
        if name in OLD_NAMES:
            assert f"{section}.{OLD_NAMES[name]}" in str(resolved.notes[0])
            assert same(getattr(launched(file).args, f"fp8_{OLD_NAMES[name]}"), key.default)


# SageMaker

SAGEMAKER = {
    "base_job_name": "accelerate-sagemaker-1",
    "compute_environment": "AMAZON_SAGEMAKER",
    "debug": False,
    "distributed_type": "DATA_PARALLEL",
    "dynamo_config": {"dynamo_backend": "INDUCTOR"},
    "ec2_instance_type": "ml.p3.16xlarge",
    "enable_cpu_affinity": False,
    "gpu_ids": "all",
    "iam_role_name": "a_role",
    "image_uri": "1.dkr.ecr.us-east-1.amazonaws.com/image:1",
    "mixed_precision": "bf16",
    "num_machines": 2,
    "profile": "work",
    "py_version": "py38",
    "pytorch_version": "1.10.2",
    "region": "eu-west-1",
    "sagemaker_inputs_file": "inputs.tsv",
    "sagemaker_metrics_file": "metrics.tsv",
    "transformers_version": "4.17.0",
    "use_cpu": False,
    "additional_args": {"volume_size": 100, "tags": [{"Key": "a", "Value": "b"}]},
}


@pytest.mark.parametrize("kind", ["NO", "DATA_PARALLEL", "MODEL_PARALLEL"])
@pytest.mark.parametrize("order", [1, -1])
def test_a_file_for_sagemaker_means_the_same(kind: str, order: int, project: Project) -> None:
    content = {**SAGEMAKER, "distributed_type": kind}
    file = project.write("config.json", json.dumps(dict(list(content.items())[::order])))
    resolved = project.resolve(config_file=file)
    if kind == "NO":
        with pytest.raises(ValueError, match="num_processes"):  # it adds this key to its own file, and then refuses it
            config_args.load_config_from_file(str(file))
        there = config_args.SageMakerConfig(**content)
    else:
        there = config_args.load_config_from_file(str(file))
    for field in dataclasses.fields(there):
        if field.name == "dynamo_config":
            assert resolved.value("dynamo_config.dynamo_backend") == "inductor"
        elif field.name == "additional_args":
            assert there.additional_args == resolved.value("additional_args")
        else:
            name = "aws_profile" if field.name == "profile" else field.name
            assert same(getattr(there, field.name), resolved.value(name)), name
    assert resolved.value("profile") is None
    assert resolved.files == (file,)


# what older versions wrote

OLD_FSDP = """compute_environment: LOCAL_MACHINE
deepspeed_config: {}
distributed_type: FSDP
fsdp_config:
  fsdp_auto_wrap_policy: SIZE_BASED_WRAP
  fsdp_backward_prefetch_policy: BACKWARD_POST
  min_num_params: 2000
  offload_params: true
  sharding_strategy: 2
machine_rank: 0
main_process_ip: null
main_process_port: null
main_training_function: main
mixed_precision: fp16
num_machines: 1
num_processes: 2
use_cpu: false
"""

OLD: Mapping[str, tuple[str, dict[str, object], list[str]]] = {
    "fp16": ("compute_environment: LOCAL_MACHINE\ndistributed_type: 'NO'\nfp16: true\nmachine_rank: 0\n",
        {"mixed_precision": "fp16", "distributed_type": "NO"}, ["`fp16`"]),
    "no fp16": ("fp16: false", {"mixed_precision": "no"}, ["`fp16`"]),
    "fp16 beside mixed_precision": ("fp16: true\nmixed_precision: bf16", {"mixed_precision": "bf16"}, ["`fp16`"]),
    "mixed_precision beside fp16": ("mixed_precision: 'no'\nfp16: true", {"mixed_precision": "no"}, ["`fp16`"]),
    "0.11 FSDP": (OLD_FSDP, {
        "distributed_type": "FSDP", "mixed_precision": "fp16", "num_processes": 2,
        "fsdp_config.fsdp_auto_wrap_policy": "SIZE_BASED_WRAP",
        "fsdp_config.fsdp_backward_prefetch": "BACKWARD_POST",
        "fsdp_config.fsdp_min_num_params": 2000,
        "fsdp_config.fsdp_offload_params": True,
        "fsdp_config.fsdp_sharding_strategy": "SHARD_GRAD_OP",
    }, ["fsdp_backward_prefetch_policy", "min_num_params", "offload_params", "sharding_strategy"]),
    "0.11 FSDP layers": (
        "fsdp_config:\n  fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP\n  transformer_layer_cls_to_wrap: BertLayer",
        {"fsdp_config.fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
         "fsdp_config.fsdp_transformer_layer_cls_to_wrap": ("BertLayer",)}, ["transformer_layer_cls_to_wrap"]),
    "0.15 numbers": ("fsdp_config: {fsdp_sharding_strategy: 3, fsdp_backward_prefetch_policy: NO_PREFETCH}",
        {"fsdp_config.fsdp_sharding_strategy": "NO_SHARD", "fsdp_config.fsdp_backward_prefetch": "NO_PREFETCH"},
        ["fsdp_backward_prefetch_policy"]),
    "numbers as texts": ("fsdp_config: {fsdp_sharding_strategy: '4'}",
        {"fsdp_config.fsdp_sharding_strategy": "HYBRID_SHARD"}, []),
    "words of other tools": ("fsdp_config: {fsdp_auto_wrap_policy: TRANSFORMER_LAYER_AUTO_WRAP_POLICY}",
        {"fsdp_config.fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP"}, []),
    "a list of layers": ("fsdp_config: {fsdp_transformer_layer_cls_to_wrap: [BertLayer, GPTJBlock]}",
        {"fsdp_config.fsdp_transformer_layer_cls_to_wrap": ("BertLayer", "GPTJBlock")}, []),
    "1.6 strategy where a switch is": ("fsdp_config: {fsdp_version: 1, fsdp_reshard_after_forward: HYBRID_SHARD}",
        {"fsdp_config.fsdp_version": 1, "fsdp_config.fsdp_reshard_after_forward": "HYBRID_SHARD"}, []),
    "names without prefix": (
        "fsdp_config: {version: 2, state_dict_type: SHARDED_STATE_DICT}\ndynamo_config: {mode: default}",
        {"fsdp_config.fsdp_version": 2, "fsdp_config.fsdp_state_dict_type": "SHARDED_STATE_DICT",
         "dynamo_config.dynamo_mode": "default"}, []),
    "0.15 MPS": ("distributed_type: MPS\nnum_processes: 1", {"distributed_type": "NO", "num_processes": 1}, []),
    "0.11 TPU": ("distributed_type: TPU\nmain_training_function: train\nnum_processes: 8",
        {"distributed_type": "XLA", "main_training_function": "train", "num_processes": 8}, []),
    "no quotes around NO": ("distributed_type: NO\nmixed_precision: no\ndynamo_backend: NO",
        {"distributed_type": "NO", "mixed_precision": "no", "dynamo_config.dynamo_backend": "no"}, ["dynamo_backend"]),
    "NO_DISTRIBUTED": ("distributed_type: NO_DISTRIBUTED", {"distributed_type": "NO"}, []),
    "CLUSTER": ("compute_environment: CLUSTER", {"compute_environment": "CLUSTER"}, []),
    "0.15 TPU pod": (
        "distributed_type: TPU\ndowncast_bf16: 'no'\ntpu_name: a\ntpu_zone: b\ncommands: [a b, c]\ncommand_file:",
        {"distributed_type": "XLA", "downcast_bf16": False, "tpu_name": "a", "tpu_zone": "b",
         "commands": ("a b", "c"), "command_file": None}, []),
    "tpu_config": ("tpu_config: {}\nseed: 1", {"seed": 1}, []),
    "tpu_config null": ("tpu_config:\nseed: 1", {"seed": 1}, []),
    "tpu_config with names": ("tpu_config: {name: a, tpu_zone: b, downcast_bf16: true, commands: echo}",
        {"tpu_name": "a", "tpu_zone": "b", "downcast_bf16": True, "commands": ("echo",)}, []),
    "0.15 no dynamo_backend": ("dynamo_backend: 'NO'", {"dynamo_config.dynamo_backend": "no"}, ["`dynamo_backend`"]),
    "0.15 dynamo_backend": ("dynamo_backend: INDUCTOR\ndynamo_config: {}",
        {"dynamo_config.dynamo_backend": "inductor"}, ["`dynamo_backend`"]),
    "null dynamo_backend": ("dynamo_backend: null", {"dynamo_config.dynamo_backend": "no"}, ["`dynamo_backend`"]),
    "0.20 ipex_config": ("ipex_config: {ipex: true, use_xpu: false}\nuse_cpu: true",
        {"use_cpu": True}, ["ipex_config"]),
    "use_xpu": ("use_xpu: true", {}, ["use_xpu"]),
    "0.28 mpirun_config": ("mpirun_config: {mpirun_ccl: '1', mpirun_hostfile: /hosts}",
        {"mpirun_config.mpirun_hostfile": "/hosts"}, ["mpirun_ccl"]),
    "0.34 fp8_config": (
        ("fp8_config:\n  amax_compute_algorithm: max\n  amax_history_length: 16\n  backend: TE\n  fp8_format: E4M3\n"
         "  interval: 1\n  margin: 0\n  override_linear_precision:\n  - true\n  - false\n  - false\n"),
        {"fp8_config.amax_compute_algo": "max", "fp8_config.amax_history_len": 16, "fp8_config.backend": "te",
         "fp8_config.fp8_format": "E4M3", "fp8_config.interval": 1, "fp8_config.margin": 0,
         "fp8_config.override_linear_precision": (True, False, False)},
        ["amax_compute_algorithm", "amax_history_length"]),
    "0.34 MS-AMP": ("fp8_config: {backend: MSAMP, optimization_level: O1}",
        {"fp8_config.backend": "msamp", "fp8_config.opt_level": "O1"}, ["optimization_level"]),
    "fp8_config with prefixes": ("fp8_config: {fp8_backend: ao, fp8_margin: 2, fp8_fp8_format: E5M2}",
        {"fp8_config.backend": "ao", "fp8_config.margin": 2, "fp8_config.fp8_format": "E5M2"}, []),
    "1.6 tp_config": ("tp_config: {tp_size: 4}",
        {"parallelism_config.parallelism_config_tp_size": 4}, ["tp_config.tp_size"]),
    "1.6 empty tp_config": ("tp_config: {}", {}, []),
    "num_processes: -1": ("num_processes: -1", {"num_processes": None}, []),
    "gpu_ids null": ("gpu_ids: null", {"gpu_ids": None}, []),
    "gpu_ids a list": ("gpu_ids: [0, 2]", {"gpu_ids": (0, 2)}, []),
    "gpu_ids a number": ("gpu_ids: 1", {"gpu_ids": (1,)}, []),
    "deepspeed_config a path": ("deepspeed_config: conf/ds.json",
        {"deepspeed_config.deepspeed_config_file": "conf/ds.json"}, []),
    "0.11 deepspeed_config_file": ("deepspeed_config: {deepspeed_config_file: none, zero3_init_flag: true}",
        {"deepspeed_config.deepspeed_config_file": None, "deepspeed_config.zero3_init_flag": True}, []),
    "deepspeed_config old name": ("deepspeed_config: {ds_config_variables: 1, zero_stage: 1}",
        {"deepspeed_config.zero_stage": 1}, ["ds_config_variables"]),
    "DeepSpeed's own form": (
        ("deepspeed_config:\n  zero_optimization: {stage: 2, offload_param: {device: cpu}}\n"
         "  offload_optimizer_device: cpu\n  gradient_accumulation_steps: auto\n  train_batch_size: auto\n"
         "  fp16: {enabled: auto}\n"),
        {"deepspeed_config.zero_optimization": {"stage": 2, "offload_param": {"device": "cpu"}},
         "deepspeed_config.offload_optimizer_device": "cpu", "deepspeed_config.gradient_accumulation_steps": "auto",
         "deepspeed_config.train_batch_size": "auto", "deepspeed_config.fp16": {"enabled": "auto"}}, []),
    "JSON text in default_config.yaml": (
        '{\n\t"distributed_type": "NO",\n\t"mixed_precision": "no",\n\t"num_processes": 1\n}\n',
        {"distributed_type": "NO", "mixed_precision": "no", "num_processes": 1}, []),
    "empty sections": ("fsdp_config: {}\ndeepspeed_config: null\nmegatron_lm_config:\nmpirun_config: {}", {}, []),
}  # fmt: skip


@pytest.mark.parametrize(("content", "values", "notes"), OLD.values(), ids=list(OLD))
def test_an_old_file_keeps_its_meaning(
    content: str, values: Mapping[str, object], notes: list[str], project: Project
) -> None:
    file = project.write("default_config.yaml", content)
    resolved = project.resolve(config_file=file)
    found = {key: resolved.value(key) for key in resolved.given()}
    assert {key: found[key] for key in values} == values
    assert set(found) - set(values) <= {"compute_environment", *TOP}
    assert len(resolved.notes) == len(notes)
    assert all(str(note).startswith("default_config.yaml:") for note in resolved.notes)
    for name in notes:
        assert any(name in note.text for note in resolved.notes)


@pytest.mark.parametrize("name", [name for name, (_, _, notes) in OLD.items() if name.startswith(("0.", "1."))])
def test_accelerate_itself_agrees_where_it_still_can(name: str, project: Project) -> None:
    content, values, _ = OLD[name]
    file = project.write(
        "config.yaml", content if "distributed_type" in content else f"distributed_type: 'NO'\n{content}"
    )
    try:
        there = config_args.load_config_from_file(str(file))
    except (TypeError, ValueError):
        return  # the installed version has forgotten this form
    for key, value in values.items():
        if "." not in key:
            assert same(getattr(there, key) or value, value)


CONTRADICTIONS = {
    "the old and the new name": "dynamo_backend: EAGER\ndynamo_config: {dynamo_backend: INDUCTOR}",
    "with and without prefix": "fsdp_config: {version: 1, fsdp_version: 2}",
    "old and without prefix": "fsdp_config: {min_num_params: 1, fsdp_min_num_params: 2}",
    "two sections": "tp_config: {tp_size: 2}\nparallelism_config: {parallelism_config_tp_size: 4}",
    "section and top level": "tpu_config: {name: a}\ntpu_name: b",
    "with dots": "fsdp_config: {fsdp_version: 1}\nfsdp_config.fsdp_version: 2",
    "dots in parameters": "params: {a: {b: 1}, a.b: 2}",
    "a parameter inside another": "params: {a: 1, a.b: 2}",
}


@pytest.mark.parametrize("content", CONTRADICTIONS.values(), ids=list(CONTRADICTIONS))
@pytest.mark.parametrize("order", [1, -1])
def test_two_names_of_one_key_may_not_contradict_each_other(content: str, order: int, project: Project) -> None:
    lines = content.splitlines()[::order]
    message = str(error_of(project, config_file=project.write("named.yaml", "\n".join(lines))))
    assert "Keep one." in message
    assert message.startswith("named.yaml:")


def test_two_names_of_one_key_may_agree(project: Project) -> None:
    assert project.values("dynamo_backend: EAGER\ndynamo_config: {dynamo_backend: EAGER}") == {
        "dynamo_config.dynamo_backend": "eager"
    }
