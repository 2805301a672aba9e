"""The described surface: methods of `Accelerator`, and what its arguments say when they contradict each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import described_groups as ranks
import pytest
import torch
from torch import nn

from nbaccel import utils
from nbaccel.errors import CallError
from nbaccel.runtime.accelerator import Accelerator
from nbaccel.runtime.groups import GroupOptions, group_with


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of its own, and an environment that sets no device."""
    monkeypatch.delenv("ACCELERATE_USE_CPU")
    monkeypatch.chdir(tmp_path)


METHODS = [
    "prepare",
    "accumulate",
    "backward",
    "sync_gradients",
    "clip_grad_norm_",
    "print",
    "is_main_process",
    "wait_for_everyone",
    "unwrap_model",
    "save_model",
    "gradient_accumulation_steps",
    "state",
    "device",
    "num_processes",
]


def after_a_step(look: Callable[[Accelerator, nn.Module, Any], Any]) -> Any:
    """Train one step of two micro-batches, and look."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    own = nn.Linear(1, 1)
    model, optimizer = accelerator.prepare(own, torch.optim.SGD(own.parameters(), lr=0.1))
    for _ in range(2):
        with accelerator.accumulate(model):
            accelerator.backward(model(torch.full((1, 1), 4.0)).sum())
    return look(accelerator, model, optimizer)


def saved(accelerator: Accelerator, model: nn.Module, optimizer: Any) -> list[str]:
    accelerator.save_model(model, "safe", safe_serialization=True)
    accelerator.save_model(model, "torch", safe_serialization=False)
    return [next(Path(folder).iterdir()).suffix for folder in ("safe", "torch")]


def printed(accelerator: Accelerator, model: nn.Module, optimizer: Any) -> None:
    accelerator.print("said once")


PROBES: Mapping[str, tuple[Callable[[Accelerator, Any, Any], Any], Any]] = {
    "prepare": (lambda accelerator, model, optimizer: accelerator.prepare(model) is model, True),
    "accumulate": (lambda accelerator, model, optimizer: accelerator.step, 2),
    "backward": (lambda accelerator, model, optimizer: model.weight.grad.item(), 4.0),
    "sync_gradients": (lambda accelerator, model, optimizer: accelerator.sync_gradients, True),
    "clip_grad_norm_": (
        lambda accelerator, model, optimizer: (
            round(accelerator.clip_grad_norm_(model.parameters(), 1.0).item() ** 2), round(model.weight.grad.item(), 2)
        ),
        (17, 0.97),
    ),
    "print": (printed, None),
    "is_main_process": (lambda accelerator, model, optimizer: accelerator.is_main_process, True),
    "wait_for_everyone": (lambda accelerator, model, optimizer: accelerator.wait_for_everyone(), None),
    "unwrap_model": (lambda accelerator, model, optimizer: type(accelerator.unwrap_model(model)), nn.Linear),
    "save_model": (saved, [".safetensors", ".bin"]),
    "gradient_accumulation_steps": (lambda accelerator, model, optimizer: accelerator.gradient_accumulation_steps, 2),
    "state": (lambda accelerator, model, optimizer: "gradient_accumulation_steps" in repr(accelerator.state), True),
    "device": (lambda accelerator, model, optimizer: accelerator.device, torch.device("cpu")),
    "num_processes": (lambda accelerator, model, optimizer: accelerator.num_processes, 1),
}  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_methods(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    look, expected = PROBES[name]
    assert after_a_step(look) == expected
    assert ("said once" in capsys.readouterr().out) == (name == "print")


def test_there_is_a_probe_for_each_method() -> None:
    assert list(PROBES) == METHODS
    assert [name for name in METHODS if not hasattr(Accelerator(), name)] == []


# --- what contradicts itself, or comes too late ---


PLUGIN, LOADERS = utils.GradientAccumulationPlugin(num_steps=2), utils.DataLoaderConfiguration
TWO_WORDS: Mapping[str, tuple[Callable[[], Any], str]] = {
    "accumulation": (
        lambda: Accelerator(
            gradient_accumulation_plugin=PLUGIN,
            dataloader_config=LOADERS(gradient_accumulation_kwargs={"num_steps": 2}),
        ),
        "Give the plugin alone",
    ),
    "no field": (
        lambda: Accelerator(dataloader_config=LOADERS(gradient_accumulation_kwargs={"steps": 2})),
        "'steps': possible are num_steps, adjust_scheduler",
    ),
    "samplers": (lambda: LOADERS(use_configured_sampler=True, use_seedable_sampler=True), "cannot both shuffle"),
    "degrees": (lambda: utils.TorchTensorParallelPlugin(tp_size=2, tensor_parallel_degree=4), "Give one of them"),
}


@pytest.mark.parametrize("name", TWO_WORDS)
def test_two_words_for_one_thing(name: str) -> None:
    make, words = TWO_WORDS[name]
    with pytest.raises(CallError, match=words):
        make()


def test_words_that_agree() -> None:
    plugin = utils.TorchTensorParallelPlugin(tensor_parallel_degree=1)
    assert (plugin.tp_size, utils.TorchTensorParallelPlugin(2).tensor_parallel_degree) == (1, 2)
    assert Accelerator(torch_tp_plugin=plugin).num_processes == 1


def test_the_timeout_of_a_group_that_is_there() -> None:
    with ranks.alone_in_a_group():
        assert group_with("gloo", GroupOptions(timeout=timedelta(seconds=11))) is None
        assert ranks.timeout() == timedelta(seconds=11)
        with pytest.warns(UserWarning, match="init_method=env:// changes nothing"):
            group_with("gloo", GroupOptions(init_method="env://"))
