"""Profiling in one process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity

from nbaccel.errors import CallError, StateError
from nbaccel.runtime.accelerator import Accelerator
from nbaccel.runtime.profiling import ProfileKwargs


def multiply() -> torch.Tensor:
    return torch.ones(8, 8) @ torch.ones(8, 8)


def events(profiler: torch.profiler.profile) -> dict[str, Any]:
    return {event.key: event for event in profiler.key_averages(group_by_input_shape=True)}


def test_each_field_has_its_effect() -> None:
    settings = ProfileKwargs(activities=["cpu"], record_shapes=True, profile_memory=True, with_flops=True)
    with Accelerator(kwargs_handlers=[settings]).profile() as profiler:
        multiply()
    found = events(profiler)["aten::mm"]
    assert found.input_shapes == [[8, 8], [8, 8]]
    assert found.flops == 2 * 8**3
    assert events(profiler)["aten::ones"].cpu_memory_usage >= 8 * 8 * 4
    with Accelerator().profile() as profiler:
        multiply()
    found = events(profiler)["aten::mm"]
    assert (found.input_shapes, found.flops) == ([], 0)


def test_source_lines_and_modules(tmp_path: Path) -> None:
    with Accelerator().profile(ProfileKwargs(with_stack=True, with_modules=True, output_trace_dir=tmp_path)):
        torch.nn.Linear(2, 2)(torch.ones(1, 2))
    trace = json.loads((tmp_path / "profile_0.json").read_text())
    assert (trace["with_stack"], trace["with_modules"]) == (1, 1)
    names = {str(event.get("name")) for event in trace["traceEvents"]}
    assert any("test_profiling.py" in name for name in names)
    assert any("nn.Module: Linear" in name for name in names)


@pytest.mark.filterwarnings("ignore:.*Profiler clears events")  # torch's advice, of no matter here
def test_schedule_and_what_is_ready() -> None:
    ready: list[int] = []
    settings = ProfileKwargs(
        schedule_option={"wait": 1, "warmup": 1, "active": 2, "repeat": 2, "skip_first": 1},
        on_trace_ready=lambda profiler: ready.append(profiler.step_num),
    )
    with Accelerator(kwargs_handlers=[settings]).profile() as profiler:
        for _ in range(12):
            multiply()
            profiler.step()
    assert ready == [5, 9]
    assert events(profiler)["aten::mm"].count == 2


def test_settings_of_the_block_come_first(tmp_path: Path) -> None:
    accelerator = Accelerator(kwargs_handlers=[ProfileKwargs(output_trace_dir=tmp_path / "one")])
    with accelerator.profile(ProfileKwargs(output_trace_dir=tmp_path / "two" / "deep")):
        multiply()
    assert [path.name for path in (tmp_path / "two" / "deep").iterdir()] == ["profile_0.json"]
    assert not (tmp_path / "one").exists()
    accelerator.profile_handler = ProfileKwargs(output_trace_dir=tmp_path / "three")
    with accelerator.profile():
        multiply()
    assert (tmp_path / "three" / "profile_0.json").exists()
    accelerator.profile_handler = None
    assert accelerator.profile_handler == ProfileKwargs()


def test_activities() -> None:
    assert ProfileKwargs(activities=["CPU", ProfilerActivity.CUDA]).build().activities == {
        ProfilerActivity.CPU,
        ProfilerActivity.CUDA,
    }
    assert ProfilerActivity.CPU in ProfileKwargs().build().activities
    with pytest.raises(CallError, match=r"holds 'gpu'.*Possible: cpu, cuda"):
        ProfileKwargs(activities=["gpu"]).build()


@pytest.mark.parametrize("schedule", [{"wait": 1}, {"wait": 0, "warmup": 0, "active": 0}, {"often": 1}])
def test_schedules_that_make_no_sense(schedule: dict[str, int]) -> None:
    with pytest.raises(CallError, match="Needed are wait, warmup and active"):
        ProfileKwargs(schedule_option=schedule).build()


def test_a_trace_that_is_not_there(tmp_path: Path) -> None:
    late = ProfileKwargs(schedule_option={"wait": 3, "warmup": 1, "active": 1}, output_trace_dir=tmp_path)
    with pytest.raises(StateError, match="nothing was recorded"), Accelerator().profile(late):
        multiply()


def test_a_trace_that_was_written_already(tmp_path: Path) -> None:
    def write(profiler: Any) -> None:
        profiler.export_chrome_trace(str(tmp_path / "own.json"))

    settings = ProfileKwargs(on_trace_ready=write, output_trace_dir=tmp_path)
    with pytest.raises(StateError, match="has written this trace"), Accelerator().profile(settings):
        multiply()
    assert (tmp_path / "own.json").exists()


def test_an_error_in_the_block_is_the_users(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), Accelerator().profile(ProfileKwargs(output_trace_dir=tmp_path / "a")):
        1 / 0  # noqa: B018 - it is there to raise
    assert not (tmp_path / "a").exists()


def test_a_trace_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "profile_0.json" / "deep").mkdir(parents=True)
    settings = ProfileKwargs(output_trace_dir=tmp_path)
    with pytest.raises(StateError, match="could not be written"), Accelerator().profile(settings):
        multiply()
