"""What the driver's files show and what torch finds, brought together in the process that trains."""

from __future__ import annotations

import os
import warnings

import pytest
import torch

from nbaccel.config import resolve
from nbaccel.config.launched import LAUNCHED
from nbaccel.errors import PlanError
from nbaccel.machine import Gpu, Machine, Obstacle
from nbaccel.runtime import world
from nbaccel.runtime.accelerator import Accelerator
from nbaccel.runtime.seen_gpus import as_torch_sees
from nbaccel.runtime.world import parts_for

NONE = Machine("jupyter", 4, 4)
TWO = Machine("jupyter", 4, 4, gpus=(Gpu(0, "4", "H200"), Gpu(1, "5", "H200")))
WITHOUT_CUDA = Machine("jupyter", 4, 4, gpu_obstacle=Obstacle("torch 2.8.0 is made without CUDA.", "Install another."))
NEITHER = pytest.mark.skipif(torch.cuda.is_available(), reason="here torch finds a GPU")


@pytest.fixture(autouse=True)
def any_device(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ACCELERATE_USE_CPU", LAUNCHED, "LOCAL_RANK", "RANK"):
        monkeypatch.delenv(name, raising=False)


def let_torch_find(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


@pytest.mark.parametrize(
    ("machine", "count", "names"),
    [
        (NONE, 0, []),
        (TWO, 2, ["H200", "H200"]),
        (TWO, 1, ["H200"]),
        (TWO, 3, ["H200", "H200", ""]),
        (NONE, 2, ["", ""]),
        (WITHOUT_CUDA, 2, ["", ""]),
    ],
)
def test_torch_has_the_last_word(
    machine: Machine, count: int, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    let_torch_find(count, monkeypatch)
    found = as_torch_sees(machine, planned_for_cpu=False)
    assert [(gpu.index, gpu.name) for gpu in found.gpus] == list(enumerate(names))
    assert found.gpu_obstacle is None


def test_workers_that_were_planned_for_the_cpu_stay_there(monkeypatch: pytest.MonkeyPatch) -> None:
    let_torch_find(1, monkeypatch)
    found = as_torch_sees(NONE, planned_for_cpu=True)
    assert not found.gpus
    assert found.gpu_obstacle is not None
    assert "planned for the CPU, but torch finds GPUs (1)" in found.gpu_obstacle.text
    assert as_torch_sees(TWO, planned_for_cpu=True).gpus == TWO.gpus[:1]


@NEITHER
def test_a_torch_that_cannot_use_them_says_why() -> None:
    found = as_torch_sees(TWO, planned_for_cpu=False)
    assert not found.gpus
    assert found.gpu_obstacle is not None
    assert found.gpu_obstacle.text.startswith(f"torch {torch.__version__} cannot use this machine's GPUs (2): ")
    if torch.version.cuda is None:
        assert found.gpu_obstacle.text.endswith("Torch not compiled with CUDA enabled.")


def test_gpus_that_come_between_two_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    let_torch_find(0, monkeypatch)
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    found = as_torch_sees(TWO, planned_for_cpu=False)
    assert found.gpu_obstacle is not None
    assert found.gpu_obstacle.text.endswith("(2): it finds none.")


@NEITHER
def test_the_training_goes_to_the_cpu_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "probe", lambda: TWO)
    with pytest.warns(UserWarning, match=r"training on the CPU: .*cannot use this machine's GPUs \(2\).*use_cpu"):
        assert Accelerator().device == torch.device("cpu")
    with pytest.raises(PlanError, match=r"gpu_ids=1 .*: torch .* cannot use this machine's GPUs \(2\)"):
        Accelerator(gpu_ids="1")


@NEITHER
@pytest.mark.parametrize("how", ["on request", "another rank"])
def test_who_says_nothing(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "probe", lambda: WITHOUT_CUDA)
    monkeypatch.setenv(*(("ACCELERATE_USE_CPU", "true") if how == "on request" else ("LOCAL_RANK", "1")))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parts, _ = parts_for(resolve(environ=dict(os.environ)).config)
    assert parts.device == "cpu"


def test_a_gpu_that_only_torch_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "probe", lambda: NONE)
    let_torch_find(1, monkeypatch)
    config = resolve(environ={}).config
    assert parts_for(config)[0].device == "cuda:0"
    monkeypatch.setenv(LAUNCHED, "{}")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    with pytest.warns(UserWarning, match="has planned for the CPU"):
        assert parts_for(config)[0].device == "cpu"
