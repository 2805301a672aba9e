"""The reference: what one bare torch process would do with all ranks' batches."""

from __future__ import annotations

from itertools import chain, cycle, islice

import torch
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, TensorDataset

BATCH = 4


def dataset(samples: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(samples, 6, generator=generator)
    return TensorDataset(x, x.sum(dim=1, keepdim=True) + 0.1 * torch.randn(samples, 1, generator=generator))


def new_parts() -> tuple[torch.nn.Module, torch.optim.Optimizer, LambdaLR]:
    torch.manual_seed(7)
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    return model, optimizer, LambdaLR(optimizer, lambda step: 0.97**step)


def permutations(samples: int, epochs: int, seed: int) -> list[list[int]]:
    """The orders that a bare, shuffling torch loader goes through."""
    torch.manual_seed(seed)
    loader = DataLoader(TensorDataset(torch.arange(samples)), BATCH, shuffle=True)
    return [torch.cat([batch for (batch,) in loader]).tolist() for _ in range(epochs)]


def rounds(order: list[int], ranks: int) -> list[list[int]]:
    """Indices that all ranks together use per micro-batch; the last round is filled up from the beginning."""
    size = ranks * BATCH
    full = [order[start : start + size] for start in range(0, len(order), size)]
    full[-1] = list(islice(chain(full[-1], cycle(order)), size)) if ranks > 1 else full[-1]
    return full


def train(samples: int, ranks: int, steps: int, epochs: int, seed: int) -> tuple[list[float], torch.Tensor, float]:
    """Losses per micro-batch, final weights, and the last learning rate."""
    data = dataset(samples)
    orders = permutations(samples, epochs, seed)
    model, optimizer, scheduler = new_parts()
    losses = []
    for order in orders:
        batches = rounds(order, ranks)
        for number, indices in enumerate(batches, 1):
            x, y = data[indices]
            loss = torch.nn.functional.mse_loss(model(x), y)
            (loss / steps).backward()
            losses.append(loss.item())
            if number % steps == 0 or number == len(batches):
                optimizer.step()
                for _ in range(ranks):
                    scheduler.step()
                optimizer.zero_grad()
    weights = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    return losses, weights, scheduler.get_last_lr()[0]
