"""The end of an accelerator, what is asked of it besides training, and settings that nothing carries out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from nbaccel.config import resolve
from nbaccel.data_loader import DataLoaderDispatcher, DataLoaderShard
from nbaccel.errors import ConfigError, PlanError
from nbaccel.runtime.accelerator import Accelerator
from nbaccel.runtime.handlers import DataLoaderConfiguration, GradientAccumulationPlugin
from nbaccel.runtime.state import AcceleratorState, GradientState, PartialState
from nbaccel.utils import (
    AORecipeKwargs,
    AutocastKwargs,
    BnbQuantizationConfig,
    DistributedDataParallelKwargs,
    FP8RecipeKwargs,
    GradScalerKwargs,
    InitProcessGroupKwargs,
    KwargsHandler,
    LoggerType,
    MSAMPRecipeKwargs,
    TERecipeKwargs,
    load_and_quantize_model,
    write_basic_config,
)
from nbaccel.utils.dataclasses import BaseEnum, FP8BackendType


def linear() -> torch.nn.Linear:
    return torch.nn.Linear(2, 1)


# Closing


def test_what_comes_after_a_closed_one_begins_anew(tmp_path: Path) -> None:
    torch.optim.SGD(linear().parameters())  # torch's first optimizer says in a variable where compilers keep files
    before = dict(os.environ)
    first = Accelerator(mixed_precision="bf16", gradient_accumulation_steps=3, project_dir=tmp_path)
    own = linear()
    model, _ = first.prepare(own, torch.optim.SGD(own.parameters()))
    with first.accumulate(model):
        assert not first.sync_gradients
    state, gradients = first.state, first.gradient_state
    first.close()
    assert first._models == first._optimizers == []
    assert AcceleratorState._shared_state == GradientState._shared_state == {}
    for name in ("num_processes", "mixed_precision", "device"):
        with pytest.raises(AttributeError, match=f"{name}.*Build a new"):
            getattr(state, name)
    with pytest.raises(AttributeError, match="has no attribute 'colour'"):
        PartialState().colour  # noqa: B018 - asking is the test
    second = Accelerator(gradient_accumulation_steps=1)
    assert (second.mixed_precision, second.sync_gradients) == ("no", True)
    assert gradients.sync_gradients
    assert second.prepare(model) is own
    assert "forward" not in own.__dict__
    first.close()  # again, and not the second's states
    assert AcceleratorState().mixed_precision == "no"
    assert AcceleratorState.is_of(second.config)
    assert dict(os.environ) == before


def test_a_block(tmp_path: Path) -> None:
    with Accelerator(project_dir=tmp_path) as accelerator:
        model = accelerator.prepare(linear())
        accelerator.save_state(tmp_path / "state", asynchronous=True)
    assert (tmp_path / "state" / "model.safetensors").exists()
    assert accelerator._models == []
    with pytest.raises(ZeroDivisionError), Accelerator():
        accelerator.prepare(model).weight[0, 0] = 1 / 0
    assert not PartialState._shared_state


# What is asked of it


def test_settings_that_third_party_code_reads() -> None:
    config = DataLoaderConfiguration(dispatch_batches=False, use_seedable_sampler=True, non_blocking=True)
    handlers: list[Any] = [AutocastKwargs(cache_enabled=False), GradScalerKwargs(init_scale=2.0)]
    accelerator = Accelerator(dataloader_config=config, kwargs_handlers=handlers, mixed_precision="bf16")
    assert (accelerator.dispatch_batches, accelerator.use_seedable_sampler) == (False, True)
    assert (accelerator.non_blocking, accelerator.use_stateful_dataloader) == (True, False)
    assert accelerator.autocast_handler.cache_enabled is False
    assert accelerator.scaler_handler.init_scale == 2.0
    assert accelerator.init_handler == InitProcessGroupKwargs()
    assert accelerator.ddp_handler == DistributedDataParallelKwargs()
    assert (accelerator.native_amp, accelerator.multi_device, accelerator.should_save_model) == (True, False, True)
    assert not Accelerator().native_amp
    assert (accelerator.fp8_backend, accelerator.fp8_enabled) == (FP8BackendType.NO, False)
    assert (accelerator.fp8_recipe_handler, accelerator.has_lomo_optimizer) == (None, False)
    assert not accelerator.is_composable_parallelism_enabled
    ranks = (accelerator.data_parallel_rank, accelerator.data_parallel_shard_rank, accelerator.tensor_parallel_rank)
    assert ranks == (0, 0, 0)
    accelerator.even_batches = False
    assert accelerator.dataloader_config.even_batches is False
    with accelerator.join_uneven_inputs([object()], even_batches=True), accelerator.trigger_sync_in_backward(linear()):
        pass


def test_device_maps() -> None:
    model = torch.nn.Sequential(linear())
    assert not Accelerator.verify_device_map(model)
    model[0].hf_device_map = {"a": 0}
    assert not Accelerator.verify_device_map(model)
    model[0].hf_device_map = {"a": 0, "b": "cpu"}
    assert Accelerator.verify_device_map(model)


def test_states(monkeypatch: pytest.MonkeyPatch) -> None:
    accelerator = Accelerator(gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=2))
    state = AcceleratorState()
    assert (state.debug, state.fork_launched, state.is_fsdp2) == (False, False, False)
    assert (state.parallelism_config, state.torch_tp_plugin) == (None, None)
    assert state.dynamo_plugin is accelerator.state.dynamo_plugin is not None
    assert state.default_device == torch.device(getattr(torch.accelerator.current_accelerator(), "type", "cpu"))
    state.set_device()
    monkeypatch.setenv("ACCELERATE_DEBUG_MODE", "true")
    monkeypatch.setenv("FORK_LAUNCHED", "1")
    assert (state.debug, state.fork_launched) == (True, True)
    gradients = GradientState()
    assert gradients.initialized
    assert gradients.plugin_kwargs["num_steps"] == 2


def test_objects_with_settings() -> None:
    ddp = DistributedDataParallelKwargs(bucket_cap_mb=3, comm_hook="fp16")
    assert ddp.to_kwargs() == {"bucket_cap_mb": 3}
    assert "comm_hook" not in ddp.to_dict()
    assert ddp.to_dict(ignore_keys=())["comm_hook"] == "fp16"
    assert isinstance(ddp, KwargsHandler)
    assert AutocastKwargs(enabled=False).to_dict() == {"enabled": False, "cache_enabled": None}


def test_loggers_are_words() -> None:
    assert issubclass(LoggerType, BaseEnum)
    assert "wandb" in LoggerType
    assert "paper" not in LoggerType
    assert {"all", "tensorboard", "comet_ml"} <= set(LoggerType.list())
    assert str(LoggerType.MLFLOW) == "mlflow"


# Loaders made by hand


def test_a_loader_made_by_hand() -> None:
    data = TensorDataset(torch.arange(10))
    loader = DataLoaderShard(data, device="cpu", batch_size=4, skip_batches=1, synchronized_generator=torch.Generator())
    accelerator = Accelerator()
    seen = []
    for (batch,) in loader:
        with accelerator.accumulate():
            seen.append((batch.tolist(), loader.end_of_dataloader, accelerator.gradient_state.end_of_dataloader))
    assert seen == [([4, 5, 6, 7], False, False), ([8, 9], True, True)]
    assert len(loader) == 2
    assert isinstance(loader, DataLoader)
    prepared = accelerator.prepare(DataLoader(data))
    assert isinstance(prepared, DataLoaderShard)
    assert not isinstance(DataLoader(data), DataLoaderShard)
    assert not isinstance(prepared, DataLoaderDispatcher)

    class Own(DataLoaderShard):
        pass

    assert not isinstance(prepared, Own)
    assert isinstance(Own(data), DataLoaderShard)


def test_a_stateful_loader_made_by_hand() -> None:
    pytest.importorskip("torchdata")
    stateful = DataLoaderShard(TensorDataset(torch.arange(10)), batch_size=5, use_stateful_dataloader=True)
    assert [batch.tolist() for (batch,) in stateful] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]


# A first file


def test_a_first_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "deep" / "first.yaml"
    assert write_basic_config("BF16", target) == target
    found = resolve(config_file=target)
    assert found.value("mixed_precision") == "bf16"
    assert found.value("compute_environment") == "LOCAL_MACHINE"
    assert write_basic_config("no", str(target)) is False
    assert "it stays" in capsys.readouterr().out
    assert resolve(config_file=target).value("mixed_precision") == "bf16"
    with pytest.raises(ConfigError, match="fp17"):
        write_basic_config("fp17", tmp_path / "other.yaml")
    assert not (tmp_path / "other.yaml").exists()
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    assert write_basic_config() == tmp_path / "home" / "accelerate" / "default_config.yaml"


# What nothing carries out


@pytest.mark.parametrize(
    "recipe",
    [
        AORecipeKwargs(pad_inner_dim=True),
        TERecipeKwargs(fp8_format="E4M3", amax_history_len=16),
        MSAMPRecipeKwargs("O1"),
        FP8RecipeKwargs(backend="te", use_autocast=True, amax_compute_algo="max"),
    ],
)
def test_fp8_is_one_error(recipe: Any) -> None:
    assert recipe == type(recipe)(**recipe.to_kwargs())
    with pytest.raises(PlanError, match=f"{type(recipe).__name__}.*no fp8 arithmetic.*mixed_precision='bf16'"):
        Accelerator(kwargs_handlers=[recipe])
    with pytest.raises(PlanError, match=r"fp8.*bf16"):
        Accelerator(mixed_precision="fp8")


def test_quantizing_is_one_error() -> None:
    config = BnbQuantizationConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", llm_int8_skip_modules=["head"])
    assert (config.load_in_8bit, config.llm_int8_threshold, config.bnb_4bit_compute_dtype) == (False, 6.0, "fp16")
    with pytest.raises(PlanError, match="does not quantize"):
        load_and_quantize_model(linear(), config)
