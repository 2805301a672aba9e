from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from runtime_ranks import Verdicts, run_checks

from nbaccel.runtime.state import AcceleratorState, GradientState


@pytest.fixture(autouse=True)
def fresh_states(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test starts without states, on the CPU, and leaves no process group behind."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    torch.manual_seed(0)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    assert not dist.is_initialized()


@pytest.fixture(scope="session")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Verdicts]:
    """Verdicts by number of ranks; each number is launched once per session."""
    known: dict[int, Any] = {}

    def of(size: int) -> Verdicts:
        if size not in known:
            known[size] = run_checks(size, tmp_path_factory.mktemp(f"ranks{size}"))
        return known[size]

    return of
