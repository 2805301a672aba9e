"""The XLA lane: torch_xla on the CPU, in its own environment (`make test-xla`); elsewhere nothing is collected."""

from __future__ import annotations

import importlib.util

import pytest

collect_ignore_glob = [] if importlib.util.find_spec("torch_xla") else ["test_*.py"]

DEVICES = 4


@pytest.fixture(autouse=True)
def _the_cpu_as_four_chips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PJRT_DEVICE", "CPU")
    monkeypatch.setenv("CPU_NUM_DEVICES", str(DEVICES))
