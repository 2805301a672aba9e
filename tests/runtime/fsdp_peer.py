"""One small training with FSDP: `fsdp_peer.py LIBRARY ANSWER [--form F] [--save S] [--load L] [...]`.

Trains one pass before it saves (or loads instead), then another; writes the losses of the latter, and the weights.
`plain` is a training of nbaccel without FSDP; Accelerate's FSDP trains on the CPU once its state says so.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import random
import signal
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from checkpoint_peer import Counter
from torch.optim.lr_scheduler import MultiStepLR
from torch.utils.data import DataLoader, TensorDataset


class Tied(torch.nn.Module):
    """Two layers share one weight, a third is frozen, and one never gets a gradient; odd sizes leave ranks without."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(5, 5, bias=False)
        self.drop = torch.nn.Dropout(0.3)
        self.second = torch.nn.Linear(5, 5, bias=False)
        self.second.weight = self.first.weight
        self.frozen = torch.nn.Linear(5, 3).requires_grad_(False)
        self.unused = torch.nn.Linear(2, 2)
        self.last = torch.nn.Linear(3, 1)
        self.register_buffer("offset", torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.frozen(self.second(self.drop(self.first(x)).tanh()))
        out: torch.Tensor = self.last(hidden) + self.offset
        return out


LAYERS = {"fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP", "fsdp_transformer_layer_cls_to_wrap": "Linear"}


def accelerator_of(wish: argparse.Namespace) -> Any:
    if wish.library == "accelerate":
        return accelerate_with_fsdp(wish.form)
    from nbaccel import Accelerator, ProjectConfiguration

    project = ProjectConfiguration(wish.project, automatic_checkpoint_naming=True, total_limit=2)
    config = {"fsdp_version": 2, "fsdp_state_dict_type": wish.form, "fsdp_sharding_strategy": wish.sharding}
    config |= {} if wish.alone else LAYERS
    return Accelerator(
        cpu=True,
        fsdp_config=None if wish.library == "plain" else config,
        project_config=project if wish.project else None,
    )


def accelerate_with_fsdp(form: str) -> Any:
    from accelerate import Accelerator, DistributedType, FullyShardedDataParallelPlugin, PartialState

    os.environ["ACCELERATE_USE_FSDP"] = "false"
    accelerator = Accelerator(cpu=True)
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="no_wrap", state_dict_type=form, cpu_ram_efficient_loading=False
    )
    PartialState().distributed_type = accelerator.state.distributed_type = DistributedType.FSDP
    accelerator.state.fsdp_plugin = plugin
    return accelerator


def wishes() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("library", choices=["nbaccel", "accelerate", "plain"])
    parser.add_argument("answer", type=Path)
    parser.add_argument("--form", default="SHARDED_STATE_DICT")
    parser.add_argument("--sharding", default="FULL_SHARD")
    parser.add_argument("--save")
    parser.add_argument("--load")
    parser.add_argument("--asynchronous", action="store_true")
    parser.add_argument("--alone", action="store_true", help="one model, all that Accelerate's FSDP2 takes")
    parser.add_argument("--project")
    parser.add_argument("--die", type=int, help="a rank that is killed in the middle of a second save")
    return parser.parse_args()


class Training:
    """The objects of one training, and what it does with them."""

    def __init__(self, wish: argparse.Namespace) -> None:
        self.accelerator, self.counter = accelerator_of(wish), Counter()
        torch.manual_seed(7)
        model, other = Tied(), torch.nn.Linear(1, 1)
        unused = [] if wish.alone else [*model.unused.parameters()]  # Accelerate does not load what it then wrote
        groups = [{"params": [*model.first.parameters(), *unused]}, {"params": [*model.last.parameters()], "lr": 0.05}]
        optimizer = torch.optim.AdamW(groups, lr=0.1)
        second = torch.optim.SGD(other.parameters(), 0.1, momentum=0.9)
        scheduler = MultiStepLR(optimizer, milestones=[2, 5], gamma=0.5)
        data = torch.arange(60.0).view(12, 5) / 60
        loader = DataLoader(TensorDataset(data, data.sum(1, keepdim=True)), batch_size=1, shuffle=not wish.alone)
        prepare = self.accelerator.prepare
        self.other: Any = None
        self.model, self.scheduler, self.loader, *self.optimizers = prepare(model, scheduler, loader, optimizer)
        if not wish.alone:
            self.other, another = prepare(other, second)
            self.optimizers.append(another)
        self.accelerator.register_for_checkpointing(self.counter)
        torch.manual_seed(7 + self.accelerator.process_index)
        random.seed(self.accelerator.process_index)
        np.random.seed(self.accelerator.process_index)

    def one_pass(self) -> list[Any]:
        losses = []
        for x, y in self.loader:
            out = self.model(x) if self.other is None else self.other(self.model(x))
            loss = (out - y).square().mean() * random.random() * np.random.rand()
            self.accelerator.backward(loss)
            self.accelerator.clip_grad_norm_(self.model.parameters(), 1.0)
            for optimizer in self.optimizers:
                optimizer.step()
            self.scheduler.step()
            for optimizer in self.optimizers:
                optimizer.zero_grad()
            self.counter.count += 1
            losses.append([loss.item(), self.scheduler.get_last_lr()[0], self.counter.count])
        return losses

    def weights(self) -> dict[str, Any]:
        return {name: tensor.tolist() for name, tensor in self.accelerator.get_state_dict(self.model).items()}


def main() -> None:
    wish = wishes()
    torch.set_num_threads(1)
    faulthandler.dump_traceback_later(850, exit=True)
    training = Training(wish)
    accelerator = training.accelerator
    if wish.load:
        accelerator.load_state(None if wish.load == "latest" else wish.load)
    else:
        training.one_pass()
    if wish.save:
        options = {"asynchronous": True} if wish.asynchronous else {}
        accelerator.save_state(None if wish.project else wish.save, **options)
    if wish.die is not None:
        die_while_saving(accelerator, wish.die, wish.save)
    weights, losses = training.weights(), training.one_pass()
    if wish.asynchronous:
        accelerator.wait_for_save()
    wish.answer.mkdir(exist_ok=True, parents=True)
    answer = {"losses": losses, "weights": weights}
    (wish.answer / f"{accelerator.process_index}.json").write_text(json.dumps(answer))
    accelerator.end_training()


def die_while_saving(accelerator: Any, rank: int, folder: str) -> None:
    """A second save over the first, which one rank does not survive."""
    store = accelerator._checkpoints._store
    write = store.write

    def dies(*args: Any) -> Any:
        found = write(*args)
        if accelerator.process_index == rank:
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    store.write = dies
    try:
        accelerator.save_state(folder)
    except RuntimeError:  # the other ranks are told so by gloo
        os._exit(3)


if __name__ == "__main__":
    warnings.filterwarnings("ignore", category=FutureWarning)
    main()
