"""Loops as libraries on top of Accelerate write them: `library_loops.py FOLDER`; notes go to `FOLDER/notes-RANK.pt`."""

from __future__ import annotations

import copy
import math
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.logging import get_logger
from accelerate.state import AcceleratorState, GradientState
from accelerate.tracking import GeneralTracker, on_main_process
from accelerate.utils import (
    DistributedDataParallelKwargs,
    ProjectConfiguration,
    broadcast_object_list,
    gather_object,
    set_seed,
)
from torch.nn.functional import cross_entropy, log_softmax, mse_loss
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, TensorDataset

FOLDER = Path(sys.argv[1]) if len(sys.argv) > 1 else Path()
logger = get_logger(__name__, log_level="ERROR")


def fresh(**settings: Any) -> Accelerator:
    AcceleratorState._reset_state()
    GradientState._reset_state()
    return Accelerator(**settings)


class Recorder(GeneralTracker):
    """Keeps what it is told."""

    name = "recorder"
    requires_logging_directory = False

    def __init__(self) -> None:
        super().__init__()
        self.told: list[Any] = []

    @property
    def tracker(self) -> list[Any]:
        return self.told

    @on_main_process
    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.told.append(values)

    @on_main_process
    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        self.told.append([step, values])

    @on_main_process
    def finish(self) -> None:
        self.told.append("finished")


class Average:
    """A moving average of a model's weights."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False)

    def step(self, model: torch.nn.Module) -> None:
        with torch.no_grad():
            for kept, new in zip(self.model.parameters(), model.parameters(), strict=True):
                kept.lerp_(new, 0.1)


class Denoiser(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.time = torch.nn.Embedding(10, 16)
        self.enter, self.leave = torch.nn.Linear(8, 16), torch.nn.Linear(16, 8)

    def forward(self, x: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.leave(torch.nn.functional.silu(self.enter(x) + self.time(times)))
        return out


def weight_hooks(accelerator: Accelerator, average: Average) -> tuple[Any, Any]:
    """Hooks that save and load the weights in files of their own, with the moving average."""

    def save_hook(models: list[Any], weights: list[Any], folder: str) -> None:
        if accelerator.is_main_process:
            for one in models:
                torch.save(accelerator.unwrap_model(one).state_dict(), Path(folder) / "denoiser.pt")
                weights.pop()
            torch.save(average.model.state_dict(), Path(folder) / "average.pt")

    def load_hook(models: list[Any], folder: str) -> None:
        while models:
            one = accelerator.unwrap_model(models.pop())
            one.load_state_dict(torch.load(Path(folder) / "denoiser.pt", weights_only=True))
        average.model.load_state_dict(torch.load(Path(folder) / "average.pt", weights_only=True))

    return save_hook, load_hook


def diffuse(resume: bool) -> dict[str, Any]:
    """A diffusion trainer: weights saved by hooks, a moving average, trackers, resuming in the midst of an epoch."""
    recorder = Recorder()
    accelerator = fresh(
        gradient_accumulation_steps=2,
        mixed_precision="bf16",
        log_with=recorder,
        project_config=ProjectConfiguration(project_dir=str(FOLDER), logging_dir=str(FOLDER / "logs")),
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True, data_seed=4),
    )
    set_seed(2, device_specific=True)
    torch.manual_seed(2)
    model = Denoiser()
    average = Average(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    loader = DataLoader(TensorDataset(torch.randn(46, 8)), 4, shuffle=True)
    scheduler = LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 10))

    save_hook, load_hook = weight_hooks(accelerator, average)
    accelerator.register_save_state_pre_hook(save_hook)
    accelerator.register_load_state_pre_hook(load_hook)
    model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
    per_epoch = math.ceil(len(loader) / accelerator.gradient_accumulation_steps)
    accelerator.init_trackers("diffusion", config={"rate": 1e-2})
    step, losses = 0, []
    if resume:
        accelerator.load_state(str(FOLDER / "checkpoint-4"))
        step = 4
    torch.manual_seed(50 + accelerator.process_index)
    for epoch in range(step // per_epoch, 3):
        at_start = (step % per_epoch) * accelerator.gradient_accumulation_steps if step and resume else 0
        current = accelerator.skip_first_batches(loader, at_start) if at_start else loader
        if hasattr(loader, "set_epoch"):
            loader.set_epoch(epoch)
        window = 0.0
        for (clean,) in current:
            with accelerator.accumulate(model):
                draws = torch.Generator().manual_seed(1000 * step + accelerator.process_index)
                noise = torch.randn(clean.shape, generator=draws)
                times = torch.randint(0, 10, (len(clean),), generator=draws)
                loss = mse_loss(model(clean + noise * times[:, None] / 10, times).float(), noise)
                gathered = accelerator.gather(loss.repeat(4)).mean()
                window += gathered.item() / accelerator.gradient_accumulation_steps
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
            if accelerator.sync_gradients:
                average.step(accelerator.unwrap_model(model))
                step += 1
                accelerator.log({"loss": window, "rate": scheduler.get_last_lr()[0]}, step=step)
                losses.append(window)
                window = 0.0
                if step == 4 and not resume:
                    accelerator.save_state(str(FOLDER / "checkpoint-4"))
        resume = False
    accelerator.wait_for_everyone()
    accelerator.get_tracker("recorder", unwrap=True)
    weights = torch.nn.utils.parameters_to_vector(accelerator.unwrap_model(model).parameters())
    averaged = torch.nn.utils.parameters_to_vector(average.model.parameters())
    found = {"losses": losses, "told": recorder.told, "steps": step, "weights": torch.cat([weights, averaged]).tolist()}
    accelerator.free_memory()
    return found


class Policy(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.GRU(6, 12, batch_first=True)
        self.enter, self.leave = torch.nn.Embedding(7, 6), torch.nn.Linear(12, 7)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.leave(self.body(self.enter(tokens))[0])
        return out


def reinforce() -> dict[str, Any]:
    """A loop of reinforcement learning: answers of unequal length, rewards of all ranks, and an early end."""
    accelerator = fresh(gradient_accumulation_steps=2)
    rank = accelerator.process_index
    torch.manual_seed(6)
    policy = Policy()
    policy, optimizer = accelerator.prepare(policy, torch.optim.Adam(policy.parameters(), lr=2e-2))
    said = [f"run {rank}" if rank == 0 else None]
    broadcast_object_list(said)
    notes: dict[str, Any] = {"rewards": [], "losses": [], "texts": [], "shapes": [], "said": said}
    prompts = [[1, 2], [3], [4, 5, 6], [2, 2], [5]]
    for turn in range(4):
        with accelerator.split_between_processes(prompts, apply_padding=True) as mine:
            tokens = torch.zeros(len(mine), 3 + rank + turn, dtype=torch.long)
            for row, prompt in enumerate(mine):
                tokens[row, : len(prompt)] = torch.tensor(prompt)
        with torch.no_grad():
            for place in range(2, tokens.shape[1]):
                tokens[:, place] = accelerator.unwrap_model(policy)(tokens[:, :place])[:, -1].argmax(-1)
        whole = accelerator.gather(accelerator.pad_across_processes(tokens, dim=1, pad_index=0))
        notes["shapes"].append([list(whole.shape), whole.sum().item()])
        notes["texts"].append(gather_object([str(row) for row in tokens.tolist()]))
        reward = (tokens == 3).float().mean(dim=1) - 0.1 * (tokens == 0).float().mean(dim=1)
        everyone = accelerator.gather(reward)
        notes["rewards"].append(everyone.tolist())
        advantage = (reward - everyone.mean()) / (everyone.std() + 1e-4)
        for half in range(2):
            with accelerator.accumulate(policy):
                likely = log_softmax(policy(tokens[:, :-1]), -1)
                chosen = likely.gather(-1, tokens[:, 1:, None]).squeeze(-1)
                loss = -(chosen * (advantage[:, None] - 0.5 * half)).mean()
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
        notes["losses"].append(accelerator.reduce(loss.detach(), "mean").item())
        if turn == 2 and accelerator.is_last_process:
            accelerator.set_trigger()
        if accelerator.check_trigger():
            break
    notes["turns"] = turn
    notes["weights"] = torch.nn.utils.parameters_to_vector(policy.parameters()).tolist()
    accelerator.free_memory()
    return notes


class Writer(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter = torch.nn.Embedding(20, 12)
        self.layer = torch.nn.TransformerEncoderLayer(12, 2, 24, dropout=0.1, batch_first=True)
        self.leave = torch.nn.Linear(12, 20, bias=False)
        self.leave.weight = self.enter.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        mask = torch.nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        out: torch.Tensor = self.leave(self.layer(self.enter(tokens), src_mask=mask, is_causal=True))
        return out


def next_token_loss(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    return cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


def write(resume: str | None) -> dict[str, Any]:
    """A script that trains a language model without a trainer class, and goes on from a checkpoint by its name."""
    accelerator = fresh(
        gradient_accumulation_steps=2, dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True)
    )
    set_seed(9)
    with accelerator.main_process_first():
        tokens = torch.randint(0, 20, (37, 9))
    model = Writer()
    groups = [
        {"params": [p for n, p in model.named_parameters() if "bias" not in n], "weight_decay": 0.1},
        {"params": [p for n, p in model.named_parameters() if "bias" in n], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-2)
    scheduler = LambdaLR(optimizer, lambda step: max(0.0, 1 - step / (30 * accelerator.num_processes)))
    loader = DataLoader(TensorDataset(tokens), 3, shuffle=True)
    held = DataLoader(TensorDataset(tokens[:11]), 2)
    model, optimizer, loader, held, scheduler = accelerator.prepare(model, optimizer, loader, held, scheduler)
    accelerator.register_for_checkpointing(scheduler)
    start, skipped, done = 0, 0, 0
    if resume is not None:
        accelerator.load_state(str(FOLDER / resume))
        kind, number = resume.split("_")
        if kind == "epoch":
            start = int(number) + 1
            done = start * math.ceil(len(loader) / accelerator.gradient_accumulation_steps)
        else:
            skipped = int(number) * accelerator.gradient_accumulation_steps
            start, skipped = divmod(skipped, len(loader))
            done = int(number)
    notes: dict[str, Any] = {"losses": [], "perplexity": [], "tokens": []}
    for epoch in range(start, 3):
        model.train()
        if resume is not None and epoch == start and skipped:
            current = accelerator.skip_first_batches(loader, skipped)
            loader.set_epoch(epoch)
        else:
            current = loader
        for (batch,) in current:
            notes["tokens"].append(batch.sum().item())
            with accelerator.accumulate(model):
                loss = next_token_loss(model, batch)
                notes["losses"].append(loss.item())
                accelerator.backward(loss)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
            if accelerator.sync_gradients:
                done += 1
                if done == 2 and resume is None:
                    accelerator.save_state(str(FOLDER / f"step_{done}"))
        model.eval()
        losses = []
        for (batch,) in held:
            with torch.no_grad():
                losses.append(accelerator.gather_for_metrics(next_token_loss(model, batch).repeat(2)))
        perplexity = math.exp(torch.cat(losses).mean().item())
        logger.info(f"epoch {epoch}: {perplexity}")
        notes["perplexity"].append([perplexity, len(torch.cat(losses))])
        if resume is None and epoch == 0:
            accelerator.save_state(str(FOLDER / f"epoch_{epoch}"))
    accelerator.wait_for_everyone()
    state = accelerator.get_state_dict(model)
    accelerator.save(state, FOLDER / "writer.bin")
    accelerator.save_model(model, FOLDER / "writer")
    accelerator.wait_for_everyone()
    notes["done"], notes["names"] = done, sorted(state)
    notes["saved"] = sorted(path.name for path in (FOLDER / "writer").iterdir())
    notes["weights"] = torch.nn.utils.parameters_to_vector(accelerator.unwrap_model(model).parameters()).tolist()
    accelerator.free_memory()
    return notes


def main() -> None:
    first = Accelerator()
    notes = {
        "diffusion": diffuse(resume=False),
        "diffusion resumed": diffuse(resume=True),
        "reinforcement": reinforce(),
        "language": write(None),
        "language resumed in an epoch": write("step_2"),
        "language resumed after an epoch": write("epoch_0"),
    }
    torch.save(notes, FOLDER / f"notes-{first.process_index}.pt")
    first.end_training()


if __name__ == "__main__":
    main()
