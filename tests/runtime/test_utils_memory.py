"""Batch sizes that fit, memory given back, seeds, agreement of shapes, shares: on one process."""

from __future__ import annotations

import gc
import random
import weakref
from typing import Any

import pytest
import torch

from nbaccel import utils as ours
from nbaccel.errors import CallError, PlanError, StateError
from nbaccel.memory_utils import find_executable_batch_size as old_home
from nbaccel.runtime.agreement import DistributedOperationError, _without_sizes, compare
from nbaccel.utils.memory import clear_device_cache, should_reduce_batch_size

TOO_LITTLE = "CUDA out of memory. Tried to allocate 1 GiB"


def needing(most: int, tried: list[int]) -> Any:
    def train(batch_size: int, note: str = "") -> tuple[int, str]:
        tried.append(batch_size)
        if batch_size > most:
            raise RuntimeError(TOO_LITTLE)
        return batch_size, note

    return train


def test_batch_sizes_shrink_until_they_fit() -> None:
    tried: list[int] = []
    assert old_home is ours.find_executable_batch_size
    run = ours.find_executable_batch_size(starting_batch_size=16)(needing(3, tried))
    assert run("hello") == (3, "hello")
    assert tried == [16, 14, 12, 10, 9, 8, 7, 6, 5, 4, 3]
    assert run(note="again") == (3, "again")
    assert tried[11:] == [3]  # what fitted is kept


def test_the_next_size_can_be_chosen_in_both_forms() -> None:
    for use in (
        lambda train, halve: ours.find_executable_batch_size(train, 8, halve),
        lambda train, halve: ours.find_executable_batch_size(starting_batch_size=8, reduce_batch_size_fn=halve)(train),
    ):
        tried: list[int] = []
        assert use(needing(2, tried), lambda tried=tried: tried[-1] // 2)() == (2, "")
        assert tried == [8, 4, 2]


def test_nothing_fits() -> None:
    with pytest.raises(StateError, match="no batch size from 4 down") as error:
        ours.find_executable_batch_size(needing(0, []), 4)()
    assert TOO_LITTLE in str(error.value.__cause__)


def test_other_errors_pass_and_wrong_calls_are_explained() -> None:
    def broken(batch_size: int) -> None:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        ours.find_executable_batch_size(broken)()
    with pytest.raises(CallError, match="the batch size is the first argument"):
        ours.find_executable_batch_size(broken)(8)
    with pytest.raises(CallError, match="the batch size is the first argument"):
        ours.find_executable_batch_size(lambda: None)()


def test_a_failed_try_leaves_no_tensors_behind() -> None:
    class Weight:
        pass

    held: list[weakref.ref[Weight]] = []

    @ours.find_executable_batch_size(starting_batch_size=2)
    def train(batch_size: int) -> int:
        if held:
            assert held[-1]() is None
        weight = Weight()
        held.append(weakref.ref(weight))
        if batch_size > 1:
            raise RuntimeError(TOO_LITTLE)
        return batch_size

    assert train() == 1


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError(TOO_LITTLE), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED."), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), True),
        (torch.cuda.OutOfMemoryError("anything"), True),  # Accelerate: False
        (MemoryError(), True),
        (RuntimeError("MPS backend out of memory"), True),
        (RuntimeError("shape mismatch"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_too_little_memory(error: Exception, expected: bool) -> None:
    assert should_reduce_batch_size(error) is expected


def test_released_objects_are_gone() -> None:
    class Thing:
        pass

    one, two = Thing(), Thing()
    gone = weakref.ref(one)
    one, two = ours.release_memory(one, two)  # type: ignore[assignment]
    gc.collect()
    assert (one, two, gone()) == (None, None, None)
    clear_device_cache(garbage_collection=True)


def test_seeds_reach_all_generators() -> None:
    import numpy as np

    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), torch.rand(1).item()

    ours.set_seed(3)
    first = draw()
    ours.set_seed(3, device_specific=True)  # rank 0
    assert draw() == first
    try:
        ours.set_seed(3, deterministic=True)
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


def test_random_states_that_cannot_be_made_equal() -> None:
    with pytest.raises(CallError, match="Did you mean 'torch'"):
        ours.synchronize_rng_state("torhc")
    with pytest.raises(CallError, match="Give generator="):
        ours.synchronize_rng_state("generator")
    with pytest.raises(PlanError, match="this machine has no such device"):
        ours.synchronize_rng_state("npu")
    ours.synchronize_rng_states(["torch", "generator"], torch.Generator())


def test_shapes_are_compared() -> None:
    compare("gather", [{"data": "(2,) float32"}] * 3)
    with pytest.raises(DistributedOperationError) as error:
        compare("gather", [{"a": "(2,) f"}, {"a": "(3,) f", "b": "x"}, {"a": "(2,) f"}])
    assert error.value.ranks == (1,)
    assert "a: (3,) f on rank 1, (2,) f on ranks 0 and 2" in str(error.value)
    assert "b: x on rank 1, nothing on ranks 0 and 2" in str(error.value)
    with pytest.raises(DistributedOperationError, match="and 12 more"):
        compare("reduce", [{str(n): "x" for n in range(20)}, {str(n): "y" for n in range(20)}])
    assert [_without_sizes(text) for text in ("() f", "(2,) f", "(2, 3) f", "str")] == [
        "0 dimensions f", "1 dimensions f", "2 dimensions f", "str",
    ]  # fmt: skip
