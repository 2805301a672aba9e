"""The way home: trained states are copied into the kernel's objects, and what they are is referred to."""

from __future__ import annotations

import copy
import gc
import os
import threading
import types
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import distributed as dist
from torch.optim import lr_scheduler

from nbaccel.errors import ShipError
from nbaccel.runtime.accelerator import Accelerator
from nbaccel.wire.codec import Encoded, companion, decode, encode
from nbaccel.wire.companions import Arrived, Companions, settle_into
from nbaccel.wire.outcome import Outcome, encode_outcome
from nbaccel.wire.parcel import Parcel


class Worker:
    """The other side of one call, in this process."""

    def __init__(self, value: Any) -> None:
        sent = encode(value)
        self.kernels = sent.companions
        self.value, companions = decode(received(sent.parcel), {})
        self.arrived = Arrived(companions)

    def answer(self, value: Any, *, wants_models: bool = True) -> Encoded:
        return encode_outcome(value, "the value", self.arrived, wants_models=wants_models)

    def send_home(self, value: Any = None, *, wants_models: bool = True) -> tuple[Any, list[str]]:
        """What the kernel gets, and what it is warned of."""
        outcome, _ = decode(received(self.answer(value, wants_models=wants_models).parcel), {}, self.kernels)
        assert isinstance(outcome, Outcome)
        return outcome.value, outcome.states.load_into(self.kernels)


def received(parcel: Parcel) -> Parcel:
    return parcel.for_message().with_file([os.dup(descriptor) for descriptor in parcel.descriptors()])


def training(size: int = 4) -> tuple[torch.nn.Module, torch.optim.Optimizer, Any]:
    model = torch.nn.Sequential(torch.nn.Linear(size, size), torch.nn.Linear(size, size))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    return model, optimizer, lr_scheduler.StepLR(optimizer, 1, gamma=0.5)


def train(model: torch.nn.Module, optimizer: torch.optim.Optimizer, scheduler: Any, *metrics: float) -> None:
    model(torch.ones(1, model[0].in_features)).sum().backward()  # type: ignore[index]
    optimizer.step()
    scheduler.step(*metrics)


def test_model_optimizer_and_scheduler_come_home_trained_in_place() -> None:
    kernels = model, optimizer, scheduler = training()
    weight = model[0].weight  # type: ignore[index]
    worker = Worker({"all": kernels})
    assert worker.kernels.optimizers == [optimizer]
    assert worker.kernels.schedulers == [scheduler]
    train(*worker.value["all"])
    theirs = worker.value["all"]
    assert worker.send_home() == (None, [])
    assert model[0].weight is weight  # type: ignore[index]
    assert torch.equal(weight, theirs[0][0].weight)
    assert torch.equal(optimizer.state[weight]["exp_avg"], theirs[1].state[theirs[0][0].weight]["exp_avg"])
    assert optimizer.param_groups[0]["lr"] == 0.05
    assert scheduler.get_last_lr() == [0.05]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(*kernels)
    assert scheduler.get_last_lr() == [0.025]


@pytest.mark.parametrize(
    "make",
    [
        lambda optimizer: lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.5),
        lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=10),
        lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda step: 0.9**step),
        lambda optimizer: lr_scheduler.SequentialLR(
            optimizer, [lr_scheduler.ConstantLR(optimizer), lr_scheduler.ExponentialLR(optimizer, 0.9)], [1]
        ),
        lambda optimizer: lr_scheduler.ChainedScheduler(
            [lr_scheduler.ConstantLR(optimizer), lr_scheduler.ExponentialLR(optimizer, 0.9)]
        ),
    ],
    ids=["plateau", "one cycle", "lambda", "sequential", "chained"],
)
def test_schedulers_of_every_kind_go_on_where_the_worker_stopped(make: Any) -> None:
    model, optimizer, _ = training()
    scheduler = make(optimizer)
    worker = Worker((model, optimizer, scheduler))
    metrics = [1.0] if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau) else []
    for _ in range(2):
        train(*worker.value, *metrics)
    assert worker.send_home() == (None, [])
    train(*worker.value, *metrics)
    train(model, optimizer, scheduler, *metrics)
    rate, rate_there = optimizer.param_groups[0]["lr"], worker.value[1].param_groups[0]["lr"]
    assert rate == pytest.approx(rate_there)
    assert rate != 0.1


def test_states_travel_beside_the_pickle() -> None:
    worker = Worker(training(300))
    train(*worker.value)
    parcel = worker.answer(None).parcel
    *data, pickled = parcel.segments
    assert sum(segment.size for segment in data) >= 3 * 4 * 2 * 300 * 300
    assert pickled.size < 10_000


def mapped_bytes() -> int:
    with open("/proc/self/maps") as maps:
        spans = [line.split()[0].split("-") for line in maps if "memfd:nbaccel" in line]
    return sum(int(end, 16) - int(start, 16) for start, end in spans)


def test_kept_results_do_not_keep_the_memory_of_trained_weights() -> None:
    model, optimizer, scheduler = training(300)
    worker = Worker((model, optimizer, scheduler))
    train(*worker.value)
    worker.value[0].noted = np.ones(10_000)
    gc.collect()
    before = mapped_bytes()
    value, _ = worker.send_home(np.ones(10_000))
    weights_bytes = 2 * 300 * 300 * 4
    assert mapped_bytes() - before == pytest.approx(2 * weights_bytes + 2 * value.nbytes, rel=0.1), "moments and values"
    optimizer.state.clear()
    assert mapped_bytes() - before == pytest.approx(2 * value.nbytes, rel=0.2)
    del model.noted
    assert mapped_bytes() - before == pytest.approx(value.nbytes, rel=0.2)


def test_what_came_with_the_call_comes_home_as_the_kernels_own_object() -> None:
    model, optimizer, scheduler = training()
    worker = Worker({"model": model, "rest": (optimizer, scheduler)})
    theirs, (their_optimizer, their_scheduler) = worker.value["model"], worker.value["rest"]
    train(theirs, their_optimizer, their_scheduler)
    value, problems = worker.send_home(
        {"deep": [theirs, {"o": their_optimizer}], "again": theirs, "s": their_scheduler}
    )
    assert problems == []
    assert value["deep"][0] is value["again"] is model
    assert value["deep"][1]["o"] is optimizer
    assert value["s"] is scheduler
    assert torch.equal(model[0].weight, theirs[0].weight)  # type: ignore[index]


def test_what_is_referred_to_is_not_sent() -> None:
    worker = Worker(torch.nn.Linear(500, 500))
    assert encode(worker.value, home=True, companions=worker.arrived.references()).parcel.written_bytes < 5000


def test_parts_of_the_kernels_model_are_its_own_parts() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    worker = Worker(model)
    head = worker.value[1]
    optimizer = torch.optim.SGD(worker.value.parameters(), lr=0.1, momentum=0.9)
    train(worker.value, optimizer, lr_scheduler.StepLR(optimizer, 1))
    value, _ = worker.send_home((head, optimizer, torch.nn.Sequential(head)))
    assert value[0] is model[1]
    assert value[2][0] is model[1]
    parameters = value[1].param_groups[0]["params"]
    assert all(mine is theirs for mine, theirs in zip(parameters, model.parameters(), strict=True))
    assert model[0].weight in value[1].state


def test_without_syncing_models_come_home_as_copies() -> None:
    model = torch.nn.Linear(2, 2)
    before = model.weight.detach().clone()
    worker = Worker(model)
    with torch.no_grad():
        worker.value.weight.fill_(3)
    value, problems = worker.send_home(worker.value, wants_models=False)
    assert problems == []
    assert value is not model
    assert value.weight.eq(3).all()
    assert torch.equal(model.weight, before)


def test_a_model_with_a_new_head_comes_home_as_a_copy_and_the_kernels_is_told() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    worker = Worker(model)
    worker.value[1] = torch.nn.Linear(4, 7)
    value, problems = worker.send_home(worker.value)
    assert value is not model
    assert value[1].out_features == 7
    assert problems == ["Sequential changed its structure in the workers; not copied back: 1.bias, 1.weight"]


def test_a_model_with_a_part_of_another_class_comes_home_as_a_copy_and_the_kernels_is_told() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU())
    worker = Worker(model)
    with torch.no_grad():
        worker.value[0].weight.fill_(3)
    worker.value[1] = torch.nn.GELU()
    worker.value.extra = torch.nn.Dropout()
    value, problems = worker.send_home(worker.value)
    assert value is not model
    assert type(value[1]) is torch.nn.GELU
    assert problems == [
        "Sequential has other parts in the workers, of which at most the weights were copied back: 1, extra"
    ]
    assert type(model[1]) is torch.nn.ReLU
    assert model[0].weight.eq(3).all()


def test_what_was_noted_on_a_model_comes_home_with_it() -> None:
    model: Any = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.1))
    model.history, model.names, model.config = [1.0], {"a", "b"}, types.SimpleNamespace(depth=2)
    config, names = model.config, model.names
    worker = Worker(model)
    theirs = worker.value
    theirs.best = 0.9
    theirs.history.append(2.0)
    theirs[0].seen = {"rows": np.arange(3)}
    theirs[1] = torch.nn.Dropout(0.5)
    value, problems = worker.send_home([theirs, theirs[0]])
    assert value[0] is model
    assert value[1] is model[0]
    assert problems == []
    assert (model.best, model.history, model[0].seen["rows"].tolist()) == (0.9, [1.0, 2.0], [0, 1, 2])
    assert model[1].p == 0.5
    assert model.config is config
    assert model.names is names


def test_what_means_nothing_outside_the_run_stays_there() -> None:
    model = torch.nn.Linear(2, 2)
    before = set(vars(model))
    worker = Worker(model)
    theirs = worker.value
    theirs.device, theirs.forward, theirs.outputs = torch.device("cpu"), theirs.forward, [torch.ones(2)]
    theirs._is_prepared = theirs.gradient_checkpointing = True
    assert worker.send_home(theirs) == (model, [])
    assert set(vars(model)) == before


def test_a_model_that_was_made_to_synchronize_its_batches_comes_home_in_place() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4))
    worker = Worker(model)
    converted: Any = torch.nn.SyncBatchNorm.convert_sync_batchnorm(worker.value)
    converted.best = 0.9
    with torch.no_grad():
        converted[1].weight.fill_(3)
    assert worker.send_home(converted) == (model, [])
    assert type(model[1]) is torch.nn.BatchNorm1d
    assert model[1].weight.eq(3).all()
    assert model.best == 0.9


@pytest.mark.parametrize(
    "value",
    [threading.Lock(), types.SimpleNamespace(shadow=torch.ones(2)), {"ema": [torch.ones(2)]}, np.array([object()])],
    ids=["lock", "object", "tensor", "array of objects"],
)
def test_what_is_no_plain_value_stays_where_it_was_noted(value: object) -> None:
    model = torch.nn.Linear(2, 2)
    worker = Worker(model)
    worker.value.helper, worker.value.best = value, 0.9
    assert worker.send_home(worker.value) == (model, [])
    assert (hasattr(model, "helper"), model.best) == (False, 0.9)


def test_a_copy_that_the_worker_made_is_a_copy_at_home() -> None:
    model = torch.nn.Linear(2, 2)
    worker = Worker(model)
    value, _ = worker.send_home([copy.deepcopy(worker.value), worker.value])
    assert value[0] is not model
    assert value[1] is model


def test_an_optimizer_with_other_groups_is_one_warning() -> None:
    model, optimizer, _ = training()
    worker = Worker((model, optimizer))
    worker.value[1].add_param_group({"params": [torch.nn.Parameter(torch.zeros(2))]})
    value, problems = worker.send_home(worker.value[1])
    assert value is not optimizer
    assert len(value.param_groups) == 2
    (problem,) = problems
    assert problem.startswith("AdamW changed in the workers; its state is not copied back: loaded state dict has")


class Forgetful(lr_scheduler.StepLR):
    def state_dict(self) -> dict[str, Any]:
        raise RuntimeError("no idea")


class Locked(lr_scheduler.StepLR):
    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"lock": threading.Lock()}


class Sharded(torch.nn.Linear):
    def named_buffers(self, *args: Any, **kwargs: Any) -> Any:
        tensor = torch.zeros(2)
        tensor.full_tensor = None  # type: ignore[attr-defined] # as a DTensor has it
        tensor.detach = tensor.cpu = lambda: tensor  # type: ignore[method-assign]
        yield "part", tensor


def test_states_that_cannot_come_home_are_told_and_all_else_comes() -> None:
    model, optimizer, _ = training()
    schedulers = Forgetful(optimizer, 1), Locked(optimizer, 1)
    worker = Worker((model, optimizer, *schedulers, Sharded(2, 2)))
    train(*worker.value[:3])
    value, problems = worker.send_home("value")
    assert value == "value"
    assert torch.equal(model[0].weight, worker.value[0][0].weight)  # type: ignore[index]
    assert problems == [
        "Sharded keeps its state from before the run: its tensors are shared out over the ranks",
        "Forgetful keeps its state from before the run: RuntimeError: no idea",
        "Locked keeps its state from before the run: TypeError: cannot pickle '_thread.lock' object",
    ]


def test_a_value_that_cannot_come_home_is_named() -> None:
    worker = Worker(torch.nn.Linear(2, 2))
    with pytest.raises(ShipError, match=r"the value\['lock'\] \(a lock\) cannot be sent"):
        worker.answer({"model": worker.value, "lock": threading.Lock()})


def test_what_was_prepared_comes_home_as_what_it_was() -> None:
    model, optimizer, scheduler = training()
    loader = torch.utils.data.DataLoader(range(8))
    worker = Worker((model, optimizer, scheduler))
    prepared = Accelerator(cpu=True).prepare(*worker.value, loader)
    value, problems = worker.send_home(prepared)
    assert problems == []
    assert value[:3] == (model, optimizer, scheduler)
    assert type(value[3]) is torch.utils.data.DataLoader


def test_a_model_leaves_its_process_group_behind() -> None:
    model = torch.nn.Linear(2, 2)
    worker = Worker(model)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    wrapped = [torch.nn.parallel.DistributedDataParallel(own) for own in (worker.value, torch.nn.Linear(3, 3))]
    answer = worker.answer(wrapped)
    dist.destroy_process_group()
    outcome, _ = decode(received(answer.parcel), {}, worker.kernels)
    assert outcome.value[0] is model
    assert outcome.value[1].in_features == 3


def test_an_optimizer_that_was_prepared_in_the_kernel_comes_home() -> None:
    model, optimizer, _ = training()
    prepared = Accelerator(cpu=True).prepare(optimizer)
    worker = Worker((model, prepared))
    train(worker.value[0], worker.value[1], lr_scheduler.StepLR(worker.value[1].optimizer, 1))
    value, problems = worker.send_home(worker.value[1])
    assert problems == []
    assert value is prepared
    assert len(optimizer.state) == 4


def test_a_module_that_a_worker_kept_settles_into_the_kernels_own() -> None:
    mine, theirs = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    assert settle_into(mine, theirs) is mine
    assert torch.equal(mine.weight, theirs.weight)
    other = torch.nn.Linear(3, 2)
    assert settle_into(mine, other) is other
    assert settle_into("mine", "theirs") == "theirs"


def test_a_module_that_a_worker_kept_brings_what_was_noted_on_it() -> None:
    mine, theirs = (torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU()) for _ in range(2))
    mine.config, theirs.config = {"depth": 2}, {"depth": 2}
    config = mine.config
    theirs[0].best = 0.9
    theirs.scores = np.ones(2)
    for _ in range(2):
        assert settle_into(mine, theirs) is mine
        assert mine[0].best == 0.9
        assert mine.scores.tolist() == [1, 1]
        assert mine.config is config
    theirs[1] = torch.nn.GELU()
    assert settle_into(mine, theirs) is theirs


def test_companions_count_as_none_without_states() -> None:
    assert not Companions({"name": object()})
    assert Companions(schedulers=[object()])


def test_a_reference_cannot_be_read_by_a_bare_unpickler() -> None:
    with pytest.raises(Exception, match=r"codec\.decode"):
        companion("modules", 0, "")
