"""The parts of the code for TPUs that need none: what is cut, what is warned of, what is told without the software."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from nbaccel.errors import MissingExtraError, PlanError
from nbaccel.plan import Topology
from nbaccel.runtime.devices.tpu import TpuDevice
from nbaccel.runtime.handlers import AutocastKwargs
from nbaccel.runtime.parallel.replacing import named_parameters
from nbaccel.runtime.parallel.xla import _on_cpu, _tie_again
from nbaccel.runtime.precision.autocast import strip_autocast
from nbaccel.runtime.precision.downcast import Downcast
from nbaccel.runtime.random import synchronize_rng_state
from nbaccel.runtime.xla.compiles import PATIENCE, WARM_UP_STEPS, CompileWatch
from nbaccel.runtime.xla.cutting import dimension_to_cut
from nbaccel.runtime.xla.generator import xla_generator
from nbaccel.runtime.xla.starting import begin_tpu, begin_xla

without_xla = pytest.mark.skipif(importlib.util.find_spec("torch_xla") is not None, reason="torch_xla is installed")
without_tpu = pytest.mark.skipif(importlib.util.find_spec("torch_tpu") is not None, reason="torch_tpu is installed")


@pytest.mark.parametrize(
    ("shape", "devices", "place"),
    [
        ((16, 8), 4, 0),
        ((8, 16), 4, 1),
        ((16, 16), 4, 0),
        ((7, 8), 4, 1),
        ((100, 8), 8, 1),  # the largest that comes out even
        ((7, 9), 4, None),
        ((2, 2), 4, None),
        ((8,), 4, 0),
        ((), 4, None),
        ((0, 4), 4, 1),
    ],
)
def test_the_largest_dimension_that_comes_out_even_is_cut(
    shape: tuple[int, ...], devices: int, place: int | None
) -> None:
    assert dimension_to_cut(shape, devices) == place


def watched(compiled: list[bool], batches: Iterator[object]) -> list[str]:
    """What is warned of when these steps were compiled anew."""
    count = 0
    watch = CompileWatch(lambda: count)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for anew in compiled:
            count += anew
            watch.note(next(batches))
    return [str(one.message) for one in caught]


def growing() -> Iterator[object]:
    length = 1
    while True:
        yield {"ids": torch.zeros(2, length), "labels": torch.zeros(2)}
        length += 1


def test_steps_that_are_compiled_again_and_again_are_told_once_with_the_shapes_that_differ() -> None:
    (told,) = watched([True] * 20, growing())
    steps = WARM_UP_STEPS + PATIENCE + 1
    assert f"{PATIENCE + 1} of the last {PATIENCE + 1} steps anew" in told
    assert "(2, 1) float32, (2, 2) float32, (2, 3) float32, (2, 4) float32 and 4 more" in told
    assert steps == 8
    assert "ids" in told
    assert "labels" not in told
    assert "drop_last=True" in told


def test_equal_shapes_are_not_blamed() -> None:
    (told,) = watched([True] * 20, iter([torch.zeros(3)] * 20))
    assert "have equal shapes" in told
    assert "a Python number" in told


@pytest.mark.parametrize("compiled", [[True] * 3 + [False] * 20, [True] * 3 + [False, True] * PATIENCE, [False] * 9])
def test_a_few_compilations_are_nothing(compiled: list[bool]) -> None:
    assert watched(compiled, growing()) == []


def test_downcast_makes_all_smaller_and_hands_out_float32() -> None:
    model = nn.Linear(2, 2)
    model.register_buffer("table", torch.zeros(2, dtype=torch.float64))
    model.register_buffer("count", torch.zeros(2, dtype=torch.int64))
    precision = Downcast(torch.device("cpu"), AutocastKwargs())
    parameter = model.weight
    precision.wrap(model)
    precision.wrap(model)  # again changes nothing
    assert model.weight is parameter
    assert (model.weight.dtype, model.table.dtype, model.count.dtype) == (torch.bfloat16, torch.float32, torch.int64)
    outputs = model(torch.ones(1, 2))
    assert outputs.dtype == torch.float32
    outputs.sum().backward()
    assert model.weight.grad is not None
    assert model.weight.grad.dtype == torch.bfloat16
    strip_autocast(model)
    assert "forward" not in model.__dict__


def test_weights_that_were_one_are_one_again() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2)))
    model[2][0].weight = model[0].weight
    before = named_parameters(model)
    for module in (model[0], model[1], model[2][0]):  # as a module moves to a device whose tensors are of another kind
        module.weight = nn.Parameter(module.weight.detach().clone())
    assert model[2][0].weight is not model[0].weight
    _tie_again(model, before)
    assert model[2][0].weight is model[0].weight
    assert model[1].weight is not model[0].weight


def test_a_state_on_the_cpu_keeps_its_ties_and_its_form() -> None:
    shared = torch.ones(2, requires_grad=True)
    state = _on_cpu({"a": shared, "b": [shared, 3, (None, "x")], "c": {"d": 0.5}})
    assert state["a"] is state["b"][0]
    assert not state["a"].requires_grad
    assert state["b"][1:] == [3, (None, "x")]
    assert state["c"] == {"d": 0.5}


def test_a_tpu_device_moves_batches() -> None:
    device = TpuDevice(torch.device("meta"))
    (batch,) = device.feed(iter([{"x": torch.ones(2)}]), non_blocking=False)
    assert batch["x"].device.type == "meta"
    assert device.ids is None


@without_xla
def test_without_torch_xla_there_is_no_generator_of_it() -> None:
    assert xla_generator() is None
    with pytest.raises(PlanError, match="torch_xla is not at work"):
        synchronize_rng_state("xla")


@without_xla
def test_torch_xla_that_is_missing_is_named_with_the_line_that_installs_it() -> None:
    with pytest.raises(MissingExtraError, match=r"torch_xla.*nbaccel\[xla\]"):
        begin_xla(Topology(), spmd=False)


@without_tpu
def test_torch_tpu_that_is_missing_is_named_with_the_line_that_installs_it() -> None:
    with pytest.raises(MissingExtraError, match=r"torch_tpu.*nbaccel\[tpu\]"):
        begin_tpu()
