from __future__ import annotations

import fnmatch
import functools
import gc
import importlib
import io
import linecache
import multiprocessing
import os
import pickle
import queue
import re
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import types
import warnings
import weakref
from typing import Any

import multiprocess
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
        exec(compile(source, "<cell>", "exec", dont_inherit=True), module.__dict__)
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


def test_nothing_is_kept_alive_once_it_is_encoded_or_decoded() -> None:
    gc.collect()
    gc.disable()
    try:
        for try_out in (encode, can_encode, trip):
            value = torch.nn.Linear(300, 300)
            value.array = np.zeros(100_000)  # type: ignore[assignment]
            result = try_out(value)  # type: ignore[operator]
            gone = weakref.ref(value), weakref.ref(value.weight.untyped_storage()), weakref.ref(value.array)  # type: ignore[arg-type]
            del value, result
            assert [reference() for reference in gone] == [None] * 3, try_out
        with open("/proc/self/maps") as maps:
            assert "memfd:nbaccel" not in maps.read()
    finally:
        gc.enable()


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
    ids=lambda value: type(value).__name__,  # their contents are random
)
def test_tensors_of_every_kind(tensor: torch.Tensor) -> None:
    arrived = trip(tensor)
    assert type(arrived) is type(tensor)
    assert (arrived.dtype, arrived.shape, arrived.stride()) == (tensor.dtype, tensor.shape, tensor.stride())
    assert arrived.requires_grad == tensor.requires_grad
    if not tensor.is_meta:
        assert torch.equal(arrived.to(torch.complex128), tensor.to(torch.complex128))  # float8 cannot be compared


def test_a_storage_that_is_not_in_this_processs_memory_is_never_read_there() -> None:
    nowhere = torch.UntypedStorage(100, device="meta")
    typed = torch.storage.TypedStorage(wrap_storage=nowhere, dtype=torch.uint8, _internal=True)
    for storage in (nowhere, typed):  # as a subclass of Tensor on a device brings one
        with pytest.raises(NotImplementedError, match="no data"):
            encode(storage)


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


def test_by_name_functions_only_list_what_they_need(main: Any) -> None:
    cell = main(
        "import math\nfactor = 2\nunused = 3\ndef helper(x): return factor * x\n"
        "class Net:\n    def go(self, x): return [helper(n) for n in (lambda: [x, factor])()]\n"
        "def outer(x):\n    def inner(): return math.floor(helper(x)) + len(__name__) + missing\n    return inner()\n"
    )
    namespace: dict[str, object] = {"missing": 0, "factor": "mine", "__name__": "__main__"}
    encoded = encode({"outer": cell["outer"], "net": cell["Net"]()}, by_name=True)
    assert encoded.needs == {"math", "helper", "factor"}
    assert encoded.companions.definitions.keys() == {"outer", "Net"}
    there, companions = decode(encoded.parcel, namespace)
    assert namespace["factor"] == "mine"
    assert companions.definitions.keys() == {"outer", "Net"}
    namespace.update(
        decode(encode({"math": cell["math"], "helper": cell["helper"]}, by_name=True).parcel, namespace)[0]
    )
    namespace["factor"] = 10
    assert there["outer"](3) == 38
    assert there["net"].go(1) == [10, 100]


def test_functions_find_the_workers_shell(main: Any) -> None:
    cell = main("import threading\nget_ipython = threading.Lock()\ndef shell(): return get_ipython")
    assert encode(cell["shell"], by_name=True).needs == frozenset()
    assert trip(cell["shell"], {"get_ipython": "the worker's"})() == "the worker's"


def test_by_name_what_surrounds_a_function_travels_with_it(main: Any) -> None:
    cell = main("scale = 3\ndef make(own):\n    return lambda x: own * scale * x\ntripled = make(2)")
    encoded = encode(cell["tripled"], by_name=True)
    assert encoded.needs == {"scale"}
    assert decode(encoded.parcel, {"scale": 5})[0](1) == 10


@pytest.mark.parametrize(
    ("decorator", "parameters"),
    [("cache", (None, False)), ("lru_cache", (128, False)), ("lru_cache(maxsize=3, typed=True)", (3, True))],
)
def test_a_cached_function_travels_with_what_it_uses(main: Any, decorator: str, parameters: tuple[Any, bool]) -> None:
    cell = main(
        f"import functools\nbase = 1\n@functools.{decorator}\ndef fib(n):\n    'Rabbits.'\n"
        "    return base if n < 2 else fib(n - 1) + fib(n - 2)\nfib.note = 'mine'\ndef train(): return fib(9)\n"
    )
    namespace: dict[str, Any] = {}
    assert trip(cell["train"], namespace)() == 55
    there = namespace["fib"]
    assert there is not cell["fib"]
    assert tuple(there.cache_parameters().values()) == parameters
    assert (there.__doc__, there.__name__, there.note, there.__wrapped__.__name__) == ("Rabbits.", "fib", "mine", "fib")
    encoded = encode(cell["fib"], by_name=True)
    assert encoded.needs == {"base", "fib"}
    assert encoded.companions.definitions == {"fib": cell["fib"]}


def test_cached_functions_without_a_name_of_the_notebook_travel(main: Any) -> None:
    cell = main(
        "import functools\nscale = 3\nclass Net:\n    @functools.cache\n    def go(self, x): return x * scale\n"
        "def make(own):\n    @functools.cache\n    def inner(x): return x * own\n    return inner\nmade = make(5)\n"
        "power = functools.cache(functools.partial(pow, 2))\n"
    )
    net, made, power = trip([cell["Net"](), cell["made"], cell["power"]])
    assert (net.go(2), made(2), power(5)) == (6, 10, 32)
    assert power is not cell["power"]
    assert trip(fnmatch._compile_pattern) is fnmatch._compile_pattern  # type: ignore[attr-defined]


def test_a_new_type_in_an_annotation_travels(main: Any) -> None:
    cell = main("import typing\nUserId = typing.NewType('UserId', int)\ndef find(user: UserId): return user\n")
    there = trip(cell["find"]).__annotations__["user"]
    assert there is not cell["UserId"]
    assert (there.__supertype__, there.__module__, there.__name__, there(3)) == (int, "__main__", "UserId", 3)


def test_names_that_classes_inside_a_function_use_travel(main: Any) -> None:
    cell = main(
        "SIZE, STEP, own, Kind = 8, 2, 'the notebook', int\n"
        "def train():\n    class Net:\n        size = SIZE\n        own = 'the class'\n        again = own\n"
        "        class Part:\n            kind: Kind = 1\n            def __call__(self, by=STEP): return by\n"
        "    return Net.size + Net.Part()(), Net.again\n"
    )
    namespace: dict[str, object] = {}
    assert trip(cell["train"], namespace)() == (10, "the class")
    assert namespace.keys() >= {"SIZE", "STEP", "Kind"}
    assert "own" not in namespace
    assert encode(cell["train"], by_name=True).needs == {"SIZE", "STEP", "Kind"}
    assert decode(encode(cell["train"], home=True).parcel, {})[0]() == (10, "the class")


def test_by_name_a_name_between_underscores_is_a_name_like_others(main: Any) -> None:
    cell = main("__version__ = '1'\ndef tell(): return __version__, __name__, __doc__\n")
    assert encode(cell["tell"], by_name=True).needs == {"__version__"}


def test_by_name_functions_of_modules_need_nothing() -> None:
    encoded = encode([os.path.join, warnings.warn, torch.nn.Linear(2, 2)], by_name=True)
    assert encoded.needs == frozenset()


def test_a_function_that_a_reload_has_brought_up_to_date_needs_only_its_module(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "reloaded_module.py").write_text(
        "import threading\nlock = threading.Lock()\ndef f():\n    return lock\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("reloaded_module")
    old = module.f
    importlib.reload(module)
    assert can_encode(old) is not None, "its module has another function now"
    old.__code__ = module.f.__code__  # as %autoreload does
    assert trip(old) is module.f


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
        (lambda: types.SimpleNamespace(deep=types.SimpleNamespace(trap=Trap())), "args.deep.trap", "I stay here"),
        (lambda: functools.partial(print, 1, end=Trap()), "the keywords of args['end']", "I stay here"),
        (lambda: functools.partial(print, Trap()), "the arguments of args[0]", "I stay here"),
        (lambda: functools.partial(Trap().__reduce__), "the object of the function of args", "I stay here"),
    ],
)
def test_the_culprit_is_named(make: Any, path: str, words: str) -> None:
    value = make()
    error = can_encode(value)
    assert error is not None
    found = find_culprit(value, "args", error)
    assert words in str(found)
    assert re.match(path, found.path) or found.path == path


def connection(package: Any) -> Any:
    ends = package.Pipe()
    ends[1].close()
    return ends[0]


def opened(name: str, mode: str, buffering: int = -1) -> Any:
    return open(name, mode, buffering)


HANDLES: dict[str, tuple[Any, str]] = {
    "text file": (lambda: opened(__file__, "r"), "open file belongs to one process"),
    "reader": (lambda: opened(__file__, "rb"), "open file belongs to one process"),
    "writer": (lambda: opened(os.devnull, "wb"), "open file belongs to one process"),
    "random access": (lambda: opened(os.devnull, "r+b"), "open file belongs to one process"),
    "raw file": (lambda: opened(__file__, "rb", 0), "open file belongs to one process"),
    "temporary file": (tempfile.NamedTemporaryFile, "open file belongs to one process"),
    "socket": (socket.socket, "a connection belongs to one process"),
    "database": (lambda: sqlite3.connect(":memory:"), "a connection belongs to one process"),
    "pipe": (lambda: connection(multiprocessing), "a connection belongs to one process"),
    "pipe of multiprocess": (lambda: connection(multiprocess), "a connection belongs to one process"),
    "lock": (threading.Lock, "only inside one process"),
    "reentrant lock": (threading.RLock, "only inside one process"),
    "event": (threading.Event, "only inside one process"),
    "lock of processes": (multiprocessing.Lock, "only inside one process"),
    "lock of multiprocess": (multiprocess.Lock, "only inside one process"),
    "event of processes": (multiprocessing.Event, "only inside one process"),
    "counter of processes": (lambda: multiprocessing.Value("i"), "only inside one process"),
    "queue": (queue.Queue, "a queue works only inside the process"),
    "thread": (threading.Thread, "what is running cannot be copied"),
    "process": (lambda: subprocess.Popen(["true"]), "what is running cannot be copied"),
}


@pytest.mark.parametrize("kind", HANDLES)
def test_what_belongs_to_one_process_is_refused_and_named(kind: str, main: Any) -> None:
    make, words = HANDLES[kind]
    handle = make()
    cell = main(
        "def surround(own):\n    def train(): return own\n    return train\ndef outer():\n    return lambda: own"
    )
    cell["own"] = handle
    try:
        for value, place in (
            (cell["surround"](handle), "`own`, which train() uses"),
            (cell["outer"], "`own`, which outer() uses"),
            ({"own": handle}, "value['own']"),
        ):
            error = can_encode(value)
            assert error is not None, f"{kind} was copied without a word"
            found = find_culprit(value, "value", error)
            assert found.path == place
            assert words in str(found)
            assert can_encode(value, home=True) is not None
    finally:
        if hasattr(handle, "close"):
            handle.close()
        if isinstance(handle, subprocess.Popen):
            handle.wait()


def test_what_is_no_file_of_one_process_travels() -> None:
    text, data = trip([io.StringIO("text"), io.BytesIO(b"data")])
    assert (text.read(), data.read()) == ("text", b"data")
    assert trip([sys.stdout, sys.__stdout__, sys.stderr]) == [sys.stdout, sys.stdout, sys.stderr]


def test_a_captured_culprit_is_named_by_its_variable(main: Any) -> None:
    cell = main("import threading\nlock = threading.Lock()\ndef inner():\n    with lock: pass\ndef train(): inner()")
    error = can_encode(cell["train"])
    assert error is not None
    found = find_culprit(cell["train"], "the function train()", error)
    assert found.path == "`lock`, which inner() uses"
    assert "Create it inside the function." in str(found)


def test_an_attribute_of_a_variable_is_named_as_one_would_write_it(main: Any) -> None:
    cell = main(
        "import types, threading\nconfig = types.SimpleNamespace(lock=threading.Lock())\ndef train(): return config"
    )
    error = can_encode(cell["train"])
    assert error is not None
    assert find_culprit(cell["train"], "the function train()", error).path == "`config.lock`, which train() uses"
    found = find_culprit(cell["config"], "`config`", error)
    assert found.path == "`config.lock`"
    assert "Create it in the cell itself." in str(found)


def test_what_a_cached_function_uses_is_named(main: Any) -> None:
    cell = main(
        "import functools, threading\nlock = threading.Lock()\n@functools.cache\ndef tok(x): return lock\n"
        "def train(): return tok(1)"
    )
    error = can_encode(cell["train"])
    assert error is not None
    assert find_culprit(cell["train"], "the function train()", error).path == "`lock`, which tok() uses"


def test_a_default_is_named(main: Any) -> None:
    cell = main("def train(stream=(n for n in range(3))): pass")
    error = can_encode(cell["train"])
    assert error is not None
    assert re.match(r"the default <generator.* of train\(\)", find_culprit(cell["train"], "train()", error).path)


def test_by_name_only_what_would_travel_is_blamed(main: Any) -> None:
    cell = main(
        "import threading\nlock = threading.Lock()\ndef make(own):\n"
        "    def train(): return lock, own\n    return train\ntrain = make(threading.Lock())"
    )
    error = can_encode(cell["train"], by_name=True)
    assert error is not None
    assert find_culprit(cell["train"], "train()", error, by_name=True).path == "`own`, which train() uses"
    assert can_encode(cell["make"], by_name=True) is None


def test_a_model_of_pydantic_does_not_drag_the_notebook_along(main: Any) -> None:
    # IPython 7 calls a cell's code by its line, and pydantic takes that for a function's body
    cell = compile(
        "class Settings(BaseModel):\n    epochs: int = 3\n    before: 'Settings | None' = None\n", "<cell>", "exec"
    )
    names = main("from pydantic import BaseModel\nimport threading\nlock = threading.Lock()")

    def run() -> None:
        exec(cell.replace(co_name="<cell line: 1>"), names)

    run()
    sent = encode(names["Settings"](epochs=5)).parcel
    assert "lock" in names["Settings"].__pydantic_parent_namespace__
    arrived, _ = decode(sent, {})
    assert arrived.epochs == 5
    assert type(arrived).model_validate({"before": {"epochs": "7"}}).before.epochs == 7
