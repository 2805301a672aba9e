"""Progress bars of training code: a worker's are drawn by the notebook, all others are tqdm's own.

A bar of a worker hands over its state as a plain dict:

    bar          number of the bar in this process, from 0; disabled ones count too, so that the ranks' numbers agree
    desc         what stands before it, without a colon
    n, total     how far it is, in `unit`; total is None when unknown
    elapsed      seconds since it began
    rate         units a second: smoothed while it runs, the average once it is closed; None when unknown
    unit, unit_scale, unit_divisor
                 as tqdm's arguments of these names
    postfix      what stands behind it, None for nothing
    leave        whether it stays when it is closed
    closed       whether it is closed
"""

from __future__ import annotations

import functools
import itertools
import os
import sys
import threading
import warnings
import weakref
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar

from tqdm import TqdmExperimentalWarning
from tqdm.asyncio import tqdm as asyncio_tqdm
from tqdm.std import tqdm as std_tqdm

from nbaccel.errors import CallError

Send = Callable[[Mapping[str, object]], None]

_QUICKEST_S = 0.02
"""No bar speaks more often, whatever its `mininterval`."""
_BURST = 4
"""So many states go out at once; many loops set a postfix in each step, and each asks for a refresh."""


class _Link:
    """The way to the notebook, open in the process that made it and not in those forked from there."""

    def __init__(self, send: Send) -> None:
        self.send = send
        self.numbers = itertools.count()
        self._owner = os.getpid()

    def is_open(self) -> bool:
        return os.getpid() == self._owner


_link: _Link | None = None


def connect(send: Send) -> None:
    """From now on, bars of this process are drawn by the notebook. Their numbers start again at 0.

    Args:
        send: takes a bar's state to the notebook; called in whichever thread moves the bar.
    """
    global _link
    _link = _Link(send)


def disconnect() -> None:
    """Nobody listens any more: bars that still exist fall silent, new ones are tqdm's own."""
    global _link
    _link = None


def _open_link() -> _Link | None:
    return _link if _link is not None and _link.is_open() else None


class tqdm(asyncio_tqdm):  # noqa: N801 - the name that everybody knows
    """tqdm's progress bar, drawn where it can be seen: by the notebook for workers, else as by `tqdm.auto`.

    Args:
        *args: as for `tqdm.tqdm`.
        main_process_only: disables it on all but the first rank of each node.
        **kwargs: as for `tqdm.tqdm`. With a `file` of your own the bar is written there.

    Raises:
        CallError: the first argument is True or False; early versions of Accelerate took `main_process_only` there.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        if args and isinstance(args[0], bool):
            raise CallError(
                f"tqdm({args[0]}, ...): the first argument is what to iterate over. "
                f"Write main_process_only={args[0]} as a keyword."
            )
        kind: Any = cls
        return super().__new__(_with_face(kind, _face(kwargs.get("file"))))

    def __init__(self, *args: Any, main_process_only: bool = False, **kwargs: Any) -> None:
        if main_process_only and os.environ.get("LOCAL_RANK", "0") != "0":
            kwargs["disable"] = True
        # not asyncio_tqdm's: that calls iter() at once, and so starts a DataLoader's workers before the loop does
        std_tqdm.__init__(self, *args, **kwargs)
        self._next: Callable[[], Awaitable[Any]] | None = None

    async def __anext__(self) -> Any:
        if self._next is None:
            self._next = _async_next(self.iterable)
        try:
            item = await self._next()
        except BaseException:
            self.close()
            raise
        self.update()
        return item


def _async_next(iterable: Any) -> Callable[[], Awaitable[Any]]:
    if hasattr(iterable, "__aiter__"):
        return aiter(iterable).__anext__
    iterator = iter(iterable)

    async def step() -> Any:
        try:
            return next(iterator)
        except StopIteration:
            raise StopAsyncIteration from None

    return step


def _face(file: Any) -> type | None:
    """The class that draws a new bar, None for tqdm's text."""
    if file is not None and file not in (sys.stdout, sys.stderr):
        return None
    return _Reported if _open_link() is not None else _notebook_face()


@functools.cache
def _notebook_face() -> type | None:
    """tqdm's choice between text and ipywidgets; only made when a bar is wanted, as it may import those."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TqdmExperimentalWarning)
        from tqdm.autonotebook import tqdm as chosen
    return None if chosen is std_tqdm else chosen


@functools.cache
def _with_face(cls: type, face: type | None) -> type:
    """A class of bars, which may be a user's subclass, with its drawing replaced."""
    if face is None or issubclass(cls, face):
        return cls
    return type(cls.__name__, (face, cls), {"__module__": cls.__module__, "__doc__": cls.__doc__})


class _Reported(std_tqdm):
    """Draws nothing and hands its state over. Keeps apart from text bars, which make room for each other."""

    _instances: ClassVar[weakref.WeakSet[Any]] = weakref.WeakSet()
    _lock = threading.RLock()
    monitor_interval = 0  # no thread: its task is to mend a guessed `miniters`, and there is none here
    dynamic_miniters: bool

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if kwargs.get("disable", False) is None:  # None disables a bar in a file, and a cell is none
            del kwargs["disable"]
        self._joined: _Link | None = None
        self._join(_open_link())
        self._has_spoken = False
        self._allowance, self._allowed_at = float(_BURST), 0.0
        super().__init__(*args, **{**kwargs, "gui": True})
        if self.disable:
            return
        if self.dynamic_miniters:
            self.miniters = 0
        self.dynamic_miniters = False
        if self.delay <= 0:
            self.refresh()

    def _join(self, link: _Link | None) -> None:
        if link is not None and link is not self._joined:
            self._joined, self._number = link, next(link.numbers)

    def refresh(self, nolock: bool = False, lock_args: Any = None) -> bool | None:
        """Hand over the state, unless that was just done. Takes no lock: an interrupt would leave tqdm's held."""
        return None if self.disable else self.display()

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        if self._is_allowed():
            self._send(closed=False)
        return True

    def clear(self, nolock: bool = False) -> None:
        """There is nothing in the way of what `write` prints."""

    def close(self) -> None:
        if getattr(self, "disable", True):  # an argument may have been wrong, and so nothing set
            return
        super().close()
        if self._has_spoken:
            self._send(closed=True)

    def _is_allowed(self) -> bool:
        now = self._time()
        waited_s = max(now - self._allowed_at, 0.0)
        self._allowance = min(_BURST, self._allowance + waited_s / max(self.mininterval, _QUICKEST_S))
        self._allowed_at = now
        if self._allowance < 1:
            return False
        self._allowance -= 1
        return True

    def _send(self, *, closed: bool) -> None:
        link = _open_link()
        if link is not None:
            self._join(link)  # a bar of an earlier cell that is moved in this one
            self._has_spoken = True
            link.send(self._fields(closed))

    def _fields(self, closed: bool) -> dict[str, object]:
        state = self.format_dict
        elapsed, rate = state["elapsed"], state["rate"]
        if closed or rate is None:
            rate = (self.n - self.initial) / elapsed if elapsed > 0 and self.n != self.initial else None
        return {
            "bar": self._number,
            "desc": str(self.desc).removesuffix(": "),
            "n": _plain(self.n),
            "total": _plain(self.total),
            "elapsed": float(elapsed),
            "rate": _plain(rate),
            "unit": str(self.unit),
            "unit_scale": self.unit_scale if isinstance(self.unit_scale, bool) else _plain(self.unit_scale),
            "unit_divisor": _plain(self.unit_divisor),
            "postfix": str(self.postfix) if self.postfix else None,
            "leave": bool(self.pos == 0 if self.leave is None else self.leave),
            "closed": closed,
        }


def _plain(number: Any) -> int | float | None:
    """A number of any library as Python's own."""
    if number is None or type(number) in (int, float):
        return number
    value = float(number)
    return int(value) if value.is_integer() and not isinstance(number, float) else value
