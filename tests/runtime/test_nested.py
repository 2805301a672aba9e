"""Walks over nested data, and moves to a device."""

from __future__ import annotations

from collections import OrderedDict, UserDict, defaultdict, namedtuple
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch

from nbaccel.runtime.nested import leaves_of, map_tensors, with_leaves
from nbaccel.utils import send_to_device

Point = namedtuple("Point", ["x", "y"])


@dataclass(frozen=True)
class Frozen:
    x: Any
    y: Any = field(default=None, init=False)


def double(tensor: torch.Tensor) -> torch.Tensor:
    return tensor * 2


def test_types_survive() -> None:
    one = torch.ones(1)
    many = defaultdict(list, {"a": one})
    data = [Point(one, "text"), (one, {"k": one}), many, OrderedDict(z=one), Frozen(one), MappingProxyType({"m": one})]
    found = map_tensors(double, data)
    assert [type(item) for item in found] == [type(item) for item in data]
    assert [leaf.item() for leaf in leaves_of(found) if isinstance(leaf, torch.Tensor)] == [2] * 7
    assert found[0].y == "text"
    assert found[2].default_factory is list
    assert one.item() == 1


def test_untouched_containers_are_the_same() -> None:
    data = {"a": [torch.ones(1), ("b",)], "c": Frozen(3)}
    assert map_tensors(lambda tensor: tensor, data) is data
    assert send_to_device(data, "cpu") is data


def test_leaves_go_back_in_order() -> None:
    data = {"a": [1, (2, 3)], "b": Frozen(4)}
    leaves = leaves_of(data)
    assert leaves == [1, 2, 3, 4, None]
    assert with_leaves(data, iter("vwxyz")) == {"a": ["v", ("w", "x")], "b": with_leaves(Frozen(4), iter("yz"))}


def test_send_to_device() -> None:
    class Batch(UserDict[str, Any]):
        def to(self, device: Any) -> tuple[str, Any]:
            return ("moved", device)

    class Polite:
        def to(self, device: Any, non_blocking: bool) -> tuple[bool, Any]:
            return (non_blocking, device)

    data = {
        "t": [torch.ones(1)],
        "skip": torch.ones(1),
        "batch": Batch(),
        "polite": (Polite(),),
        "type": Polite,
        "n": 1,
    }
    found = send_to_device(data, "meta", non_blocking=True, skip_keys="skip")
    assert found["t"][0].device.type == "meta"
    assert found["skip"] is data["skip"]
    assert found["batch"] == ("moved", "meta")
    assert found["polite"] == ((True, "meta"),)
    assert (found["type"], found["n"]) == (Polite, 1)
    assert send_to_device([data["skip"]], "meta")[0].device.type == "meta"
