from __future__ import annotations

import linecache
import os
import pickle
import re
import sys
import threading
import types
import warnings
from typing import Any

import numpy as np
import pytest
import torch

from nbaccel.wire.codec import can_encode, decode, encode, segment_storage, user_namespace
from nbaccel.wire.culprit import find_culprit
from nbaccel.wire.parcel import INLINE_BYTES
from nbaccel.wire.tensors import load_module_state, module_state


def trip(value: Any, namespace: dict[str, object] | None = None) -> Any:
    return decode(encode(value).parcel, {} if namespace is None else namespace)[0]


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A notebook's `__main__`, and a way to run cells in it."""
    module = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", module)

    def run(source: str) -> dict[str, Any]:
        exec(compile(source, "<cell>", "exec"), module.__dict__)
        return module.__dict__

    return run


@pytest.mark.parametrize("size", [10, INLINE_BYTES * 4])
def test_arrays_travel_and_are_private(size: int) -> None:
    array = np.arange(size)
    parcel = encode(array).parcel
    assert (parcel.file is not None) == (size > INLINE_BYTES)
    arrived, _ = decode(parcel, {})
    np.testing.assert_array_equal(arrived, array)
    arrived[0] = -1
    assert array[0] == 0


def test_two_receivers_of_one_parcel_do_not_disturb_each_other() -> None:
    parcel = encode(np.zeros(1 << 20)).parcel
    first, _ = decode(parcel.with_file([os.dup(parcel.file.fileno())]), {})  # type: ignore[union-attr]
    second, _ = decode(parcel.with_file([os.dup(parcel.file.fileno())]), {})  # type: ignore[union-attr]
    first[:] = 1
    assert not second.any()


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((300, 300))[::2, ::3],
        np.asfortranarray(np.arange(90_000.0).reshape(300, 300)),
        np.zeros(0),
        np.array(["a", None], dtype=object),
        np.zeros(5, dtype=[("a", "i4"), ("b", "f8")]),
    ],
    ids=["strided", "fortran", "empty", "objects", "records"],
)
def test_arrays_of_every_kind(array: Any) -> None:
    np.testing.assert_array_equal(trip(array), array)


def test_a_read_only_array_stays_read_only() -> None:
    array = np.zeros(1 << 16)
    array.flags.writeable = False
    assert not trip(array).flags.writeable


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(300, 300),
        torch.randn(300, 300).t(),
        torch.zeros(0),
        torch.tensor(3.5),
        torch.zeros(9, dtype=torch.bfloat16),
        torch.ones(9, dtype=torch.float8_e4m3fn),
        torch.zeros(4, dtype=torch.complex64),
        torch.randn(3, requires_grad=True),
        torch.nn.Parameter(torch.randn(3)),
        torch.empty(3, device="meta"),
    ],
    ids=str,
)
def test_tensors_of_every_kind(tensor: torch.Tensor) -> None:
    arrived = trip(tensor)
    assert type(arrived) is type(tensor)
    assert (arrived.dtype, arrived.shape, arrived.stride()) == (tensor.dtype, tensor.shape, tensor.stride())
    assert arrived.requires_grad == tensor.requires_grad
    if not tensor.is_meta:
        assert torch.equal(arrived.to(torch.complex128), tensor.to(torch.complex128))  # float8 cannot be compared


def test_views_still_share_their_storage() -> None:
    whole = torch.zeros(1000, 1000)
    arrived = trip({"whole": whole, "row": whole[3]})
    arrived["row"][0] = 7
    assert arrived["whole"][3, 0] == 7


def test_a_small_view_of_a_large_storage_costs_what_it_shows() -> None:
    large = torch.arange(4_000_000.0)
    parcel = encode([large[5:10], large[-3:]]).parcel
    first, last = decode(parcel.with_file([os.dup(parcel.file.fileno())]), {})[0]  # type: ignore[union-attr]
    assert torch.equal(first, large[5:10])
    assert torch.equal(last, large[-3:])
    assert os.fstat(parcel.file.fileno()).st_blocks * 512 < 100_000  # type: ignore[union-attr]


def test_a_storage_that_travels_by_itself_arrives_whole() -> None:
    large = torch.arange(300_000.0)
    view, storage = trip((large[:2], large.untyped_storage()))
    assert view.untyped_storage()._cdata == storage._cdata
    assert torch.equal(torch.empty(0).set_(storage, 0, (300_000,)), large)


def test_model_optimizer_and_scheduler_keep_their_ties() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    model[1].weight = model[0].weight
    optimizer = torch.optim.AdamW(model.parameters())
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    arrived, optimizer_there, scheduler_there = trip((model, optimizer, scheduler))
    assert arrived[1].weight is arrived[0].weight
    assert optimizer_there.param_groups[0]["params"][0] is arrived[0].weight
    assert scheduler_there.optimizer is optimizer_there
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer_there.step()
        scheduler_there.step()


def test_a_generator_keeps_its_state() -> None:
    generator = torch.Generator().manual_seed(3)
    torch.rand(5, generator=generator)
    there = trip(generator)
    assert torch.equal(torch.rand(4, generator=there), torch.rand(4, generator=generator))


def test_functions_live_on_the_receivers_namespace(main: Any) -> None:
    cell = main("factor = 2\ndef helper(x): return factor * x\ndef outer(x): return helper(x) + only_there")
    namespace: dict[str, object] = {"only_there": 100}
    outer = trip(cell["outer"], namespace)
    assert outer(3) == 106
    namespace["helper"] = lambda x: -x
    assert outer(3) == 97
    assert set(namespace) >= {"factor", "only_there"}


def test_definitions_are_listed_by_their_name(main: Any) -> None:
    cell = main("class Net: pass\ndef helper(): return Net()\nalias = helper")
    companions = encode(cell["helper"]).companions
    assert companions.definitions == {"Net": cell["Net"], "helper": cell["helper"]}


def test_an_instance_comes_home_as_the_notebooks_class(main: Any) -> None:
    cell = main(
        "import enum, collections\n"
        "class Net:\n    def hello(self): return helper()\n"
        "def helper(): return 'first'\n"
        "class Color(enum.Enum):\n    RED = 1\n"
        "Point = collections.namedtuple('Point', 'x y')\n"
    )
    net_class = cell["Net"]
    there = trip([cell["Net"](), cell["Color"].RED, cell["Point"](1, 2)])
    net, color, point = decode(encode({"x": there}, home=True).parcel, cell)[0]["x"]
    assert type(net) is net_class
    assert color is cell["Color"].RED
    assert isinstance(point, cell["Point"])


def test_results_never_overwrite_the_kernels_names(main: Any) -> None:
    cell = main("value = 1\ndef get(): return value")
    get = cell["get"]
    parcel = encode(get, home=True).parcel
    cell["value"] = 2
    assert decode(parcel, cell)[0]() == 1
    assert cell["value"] == 2


def test_source_lines_travel_with_code_from_cells(main: Any) -> None:
    lines = ["def f():\n", "    raise ValueError\n"]
    linecache.cache["<cell>"] = (40, None, lines, "<cell>")
    cell = main("".join(lines))
    parcel = encode(cell["f"]).parcel
    del linecache.cache["<cell>"]
    decode(parcel, {})
    assert linecache.getline("<cell>", 2) == lines[1]


def test_root_modules_are_listed_and_come_back_in_place() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    encoded = encode({"model": model, "part": model[0]})
    assert encoded.companions.modules == [model]
    _, there = decode(encoded.parcel, {})
    copy = there.modules[0].eval()
    with torch.no_grad():
        copy[0].weight.fill_(5)
        copy[1].running_mean.fill_(6)
    weight = model[0].weight
    assert load_module_state(model, module_state(copy)) == []
    assert model[0].weight is weight
    assert weight.eq(5).all()
    assert model[1].running_mean.eq(6).all()
    assert not model.training


def test_what_does_not_fit_is_told_and_left_alone() -> None:
    model = torch.nn.ModuleDict({"a": torch.nn.Linear(2, 2), "b": torch.nn.Linear(2, 2)})
    other = torch.nn.ModuleDict({"a": torch.nn.Linear(3, 2), "c": torch.nn.Linear(2, 2)})
    unfit = load_module_state(model, module_state(other))
    assert unfit == ["a.weight", "b.bias", "b.weight", "c.bias", "c.weight"]


def test_a_lazy_module_travels() -> None:
    assert isinstance(trip(torch.nn.LazyLinear(3)), torch.nn.LazyLinear)


@pytest.mark.parametrize("stand_in", [user_namespace, lambda: segment_storage(0)])
def test_a_bare_unpickler_is_told_what_to_use(stand_in: Any) -> None:
    with pytest.raises(pickle.UnpicklingError, match=r"codec\.decode"):
        stand_in()


class Trap:
    def __reduce__(self) -> Any:
        raise RuntimeError("I stay here")


@pytest.mark.parametrize(
    ("make", "path", "words"),
    [
        (lambda: {"a": [1, threading.Lock()]}, r"args\['a'\]\[1\]", "only inside one process"),
        (lambda: (n for n in range(3)), "args", "generator cannot be copied"),
        (lambda: open(__file__), "args", "open file belongs to one process"),  # noqa: SIM115
        (lambda: types.SimpleNamespace(deep=types.SimpleNamespace(trap=Trap())), "args.deep.trap", "I stay here"),
    ],
)
def test_the_culprit_is_named(make: Any, path: str, words: str) -> None:
    value = make()
    error = can_encode(value)
    assert error is not None
    found = find_culprit(value, "args", error)
    assert words in str(found)

    assert re.match(path, found.path)
    if hasattr(value, "close"):
        value.close()


def test_a_captured_culprit_is_named_by_its_variable(main: Any) -> None:
    cell = main("import threading\nlock = threading.Lock()\ndef inner():\n    with lock: pass\ndef train(): inner()")
    error = can_encode(cell["train"])
    assert error is not None
    found = find_culprit(cell["train"], "the function train()", error)
    assert found.path == "`lock`, which inner() uses"
    assert "Create it inside the function." in str(found)
