"""Checks of what `nbaccel.utils` does among ranks; each rank runs all of them and writes its verdicts to a folder."""

from __future__ import annotations

import io
import json
import logging
import random
import sys
import time
import traceback
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import nn

from nbaccel.errors import CallError
from nbaccel.local_sgd import LocalSGD
from nbaccel.logging import get_logger
from nbaccel.runtime import agreement
from nbaccel.runtime.accelerator import Accelerator
from nbaccel.state import PartialState
from nbaccel.utils import (
    CannotPadNestedTensorWarning,
    broadcast,
    copy_tensor_to_devices,
    gather,
    gather_object,
    pad_across_processes,
    reduce,
    set_seed,
    synchronize_rng_state,
    synchronize_rng_states,
    tqdm,
)
from nbaccel.utils.operations import DistributedOperationException

Point = namedtuple("Point", ["x", "y"])


@dataclass
class Output:
    logits: torch.Tensor
    rest: Any = None


def place() -> tuple[int, int]:
    return dist.get_rank(), dist.get_world_size()


def nested(rank: int) -> Any:
    row = torch.full((2, 3), float(rank))
    return {"a": [row, row.long()], "b": Point(row.bool(), row.half()), "c": OrderedDict(o=Output(row.bfloat16(), row))}


def check_nested_data_travels_in_few_messages() -> None:
    rank, size = place()
    with mock.patch("nbaccel.runtime.collectives._all_gather", wraps=dist.all_gather_into_tensor) as messages:
        joined = gather(nested(rank))
    assert messages.call_count == 1
    expected = torch.arange(size).repeat_interleave(2).float()
    assert torch.equal(joined["a"][0][:, 0], expected)
    assert joined["a"][1].dtype == torch.int64
    assert joined["b"].y.dtype == torch.float16
    assert joined["c"]["o"].logits.shape == (2 * size, 3)
    assert reduce({"x": torch.tensor(float(rank)), "y": [torch.ones(2)]}, "sum", 2.0)["x"] == sum(range(size)) * 2
    assert broadcast(nested(rank), size - 1)["c"]["o"].rest[0, 0] == size - 1


def check_transformers_outputs_travel() -> None:
    from transformers.modeling_outputs import SequenceClassifierOutput

    rank, size = place()
    joined = gather(SequenceClassifierOutput(loss=torch.tensor(1.0), logits=torch.full((2, 2), float(rank))))
    assert isinstance(joined, SequenceClassifierOutput)
    assert (joined.loss.shape, joined.logits.shape) == ((size,), (2 * size, 2))


def check_a_tensor_of_one_rank_reaches_all() -> None:
    rank, size = place()
    mine = torch.arange(6).view(2, 3) if rank == size - 1 else None
    found = copy_tensor_to_devices(mine)
    assert torch.equal(found, torch.arange(6).view(2, 3))
    with pytest.raises(CallError, match="no rank has a tensor"):
        copy_tensor_to_devices(None)


def check_debugging_names_the_rank_that_differs() -> None:
    rank, size = place()
    data = {"a": torch.ones(2), "b": [torch.ones(2 + (rank == size - 1), 3)]}
    with mock.patch.object(agreement, "_is_wanted", return_value=True):
        for operation in (gather, reduce, broadcast):
            with pytest.raises(DistributedOperationException) as error:
                operation(data)
            assert error.value.ranks == (size - 1,)
            assert f"{operation.__name__}(): rank {size - 1} differs" in str(error.value)
            assert "data['b'][0]: (3, 3) float32 on rank" in str(error.value)
        assert pad_across_processes(data)["b"][0].shape == (3, 3)
        with pytest.raises(DistributedOperationException, match="2 dimensions int64"):
            pad_across_processes(torch.ones(2, 2).long() if rank else torch.ones(2))
        assert gather(torch.ones(1)).shape == (size,)
    assert gather(torch.ones(1)).shape == (size,)


def check_the_configuration_asks_for_debugging() -> None:
    world = PartialState().world
    config = mock.Mock(debug=True)
    with mock.patch.object(agreement, "configure", return_value=config):
        agreement._Wish.world = None
        assert agreement._is_wanted(world)
    agreement._Wish.world = None
    assert not agreement._is_wanted(world)


def check_ragged_tensors_are_left_with_a_warning() -> None:
    ragged = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged)
    with pytest.warns(CannotPadNestedTensorWarning, match="stays as it is"):
        assert pad_across_processes(ragged) is ragged


def check_random_states_become_those_of_rank_0() -> None:
    rank, size = place()
    set_seed(5, device_specific=True)
    drawn = gather_object([(random.random(), torch.rand(1).item())])
    assert len(set(drawn)) == size
    generator = torch.Generator().manual_seed(rank)
    synchronize_rng_states(["torch", "generator"], generator)
    synchronize_rng_state("torch")
    assert len(set(gather_object([(torch.rand(1).item(), torch.rand(1, generator=generator).item())]))) == 1


def check_local_sgd_averages_in_one_message() -> None:
    rank, _ = place()
    accelerator = Accelerator(cpu=True)
    torch.manual_seed(0)
    model = accelerator.prepare(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with mock.patch("torch.distributed.all_reduce", wraps=dist.all_reduce) as messages:
        with LocalSGD(accelerator=accelerator, model=model, local_sgd_steps=2) as local:
            for step in range(3):
                optimizer.zero_grad()
                accelerator.backward(model(torch.full((2, 3), rank + 1.0)).sum())
                optimizer.step()
                local.step()
                equal = len(set(gather_object([model.module[0].weight.sum().item()]))) == 1
                assert equal is (step == 1)
        assert messages.call_count == 2
    assert len(set(gather_object([model.module[0].weight.sum().item()]))) == 1
    with pytest.raises(KeyError, match="mine"), LocalSGD(accelerator, model, 2):
        raise KeyError("mine")


def check_local_sgd_is_the_mean_of_both_ways() -> None:
    """Two ranks' weights after one averaged step are those of plain training on both batches (SGD is linear)."""
    rank, size = place()
    accelerator = Accelerator(cpu=True)
    model = nn.Linear(2, 1, bias=False)
    nn.init.ones_(model.weight)
    prepared = accelerator.prepare(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    with LocalSGD(accelerator, prepared, 1) as local:
        prepared(torch.full((1, 2), float(rank))).sum().backward()
        optimizer.step()
        local.step()
    assert torch.allclose(model.weight, torch.full((1, 2), 1 - 0.5 * sum(range(size)) / size))


def check_loggers_speak_on_the_main_process_or_in_order() -> None:
    rank, _ = place()
    logger = get_logger("ranks", log_level="INFO")
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(message)s %(funcName)s"))
    logger.logger.addHandler(handler)
    logger.logger.propagate = False
    logger.info("main")
    logger.info("all %s", 1, main_process_only=False)
    logger.info("turn", main_process_only=False, in_order=True)
    handler.emit = lambda record: moments.append(time.monotonic())  # type: ignore[method-assign]
    moments: list[float] = []
    logger.info("turn", main_process_only=False, in_order=True)
    here = sys._getframe().f_code.co_name
    expected = [f"[RANK 0] main {here}"] if rank == 0 else []
    assert stream.getvalue().splitlines() == [*expected, f"[RANK {rank}] all 1 {here}", f"[RANK {rank}] turn {here}"]
    order = gather_object(moments)
    assert order == sorted(order)


def check_shares() -> None:
    _, size = place()
    state = PartialState()
    whole = {"a": list(range(2 * size + 1)), "b": tuple(range(2 * size + 1))}
    kept = dict(whole)
    with state.split_between_processes(whole, apply_padding=True) as share:
        assert whole == kept
        assert (len(share["a"]), len(share["b"]), type(share["b"])) == (3, 3, tuple)
    with state.split_between_processes((1, 2, 3), apply_padding=True) as share:  # Accelerate: TypeError
        assert isinstance(share, tuple)
    lengths = gather_object([len(share)])
    assert len(set(lengths)) == 1


def check_bars_of_the_first_process_alone() -> None:
    rank, _ = place()
    assert bool(tqdm([1], file=io.StringIO()).disable) is (rank != 0)
    assert not tqdm([1], file=io.StringIO(), main_process_only=False).disable


def main(folder: Path) -> None:
    PartialState(cpu=True)
    verdicts = {}
    for name, check in list(globals().items()):
        if name.startswith("check_"):
            try:
                check()
                verdicts[name] = ""
            except Exception:  # noqa: BLE001 - it goes into the verdict
                verdicts[name] = traceback.format_exc()
            dist.barrier()
    (folder / f"{dist.get_rank()}.json").write_text(json.dumps(verdicts))
    PartialState().destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
