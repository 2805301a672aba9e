"""Every scenario on one rank, written for Accelerate: `training_loops.py FOLDER`; the notes go to `FOLDER/RANK.pt`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import GradientAccumulationPlugin, set_seed
from torch.optim.lr_scheduler import StepLR
from training_scenarios import (
    SEED,
    Scenario,
    adversarial_loader,
    adversaries,
    data,
    evaluation,
    flat,
    loader_of,
    parts,
    scenarios,
)


def accelerator_for(scenario: Scenario) -> Accelerator:
    AcceleratorState._reset_state()
    GradientState._reset_state()
    return Accelerator(
        mixed_precision=scenario.precision,
        dataloader_config=DataLoaderConfiguration(
            split_batches=scenario.split_batches, even_batches=scenario.even_batches
        ),
        gradient_accumulation_plugin=GradientAccumulationPlugin(
            num_steps=scenario.steps, sync_with_dataloader=scenario.sync_with_dataloader
        ),
    )


def train(scenario: Scenario) -> dict[str, Any]:
    accelerator = accelerator_for(scenario)
    model, optimizer, scheduler = parts(scenario)
    loader, checked = loader_of(scenario, data(scenario.samples)), evaluation()
    model, optimizer, loader, checked, scheduler = accelerator.prepare(model, optimizer, loader, checked, scheduler)
    set_seed(SEED, device_specific=True)
    notes: dict[str, Any] = {"losses": [], "seen": [], "norms": [], "rates": [], "synced": [], "metrics": []}
    for _ in range(scenario.epochs):
        model.train()
        for x, y, number in loader:
            with accelerator.accumulate(model):
                loss = torch.nn.functional.mse_loss(model(x), y)
                accelerator.backward(loss)
                if accelerator.sync_gradients and scenario.clip is not None:
                    norm = accelerator.clip_grad_norm_(model.parameters(), scenario.clip)
                    notes["norms"].append(float(norm))
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
            notes["losses"].append(loss.item())
            notes["seen"].append(number.tolist())
            notes["rates"].append(scheduler.get_last_lr()[0])
            notes["synced"].append(accelerator.sync_gradients)
        model.eval()
        for x, _, number in checked if scenario.even_batches else ():
            with torch.no_grad():
                everyone = accelerator.gather_for_metrics((model(x).flatten(), number))
            notes["metrics"].append([part.tolist() for part in everyone])
    notes["weights"] = flat(accelerator.unwrap_model(model))
    accelerator.free_memory()
    return notes


def train_adversaries() -> dict[str, Any]:
    accelerator = accelerator_for(Scenario("adversaries"))
    maker, critic, make, judge = adversaries()
    slow, fast = StepLR(make, 3, 0.5), StepLR(judge, 2, 0.7)
    maker, critic, make, judge, slow, fast, loader = accelerator.prepare(
        maker, critic, make, judge, slow, fast, adversarial_loader()
    )
    draws = torch.Generator().manual_seed(100 + accelerator.process_index)
    logits = torch.nn.functional.binary_cross_entropy_with_logits
    notes: dict[str, Any] = {"losses": [], "seen": [], "rates": []}
    for _ in range(2):
        for real, _, number in loader:
            fake = maker(torch.randn(len(real), 3, generator=draws))
            judge.zero_grad()
            said = critic(torch.cat([real, fake.detach()]))
            truth = torch.cat([torch.ones(len(real), 1), torch.zeros(len(real), 1)])
            loss = logits(said, truth)
            accelerator.backward(loss)
            accelerator.clip_grad_value_(critic.parameters(), 0.05)
            judge.step()
            fast.step()
            make.zero_grad()
            fooled = logits(critic(fake), torch.ones(len(real), 1))
            accelerator.backward(fooled)
            make.step()
            slow.step()
            notes["losses"].append([loss.item(), fooled.item()])
            notes["seen"].append(number.tolist())
            notes["rates"].append(slow.get_last_lr() + fast.get_last_lr())
    notes["weights"] = flat(accelerator.unwrap_model(maker), accelerator.unwrap_model(critic))
    accelerator.free_memory()
    return notes


def main() -> None:
    first = Accelerator()
    rank, ranks = first.process_index, first.num_processes
    notes = {scenario.name: train(scenario) for scenario in scenarios(ranks)}
    notes["adversaries"] = train_adversaries()
    torch.save(notes, Path(sys.argv[1]) / f"{rank}.pt")
    first.end_training()


if __name__ == "__main__":
    main()
