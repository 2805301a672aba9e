"""What the loops of `training_loops.py` and their bare reference train: data, models, settings. Of torch alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR
from torch.utils.data import DataLoader, Dataset, TensorDataset

EVALUATED, EVALUATION_BATCH = 13, 6
SEED = 23


@dataclass(frozen=True)
class Scenario:
    """One training.

    Attributes:
        batch: samples per batch of the loader: of one rank, or of all together with `split_batches`.
        order: `file` (as they come), `generator` (shuffled by one of its own), `global` (by torch's generator).
    """

    name: str
    samples: int = 50
    batch: int = 4
    epochs: int = 2
    steps: int = 1
    sync_with_dataloader: bool = True
    even_batches: bool = True
    split_batches: bool = False
    drop_last: bool = False
    precision: str = "no"
    clip: float | None = None
    schedule: str = "decay"
    order: str = "generator"
    dropout: float = 0.0
    momentum: bool = False


SCENARIOS = [
    Scenario("plain"),
    Scenario("in file order", order="file", momentum=True),
    Scenario("short last window", steps=3, clip=0.5),
    Scenario("window over the end", steps=3, sync_with_dataloader=False, clip=0.5),
    Scenario("one window", samples=9, steps=8, epochs=3),
    Scenario("ragged", samples=45, even_batches=False, steps=2),
    Scenario("split", batch=12, split_batches=True, steps=2),
    Scenario("split and ragged", samples=47, batch=12, split_batches=True, even_batches=False),
    Scenario("whole batches only", samples=45, drop_last=True),
    Scenario("fewer samples than asked for", samples=3, batch=2, steps=2),
    Scenario("bf16", precision="bf16", steps=2, clip=0.5),
    Scenario("one cycle", schedule="one cycle", steps=2),
    Scenario("dropout", dropout=0.3, steps=2, clip=1.0),
    Scenario("dropout and bf16", dropout=0.3, precision="bf16", momentum=True),
]
ALONE = [Scenario("shuffled by torch", order="global", dropout=0.2, steps=3)]


def scenarios(ranks: int) -> list[Scenario]:
    return SCENARIOS + (ALONE if ranks == 1 else [])


def data(samples: int) -> TensorDataset:
    """Inputs, targets, and the number of each sample."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(samples, 6, generator=generator)
    y = x.sum(dim=1, keepdim=True) + 0.1 * torch.randn(samples, 1, generator=generator)
    return TensorDataset(x, y, torch.arange(samples))


def loader_of(scenario: Scenario, dataset: Dataset[Any]) -> DataLoader[Any]:
    kwargs: dict[str, Any] = {}
    if scenario.order != "file":
        kwargs["shuffle"] = True
    if scenario.order == "generator":
        kwargs["generator"] = torch.Generator().manual_seed(SEED)
    return DataLoader(dataset, scenario.batch, drop_last=scenario.drop_last, **kwargs)


def evaluation() -> DataLoader[Any]:
    return DataLoader(data(EVALUATED), EVALUATION_BATCH)


def parts(scenario: Scenario) -> tuple[torch.nn.Module, torch.optim.Optimizer, Any]:
    torch.manual_seed(7)
    model = torch.nn.Sequential(
        torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Dropout(scenario.dropout), torch.nn.Linear(8, 1)
    )
    optimizer: torch.optim.Optimizer = (
        torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
        if scenario.momentum
        else torch.optim.AdamW(model.parameters(), lr=0.05)
    )
    if scenario.schedule == "one cycle":
        return model, optimizer, OneCycleLR(optimizer, 0.1, total_steps=13)
    return model, optimizer, LambdaLR(optimizer, lambda step: 0.97**step)


def adversaries() -> tuple[torch.nn.Module, torch.nn.Module, torch.optim.Optimizer, torch.optim.Optimizer]:
    """Generator and discriminator, and an optimizer for each."""
    torch.manual_seed(8)
    maker = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 6))
    critic = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.LeakyReLU(0.2), torch.nn.Linear(8, 1))
    return (
        maker,
        critic,
        torch.optim.Adam(maker.parameters(), lr=0.01, betas=(0.5, 0.9)),
        torch.optim.Adam(critic.parameters(), lr=0.02, betas=(0.5, 0.9)),
    )


def adversarial_loader() -> DataLoader[Any]:
    return DataLoader(data(30), 4, shuffle=True, generator=torch.Generator().manual_seed(SEED))


def flat(*models: torch.nn.Module) -> list[float]:
    weights = [torch.nn.utils.parameters_to_vector(model.parameters()) for model in models]
    return torch.cat(weights).detach().tolist()
