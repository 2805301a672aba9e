"""Profiling of training code by `torch.profiler`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity

from nbaccel.errors import CallError, StateError
from nbaccel.runtime.constants import PROFILE_PATTERN_NAME
from nbaccel.runtime.remembering import KwargsHandler


@dataclass
class ProfileKwargs(KwargsHandler):
    """Arguments of `torch.profiler.profile`.

    Attributes:
        activities: what is recorded: `cpu`, `cuda`, `xpu`, `mtia`, `hpu`; None: the CPU and the GPU that there is.
        schedule_option: arguments of `torch.profiler.schedule`: `wait`, `warmup`, `active`, and `repeat`,
            `skip_first`; then `profiler.step()` ends each step. None: everything is recorded.
        on_trace_ready: called with the profiler whenever a trace is complete.
        record_shapes: record the shapes of operators' inputs.
        profile_memory: record what memory is taken and given back.
        with_stack: record the source lines.
        with_flops: estimate the number of floating point operations.
        with_modules: record the modules.
        output_trace_dir: folder for one file of Chrome's trace format per rank; None: none is written.
    """

    activities: Sequence[str] | None = None
    schedule_option: Mapping[str, int] | None = None
    on_trace_ready: Callable[[Any], Any] | None = None
    record_shapes: bool = False
    profile_memory: bool = False
    with_stack: bool = False
    with_flops: bool = False
    with_modules: bool = False
    output_trace_dir: str | os.PathLike[str] | None = None

    def build(self) -> torch.profiler.profile:
        """A profiler with these settings, not started yet.

        Raises:
            CallError: an activity that this torch does not know, or a schedule that makes no sense.
        """
        return torch.profiler.profile(
            activities=None if self.activities is None else [_activity(name) for name in self.activities],
            schedule=None if self.schedule_option is None else _schedule(self.schedule_option),
            on_trace_ready=self.on_trace_ready,
            record_shapes=self.record_shapes,
            profile_memory=self.profile_memory,
            with_stack=self.with_stack,
            with_flops=self.with_flops,
            with_modules=self.with_modules,
        )


@contextmanager
def profiled(settings: ProfileKwargs, rank: int, barrier: Callable[[], None]) -> Iterator[torch.profiler.profile]:
    """A `with` block that is recorded; with a folder, each rank's trace is written there at its end.

    Args:
        settings: what is recorded, and where it goes.
        rank: names the file.
        barrier: all ranks wait until every file is there.

    Raises:
        CallError: settings that make no sense.
        StateError: there is nothing to write.
    """
    with settings.build() as profiler:
        yield profiler
    if settings.output_trace_dir is None:
        return
    folder = Path(settings.output_trace_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _export(profiler, folder / PROFILE_PATTERN_NAME.format(suffix=rank))
    finally:  # an error here must not leave the others waiting
        barrier()


def _export(profiler: torch.profiler.profile, path: Path) -> None:
    if profiler.profiler is None:
        raise StateError(
            "accelerator.profile(): nothing was recorded, as the block ended before the schedule's first active step. "
            "Call profiler.step() after each step, and make wait + warmup smaller than the number of steps."
        )
    try:
        profiler.export_chrome_trace(str(path))
    except RuntimeError as error:
        if "already saved" not in str(error):
            raise
        raise StateError(
            f"accelerator.profile(): on_trace_ready has written this trace, which torch does only once, so that "
            f"{path} cannot be written. Leave output_trace_dir out, or write no trace in on_trace_ready."
        ) from error
    if not path.is_file():  # torch only logs it
        raise StateError(f"accelerator.profile(): {path} could not be written. Give a folder with room, of your own.")


def _activity(name: str | ProfilerActivity) -> ProfilerActivity:
    if isinstance(name, ProfilerActivity):
        return name
    possible = {word.lower(): found for word, found in ProfilerActivity.__members__.items()}
    if str(name).lower() not in possible:
        raise CallError(f"ProfileKwargs(activities=...) holds {name!r}. Possible: {', '.join(sorted(possible))}.")
    return possible[str(name).lower()]


def _schedule(options: Mapping[str, int]) -> Callable[[int], Any]:
    try:
        return torch.profiler.schedule(**options)
    except (TypeError, AssertionError, ValueError) as error:
        raise CallError(
            f"ProfileKwargs(schedule_option={dict(options)!r}): {error}. Needed are wait, warmup and active, numbers "
            "of steps, active from 1; possible are repeat and skip_first, too."
        ) from error
