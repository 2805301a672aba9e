"""One small training, with nbaccel or with Accelerate: `checkpoint_peer.py LIBRARY ANSWER [--save S] [--load L]`.

Trains one pass before it saves (or loads instead), then another; writes the losses of the latter.
"""

from __future__ import annotations

import argparse
import json
import random
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.optim.lr_scheduler import MultiStepLR
from torch.utils.data import DataLoader, TensorDataset


class Counter:
    """A registered object."""

    def __init__(self) -> None:
        self.count = 0

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count = state["count"]


class Tied(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(4, 4, bias=False)
        self.drop = torch.nn.Dropout(0.3)
        self.second = torch.nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight
        self.last = torch.nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.last(self.second(self.drop(self.first(x)).tanh()))
        return out


def saver(library: str, accelerator: Any, counter: Counter) -> Any:
    """Has `save` and `load`."""
    if library == "accelerate":
        accelerator.register_for_checkpointing(counter)
        accelerator.save, accelerator.load = accelerator.save_state, accelerator.load_state
        return accelerator
    from nbaccel.runtime.checkpoint.checkpoints import Checkpoints, Numbering

    made = Checkpoints(accelerator._runtime, accelerator._prepared, accelerator._accumulation, Numbering())
    made.register(counter)
    return made


def failing(checkpoints: Any, is_here: bool, folder: str) -> str:
    """What a save says whose files cannot be written on one rank."""
    real = checkpoints._store.write

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    checkpoints._store.write = full if is_here else real
    try:
        checkpoints.save(folder)
    except RuntimeError as error:
        return str(error)
    finally:
        checkpoints._store.write = real
    return "nothing"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("library", choices=["nbaccel", "accelerate"])
    parser.add_argument("answer", type=Path)
    parser.add_argument("--save")
    parser.add_argument("--load")
    parser.add_argument("--fail", type=int, help="a rank whose disk is full; the others must be told")
    wish = parser.parse_args()
    accelerator = import_module(wish.library).Accelerator(cpu=True, gradient_accumulation_steps=2)
    torch.manual_seed(7 + accelerator.process_index)
    random.seed(accelerator.process_index)
    np.random.seed(accelerator.process_index)
    model, other = Tied(), torch.nn.Linear(1, 1)
    optimizers = [torch.optim.AdamW(model.parameters(), lr=0.1), torch.optim.SGD(other.parameters(), 0.1, momentum=0.9)]
    scheduler = MultiStepLR(optimizers[0], milestones=[2, 5], gamma=0.5)
    data = torch.arange(48.0).view(12, 4) / 48
    loader = DataLoader(TensorDataset(data, data.sum(1, keepdim=True)), batch_size=1)
    model, other, *optimizers, scheduler, loader = accelerator.prepare(model, other, *optimizers, scheduler, loader)
    counter = Counter()
    checkpoints = saver(wish.library, accelerator, counter)

    def one_pass() -> list[Any]:
        losses = []
        for x, y in loader:
            with accelerator.accumulate(model, other):
                loss = (other(model(x)) - y).square().mean() * random.random() * np.random.rand()
                accelerator.backward(loss)
                for optimizer in optimizers:
                    optimizer.step()
                scheduler.step()
                for optimizer in optimizers:
                    optimizer.zero_grad()
            counter.count += 1
            losses.append([loss.item(), scheduler.get_last_lr()[0], counter.count])
        return losses

    if wish.fail is not None:
        print(failing(checkpoints, accelerator.process_index == wish.fail, f"{wish.save}-full"), flush=True)
    if wish.load:
        checkpoints.load(wish.load)
    else:
        one_pass()
    if wish.save:
        checkpoints.save(wish.save)
    if wish.save and wish.library == "nbaccel":
        checkpoints.save(f"{wish.save}-asynchronous", asynchronous=True)
    wish.answer.mkdir(exist_ok=True)
    losses = one_pass()
    if wish.library == "nbaccel":
        checkpoints.wait()
    (wish.answer / f"{accelerator.process_index}.json").write_text(json.dumps(losses))
    accelerator.end_training()


if __name__ == "__main__":
    main()
