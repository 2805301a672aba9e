"""The reference: bare torch. Every rank is a copy of the model; before a step all copies get the mean gradient."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain, cycle, islice
from typing import Any

import torch
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import TensorDataset
from training_scenarios import (
    EVALUATED,
    EVALUATION_BATCH,
    SEED,
    Scenario,
    adversarial_loader,
    adversaries,
    data,
    evaluation,
    flat,
    loader_of,
    parts,
)

Notes = dict[str, Any]


def rounds(scenario: Scenario, batches: list[list[int]], ranks: int) -> list[list[list[int]]]:
    """The samples of each rank in each turn, from the batches of one process.

    A turn is `ranks` whole batches, or one that is cut (`split_batches`). Where the last turn does not go round and
    batches are to be even, it is filled up with the samples from the beginning.
    """
    size = scenario.batch // ranks if scenario.split_batches else scenario.batch
    order = list(chain.from_iterable(batches))
    turns = [order[start : start + size * ranks] for start in range(0, len(order), size * ranks)]
    if ranks > 1 and len(turns[-1]) < size * ranks:
        if scenario.drop_last:
            turns.pop()
        elif scenario.even_batches:
            turns[-1] = list(islice(chain(turns[-1], cycle(order)), size * ranks))
    if scenario.split_batches and not scenario.even_batches and ranks > 1:
        return [[turn[rank * size : (rank + 1) * size] for rank in range(ranks)] for turn in turns]
    return [[turn[start : start + size] for start in range(0, len(turn), size)] for turn in turns]


class Replicas:
    """Copies of a model with their optimizers and schedulers, and a random state for each."""

    def __init__(self, ranks: int, made: Callable[[], tuple[torch.nn.Module, torch.optim.Optimizer, Any]]) -> None:
        self.each = [made() for _ in range(ranks)]
        self.models = [model for model, _, _ in self.each]

    def average(self) -> None:
        """What DDP does at the end of a backward pass."""
        for same in zip(*(model.parameters() for model in self.models), strict=True):
            gradients = [weight.grad for weight in same]
            mean = torch.stack([one for one in gradients if one is not None]).sum(0) / len(same)
            for weight in same:
                assert weight.grad is not None
                weight.grad.copy_(mean)

    def step(self, times: int) -> None:
        for _, optimizer, scheduler in self.each:
            optimizer.step()
            for _ in range(times):
                if scheduler.last_epoch < getattr(scheduler, "total_steps", float("inf")):
                    scheduler.step()

    def zero_grad(self) -> None:
        for _, optimizer, _ in self.each:
            optimizer.zero_grad()


class RandomStates:
    """The generator that each rank's process would have."""

    def __init__(self, ranks: int) -> None:
        self._states = []
        for rank in range(ranks):
            torch.manual_seed(SEED + rank)
            self._states.append(torch.get_rng_state())

    @contextmanager
    def of_rank(self, rank: int) -> Iterator[None]:
        """A block in which one rank's random state is in force."""
        torch.set_rng_state(self._states[rank])
        yield
        self._states[rank] = torch.get_rng_state()

    def of_each(self) -> Iterator[int]:
        """Rank by rank, each with its own random state in force."""
        for rank in range(len(self._states)):
            with self.of_rank(rank):
                yield rank


def predicted(scenario: Scenario, model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16, enabled=scenario.precision == "bf16"):
        out: torch.Tensor = model(x)
    return out.float()


def passed(scenario: Scenario, loader: Any, random: RandomStates) -> list[list[int]]:
    """One pass over a loader of sample numbers; the order is rank 0's."""
    with random.of_rank(0):
        return [batch.tolist() for (batch,) in loader]


def train(scenario: Scenario, ranks: int) -> list[Notes]:
    """What each rank sees."""
    replicas = Replicas(ranks, lambda: parts(scenario))
    dataset, loader = data(scenario.samples), loader_of(scenario, TensorDataset(torch.arange(scenario.samples)))
    random = RandomStates(ranks)
    notes: list[Notes] = [
        {"losses": [], "seen": [], "norms": [], "rates": [], "synced": [], "metrics": []} for _ in range(ranks)
    ]
    count = 0
    for _ in range(scenario.epochs):
        turns = rounds(scenario, passed(scenario, loader, random), ranks)
        for number, turn in enumerate(turns, 1):
            count += 1
            is_end = scenario.sync_with_dataloader and number == len(turns)
            is_synced = is_end or count % scenario.steps == 0
            count = 0 if is_end else count
            for rank in random.of_each():
                x, y, _ = dataset[turn[rank]]
                loss = torch.nn.functional.mse_loss(predicted(scenario, replicas.models[rank], x), y)
                (loss / scenario.steps).backward()
                notes[rank]["losses"].append(loss.item())
                notes[rank]["seen"].append(turn[rank])
                notes[rank]["synced"].append(is_synced)
            if is_synced:
                finish_window(scenario, replicas, notes)
            for note, (_, _, scheduler) in zip(notes, replicas.each, strict=True):
                note["rates"].append(scheduler.get_last_lr()[0])
        if scenario.even_batches:
            evaluate(scenario, replicas, random, notes)
    for note, model in zip(notes, replicas.models, strict=True):
        note["weights"] = flat(model)
    return notes


def finish_window(scenario: Scenario, replicas: Replicas, notes: list[Notes]) -> None:
    if len(replicas.each) > 1:
        replicas.average()
    for note, model in zip(notes, replicas.models, strict=True):
        if scenario.clip is not None:
            note["norms"].append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), scenario.clip)))
    replicas.step(1 if scenario.split_batches else len(replicas.each))
    replicas.zero_grad()


def evaluate(scenario: Scenario, replicas: Replicas, random: RandomStates, notes: list[Notes]) -> None:
    """All samples once, in their order, in as many pieces as the ranks make of them."""
    ranks = len(replicas.each)
    for _ in random.of_each():
        iter(evaluation())  # each pass over a loader draws a seed for its workers
    model = replicas.models[0].eval()
    dataset = data(EVALUATED)
    size = EVALUATION_BATCH if scenario.split_batches else EVALUATION_BATCH * ranks
    for start in range(0, EVALUATED, size):
        piece = list(range(start, min(start + size, EVALUATED)))
        with torch.no_grad():
            found = predicted(scenario, model, dataset[piece][0]).flatten().tolist()
        for note in notes:
            note["metrics"].append([found, piece])
    for one in replicas.models:
        one.train()


def train_adversaries(ranks: int) -> list[Notes]:
    """The adversaries on each rank."""
    makers: list[Any] = []
    critics: list[Any] = []
    for _ in range(ranks):
        maker, critic, make, judge = adversaries()
        makers.append((maker, make, StepLR(make, 3, 0.5)))
        critics.append((critic, judge, StepLR(judge, 2, 0.7)))
    made = Replicas(ranks, iter(makers).__next__)
    judged = Replicas(ranks, iter(critics).__next__)
    draws = [torch.Generator().manual_seed(100 + rank) for rank in range(ranks)]
    logits = torch.nn.functional.binary_cross_entropy_with_logits
    loader, dataset = adversarial_loader(), data(30)
    notes: list[Notes] = [{"losses": [], "seen": [], "rates": []} for _ in range(ranks)]
    for _ in range(2):
        for turn in rounds(Scenario("adversaries"), [number.tolist() for _, _, number in loader], ranks):
            fakes, losses = [], []
            judged.zero_grad()
            for rank, numbers in enumerate(turn):
                real = dataset[numbers][0]
                fakes.append(made.models[rank](torch.randn(len(real), 3, generator=draws[rank])))
                said = judged.models[rank](torch.cat([real, fakes[rank].detach()]))
                loss = logits(said, torch.cat([torch.ones(len(real), 1), torch.zeros(len(real), 1)]))
                loss.backward()
                losses.append([loss.item()])
            judged.average()
            for model in judged.models:
                torch.nn.utils.clip_grad_value_(model.parameters(), 0.05)
            judged.step(ranks)
            made.zero_grad()
            for rank, fake in enumerate(fakes):
                fooled = logits(judged.models[rank](fake), torch.ones(len(fake), 1))
                fooled.backward()
                losses[rank].append(fooled.item())
            made.average()
            made.step(ranks)
            for rank, note in enumerate(notes):
                note["losses"].append(losses[rank])
                note["seen"].append(turn[rank])
                note["rates"].append(made.each[rank][2].get_last_lr() + judged.each[rank][2].get_last_lr())
    for rank, note in enumerate(notes):
        note["weights"] = flat(made.models[rank], judged.models[rank])
    return notes


def reference(scenario: Scenario, ranks: int) -> list[Notes]:
    state = torch.get_rng_state()
    try:
        return copy.deepcopy(train_adversaries(ranks) if scenario.name == "adversaries" else train(scenario, ranks))
    finally:
        torch.set_rng_state(state)
