"""Local SGD on one process; on several, see `utils_checks.py`."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from nbaccel.errors import CallError, PlanError
from nbaccel.local_sgd import LocalSGD
from nbaccel.runtime.accelerator import Accelerator


def test_one_process_has_nothing_to_average() -> None:
    model = nn.Linear(1, 1)
    before = model.weight.clone()
    with LocalSGD(Accelerator(), model, 1) as local:
        local.step()
        local.step()
    assert local.num_steps == 2
    assert not local.enabled
    assert torch.equal(model.weight, before)


def test_steps_must_be_counted_from_one() -> None:
    with pytest.raises(CallError, match="whole number from 1"):
        LocalSGD(Accelerator(), nn.Linear(1, 1), 0)


def test_weights_that_are_shared_out_cannot_be_averaged() -> None:
    model = nn.Linear(1, 1)
    model.weight.device_mesh = object()  # type: ignore[attr-defined]
    several = SimpleNamespace(use_distributed=True)
    with pytest.raises(PlanError, match="shared out among the ranks"):
        LocalSGD(several, model, 1)  # type: ignore[arg-type]
    LocalSGD(several, model, 1, enabled=False)  # type: ignore[arg-type]
