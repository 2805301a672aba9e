from __future__ import annotations

import functools
import types
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import nbaccel
from nbaccel.launch.call import Call, Wish, cell_call, function_call, report
from nbaccel.wire.weigh import heaviest


def weight(value: Any) -> int:
    return dict(heaviest({"x": value}, 1)).get("x", 0)


class Holder:
    def __init__(self, held: Any) -> None:
        self.held = held

    def method(self) -> None:
        """Uses what it holds."""


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.zeros(1_000_000), 8_000_000),
        (torch.zeros(1_000_000), 4_000_000),
        (b"x" * 1_000_000, 1_000_000),
        ("x" * 1_000_000, 1_000_000),
        ([{"a": (np.zeros(1000), {2: np.zeros(1000)})}], 16_000),
        ([np.zeros(1000) for _ in range(5000)], 40_000_000),
        (np.array([np.zeros(1000) for _ in range(10)] + [None], dtype=object), 80_000),
        (Holder(Holder(np.zeros(100_000))), 800_000),
        (torch.nn.Linear(1000, 1000), 4_004_000),
        (pd.DataFrame({"a": np.zeros(100_000)}), 800_000),
        ([1.5] * 1_000_000, 8_000_000),
        (torch.eye(1000).to_sparse(), 20_000),
    ],
    ids=[
        "array",
        "tensor",
        "bytes",
        "text",
        "nested",
        "many",
        "objects",
        "attributes",
        "model",
        "frame",
        "list",
        "sparse",
    ],
)
def test_what_a_variable_holds_is_weighed(value: Any, expected: int) -> None:
    assert weight(value) == pytest.approx(expected, rel=0.05, abs=500)


def test_a_storage_counts_once_and_shared_memory_not_at_all() -> None:
    whole = torch.zeros(1_000_000)
    assert weight([whole, whole.view(1000, 1000), whole[5:]]) == pytest.approx(4_000_000, rel=0.01)
    assert weight(list(whole.view(1000, 1000)[:10])) == pytest.approx(40_000, rel=0.01)
    assert heaviest({"first": whole, "second": whole[5:]}, 1) == [("first", 4_000_000)]
    assert weight(nbaccel.share([whole, np.zeros(1_000_000)])) < 100


def test_circles_and_depth_end() -> None:
    circle: list[Any] = [np.zeros(1000)]
    circle.append(circle)
    assert weight(circle) == pytest.approx(8000, rel=0.05)
    deep: Any = np.zeros(1_000_000)
    for _ in range(50):
        deep = [deep]
    assert weight(deep) < 1000


def test_only_what_matters_is_named() -> None:
    names = {"a": bytes(100), "b": bytes(3000), "c": bytes(2000), "d": bytes(1000), "e": bytes(500)}
    assert heaviest(names, 6600) == [("b", 3000), ("c", 2000), ("d", 1000)]
    assert heaviest(names, 30_000) == [("b", 3000), ("c", 2000)]


def test_functions_stand_for_the_variables_that_they_use() -> None:
    images = np.zeros(1000)

    def helper(default: Any = np.zeros(2000)) -> Any:  # noqa: B008
        return images

    def train() -> Any:
        return [helper() for _ in range(2)]

    assert heaviest({"train": train}, 1) == [("a default of helper()", 16_000), ("images", 8000)]
    named = heaviest({"f": functools.partial(train, np.zeros(3), name=np.zeros(9000))}, 1)
    assert named[0] == ("name", 72_000)
    assert heaviest({"f": Holder(images).method}, 1)[0] == ("the object of method()", 8008)
    assert heaviest({"f": functools.cache(train)}, 1)[1] == ("images", 8000)


def a_call(**kwargs: Any) -> Call:
    return function_call(lambda **kwargs: None, (), kwargs, Wish())


def test_a_light_call_reports_nothing() -> None:
    call = a_call(x=np.zeros(1_000_000))
    assert call.size_bytes == pytest.approx(8_000_000, rel=0.01)
    assert report(call) == ""
    call.close()


def test_a_heavy_call_says_what_makes_it_heavy() -> None:
    images = np.zeros(100_000_000, dtype=np.uint8)

    def train(labels: Any, *, rate: Any) -> Any:
        return images

    call = function_call(train, (bytes(20_000_000),), {"rate": 0.1}, Wish())
    assert report(call) == (
        "sending 120 MB to the workers: `images` 100 MB, `args[0]` 20 MB "
        "(arrays and tensors from nbaccel.share(x) are not copied)"
    )
    call.close()


def test_a_heavy_cell_says_so_too_and_shared_memory_makes_it_light() -> None:
    names: dict[str, Any] = {"images": torch.zeros(300_000_000), "labels": np.zeros(1000)}
    call = cell_call("pass", names, (), Wish(), execution_count=1, here=lambda: None)
    assert report(call).startswith("sending 1.2 GB to the workers: `images` 1.2 GB (arrays")
    call.close()
    names["images"] = nbaccel.share(names["images"])
    call = cell_call("pass", names, (), Wish(), execution_count=1, here=lambda: None)
    assert call.size_bytes < 50_000
    assert report(call) == ""


def test_holes_of_a_storage_weigh_nothing() -> None:
    call = a_call(x=torch.zeros(100_000_000)[:10])
    assert call.size_bytes < 10_000
    call.close()


def test_a_module_among_the_names_is_no_variable() -> None:
    assert heaviest({"np": np, "types": types, "Holder": Holder}, 1) == []
