from __future__ import annotations

import collections
import gc
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

import nbaccel
from nbaccel.errors import CallError
from nbaccel.wire.codec import can_encode, decode, encode
from nbaccel.wire.culprit import find_culprit
from nbaccel.wire.parcel import MOST_SHARED, Parcel


def arrived(parcel: Parcel) -> Any:
    """What a worker gets: only the message and the descriptors cross the border."""
    there = parcel.for_message().with_file([os.dup(descriptor) for descriptor in parcel.descriptors()])
    return decode(there, {})[0]


def num_memory_files() -> int:
    gc.collect()
    links = [os.path.join("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]
    return sum("memfd:nbaccel" in os.readlink(link) for link in links if os.path.lexists(link))


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    before = num_memory_files()
    yield
    assert num_memory_files() == before


def test_the_result_has_the_same_structure_and_values() -> None:
    Pair = collections.namedtuple("Pair", "left right")
    state = torch.nn.Linear(2, 2).state_dict()
    given = {
        "pair": Pair(np.arange(5), torch.arange(6.0).reshape(2, 3)),
        "list": [(np.float32([1, 2]),), "text", 7, None],
        "state": state,
    }
    result = nbaccel.share(given)
    assert type(result["pair"]) is Pair
    np.testing.assert_array_equal(result["pair"].left, np.arange(5))
    assert torch.equal(result["pair"].right, given["pair"].right)  # type: ignore[attr-defined]
    assert result["list"][0][0].dtype == np.float32
    assert result["list"][1:] == ["text", 7, None]
    assert type(result["state"]) is collections.OrderedDict
    assert result["state"]._metadata == state._metadata  # type: ignore[attr-defined]
    assert result["state"]["weight"] is not state["weight"]


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(30, 30).t(),
        torch.zeros(0, 3),
        torch.tensor(3.5),
        torch.zeros(9, dtype=torch.bfloat16),
        torch.ones(9, dtype=torch.float8_e4m3fn),
        torch.zeros(4, dtype=torch.complex64).conj(),
        torch.randn(3, requires_grad=True),
        torch.nn.Parameter(torch.randn(3)),
        torch.nn.Parameter(torch.arange(3), requires_grad=False),
        torch.ones(1, 4).expand(5, 4),
        torch.frombuffer(bytearray(41), dtype=torch.float64, offset=1),
        torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    ],
    ids=lambda value: type(value).__name__,  # their contents are random
)
def test_tensors_of_every_kind(tensor: torch.Tensor) -> None:
    for result in (nbaccel.share(tensor), arrived(encode(nbaccel.share([tensor])).parcel)[0]):
        assert type(result) is type(tensor)
        assert (result.dtype, result.shape, result.stride()) == (tensor.dtype, tensor.shape, tensor.stride())
        assert result.requires_grad == tensor.requires_grad
        assert torch.equal(result.to(torch.complex128), tensor.to(torch.complex128))


@pytest.mark.parametrize(
    "array",
    [
        np.arange(60.0).reshape(6, 10).T,
        np.arange(60)[::-3],
        np.zeros((0, 3)),
        np.array(2.5),
        np.zeros(5, dtype=[("a", "i4"), ("b", "f8")]),
        np.array(["2020-01-01"], dtype="datetime64[D]"),
        np.broadcast_to(np.arange(3), (4, 3)),
        np.array(["text", "more"]),
    ],
    ids=lambda value: type(value).__name__,  # their contents are random
)
def test_arrays_of_every_kind(array: Any) -> None:
    for result in (nbaccel.share(array), arrived(encode(nbaccel.share([array])).parcel)[0]):
        np.testing.assert_array_equal(result, array)
        assert result.dtype == array.dtype
        assert result.flags.writeable == array.flags.writeable


def test_what_shared_memory_before_does_so_still() -> None:
    array, layer = np.zeros(100), torch.nn.Linear(4, 4)
    weight = layer.weight.detach()
    given = [array, array[5:], torch.from_numpy(array), weight, weight.view(-1)[3:], array]
    for result in (nbaccel.share(given), arrived(encode(nbaccel.share(given)).parcel)):
        result[1][0] = 7
        assert result[0][5] == result[2][5] == 7
        result[3][0, 3] = 9
        assert result[4][0] == 9
        assert result[5] is result[0]


def test_later_calls_copy_nothing_whatever_part_they_send() -> None:
    array = nbaccel.share(np.arange(1_000_000).reshape(1000, 1000))
    tensor = nbaccel.share(torch.arange(1_000_000.0).reshape(1000, 1000))
    sent = [array, array[3], array[:, ::2], array.T, array[5, :3], tensor, tensor[3], tensor.t(), tensor.numpy()]
    encoded = encode(sent)
    assert encoded.parcel.written_bytes < 10_000
    assert len(encoded.parcel.shared) == 2
    there = arrived(encoded.parcel)
    for mine, theirs in zip(sent, there, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    there[0][3, 0] = -1
    assert there[1][0] == -1, "views of shared arrays share on the other side, too"
    assert array[3, 0] == 3000, "a worker's writes are its own"


def test_workers_do_not_disturb_each_other_and_see_what_the_kernel_wrote() -> None:
    array = nbaccel.share(np.zeros(100_000))
    array += 1
    parcel = encode(array).parcel
    first, second = arrived(parcel), arrived(parcel)
    first[:] = 5
    assert second.sum() == 100_000
    assert array.sum() == 100_000


def test_a_slice_that_a_worker_returns_arrives_as_the_worker_left_it() -> None:
    array, tensor = nbaccel.share((np.zeros(100_000), torch.zeros(100_000)))
    there = arrived(encode([array, tensor]).parcel)
    there[0][10], there[1][10] = 3, 4
    answer = encode([there[0][5:50_000], there[1][5:50_000]], home=True).parcel
    assert answer.shared == ()
    back = arrived(answer)
    assert (back[0][5], back[1][5]) == (3, 4)
    assert (array[10], tensor[10]) == (0, 0)


def test_what_is_shared_in_a_worker_travels_home_by_value() -> None:
    array = nbaccel.share(np.arange(50_000))
    parcel = encode(array, home=True).parcel
    array[0] = 5
    assert arrived(parcel)[0] == 0


def test_sharing_again_costs_nothing() -> None:
    array = nbaccel.share(np.zeros(1000))
    files = num_memory_files()
    assert nbaccel.share(array) is array
    both = nbaccel.share([array[3:], torch.ones(3)])
    assert np.shares_memory(both[0], array)
    assert os.fstat(encode(both).parcel.shared[1].fileno()).st_size < 1000
    del both
    assert num_memory_files() == files


def test_gaps_that_nobody_shows_are_not_copied() -> None:
    array, tensor = nbaccel.share([np.zeros(1_000_000)[::1000], torch.zeros(1000, 1000)[:, 0]])
    assert (array.shape, tensor.shape) == ((1000,), (1000,))
    assert os.fstat(encode(array).parcel.shared[0].fileno()).st_size < 20_000


def test_a_region_lives_as_long_as_somebody_uses_its_memory() -> None:
    before = num_memory_files()
    array, tensor = nbaccel.share([np.zeros(1000), torch.zeros(1000)])
    assert num_memory_files() > before
    part, view = array[5:10], tensor.view(10, 100)[3]
    del array, tensor
    assert num_memory_files() > before
    del part
    assert num_memory_files() > before
    del view
    assert num_memory_files() == before


def test_a_parcel_keeps_a_region_and_does_not_close_it() -> None:
    array = nbaccel.share(np.arange(1000))
    parcel = encode([array, np.zeros(100_000)]).parcel
    parcel.close()
    again = encode(array).parcel
    del array
    gc.collect()
    np.testing.assert_array_equal(arrived(again), np.arange(1000))


def test_more_regions_than_a_message_can_carry_are_one_clear_error() -> None:
    many = [nbaccel.share(np.zeros(3)) for _ in range(MOST_SHARED + 1)]
    encode(many[1:])
    error = can_encode({"many": many})
    assert error is not None
    message = str(find_culprit({"many": many}, "args[0]", error))
    assert message.startswith(f"args[0]['many'] (a list) cannot be sent: it holds results of more than {MOST_SHARED}")
    assert "nbaccel.share([...])" in message


class Holder:
    data = np.zeros(3)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (5, "cannot share a int. It takes numpy arrays of numbers, tensors on the CPU"),
        ([1, Holder()], r"cannot share a Holder \(at \[1\]\)"),
        ({"x": (np.array([None]),)}, r"cannot share a ndarray of dtype object \(at \['x'\]\[0\]\)"),
        (np.ma.masked_array([1]), "cannot share a MaskedArray"),
        (torch.empty(3, device="meta"), "cannot share a Tensor on meta, torch.strided"),
        (torch.eye(3).to_sparse(), "cannot share a Tensor on cpu, torch.sparse_coo"),
        (torch.ones(3, requires_grad=True) * 2, r"computed with gradients: detach\(\) it"),
        (torch.nn.Linear(2, 2), "cannot share a Linear.*share the arrays inside an object"),
    ],
)
def test_anything_else_is_refused(value: Any, words: str) -> None:
    with pytest.raises(CallError, match=words):
        nbaccel.share(value)


def test_the_model_may_live_in_shared_memory() -> None:
    model = torch.nn.Linear(300, 300)
    model.load_state_dict(nbaccel.share(model.state_dict()), assign=True)
    encoded = encode(model)
    assert encoded.parcel.written_bytes < 10_000
    assert torch.equal(arrived(encoded.parcel).weight, model.weight)
