"""FSDP: on real process groups, and each key of `fsdp_config` with its effect or a clear error."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from runtime_ranks import free_port, rank_environment
from torch.distributed.fsdp import (
    BackwardPrefetch,
    CPUOffload,
    CPUOffloadPolicy,
    FullOptimStateDictConfig,
    FullStateDictConfig,
    MixedPrecision,
    OffloadPolicy,
    ShardedOptimStateDictConfig,
    ShardedStateDictConfig,
    StateDictType,
)
from torch.distributed.fsdp.wrap import ModuleWrapPolicy, size_based_auto_wrap_policy

from nbaccel.config import KEYS, call_layer, resolve
from nbaccel.config.schema.fsdp import FsdpConfig
from nbaccel.errors import CallError, ConfigError, PlanError
from nbaccel.machine import Gpu, Machine
from nbaccel.plan import Parts, Topology, choose_parts
from nbaccel.runtime.accelerator import Accelerator
from nbaccel.runtime.parallel.recompute import RecomputedForward
from nbaccel.runtime.parallel.sharding import Sharding, completed, notes, sharding_of
from nbaccel.runtime.parallel.units import UnitPolicy, find_units, ignored_parameters
from nbaccel.runtime.plugins import (
    FullyShardedDataParallelPlugin,
    ParallelismConfig,
    Plugins,
    TorchTensorParallelPlugin,
)

pytestmark = pytest.mark.slow

CHECKS = Path(__file__).parent / "fsdp_checks.py"
NAMES: list[str] = re.findall(r"^def (check_\w+)\(\)", CHECKS.read_text(), re.MULTILINE)
ON_FOUR = ["check_hybrid", "check_mesh_of_sizes"]
ON_TWO = sorted(set(NAMES) - set(ON_FOUR))


def verdicts_of(size: int, names: list[str], folder: Path, local_size: int) -> dict[str, list[str]]:
    command, port = [sys.executable, "-W", "error", str(CHECKS), str(folder), *names], free_port()
    environs = [rank_environment(rank, size, port) for rank in range(size)]
    for rank, environ in enumerate(environs):
        environ |= {"LOCAL_RANK": str(rank % local_size), "LOCAL_WORLD_SIZE": str(local_size)}
    ranks = [subprocess.Popen(command, env=environ) for environ in environs]
    try:
        assert [process.wait(timeout=110) for process in ranks] == [0] * size
    finally:
        for process in ranks:
            process.kill()
    found = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(size)]
    return {name: [one[name] for one in found] for name in names}


@pytest.fixture(scope="module")
def on_two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    return verdicts_of(2, ON_TWO, tmp_path_factory.mktemp("two"), local_size=2)


@pytest.mark.parametrize("name", ON_TWO)
def test_on_two_ranks(name: str, on_two: dict[str, list[str]]) -> None:
    assert not any(on_two[name]), "\n".join(filter(None, on_two[name]))


def test_on_four_ranks_of_two_machines(tmp_path: Path) -> None:
    for name, troubles in verdicts_of(4, ON_FOUR, tmp_path, local_size=2).items():
        assert not any(troubles), "\n".join([name, *filter(None, troubles)])


CPU = Machine(usable_cores=4, physical_cores=4)
GPUS = Machine(usable_cores=4, physical_cores=4, gpus=tuple(Gpu(index, str(index)) for index in range(4)))
SMALL: dict[str, Any] = {"min_num_params": 20, "force_leaf_modules": set(), "exclude_wrap_modules": {torch.nn.Linear}}


def parts_of(topology: Topology, machine: Machine = CPU, **settings: Any) -> Parts:
    config = resolve(call_layer({"distributed_type": "FSDP"} | settings), environ={}).config
    return choose_parts(config, machine, topology)


FOUR, TWO_MACHINES = Topology(1, 4, 1, 4), Topology(1, 4, 1, 2)
SHARDED = (("dp_shard", 4),)
HYBRID = (("dp_replicate", 2), ("dp_shard", 2))


@pytest.mark.parametrize(
    ("topology", "settings", "strategy", "mesh"),
    [
        (Topology(), {}, "single", ()),
        (FOUR, {}, "fsdp", SHARDED),
        (FOUR, {"fsdp_config": {"fsdp_sharding_strategy": "SHARD_GRAD_OP"}}, "fsdp", SHARDED),
        (FOUR, {"fsdp_config": {"fsdp_sharding_strategy": "NO_SHARD"}}, "ddp", ()),
        (FOUR, {"fsdp_config": {"fsdp_sharding_strategy": "HYBRID_SHARD"}}, "fsdp", SHARDED),
        (FOUR, {"fsdp_config": {"fsdp_reshard_after_forward": "NO_SHARD"}}, "ddp", ()),
        (TWO_MACHINES, {"fsdp_config": {"fsdp_sharding_strategy": "HYBRID_SHARD"}}, "fsdp", HYBRID),
        (TWO_MACHINES, {"fsdp_config": {"fsdp_sharding_strategy": "HYBRID_SHARD_ZERO2"}}, "fsdp", HYBRID),
        (
            FOUR,
            {
                "parallelism_config": {
                    "parallelism_config_dp_replicate_size": 2,
                    "parallelism_config_dp_shard_size": 2,
                }
            },
            "fsdp",
            HYBRID,
        ),
        (FOUR, {"parallelism_config": {"parallelism_config_dp_replicate_size": 4}}, "ddp", ()),
        (
            FOUR,
            {"distributed_type": "MULTI_CPU", "parallelism_config": {"parallelism_config_dp_replicate_size": 4}},
            "ddp",
            (),
        ),
    ],
)
def test_parts(topology: Topology, settings: dict[str, Any], strategy: str, mesh: Any) -> None:
    parts = parts_of(topology, **settings)
    assert (parts.strategy, parts.mesh) == (strategy, mesh)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"fsdp_config": {"fsdp_state_dict_type": "LOCAL_STATE_DICT"}}, "Use SHARDED_STATE_DICT"),
        (
            {"fsdp_config": {"fsdp_sharding_strategy": "NO_SHARD", "fsdp_reshard_after_forward": "FULL_SHARD"}},
            "fsdp_sharding_strategy says NO_SHARD",
        ),
        ({"parallelism_config": {"parallelism_config_dp_shard_size": 3}}, "a mesh of 3 processes, and there are 4"),
        (
            {"distributed_type": None, "parallelism_config": {"parallelism_config_dp_shard_size": 4}},
            "data parallel training does not shard. Set distributed_type: FSDP",
        ),
        ({"parallelism_config": {"parallelism_config_tp_size": 2}}, "no tensor parallelism yet; it comes next"),
        ({"parallelism_config": {"parallelism_config_cp_size": 2}}, "no context parallelism yet; it comes next"),
        ({"parallelism_config": {"parallelism_config_sp_size": 2}}, "no sequence parallelism yet; it comes next"),
        ({"distributed_type": "DEEPSPEED"}, "does not support DeepSpeed yet"),
        ({"mixed_precision": "fp8"}, "no fp8 arithmetic"),
    ],
)
def test_what_cannot_be_done(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(PlanError, match=re.escape(words)):
        parts_of(FOUR, **settings)


def test_one_process_does_not_offload_from_a_gpu() -> None:
    offload = {"fsdp_config": {"fsdp_offload_params": True}}
    assert parts_of(Topology(), **offload).strategy == "single"
    with pytest.raises(PlanError, match="one process alone does not shard"):
        parts_of(Topology(), GPUS, **offload)


def is_noted(config: FsdpConfig, given: str = "") -> bool:
    return bool(notes(config, frozenset({given})))


EFFECTS: dict[str, tuple[Any, Callable[[FsdpConfig, Sharding], bool]]] = {
    "fsdp_version": (1, lambda config, how: is_noted(config, "fsdp_version") and not how.saves_shards),
    "fsdp_sharding_strategy": ("SHARD_GRAD_OP", lambda config, how: not how.reshard_after_forward),
    "fsdp_reshard_after_forward": (False, lambda config, how: not how.reshard_after_forward),
    "fsdp_offload_params": (True, lambda config, how: how.offload),
    "fsdp_auto_wrap_policy": ("NO_WRAP", lambda config, how: how.units.policy == "NO_WRAP"),
    "fsdp_transformer_layer_cls_to_wrap": ("A,B", lambda config, how: how.units.class_names == ("A", "B")),
    "fsdp_min_num_params": (7, lambda config, how: how.units.min_num_params == 7),
    "fsdp_backward_prefetch": ("NO_PREFETCH", lambda config, how: is_noted(config)),
    "fsdp_state_dict_type": ("SHARDED_STATE_DICT", lambda config, how: how.saves_shards),
    "fsdp_forward_prefetch": (True, lambda config, how: how.prefetch),
    "fsdp_use_orig_params": (False, lambda config, how: is_noted(config)),
    "fsdp_cpu_ram_efficient_loading": (False, lambda config, how: not how.only_rank_0_reads),
    "fsdp_sync_module_states": (False, lambda config, how: not how.from_rank_0),
    "fsdp_activation_checkpointing": (True, lambda config, how: how.recompute),
    "fsdp_activation_checkpointing_offload": (True, lambda config, how: how.recompute_offload),
    "fsdp_ignored_modules": ("head", lambda config, how: how.ignored == ("head",)),
}


@pytest.mark.parametrize("name", [key.short_name for key in KEYS.values() if key.section == "fsdp_config"])
def test_each_key_has_an_effect(name: str) -> None:
    value, holds = EFFECTS[name]
    config = resolve(call_layer({"fsdp_config": {name: value}}), environ={}).config.fsdp_config
    assert holds(config, sharding_of(config, "no"))
    assert not notes(FsdpConfig(), frozenset())


def test_precision_is_that_of_gathering() -> None:
    how = sharding_of(FsdpConfig(), "bf16")
    assert (how.dtype, how.reduce_dtype, how.output_dtype) == (torch.bfloat16, torch.float32, None)
    assert how.upcasts
    how = sharding_of(FsdpConfig(), "no", FullyShardedDataParallelPlugin(mixed_precision_policy="bf16"))
    assert (how.dtype, how.upcasts) == (torch.bfloat16, False)
    assert sharding_of(FsdpConfig(), "no").reduce_dtype is None


PLUGIN: dict[str, tuple[Any, str, Any]] = {
    "fsdp_version": (2, "fsdp_version", 2),
    "sharding_strategy": ("SHARD_GRAD_OP", "fsdp_sharding_strategy", "SHARD_GRAD_OP"),
    "reshard_after_forward": (False, "fsdp_reshard_after_forward", False),
    "backward_prefetch": (BackwardPrefetch.BACKWARD_PRE, "fsdp_backward_prefetch", "BACKWARD_PRE"),
    "auto_wrap_policy": ("no_wrap", "fsdp_auto_wrap_policy", "NO_WRAP"),
    "cpu_offload": (CPUOffload(offload_params=True), "fsdp_offload_params", True),
    "state_dict_type": (StateDictType.FULL_STATE_DICT, "fsdp_state_dict_type", "FULL_STATE_DICT"),
    "use_orig_params": (True, "fsdp_use_orig_params", True),
    "sync_module_states": (False, "fsdp_sync_module_states", False),
    "forward_prefetch": (True, "fsdp_forward_prefetch", True),
    "activation_checkpointing": (True, "fsdp_activation_checkpointing", True),
    "cpu_ram_efficient_loading": (False, "fsdp_cpu_ram_efficient_loading", False),
    "transformer_cls_names_to_wrap": (["A"], "fsdp_transformer_layer_cls_to_wrap", ("A",)),
    "min_num_params": (3, "fsdp_min_num_params", 3),
    "activation_checkpointing_offload": (True, "fsdp_activation_checkpointing_offload", True),
    "ignored_modules": ("a", "fsdp_ignored_modules", ("a",)),
}


@pytest.mark.parametrize("name", PLUGIN)
def test_the_plugins_fields_are_keys(name: str) -> None:
    value, key, expected = PLUGIN[name]
    told = dict(pair[:2] for pair in FullyShardedDataParallelPlugin(**{name: value}).settings())
    assert told.pop("distributed_type") == "FSDP"
    config = resolve(call_layer(told), environ={}).config.fsdp_config
    assert getattr(config, key) == expected


@pytest.mark.parametrize(("offload", "expected"), [(CPUOffloadPolicy(), True), (OffloadPolicy(), False)])
def test_offloading_policies(offload: object, expected: bool) -> None:
    told = dict(pair[:2] for pair in FullyShardedDataParallelPlugin(cpu_offload=offload).settings())
    assert told["fsdp_config.fsdp_offload_params"] is expected


def test_the_plugins_objects() -> None:
    linear = torch.nn.Linear(1, 1)
    plugin = FullyShardedDataParallelPlugin(
        ignored_modules=[linear, "head"], mixed_precision_policy=MixedPrecision(param_dtype=torch.bfloat16)
    )
    how = sharding_of(FsdpConfig(fsdp_ignored_modules=("head",)), "no", plugin)
    assert how.ignored == ("head", linear)
    assert how.dtype == torch.bfloat16
    assert plugin.mixed_precision()["reduce_dtype"] is None
    mapping = FullyShardedDataParallelPlugin(mixed_precision_policy={"output_dtype": torch.float32})
    assert sharding_of(FsdpConfig(), "fp16", mapping).output_dtype is torch.float32
    for wrong in ("half", {"param_dtype": "bf16"}, {"dtype": torch.float32}):
        with pytest.raises(CallError, match="possible are param_dtype, reduce_dtype"):
            FullyShardedDataParallelPlugin(mixed_precision_policy=wrong).mixed_precision()


@pytest.mark.parametrize("word", ["bf16", "fp16", "fp32"])
def test_a_word_for_the_precision(word: str) -> None:
    how = sharding_of(FsdpConfig(), "no", FullyShardedDataParallelPlugin(mixed_precision_policy=word))
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[word]
    assert (how.dtype, how.reduce_dtype, how.output_dtype) == (dtype, dtype, dtype)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"limit_all_gathers": False}, "limit_all_gathers=False changes nothing"),
        ({"mixed_precision_policy": {"buffer_dtype": torch.bfloat16}}, "buffer_dtype of FSDP1 changes nothing"),
        ({"mixed_precision_policy": MixedPrecision(keep_low_precision_grads=True)}, "keep_low_precision_grads of FSDP"),
        ({"state_dict_config": FullStateDictConfig()}, "state_dict_config.offload_to_cpu=False changes nothing"),
        ({"optim_state_dict_config": FullOptimStateDictConfig()}, "optim_state_dict_config.rank0_only=False"),
    ],
)
def test_fields_that_only_fsdp1_has(fields: dict[str, Any], words: str) -> None:
    said = FullyShardedDataParallelPlugin(**fields).notes()
    assert any(words in note for note in said), said


def test_fields_that_say_nothing_new() -> None:
    for fields in (
        {"mixed_precision_policy": MixedPrecision(param_dtype=torch.bfloat16, buffer_dtype=torch.float32)},
        {"state_dict_config": FullStateDictConfig(offload_to_cpu=True, rank0_only=True)},
        {"state_dict_config": ShardedStateDictConfig(), "optim_state_dict_config": ShardedOptimStateDictConfig()},
    ):
        assert FullyShardedDataParallelPlugin(**fields).notes() == []


def test_the_type_of_states() -> None:
    full, sharded = "FULL_STATE_DICT", "SHARDED_STATE_DICT"
    assert FullyShardedDataParallelPlugin(state_dict_config=ShardedStateDictConfig()).state_dict_word == sharded
    assert FullyShardedDataParallelPlugin(optim_state_dict_config=FullOptimStateDictConfig()).state_dict_word == full
    plugin = FullyShardedDataParallelPlugin(state_dict_type="full_state_dict")
    assert dict(pair[:2] for pair in plugin.settings())["fsdp_config.fsdp_state_dict_type"] == full
    plugin.set_state_dict_type(StateDictType.SHARDED_STATE_DICT)
    assert plugin.state_dict_word == sharded
    plugin.set_state_dict_type()
    assert plugin.state_dict_word == sharded
    with pytest.raises(CallError, match=r"set_state_dict_type\('local'\): possible are FULL_STATE_DICT"):
        plugin.set_state_dict_type("local")
    plugin = FullyShardedDataParallelPlugin(state_dict_type=full, state_dict_config=ShardedStateDictConfig())
    with pytest.raises(CallError, match="belongs to SHARDED_STATE_DICT, and the type of states is FULL_STATE_DICT"):
        list(plugin.settings())
    with pytest.raises(CallError, match=r"state_dict_config=3.*possible are torch's configurations"):
        list(FullyShardedDataParallelPlugin(state_dict_config=3).settings())


def test_offloading_without_page_locked_memory() -> None:
    plugin = FullyShardedDataParallelPlugin(cpu_offload=CPUOffloadPolicy(pin_memory=False))
    assert not sharding_of(FsdpConfig(fsdp_offload_params=True), "no", plugin).pin
    assert sharding_of(FsdpConfig(), "no").pin


def test_the_plugin_that_others_read() -> None:
    given = FullyShardedDataParallelPlugin(min_num_params=3)
    full = completed(given, FsdpConfig(fsdp_version=2, fsdp_forward_prefetch=True))
    assert (full.min_num_params, full.fsdp_version, full.forward_prefetch) == (3, 2, True)
    assert full.state_dict_type == "SHARDED_STATE_DICT"
    assert given.fsdp_version is None


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList([Block(), Block()])
        self.head = torch.nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def names_of(policy: UnitPolicy, model: torch.nn.Module | None = None) -> list[str]:
    model = model or Model()
    units = find_units(model, policy, frozenset())
    return [next(name for name, part in model.named_modules() if part is unit) for unit in units]


def test_units() -> None:
    blocks = ["blocks.0", "blocks.1"]
    assert names_of(UnitPolicy("TRANSFORMER_BASED_WRAP", ("Block",))) == blocks
    assert names_of(UnitPolicy(None, ("Block",))) == blocks
    assert names_of(UnitPolicy()) == []
    named = Model()
    named._no_split_modules = ["Block"]
    assert names_of(UnitPolicy(), named) == blocks
    assert names_of(UnitPolicy("TRANSFORMER_BASED_WRAP"), named) == blocks
    assert names_of(UnitPolicy("NO_WRAP"), named) == []
    assert names_of(UnitPolicy("SIZE_BASED_WRAP", min_num_params=20)) == ["blocks.0.inner", "blocks.1.inner"]
    assert names_of(UnitPolicy("SIZE_BASED_WRAP", min_num_params=10**6)) == []
    tied = Model()
    tied.blocks[0].inner.weight = tied.blocks[1].inner.weight
    assert names_of(UnitPolicy(None, ("Block", "Linear")), tied) == ["head"]
    with pytest.raises(CallError, match=r"Blok: Model has no layer of this class. Did you mean Block\?"):
        names_of(UnitPolicy(None, ("Blok",)))
    with pytest.raises(CallError, match=r"Xyzzy: .* It has Block, Linear, Model, ModuleList."):
        names_of(UnitPolicy(None, ("Xyzzy",)))
    with pytest.raises(CallError, match=r"does not say which .* it has Block, Linear, Model, ModuleList."):
        names_of(UnitPolicy("TRANSFORMER_BASED_WRAP"))


@pytest.mark.parametrize(
    "policy",
    [
        lambda module: isinstance(module, Block),
        ModuleWrapPolicy({Block}),
        partial(size_based_auto_wrap_policy, **SMALL),
    ],
)
def test_the_users_own_policy(policy: Any) -> None:
    chooser = FullyShardedDataParallelPlugin(auto_wrap_policy=policy).chooser()
    assert names_of(UnitPolicy(chooser=chooser)) == ["blocks.0", "blocks.1"]


def test_a_policy_that_is_none() -> None:
    with pytest.raises(CallError, match="auto_wrap_policy=3"):
        FullyShardedDataParallelPlugin(auto_wrap_policy=3).chooser()


def test_ignored_modules() -> None:
    model = Model()
    everything = set(model.parameters())
    assert ignored_parameters(model, ()) == frozenset()
    assert ignored_parameters(model, (r"blocks\..*", model.head)) == everything
    assert ignored_parameters(model, ("head",)) == set(model.head.parameters())
    with pytest.raises(CallError, match="fsdp_ignored_modules=tail: the model has no such module"):
        ignored_parameters(model, ("tail",))


def test_one_process_recomputes_activations() -> None:
    config = {"fsdp_transformer_layer_cls_to_wrap": "Block", "fsdp_activation_checkpointing": True}
    accelerator = Accelerator(fsdp_config={"fsdp_version": 2} | config, mixed_precision="bf16")
    model = accelerator.prepare(Model())
    assert isinstance(model.blocks[0].forward, RecomputedForward)
    accelerator.backward(model(torch.ones(1, 4)).sum())
    assert model.blocks[0].inner.weight.grad is not None
    whole = Accelerator(fsdp_config={"fsdp_activation_checkpointing": True}, mixed_precision="bf16").prepare(Block())
    whole(torch.ones(1, 4)).sum().backward()
    assert isinstance(whole.forward.forward, RecomputedForward)
    assert isinstance(accelerator.unwrap_model(whole, keep_fp32_wrapper=False).forward, RecomputedForward)
    assert type(Accelerator(fsdp_config={"fsdp_version": 2}).prepare(Model())) is Model


def test_an_old_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    from nbaccel.runtime import build

    monkeypatch.setattr(torch, "__version__", "2.6.0+cu124")
    with pytest.raises(PlanError, match=r"the fully_shard of torch 2.6.0\+cu124 .* Use torch 2.7 or newer"):
        build.STRATEGIES["fsdp"](None)


class Params4bit(torch.nn.Parameter):
    """Called as bitsandbytes calls its packed weights."""


def test_weights_that_are_trained_become_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    from nbaccel.runtime.parallel.fsdp import _upcast

    def dtypes(model: torch.nn.Module) -> list[torch.dtype]:
        _upcast(model)
        return [parameter.dtype for parameter in model.parameters()]

    def half_frozen() -> torch.nn.Linear:
        layer = torch.nn.Linear(2, 1, dtype=torch.bfloat16)
        layer.weight.requires_grad_(False)
        return layer

    assert dtypes(half_frozen()) == [torch.bfloat16, torch.float32]
    packed = half_frozen()
    packed.weight = Params4bit(packed.weight, requires_grad=False)
    assert dtypes(packed) == [torch.bfloat16, torch.bfloat16]
    monkeypatch.setattr(torch, "__version__", "2.7.1")  # shards frozen weights only with others of their format
    assert dtypes(half_frozen()) == [torch.float32, torch.float32]


def test_parallelism_config() -> None:
    config = ParallelismConfig(dp_replicate_size=2, dp_shard_size=3, tp_size=4, cp_size=5)
    assert (config.total_size, config.data_parallel_size, config.non_data_parallel_size) == (120, 6, 20)
    assert config.active_mesh_dims == ["dp_replicate", "dp_shard", "cp", "tp"]
    assert config.dp_dim_names == ["dp_replicate", "dp_shard"]
    assert config.non_dp_dim_names == ["cp", "tp"]
    assert config.dp_shard_cp_dim_names == ["dp_shard", "cp"]
    assert config.dp_cp_dim_names == ["dp_replicate", "dp_shard", "cp"]
    assert config.fsdp_dim_names == ["dp_replicate", "dp_shard_cp"]
    enabled = [getattr(config, f"{axis}_enabled") for axis in ("dp_replicate", "dp_shard", "tp", "cp", "sp")]
    assert enabled == [True, True, True, True, False]
    assert config.to_json()["tp_size"] == 4
    assert ParallelismConfig().build_device_mesh("cpu") is None
    assert ParallelismConfig().get_device_mesh("cpu") is None
    with pytest.raises(PlanError, match="a mesh of 120 processes, and there are 1"):
        config.get_device_mesh("cpu")


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"tp_size": 0}, "possible is a whole number from 1"),
        ({"tp_size": True}, "possible is a whole number from 1"),
        ({"cp_size": 2, "sp_size": 2}, "exclude each other"),
        ({"dp_replicate_size": 2, "tp_size": 2}, "replicas must be sharded then"),
    ],
)
def test_sizes_that_make_no_sense(sizes: dict[str, Any], words: str) -> None:
    with pytest.raises(CallError, match=words):
        ParallelismConfig(**sizes)


def test_plugins_of_another_kind() -> None:
    with pytest.raises(CallError, match=r"Accelerator\(fsdp_plugin=3\): possible is a FullyShardedDataParallelPlugin"):
        Plugins(fsdp=3)  # type: ignore[arg-type]
    assert dict(pair[:2] for pair in Plugins(tensor_parallel=TorchTensorParallelPlugin(2)).settings()) == {
        "parallelism_config.parallelism_config_tp_size": 2
    }
    with pytest.raises(ConfigError, match="fsdp_plugin="):
        Accelerator(fsdp_plugin=FullyShardedDataParallelPlugin(sharding_strategy="HALF_SHARD"))
