"""fp16: gradients that were brought to their true size, and of which no step was made."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch

from nbaccel.runtime.accelerator import Accelerator
from nbaccel.utils import GradScalerKwargs


def scaled(**settings: Any) -> tuple[Accelerator, Any, Any]:
    """A training in fp16, its model and its optimizer."""
    handler = GradScalerKwargs(init_scale=256.0, **settings)
    accelerator = Accelerator(mixed_precision="fp16", kwargs_handlers=[handler])
    model = torch.nn.Linear(2, 1)
    return accelerator, *accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=1.0))


CLEARED: dict[str, Callable[[Any, Any], None]] = {
    "by the optimizer": lambda model, optimizer: optimizer.zero_grad(),
    "with zeros": lambda model, optimizer: optimizer.zero_grad(set_to_none=False),
    "by the model": lambda model, optimizer: model.zero_grad(),
    "by the model, with zeros": lambda model, optimizer: model.zero_grad(set_to_none=False),
    "not at all": lambda model, optimizer: None,
}


@pytest.mark.parametrize("cleared", CLEARED)
def test_a_step_that_is_given_up_after_clipping(cleared: str) -> None:
    accelerator, model, optimizer = scaled()
    for _ in range(3):
        accelerator.backward(model(torch.full((1, 2), 3.0)).sum())
        norm = accelerator.clip_grad_norm_(model.parameters(), 1.0).item()
        assert norm == pytest.approx(19**0.5, rel=0.01)  # what was left over counts as little as it is
        CLEARED[cleared](model, optimizer)
    before = model.weight.detach().clone()
    accelerator.backward(model(torch.full((1, 2), float("inf"))).sum())
    accelerator.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    assert optimizer.step_was_skipped
    assert torch.equal(model.weight, before)


@pytest.mark.parametrize("cleared", list(CLEARED)[:4])
def test_a_step_without_gradients_changes_nothing(cleared: str) -> None:
    accelerator, model, optimizer = scaled()
    before = model.weight.detach().clone()
    accelerator.backward(model(torch.ones(1, 2)).sum())
    accelerator.clip_grad_norm_(model.parameters(), 1.0)
    CLEARED[cleared](model, optimizer)
    optimizer.step()
    assert torch.equal(model.weight, before)
    accelerator.backward(model(torch.ones(1, 2)).sum())
    optimizer.step()
    torch.testing.assert_close(model.weight.detach(), before - 1, rtol=0, atol=0.01)


def test_an_optimizer_can_be_sent() -> None:
    _, model, optimizer = scaled()
    copy = pickle.loads(pickle.dumps(optimizer))
    (weight,) = (one for group in copy.param_groups for one in group["params"] if one.ndim == 2)
    assert torch.equal(weight, model.weight)
    copy.precision.backward(weight.sum())
    copy.step()
    torch.testing.assert_close(weight.detach(), model.weight.detach() - 1, rtol=0, atol=0.01)


@pytest.mark.parametrize("cleared", list(CLEARED)[:3])
def test_a_step_that_the_user_skips_lowers_the_scale(cleared: str) -> None:
    accelerator, model, optimizer = scaled()
    for _ in range(3):
        accelerator.backward(model(torch.ones(1, 2)).sum() * float("inf"))
        assert not accelerator.clip_grad_norm_(model.parameters(), 1.0).isfinite()
        CLEARED[cleared](model, optimizer)
    assert accelerator.scaler is not None
    assert accelerator.scaler.get_scale() == 256.0 / 8


def test_a_step_that_is_interrupted() -> None:
    class Interrupted(torch.optim.SGD):
        is_interrupted = True

        def step(self, closure: Any = None) -> Any:
            if self.is_interrupted:
                raise KeyboardInterrupt
            return super().step(closure)

    accelerator = Accelerator(mixed_precision="fp16", kwargs_handlers=[GradScalerKwargs(init_scale=256.0)])
    model = torch.nn.Linear(2, 1)
    model, optimizer = accelerator.prepare(model, Interrupted(model.parameters(), lr=1.0))
    accelerator.backward(model(torch.ones(1, 2)).sum())
    with pytest.raises(KeyboardInterrupt):
        optimizer.step()
    optimizer.optimizer.is_interrupted = False
    before = model.weight.detach().clone()
    accelerator.backward(model(torch.ones(1, 2)).sum())
    optimizer.step()
    torch.testing.assert_close(model.weight.detach(), before - 1, rtol=0, atol=0.01)


def test_unscaled_gradients_wait_while_another_loss_goes_backward() -> None:
    accelerator, model, optimizer = scaled()
    other = torch.nn.Linear(2, 1)
    other, second = accelerator.prepare(other, torch.optim.SGD(other.parameters(), lr=1.0))
    expected = [one.weight.detach() - 1 for one in (model, other)]
    for one in (model, other):
        accelerator.backward(one(torch.ones(1, 2)).sum())
        accelerator.clip_grad_norm_(one.parameters(), 10.0)
    for one in (optimizer, second):
        one.step()
    assert torch.equal(model.weight, expected[0])
    assert torch.equal(other.weight, expected[1])


def test_clipping_with_a_scaler_that_is_off() -> None:
    accelerator, model, optimizer = scaled(enabled=False)
    accelerator.backward(model(torch.ones(1, 2)).sum())
    assert accelerator.clip_grad_norm_(model.parameters(), 10.0).item() == pytest.approx(3**0.5)
    optimizer.zero_grad()
    accelerator.backward(model(torch.ones(1, 2)).sum())
    optimizer.step()
    assert not optimizer.step_was_skipped
