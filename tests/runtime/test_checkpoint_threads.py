"""Calls in threads of their own."""

from __future__ import annotations

import threading

import pytest

from nbaccel.runtime.checkpoint.threads import in_threads, started


def test_a_call_runs_beside_the_caller() -> None:
    gate = threading.Event()
    outcome = started(lambda value: gate.wait(10) and value + 1, 1)
    assert not outcome.done()
    gate.set()
    assert outcome.result(10) == 2


def test_results_come_in_the_order_of_the_items_and_so_many_at_a_time() -> None:
    together = threading.Barrier(3)

    def work(item: int) -> int:
        together.wait(10)
        return item * item

    assert in_threads(work, range(6), 3) == [0, 1, 4, 9, 16, 25]
    assert in_threads(work, [], 3) == []


def test_an_error_is_raised_after_the_rest_is_done() -> None:
    done = []

    def work(item: int) -> None:
        if item == 0:
            raise KeyError(item)
        done.append(item)

    with pytest.raises(KeyError):
        in_threads(work, range(5), 2)
    assert sorted(done) == [1, 2, 3, 4]


def test_without_a_thread_the_call_is_made_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert in_threads(str, range(3), 2) == ["0", "1", "2"]
