"""The codec: functions and data become parcels, parcels become functions and data.

Built on cloudpickle (protocol 5), with four differences:

* Functions and classes of the notebook are rebuilt on the receiving worker's user namespace, so that a helper that is
  defined anew, or a name that lives only in the worker, is seen.
* Classes that the receiver sent are referred to, never sent back: an instance comes home as an instance of the class
  that the notebook knows, and that class is left alone.
* Large buffers and CPU tensors travel as segments of the parcel (see `wire.tensors`).
* Modules and learning-rate schedulers that are met on the way are listed (`Companions`), so that trained weights can
  be copied home and ties that pickling loosens can be tied again.
"""

from __future__ import annotations

import io
import linecache
import os
import pickle
import sys
import types
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import cloudpickle
from cloudpickle import cloudpickle as internals

from nbaccel.wire.parcel import Parcel, pack
from nbaccel.wire.tensors import Storages, reduce_generator, retie_scheduler, storage_from

OUT_OF_BAND_BYTES = 16 * 1024
"""Buffers from this size are written to the parcel without a copy into the pickle."""


@dataclass(frozen=True)
class Companions:
    """What was met while a value was encoded, as the same objects on both sides.

    Attributes:
        definitions: functions and classes of the notebook, by the name that they have there.
        modules: torch modules that are no part of another one here.
        schedulers: learning-rate schedulers.
    """

    definitions: dict[str, object] = field(default_factory=dict)
    modules: list[Any] = field(default_factory=list)
    schedulers: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class Encoded:
    """A parcel and the kernel-side objects that its receiver will hold copies of."""

    parcel: Parcel
    companions: Companions


def encode(value: object, *, home: bool = False) -> Encoded:
    """Encode a value.

    Args:
        value: anything that cloudpickle takes.
        home: for the way back: classes that came from the receiver are referred to, and functions travel with
            copies of the globals that they use, so that nothing of the receiver's is overwritten.

    Raises:
        Whatever pickling the value raises (see `wire.culprit` for an error that names the culprit).
    """
    pickler = _Pickler(home)
    pickler.dump(value)
    companions = pickler.companions()
    pickler.dump(companions)
    return Encoded(pickler.parcel(), companions)


def can_encode(value: object) -> Exception | None:
    """Tries to encode a value, writes nothing; returns what was raised, None if all went well."""
    try:
        _Pickler(home=False).dump(value)
    except Exception as error:  # noqa: BLE001 - a user's __reduce__ may raise anything
        return error
    return None


def decode(parcel: Parcel, namespace: MutableMapping[str, object]) -> tuple[Any, Companions]:
    """Decode a parcel.

    Args:
        parcel: from `encode`, with its memory file if it has one.
        namespace: user namespace on which functions of the notebook are rebuilt.

    Returns:
        The value, and what was met while it was encoded.
    """
    for name, lines in parcel.sources:
        linecache.cache[name] = (sum(map(len, lines)), None, list(lines), name)
    unpickler = _Unpickler(parcel, namespace)
    value = unpickler.load()
    companions = unpickler.load()
    for scheduler in companions.schedulers:
        retie_scheduler(scheduler)
    return value, companions


class _UserNamespace(dict):  # type: ignore[type-arg]
    """Stands for the user namespace in a pickle; never empty, or cloudpickle would fill it."""

    def __init__(self) -> None:
        super().__init__(user_namespace=True)

    def __reduce__(self) -> tuple[Any, ...]:
        return user_namespace, ()


def user_namespace() -> Any:
    """In a pickle: the receiver's user namespace. The receiving `_Unpickler` puts its own in place of this."""
    raise pickle.UnpicklingError("this pickle can only be read by nbaccel.wire.codec.decode")


def segment_storage(number: int) -> Any:
    """In a pickle: the torch storage that lies in a segment. Replaced like `user_namespace`."""
    raise pickle.UnpicklingError("this pickle can only be read by nbaccel.wire.codec.decode")


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


class _Pickler(cloudpickle.Pickler):
    def __init__(self, home: bool) -> None:
        self._stream = io.BytesIO()
        super().__init__(self._stream, protocol=5, buffer_callback=self._keep_in_band)
        self._peer_classes = _received_classes if home else frozenset()
        self._main = sys.modules["__main__"].__dict__
        if not home:
            self.globals_ref[id(self._main)] = _UserNamespace()
        self._buffers: list[memoryview] = []
        self._storages = Storages(sys.modules.get("torch"), segment_storage)
        self._definitions: dict[str, object] = {}
        self._modules: list[Any] = []
        self._schedulers: list[Any] = []
        self._files: set[str] = set()

    def _keep_in_band(self, buffer: pickle.PickleBuffer) -> bool:
        view = buffer.raw()
        if view.nbytes < OUT_OF_BAND_BYTES:
            return True
        self._buffers.append(view)
        return False

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, types.FunctionType):
            self._note_definition(obj, obj.__code__.co_filename)
        elif isinstance(obj, type):
            tracker_id = internals._DYNAMIC_CLASS_TRACKER_BY_CLASS.get(obj)
            if tracker_id in self._peer_classes:
                return _tracked_class, (tracker_id,)
            self._note_definition(obj, None)
        elif isinstance(obj, io.TextIOWrapper) and obj not in (sys.stdout, sys.stderr):
            # cloudpickle would send a file's contents and never say so
            raise pickle.PicklingError("an open file belongs to one process")
        elif self._storages.torch is not None:
            reduced = self._reduce_torch(obj)
            if reduced is not NotImplemented:
                return reduced
        return super().reducer_override(obj)

    def _note_definition(self, obj: Any, file: str | None) -> None:
        obj_name: str = obj.__name__
        if obj.__module__ == "__main__" and self._main.get(obj_name) is obj:
            self._definitions[obj_name] = obj
        if file is not None:
            self._files.add(file)

    def _reduce_torch(self, obj: Any) -> Any:
        torch = self._storages.torch
        if isinstance(obj, torch.Tensor):
            return self._storages.reduce_tensor(obj)
        if isinstance(obj, torch.UntypedStorage | torch.TypedStorage):
            return self._storages.reduce_storage(obj)
        if isinstance(obj, torch.nn.Module):
            self._modules.append(obj)
        elif isinstance(obj, torch.Generator):
            return reduce_generator(obj)
        elif isinstance(obj, torch.optim.lr_scheduler.LRScheduler):
            self._schedulers.append(obj)
        return NotImplemented

    def companions(self) -> Companions:
        parts = {id(part) for module in self._modules for part in module.modules() if part is not module}
        roots = [module for module in self._modules if id(module) not in parts]
        return Companions(self._definitions, roots, self._schedulers)

    def parcel(self) -> Parcel:
        segments = [*self._storages.segments(), *((view.nbytes, [(0, view)]) for view in self._buffers)]
        first_buffer = len(segments) - len(self._buffers)
        pickled = self._stream.getbuffer()
        segments.append((pickled.nbytes, [(0, pickled)]))
        return pack(segments, range(first_buffer, len(segments) - 1), tuple(_sources(self._files)))


def _sources(files: set[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Source lines of code that was typed into cells: those that lie in no file."""
    for name in sorted(files):
        if name in linecache.cache and not os.path.exists(name):
            yield name, tuple(linecache.getlines(name))


class _Unpickler(pickle.Unpickler):
    def __init__(self, parcel: Parcel, namespace: MutableMapping[str, object]) -> None:
        self._segments = parcel.open()
        self._storage: dict[int, Any] = {}
        self._namespace = namespace
        buffers = (self._segments[number] for number in parcel.buffers)
        super().__init__(io.BytesIO(self._segments[-1]), buffers=buffers)

    def find_class(self, module: str, name: str) -> Any:
        if module == __name__:
            if name == user_namespace.__name__:
                return lambda: self._namespace
            if name == segment_storage.__name__:
                return self._segment_storage
        found = super().find_class(module, name)
        is_class_maker = module == internals.__name__ and name in ("_make_skeleton_class", "_make_skeleton_enum")
        return _receiving(found) if is_class_maker else found

    def _segment_storage(self, number: int) -> Any:
        if number not in self._storage:
            self._storage[number] = storage_from(self._segments[number])
        return self._storage[number]
