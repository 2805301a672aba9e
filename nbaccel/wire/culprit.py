"""Names what cannot be sent: walks from a value that does not pickle to the innermost part that is to blame."""

from __future__ import annotations

import functools
import pickle
import reprlib
import sys
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from nbaccel.errors import ShipError
from nbaccel.wire.captures import enclosed, used_globals
from nbaccel.wire.codec import can_encode

_MOST_CHILDREN = 200
_DEEPEST = 8

_LOCK = "a lock works only inside one process"
_FILE = "an open file belongs to one process"
_CONNECTION = "a connection belongs to one process"
_QUEUE = "a queue works only inside the process that made it"
_RUNNING = "what is running cannot be copied"

_ADVICE = {
    **dict.fromkeys(("lock", "Lock", "RLock", "Condition", "Event", "Barrier"), _LOCK),
    **dict.fromkeys(("Semaphore", "BoundedSemaphore", "Synchronized", "SynchronizedArray"), _LOCK),
    **dict.fromkeys(("TextIOWrapper", "BufferedReader", "BufferedWriter", "BufferedRandom", "FileIO"), _FILE),
    **dict.fromkeys(("_TemporaryFileWrapper", "GzipFile", "ZipFile", "TarFile", "StreamReaderWriter", "mmap"), _FILE),
    **dict.fromkeys(("socket", "SSLSocket", "Connection", "Cursor"), _CONNECTION),
    **dict.fromkeys(("Queue", "SimpleQueue", "JoinableQueue", "LifoQueue", "PriorityQueue"), _QUEUE),
    **dict.fromkeys(("Thread", "Timer", "Process", "Popen", "Task", "Future", "ThreadPoolExecutor"), _RUNNING),
    **dict.fromkeys(("frame", "coroutine", "async_generator"), _RUNNING),
    "generator": "a generator cannot be copied",
}
"""By the name of the type; only types of the standard library are looked up."""

_LIBRARY = frozenset({*sys.stdlib_module_names, "multiprocess"})


@dataclass(frozen=True)
class _Place:
    """Where a value was found, as the user would write it: `before` and `after` are words around an expression."""

    before: str
    expression: str
    after: str = ""

    def __str__(self) -> str:
        return f"{self.before}{self.expression}{self.after}"

    def at(self, suffix: str) -> _Place:
        return replace(self, expression=self.expression + suffix)

    def within(self, words: str) -> _Place:
        return replace(self, before=f"{words} of {self.before}")


def find_culprit(value: object, path: str, error: Exception, *, home: bool = False, by_name: bool = False) -> ShipError:
    """An error that names the part of a value that does not pickle.

    Args:
        value: what was to be sent.
        path: what the user calls it ("the function `train`").
        error: what pickling it raised.
        home: whether it was to be sent home.
        by_name: whether it was to be sent without the notebook's names that functions use.
    """
    is_name = path.startswith("`") and path.endswith("`")
    place = _Place("`", path[1:-1], "`") if is_name else _Place("", path)
    return _Search(home, by_name).within(value, place, error)


@dataclass(frozen=True)
class _Search:
    home: bool
    by_name: bool
    seen: set[int] = field(default_factory=set)

    def within(self, value: object, place: _Place, error: Exception, depth: int = 0) -> ShipError:
        self.seen.add(id(value))
        advice = _advice(value)
        if advice is None and depth < _DEEPEST:
            for child_place, child in self._children(value, place):
                if id(child) in self.seen:
                    continue
                child_error = can_encode(child, home=self.home, by_name=self.by_name)
                if child_error is not None:
                    return self.within(child, child_place, child_error, depth + 1)
        return ShipError(str(place), type(value).__name__, advice or _reason(error), _remedy(place))

    def _children(self, value: object, place: _Place) -> Iterator[tuple[_Place, object]]:
        for number, child in enumerate(self._parts(value, place)):
            if number == _MOST_CHILDREN:
                return
            yield child

    def _parts(self, value: object, place: _Place) -> Iterator[tuple[_Place, object]]:
        if isinstance(value, types.FunctionType):
            yield from self._captured(value)
        elif isinstance(value, types.MethodType):
            yield place.within("the object"), value.__self__
        elif isinstance(value, functools.partial):
            yield place.within("the function"), value.func
            yield from self._parts(value.args, place.within("the arguments"))
            yield from self._parts(value.keywords, place.within("the keywords"))
        elif isinstance(value, Mapping):
            yield from ((place.at(f"[{key!r}]"), child) for key, child in value.items())
        elif isinstance(value, list | tuple | set | frozenset):
            yield from ((place.at(f"[{number}]"), child) for number, child in enumerate(value))
        elif isinstance(value, type):
            yield from ((place.at(f".{name}"), child) for name, child in vars(value).items() if name[:2] != "__")
        else:
            yield from ((place.at(f".{name}"), child) for name, child in getattr(value, "__dict__", {}).items())

    def _captured(self, function: types.FunctionType) -> Iterator[tuple[_Place, object]]:
        is_notebooks = function.__globals__ is sys.modules["__main__"].__dict__
        outside = {} if self.by_name and is_notebooks else used_globals(function)
        for name, child in {**enclosed(function), **outside}.items():
            yield _Place("`", name, f"`, which {function.__name__}() uses"), child
        for default in function.__defaults__ or ():
            yield _Place(f"the default {reprlib.repr(default)} of {function.__name__}()", ""), default


def _advice(value: object) -> str | None:
    kind = type(value)
    return _ADVICE.get(kind.__name__) if kind.__module__.partition(".")[0] in _LIBRARY else None


def _reason(error: Exception) -> str:
    return str(error) if type(error) is pickle.PicklingError else f"{type(error).__name__}: {error}"


def _remedy(place: _Place) -> str:
    if place.after.endswith("uses"):
        return "Create it inside the function."
    return "Create it in the cell itself." if place.after else "Leave it out, or create it inside the function."
