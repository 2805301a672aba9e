"""Calls in threads of their own, which the end of the interpreter waits for.

An executor of the standard library takes no work once the interpreter ends, and that is when the last state of a
training is still being written.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")
Item = TypeVar("Item")


def started(work: Callable[..., T], *args: object) -> Future[T]:
    """Begin a call in a thread, or make it here where no thread can be had. Returns what will be its result."""
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(work(*args))
        except BaseException as error:  # noqa: BLE001 - whoever asks for the result gets it
            outcome.set_exception(error)

    try:
        threading.Thread(target=run, name="nbaccel-file").start()
    except RuntimeError:  # Python 3.12 starts none once the interpreter ends
        run()
    return outcome


def in_threads(work: Callable[[Item], T], items: Iterable[Item], count: int) -> list[T]:
    """Call for each item, several at a time. Returns the results, in the order of the items.

    Args:
        work: is given an item; the first error of one is raised once all threads have ended.
        items: all that is to be done.
        count: how many threads.
    """
    outcomes: list[tuple[Item, Future[T]]] = [(item, Future()) for item in items]
    waiting = deque(outcomes)

    def run() -> None:
        while True:
            try:
                item, outcome = waiting.popleft()
            except IndexError:
                return
            try:
                outcome.set_result(work(item))
            except BaseException as error:  # noqa: BLE001 - raised by its result
                outcome.set_exception(error)

    for ended in [started(run) for _ in range(min(count, len(outcomes)))]:
        ended.result()
    return [outcome.result() for _, outcome in outcomes]
