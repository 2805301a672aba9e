from __future__ import annotations

import signal

import pytest

from nbaccel.errors import (
    MissingExtraError,
    RemoteFailure,
    RunTimeoutError,
    WorkerDiedError,
    WorkerError,
    describe_exit,
    name_ranks,
    nearest,
)


def failure(rank: int, time_s: float, message: str = "boom", collateral: bool = False) -> RemoteFailure:
    return RemoteFailure(
        rank, "ValueError", message, (f"traceback of {rank}",), time_s, ValueError(message), collateral
    )


def test_the_first_failure_in_time_is_on_top_and_equal_ones_are_merged() -> None:
    error = WorkerError([failure(0, 2.0), failure(1, 1.0), failure(2, 3.0, "other")], world_size=4)
    assert error.rank == 1
    assert str(error) == "ranks 0 and 1 of 4 failed: ValueError: boom\nrank 2: ValueError: other"
    assert error._render_traceback_()[0] == "traceback of 1"
    assert isinstance(error.__cause__, ValueError)
    assert set(error.exceptions) == {0, 1, 2}


def test_a_failure_that_only_followed_is_marked() -> None:
    error = WorkerError([failure(0, 1.0, "peer gone", collateral=True), failure(1, 2.0)], world_size=2)
    assert error.rank == 1
    assert "rank 0: ValueError: peer gone  (followed from the failure above)" in str(error)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (-signal.SIGKILL, "SIGKILL: most likely the system ran out of memory"),
        (-signal.SIGSEGV, "SIGSEGV: a crash in C code"),
        (-signal.SIGUSR1, "was killed by SIGUSR1."),
        (3, "called exit with code 3"),
        (-40, "was killed by signal 40."),
        (None, "disappeared"),
    ],
)
def test_how_a_process_ended_is_told_in_words(status: int | None, words: str) -> None:
    assert words in describe_exit(status)


def test_the_last_output_of_a_dead_worker_is_told() -> None:
    assert str(WorkerDiedError(1, -9, "almost there\n")).endswith("Its last output:\nalmost there")
    assert str(WorkerDiedError(1, -9, "")).endswith("It printed nothing.")


def test_a_timeout_names_who_had_not_finished() -> None:
    assert "timeout=2.5 s and was stopped; ranks 0, 1 and 3 had not finished" in str(RunTimeoutError(2.5, [3, 0, 1]))


def test_a_missing_package_comes_with_the_line_that_installs_it() -> None:
    error = MissingExtraError("ipywidgets", "the form", "pip install 'nbaccel[widgets]'")
    assert "pip install 'nbaccel[widgets]'" in str(error)
    assert error.name == "ipywidgets"


def test_words() -> None:
    assert name_ranks([2]) == "rank 2"
    assert nearest("BF61", ["no", "bf16"]) == "bf16"
    assert nearest("xyzzy", ["no", "bf16"]) is None
