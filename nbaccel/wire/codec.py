"""The codec: functions and data become parcels, parcels become functions and data.

Built on cloudpickle (protocol 5), with these differences:

* Functions and classes of the notebook are rebuilt on the receiving worker's user namespace, so that a helper that is
  defined anew, or a name that lives only in the worker, is seen. The notebook's names that they use travel with them,
  or are only listed (`by_name`), for a kernel that knows which names the worker has.
* Classes that the receiver sent are referred to, never sent back: an instance comes home as an instance of the class
  that the notebook knows, and that class is left alone.
* Large buffers and CPU tensors travel as segments of the parcel (see `wire.tensors`), or as references to shared
  memory (see `wire.shared`).
* Modules, optimizers and learning-rate schedulers that are met on the way are listed (`wire.companions`), so that what
  was trained can be copied home, and ties that pickling loosens can be tied again.
"""

from __future__ import annotations

import io
import linecache
import os
import pickle
import sys
import types
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import cloudpickle
from cloudpickle import cloudpickle as internals

from nbaccel.wire import shared
from nbaccel.wire.byvalue import reduce_by_value
from nbaccel.wire.captures import EVERYWHERE, OF_ANY_MODULE, globals_of_classes
from nbaccel.wire.companions import Companions, Reference, unwrapped
from nbaccel.wire.parcel import Layout, MemoryFile, Parcel
from nbaccel.wire.tensors import Storages, reduce_generator, retie_scheduler, storage_from

OUT_OF_BAND_BYTES = 16 * 1024
"""Buffers from this size are written to the parcel without a copy into the pickle."""


@dataclass(frozen=True)
class Encoded:
    """A parcel and what the sender must know about it.

    Attributes:
        parcel: the encoded value.
        companions: this side's objects of which the receiver will hold copies.
        needs: with `by_name`: the notebook's names that functions in the parcel use and expect to find.
    """

    parcel: Parcel
    companions: Companions
    needs: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Apart:
    """A value whose data lies in a file of its own: its memory is given back when it is gone, whatever is kept."""

    value: Any


def encode(
    value: object, *, home: bool = False, by_name: bool = False, companions: Mapping[int, Reference] | None = None
) -> Encoded:
    """Encode a value.

    Args:
        value: anything that cloudpickle takes.
        home: for the way back: classes that came from the receiver are referred to, and functions travel with
            copies of the globals that they use, so that nothing of the receiver's is overwritten.
        by_name: functions of the notebook travel without the notebook's names that they use: see `Encoded.needs`.
        companions: for the way back: objects that the receiver has, by their id (`Arrived.references()`).

    Raises:
        Whatever pickling the value raises (see `wire.culprit` for an error that names the culprit).
    """
    pickler = _Pickler(home, by_name, companions or {})
    pickler.dump(value)
    met = pickler.companions()
    pickler.dump(met)
    return Encoded(pickler.parcel(), met, frozenset(pickler.needs))


def needs_of(value: object) -> frozenset[str]:
    """Names of the notebook that functions and classes in a value use (see `Encoded.needs`); writes nothing."""
    pickler = _Pickler(home=False, by_name=True, references={})
    with suppress(Exception):  # what cannot be sent is told when it is sent
        pickler.dump(value)
    return frozenset(pickler.needs)


def can_encode(
    value: object, *, home: bool = False, by_name: bool = False, companions: Mapping[int, Reference] | None = None
) -> Exception | None:
    """Tries to encode a value, writes nothing; returns what was raised, None if all went well."""
    try:
        _Pickler(home, by_name, companions or {}).dump(value)
    except Exception as error:  # noqa: BLE001 - a user's __reduce__ may raise anything
        return error
    return None


def decode(
    parcel: Parcel, namespace: MutableMapping[str, object], companions: Companions | None = None
) -> tuple[Any, Companions]:
    """Decode a parcel.

    Args:
        parcel: from `encode`, with its memory files if it has some.
        namespace: user namespace on which functions of the notebook are rebuilt.
        companions: the objects that references in a parcel on its way home stand for.

    Returns:
        The value, and what was met while it was encoded.
    """
    for name, lines in parcel.sources:
        linecache.cache[name] = (sum(map(len, lines)), None, list(lines), name)
    unpickler = _Unpickler(parcel, namespace, companions or Companions())
    value = unpickler.load()
    met = unpickler.load()
    for scheduler in met.schedulers:
        retie_scheduler(scheduler)
    return value, met


class _UserNamespace(dict):  # type: ignore[type-arg]
    """Stands for the user namespace in a pickle; never empty, or cloudpickle would fill it."""

    def __init__(self) -> None:
        super().__init__(user_namespace=True)

    def __reduce__(self) -> tuple[Any, ...]:
        return user_namespace, ()


def _only_decode_reads_this() -> pickle.UnpicklingError:
    return pickle.UnpicklingError("this pickle can only be read by nbaccel.wire.codec.decode")


def user_namespace() -> Any:
    """In a pickle: the receiver's user namespace. The receiving `_Unpickler` puts its own in place of this."""
    raise _only_decode_reads_this()


def segment_storage(number: int) -> Any:
    """In a pickle: the torch storage that lies in a segment. Replaced like `user_namespace`."""
    raise _only_decode_reads_this()


def segment_array(number: int, *layout: Any) -> Any:
    """In a pickle: the numpy array that lies in a segment. Replaced like `user_namespace`."""
    raise _only_decode_reads_this()


def companion(kind: str, number: int, path: str) -> Any:
    """In a pickle: an object that the receiver sent. Replaced like `user_namespace`."""
    raise _only_decode_reads_this()


_received_classes: set[str] = set()
"""Tracker ids of the classes that this process was sent."""


def _receiving(make: Callable[..., Any]) -> Callable[..., Any]:
    """Notes the class that cloudpickle makes; its tracker id is the last but one of the arguments."""

    def noted(*arguments: Any) -> Any:
        _received_classes.add(arguments[-2])
        return make(*arguments)

    return noted


def _tracked_class(tracker_id: str) -> Any:
    """In a pickle: a class that the receiver once sent."""
    return internals._DYNAMIC_CLASS_TRACKER_BY_ID[tracker_id]


def _itself(value: Any) -> Any:
    """In a pickle: what stands in place of a wrapper."""
    return value


def _nowhere(address: int, size: int) -> tuple[MemoryFile, int] | None:
    """Looks up shared memory for parcels on their way home: the worker's is its own, and may differ by now."""
    return None


_SURROUNDINGS = "__pydantic_parent_namespace__"


class _OutOfBand:
    """Takes large buffers; no part of the pickler, which would hold itself and what it has met for ever."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self.numbers: list[int] = []

    def keep_in_band(self, buffer: pickle.PickleBuffer) -> bool:
        view = buffer.raw()
        if view.nbytes < OUT_OF_BAND_BYTES:
            return True
        self.numbers.append(self._layout.add(view.nbytes, lambda: [(0, view)]))
        return False


_STREAMS = ("__stdout__", "__stderr__", "stdout", "stderr")


class _Pickler(cloudpickle.Pickler):
    def __init__(self, home: bool, by_name: bool, references: Mapping[int, Reference]) -> None:
        self._stream = io.BytesIO()
        self._layout = Layout()
        self._out_of_band = _OutOfBand(self._layout)
        super().__init__(self._stream, protocol=5, buffer_callback=self._out_of_band.keep_in_band)
        self._home, self._by_name, self._references = home, by_name, references
        self._peer_classes = _received_classes if home else frozenset()
        self._main = sys.modules["__main__"].__dict__
        if not home:
            self.globals_ref[id(self._main)] = _UserNamespace()
        self.needs: set[str] = set()
        shares = shared.any_regions() and not home
        self._find = shared.find if shares else _nowhere
        self._array_type = getattr(sys.modules.get("numpy"), "ndarray", None) if shares else None
        self._storages = Storages(sys.modules.get("torch"), segment_storage, self._layout, self._find)
        self._streams = {id(getattr(sys, name)): name.strip("_") for name in _STREAMS}
        self._handles = _handle_types()
        self._definitions: dict[str, object] = {}
        self._modules: list[Any] = []
        self._optimizers: list[Any] = []
        self._schedulers: list[Any] = []
        self._files: set[str] = set()

    def reducer_override(self, obj: Any) -> Any:
        reduced = self._reduce_going_home(obj) if self._home else NotImplemented
        if reduced is NotImplemented:
            reduced = self._reduce_definition(obj)
        if reduced is NotImplemented:
            reduced = self._reduce_data(obj)
        if reduced is NotImplemented:
            reduced = super().reducer_override(obj)
            if isinstance(obj, type) and reduced is not NotImplemented:
                _without_surroundings(obj, reduced)
        return reduced

    def _reduce_going_home(self, obj: Any) -> Any:
        if id(obj) in self._references:
            return companion, tuple(self._references[id(obj)])
        if type(obj) is Apart:
            self._layout.begin_part()
            return _itself, (obj.value,)
        own = unwrapped(obj)
        return NotImplemented if own is obj else (_itself, (own,))

    def _reduce_definition(self, obj: Any) -> Any:
        if isinstance(obj, types.FunctionType):
            current = _reloaded(obj)
            if current is not None:
                return _itself, (current,)
            self._note_definition(obj, obj.__code__.co_filename)
        elif isinstance(obj, type):
            tracker_id = internals._DYNAMIC_CLASS_TRACKER_BY_CLASS.get(obj)
            if tracker_id in self._peer_classes:
                return _tracked_class, (tracker_id,)
            self._note_definition(obj, None)
        else:
            reduced = reduce_by_value(obj)
            if reduced is not NotImplemented:
                self._note_definition(obj, None)
            return reduced
        return NotImplemented

    def _note_definition(self, obj: Any, file: str | None) -> None:
        obj_name: str = getattr(obj, "__name__", "")  # a cached partial has none
        if obj.__module__ == "__main__" and self._main.get(obj_name) is obj:
            self._definitions[obj_name] = obj
        if file is not None:
            self._files.add(file)

    def _dynamic_function_reduce(self, func: types.FunctionType) -> Any:
        """cloudpickle's way to reduce a function by value."""
        reduced = super()._dynamic_function_reduce(func)
        _, attributes = reduced[2]
        attributes["__globals__"] |= globals_of_classes(func)
        if func.__globals__ is self._main and not self._home:
            used = {name: value for name, value in attributes["__globals__"].items() if name not in EVERYWHERE}
            if self._by_name:
                self.needs.update(used.keys() - OF_ANY_MODULE)
            attributes["__globals__"] = {} if self._by_name else used
        return reduced

    def _reduce_data(self, obj: Any) -> Any:
        if id(obj) in self._streams:
            return getattr, (sys, self._streams[id(obj)])
        if isinstance(obj, self._handles):
            # pickle would send a file's contents, or the number of a descriptor, and never say so
            raise pickle.PicklingError("it belongs to one process")
        if type(obj) is self._array_type:
            return self._reduce_array(obj)
        if self._storages.torch is not None:
            return self._reduce_torch(obj)
        return NotImplemented

    def _reduce_array(self, array: Any) -> Any:
        if not array.size or array.dtype.hasobject:
            return NotImplemented
        address = array.ctypes.data
        low, high = shared.extent(address, array.itemsize, array.shape, array.strides)
        place = self._find(low, high - low)
        if place is None:
            return NotImplemented
        number = self._layout.add_shared(*place, high - low)
        layout = array.dtype, array.shape, address - low, array.strides, array.flags.writeable
        return segment_array, (number, *layout)

    def _reduce_torch(self, obj: Any) -> Any:
        torch = self._storages.torch
        if isinstance(obj, torch.Tensor):
            return self._storages.reduce_tensor(obj)
        if isinstance(obj, torch.UntypedStorage | torch.TypedStorage):
            return self._storages.reduce_storage(obj)
        if isinstance(obj, torch.Generator):
            return reduce_generator(obj)
        self._note_companion(obj, torch)
        return NotImplemented

    def _note_companion(self, obj: Any, torch: Any) -> None:
        rates = torch.optim.lr_scheduler
        if isinstance(obj, torch.nn.Module):
            self._modules.append(obj)
        elif isinstance(obj, torch.optim.Optimizer):
            self._optimizers.append(obj)
        elif isinstance(obj, rates.LRScheduler | rates.ReduceLROnPlateau):  # older versions do not derive the latter
            self._schedulers.append(obj)

    def companions(self) -> Companions:
        parts = {id(part) for module in self._modules for part in module.modules() if part is not module}
        roots = [module for module in self._modules if id(module) not in parts]
        return Companions(self._definitions, roots, self._optimizers, self._schedulers)

    def parcel(self) -> Parcel:
        pickled = self._stream.getbuffer()
        self._layout.add(pickled.nbytes, lambda: [(0, pickled)])
        return self._layout.parcel(self._out_of_band.numbers, tuple(_sources(self._files)))


def _handle_types() -> tuple[type, ...]:
    """What stands for a file or connection of this process and pickles all the same."""
    modules = (sys.modules.get(f"{package}.connection") for package in ("multiprocessing", "multiprocess"))
    connections = (getattr(module, "_ConnectionBase", None) for module in modules)
    return (io.TextIOWrapper, *(kind for kind in connections if kind is not None))


def _without_surroundings(made: type, reduced: Any) -> None:
    """Models of pydantic keep the names around them: all of the notebook's where IPython (7) calls a cell's code by its
    line, since pydantic takes that for the body of a function."""
    state = reduced[2] if len(reduced) > 2 else None
    if isinstance(state, tuple) and "<locals>" not in made.__qualname__ and _SURROUNDINGS in state[0]:
        state[0][_SURROUNDINGS] = None


def _reloaded(function: types.FunctionType) -> Any:
    """What a function's module has in its place after a reload that has put the new code into the old function too.

    The worker imports the module and needs nothing more; by value, the function would bring its module's names along.
    """
    module = sys.modules.get(function.__module__ or "__main__")
    if module is None or module.__name__ == "__main__":
        return None
    found: Any = module
    for name in function.__qualname__.split("."):
        found = getattr(found, name, None)
    return found if found is not function and _is_twin(found, function) else None


def _is_twin(found: Any, function: types.FunctionType) -> bool:
    if not isinstance(found, types.FunctionType) or found.__code__ is not function.__code__ or function.__closure__:
        return False
    return found.__globals__ is function.__globals__ and found.__defaults__ is function.__defaults__


def _sources(files: set[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Source lines of code that was typed into cells: those that lie in no file."""
    for name in sorted(files):
        if name in linecache.cache and not os.path.exists(name):
            yield name, tuple(linecache.getlines(name))


class _Unpickler(pickle.Unpickler):
    def __init__(self, parcel: Parcel, namespace: MutableMapping[str, object], companions: Companions) -> None:
        segments = parcel.open()
        storages = _Once(lambda number: storage_from(segments[number]))
        self._stand_ins: dict[str, Callable[..., Any]] = {
            user_namespace.__name__: lambda: namespace,
            segment_storage.__name__: storages,
            segment_array.__name__: lambda number, *layout: shared.array_over(segments[number], *layout),
            companion.__name__: lambda *reference: companions.at(Reference(*reference)),
        }
        super().__init__(io.BytesIO(segments[-1]), buffers=(segments[number] for number in parcel.buffers))

    def find_class(self, module: str, name: str) -> Any:
        if module == __name__ and name in self._stand_ins:
            return self._stand_ins[name]
        found = super().find_class(module, name)
        is_class_maker = module == internals.__name__ and name in ("_make_skeleton_class", "_make_skeleton_enum")
        return _receiving(found) if is_class_maker else found


class _Once:
    """Makes something for a number, and gives the same for the same number again."""

    def __init__(self, make: Callable[[int], Any]) -> None:
        self._make = make
        self._made: dict[int, Any] = {}

    def __call__(self, number: int) -> Any:
        if number not in self._made:
            self._made[number] = self._make(number)
        return self._made[number]
