"""Progress bars of training code."""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tqdm import TqdmKeyError
from tqdm.asyncio import tqdm as asyncio_tqdm
from tqdm.auto import tqdm as auto_tqdm
from tqdm.std import tqdm as std_tqdm

from harness import Kernel
from nbaccel.errors import CallError
from nbaccel.runtime.progress import connect, disconnect, tqdm

States = list[Mapping[str, Any]]


@pytest.fixture
def states() -> Iterator[States]:
    """What bars of this process hand over."""
    received: States = []
    connect(received.append)
    yield received
    disconnect()


def printed(**kwargs: Any) -> str:
    file = io.StringIO()
    for _ in tqdm(range(3), file=file, ascii=True, ncols=60, **kwargs):
        pass
    return file.getvalue()


def test_importing_it_is_light_and_silent() -> None:
    code = (
        "import sys; from nbaccel.runtime.progress import tqdm; tqdm(disable=True)\n"
        "print(set(sys.modules) & {'torch', 'IPython', 'ipywidgets'})"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_without_a_notebook_it_is_tqdms_text_bar() -> None:
    assert issubclass(tqdm, std_tqdm)
    assert type(tqdm(disable=True)) is tqdm
    assert printed(desc="train").endswith("it/s]\n")
    assert "train: 100%|##" in printed(desc="train")


def test_it_has_all_that_tqdm_auto_has() -> None:
    assert [name for name in dir(auto_tqdm) if not hasattr(tqdm, name)] == []


def test_the_state_of_a_bar_is_plain_values(states: States) -> None:
    with tqdm(total=4, desc="train", unit="step", initial=1) as bar:
        bar.set_postfix(loss=0.51234, kind="x")
        bar.update(2)
    first, last = dict(states[0]), states[-1]
    assert 0 <= first.pop("elapsed") < 1
    assert first == {
        "bar": 0, "desc": "train", "n": 1, "total": 4, "rate": None, "unit": "step",
        "unit_scale": False, "unit_divisor": 1000, "postfix": None, "leave": True, "closed": False,
    }  # fmt: skip
    assert states[1]["postfix"] == "kind=x, loss=0.512"
    assert (last["n"], last["closed"]) == (3, True)
    assert last["rate"] == pytest.approx(2 / last["elapsed"])


def test_nothing_is_drawn_in_a_worker(states: States, capfd: pytest.CaptureFixture[str]) -> None:
    for _ in tqdm(range(3), desc="outer"):
        for _ in tqdm(range(3), leave=False, file=sys.stdout):
            pass
    assert capfd.readouterr() == ("", "")
    assert [state["bar"] for state in states if state["closed"]] == [1, 2, 3, 0]
    assert [state["leave"] for state in states if state["closed"]] == [False, False, False, True]
    assert all(state["n"] == 3 for state in states if state["closed"])


def test_a_file_of_ones_own_gets_the_bar_as_text(states: States) -> None:
    assert "100%|##" in printed()
    assert states == []


def test_a_bar_speaks_at_its_own_pace(states: States) -> None:
    started = time.perf_counter()
    for _ in tqdm(range(100_000), mininterval=0.05):
        pass
    bar = tqdm(total=100_000, mininterval=0.05)
    for number in range(20_000):
        bar.update()
        bar.set_postfix(number=number)
    bar.close()
    took_s = time.perf_counter() - started
    assert len(states) <= took_s / 0.05 + 14
    assert len(states) >= 4


def test_after_a_quick_start_a_slow_step_is_seen_at_once(states: States) -> None:
    bar = tqdm(total=10_010, mininterval=0.02)
    bar.update(10_000)
    for number in range(1, 4):
        time.sleep(0.03)
        bar.update()
        assert states[-1]["n"] == 10_000 + number
    bar.close()


def test_no_interval_does_not_mean_each_step(states: States) -> None:
    started = time.perf_counter()
    for _ in tqdm(range(20_000), mininterval=0):
        pass
    assert len(states) < (time.perf_counter() - started) / 0.02 + 8


def test_a_rate_is_smoothed_while_it_runs(states: States) -> None:
    bar = tqdm(total=10, mininterval=0.02)
    for _ in range(3):
        time.sleep(0.03)
        bar.update()
    assert 5 < states[-1]["rate"] < 35
    bar.close()


def test_descriptions_and_postfixes_come_at_once(states: States) -> None:
    bar = tqdm(total=3)
    bar.set_description("epoch 1")
    assert states[-1]["desc"] == "epoch 1"
    bar.set_postfix_str("loss high")
    assert states[-1]["postfix"] == "loss high"
    bar.set_description_str("epoch 2", refresh=False)
    assert states[-1]["desc"] == "epoch 1"
    bar.close()
    assert states[-1]["desc"] == "epoch 2"


def test_a_bar_can_begin_again(states: States) -> None:
    bar = tqdm(total=3)
    bar.update(2)
    bar.reset(total=5)
    assert (states[-1]["n"], states[-1]["total"], states[-1]["closed"]) == (0, 5, False)
    bar.unpause()
    bar.close()


def test_closing_twice_is_told_once(states: States) -> None:
    bar = tqdm(total=1)
    bar.close()
    bar.close()
    assert [state["closed"] for state in states] == [False, True]


def test_unknown_totals(states: States) -> None:
    for _ in tqdm(iter("ab")):
        pass
    tqdm(total=float("inf")).close()
    assert {state["total"] for state in states} == {None}


def test_a_bar_that_is_disabled_is_silent_but_has_a_number(states: States, capfd: pytest.CaptureFixture[str]) -> None:
    assert list(tqdm(range(3), disable=True)) == [0, 1, 2]
    bar = tqdm(total=3, disable=True)
    bar.update()
    bar.set_postfix(a=1, refresh=False)
    bar.close()
    assert states == []
    tqdm(total=1).close()
    assert states[-1]["bar"] == 2
    assert capfd.readouterr() == ("", "")


def test_none_as_disable_shows_the_bar_as_a_cell_is_no_file(states: States) -> None:
    tqdm(total=1, disable=None).close()
    assert len(states) == 2


@pytest.mark.parametrize(("local_rank", "num_states"), [("0", 2), ("1", 0)])
def test_main_process_only(states: States, monkeypatch: pytest.MonkeyPatch, local_rank: str, num_states: int) -> None:
    monkeypatch.setenv("LOCAL_RANK", local_rank)
    tqdm(total=1, main_process_only=True).close()
    assert len(states) == num_states
    tqdm(total=1).close()
    assert len(states) == num_states + 2


def test_main_process_only_holds_for_text_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert printed(main_process_only=True) == ""
    assert printed() != ""


@pytest.mark.parametrize("first", [True, False])
def test_a_flag_is_nothing_to_iterate_over(first: bool) -> None:
    with pytest.raises(CallError, match=f"main_process_only={first}"):
        tqdm(first, range(3))


def test_an_unknown_argument_is_tqdms_error(states: States) -> None:
    with pytest.raises(TqdmKeyError, match="colur"):
        tqdm(total=1, colur="green")
    assert states == []


def test_a_delayed_bar_that_was_never_shown_is_never_mentioned(states: States) -> None:
    with tqdm(total=1, delay=60) as bar:
        bar.update()
    assert states == []


def test_with_leave_none_only_the_outermost_bar_stays(states: States) -> None:
    outer, inner = tqdm(total=1, leave=None), tqdm(total=1, leave=None)
    inner.close()
    outer.close()
    assert [(state["bar"], state["leave"]) for state in states if state["closed"]] == [(1, False), (0, True)]


def test_write_prints_and_leaves_the_bar_alone(states: States, capfd: pytest.CaptureFixture[str]) -> None:
    with tqdm(total=1) as bar:
        tqdm.write("one")
        bar.write("two", file=sys.stderr)
    assert capfd.readouterr() == ("one\n", "two\n")


def test_numbers_of_other_libraries_become_pythons(states: States) -> None:
    with tqdm(total=torch.tensor(4)) as bar:
        bar.update(torch.tensor(2.0))
        bar.update(torch.tensor(0.5))
    assert [(type(state["n"]), type(state["total"])) for state in (states[0], states[-1])] == [(int, int), (float, int)]
    assert states[-1]["n"] == 2.5


def test_files_are_counted_in_bytes(states: States) -> None:
    with tqdm.wrapattr(io.BytesIO(b"x" * 2048), "read", total=2048) as file:
        file.read()
    assert (states[-1]["n"], states[-1]["unit"], states[-1]["unit_scale"], states[-1]["unit_divisor"]) == (
        2048,
        "B",
        True,
        1024,
    )


def test_a_loop_that_fails_leaves_a_closed_unfinished_bar(states: States) -> None:
    def train() -> None:
        for number in tqdm(range(3)):
            assert number < 2, "boom"

    with pytest.raises(AssertionError, match="boom"):
        train()
    assert (states[-1]["n"], states[-1]["closed"]) == (2, True)


def test_a_forked_child_sends_nothing(states: States, tmp_path: Path) -> None:
    bar = tqdm(total=3)
    child = os.fork()
    if child == 0:
        num_before = len(states)
        bar.update(3)
        bar.close()
        with (tmp_path / "err").open("w") as file:
            sys.stderr = file  # a new bar is text there
            for _ in tqdm(range(2)):
                pass
        os._exit(len(states) - num_before)
    assert os.waitpid(child, 0)[1] == 0
    assert "100%" in (tmp_path / "err").read_text()
    bar.close()
    assert (states[-1]["n"], states[-1]["closed"]) == (0, True)


def test_numbers_begin_again_with_each_connection_and_old_bars_get_new_ones(states: States) -> None:
    old = tqdm(total=2)
    connect(states.append)
    new = tqdm(total=2)
    old.update(2)
    old.close()
    new.close()
    assert [state["bar"] for state in states] == [0, 0, 1, 0]


def test_nobody_hears_a_bar_after_the_connection_has_ended(states: States) -> None:
    bar = tqdm(total=2)
    disconnect()
    bar.update(2)
    bar.close()
    assert len(states) == 1


def test_nothing_is_iterated_before_the_loop_begins(states: States) -> None:
    begun = []

    class Loader:
        def __iter__(self) -> Iterator[int]:
            begun.append(True)
            return iter([1, 2])

        def __len__(self) -> int:
            return 2

    bar = tqdm(Loader())
    assert (begun, len(bar)) == ([], 2)
    assert list(bar) == [1, 2]
    assert begun == [True]


def test_asynchronous_loops(states: States) -> None:
    async def numbers() -> AsyncIterator[int]:
        for number in range(3):
            yield number

    async def loop() -> list[Any]:
        found = [number async for number in tqdm(numbers())]
        found += [number async for number in tqdm([3, 4])]
        return found + await tqdm.gather(asyncio.sleep(0, 5), asyncio.sleep(0, 6))

    assert asyncio.run(loop()) == [0, 1, 2, 3, 4, 5, 6]
    assert [(state["n"], state["total"]) for state in states if state["closed"]] == [(3, None), (2, 2), (2, 2)]
    assert issubclass(tqdm, asyncio_tqdm)


def test_a_subclass_works_in_a_worker_too(states: States) -> None:
    class Loud(tqdm):
        def update(self, n: float | None = 1) -> bool | None:
            self.set_description("loud", refresh=False)
            return bool(super().update(n))

    with Loud(total=1) as bar:
        bar.update()
    assert isinstance(bar, Loud)
    assert states[-1]["desc"] == "loud"


def test_bars_of_a_worker_start_no_thread_and_leave_tqdms_own_bars_their_place(states: States) -> None:
    threads = threading.enumerate()
    outer = tqdm(total=1)
    assert threading.enumerate() == threads
    with std_tqdm(total=1, file=io.StringIO()) as text:
        assert text.pos == 0
    outer.close()


def test_in_a_notebook_it_is_the_widget_that_tqdm_auto_would_choose(fresh_kernel: Kernel) -> None:
    answer = fresh_kernel.ok(
        "from nbaccel.runtime.progress import tqdm\n"
        "import tqdm.notebook as notebook\n"
        "with tqdm(range(3), desc='kernel') as bar:\n"
        "    for _ in bar: pass\n"
        "assert isinstance(bar, tqdm) and isinstance(bar, notebook.tqdm)\n"
        "import os; os.environ['LOCAL_RANK'] = '1'\n"
        "list(tqdm(range(3), desc='hidden', main_process_only=True))"
    )
    assert [d for d in answer.displays if "kernel:   0%" in d["text/plain"]] != []
    assert answer.text("stderr") == ""
