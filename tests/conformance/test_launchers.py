"""What every way to run functions on workers must do, whatever starts them: one suite for all.

Each start method is tried with fresh workers for each call and in a session; where no process of their own is needed,
running in this process (`inline`) is tried too. A new starter that is listed in `STARTERS` is tried by itself.
Fresh interpreters take two seconds each time, so that what can be seen in one launch is seen in one: `Facts`.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import random
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import psutil
import pytest

import nbaccel
from nbaccel.errors import CallError, RunTimeoutError, ShipError, StateError, WorkerDiedError, WorkerError
from nbaccel.launch.job import Job
from nbaccel.launch.starter import STARTERS

SEED = 3
OTHER_SEED = 5
MARK = "NBACCEL_CONFORMANCE"
ARGUMENTS: tuple[Any, ...] = (1, [2, {"three": 3}])
KEYWORDS: dict[str, Any] = {"four": 4}
PROMPT_S = 6
"""Any stop is through by then: ask, insist and kill take 2.5 s at most."""

# What runs on the ranks. It travels by value, as a notebook's own functions do: workers need not import pytest.

cloudpickle.register_pickle_by_value(sys.modules[__name__])


@dataclass(frozen=True)
class Around:
    """What of its surroundings a process sees."""

    mark: str | None
    cwd: str
    sys_path: tuple[str, ...]
    argv: tuple[str, ...]
    draws: tuple[float, ...]


@dataclass(frozen=True)
class Facts:
    """What a rank saw and did in one launch."""

    rank: int
    pid: int
    around: Around
    environ: Mapping[str, str]
    received: tuple[Any, ...]
    reduced: float
    sum_of_big: int
    own_cell: int
    other_cells: tuple[int, ...]
    loaded: int
    refusal: str


class TroubleError(ValueError):
    """An error with more to it than its text."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text, code)
        self.code = code


def draw() -> tuple[float, ...]:
    import torch

    return random.random(), float(np.random.rand()), float(torch.rand(()))


def seed_all(seed: int) -> None:
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def look_around() -> Around:
    return Around(os.environ.get(MARK), os.getcwd(), tuple(sys.path), tuple(sys.argv), draw())


def rank() -> int:
    return int(os.environ["RANK"])


def all_reduce(value: float = 1.0) -> float:
    """The sum over all ranks."""
    import torch
    import torch.distributed as dist

    if not dist.is_initialized():
        dist.init_process_group("gloo")
    total = torch.tensor(value)
    dist.all_reduce(total)
    return total.item()


def load_with_workers() -> int:
    """The sum of a data set that data loader workers read."""
    from torch.utils.data import DataLoader

    return sum(int(batch.sum()) for batch in DataLoader(list(range(8)), batch_size=2, num_workers=2))


def launch_again() -> str:
    try:
        nbaccel.notebook_launcher(rank, num_processes=1)
    except StateError as error:
        return str(error)
    return "not refused"


def looking_over(big: np.ndarray[Any, Any]) -> Callable[..., Facts]:
    """A function that captures an array."""

    def look(*args: Any, **kwargs: Any) -> Facts:
        around = look_around()
        own, world = rank(), int(os.environ["WORLD_SIZE"])
        sum_of_big = int(big.sum())
        reduced = all_reduce(own + 1.0)
        big[own] = -1
        all_reduce()  # now all ranks have written
        return Facts(
            rank=own,
            pid=os.getpid(),
            around=around,
            environ=dict(os.environ),
            received=(args, kwargs),
            reduced=reduced,
            sum_of_big=sum_of_big,
            own_cell=int(big[own]),
            other_cells=tuple(int(big[other]) for other in range(world) if other != own),
            loaded=load_with_workers(),
            refusal=launch_again(),
        )

    return look


def fail_on_rank_1() -> None:
    all_reduce()
    if rank() == 1:
        raise TroubleError("on this rank", 42)
    all_reduce()


def fail_and_lose_a_peer() -> None:
    """Rank 1 fails, and then rank 0 of what looks like a lost connection."""
    all_reduce()  # some start later than others
    if rank() == 0:
        time.sleep(0.15)
        raise RuntimeError("gloo: connection closed by peer")
    raise ValueError("wrong")


def fail_alike() -> None:
    all_reduce()  # some start later than others
    raise ValueError("wrong alike")


LINES = 3000


def lines_of(number: int) -> str:
    return "".join(f"line {count} of rank {number}\n" for count in range(LINES))


def speak_and_end(fate: str) -> None:
    """Print, then end as told on rank 1."""
    print(lines_of(rank()), end="")
    all_reduce()
    if rank() == 1:
        print("the last words", end="")
        os.kill(os.getpid(), signal.SIGKILL) if fate == "SIGKILL" else os._exit(7)


def speak() -> int:
    print(f"rank {rank()} speaks")
    return rank() * 10


def loop() -> None:
    print("running", flush=True)
    while True:
        pass


def sleep_in_c() -> None:
    print("running", flush=True)
    ctypes.PyDLL(None).sleep(60)  # holds the interpreter: no Python code can run


def wait_for_a_peer() -> None:
    all_reduce()
    print("running", flush=True)
    if rank() == 1:
        time.sleep(60)
    all_reduce()


def return_a_lock() -> dict[str, object]:
    return {"lock": threading.Lock()}


# The ways to run them.


class Launcher:
    """One way to run functions on two workers; the base starts fresh ones for each call.

    Attributes:
        method: how workers start.
        around: what the kernel was like when its workers were first started; set by `launched`, as the next one.
        facts: what each rank saw in a first run.
    """

    world = 2
    around: Around
    facts: list[Facts]

    def __init__(self, method: str, **settings: Any) -> None:
        self.method = method
        self.settings: dict[str, Any] = {"num_processes": self.world, "start_method": method, **settings}

    def main(self, function: Callable[..., Any]) -> Any:
        """The value of rank 0."""
        return nbaccel.notebook_launcher(function, **self.settings)

    def run(self, function: Callable[..., Any], args: Sequence[Any] = (), kwargs: Any = None) -> list[Any]:
        """The values of all ranks."""
        return nbaccel.notebook_launcher(function, args, kwargs=kwargs, return_all=True, **self.settings)

    def submit(self, function: Callable[..., Any], *args: Any) -> Job:
        return nbaccel.submit(function, args, return_all=True, **self.settings)

    def late(self) -> Job:
        """A job that takes longer than it may."""
        return nbaccel.submit(time.sleep, (60,), timeout=0.3, **self.settings)

    def close(self) -> None:
        pass

    @contextmanager
    def another(self, **settings: Any) -> Iterator[Launcher]:
        """One of the same kind with other settings."""
        made = type(self)(self.method, **settings)
        try:
            yield made
        finally:
            made.close()

    @cached_property
    def finished(self) -> Job:
        """A job that has ended well."""
        job = self.submit(speak)
        job.result(60)
        return job

    @cached_property
    def cancelled(self) -> Cancelled:
        return Cancelled(self.submit(loop))


class InSession(Launcher):
    """A session's workers."""

    def __init__(self, method: str, **settings: Any) -> None:
        super().__init__(method, **settings)
        self.session = nbaccel.Session(**self.settings)

    def main(self, function: Callable[..., Any]) -> Any:
        return self.session.run(function)

    def run(self, function: Callable[..., Any], args: Sequence[Any] = (), kwargs: Any = None) -> list[Any]:
        return self.session.run(function, args, kwargs, return_all=True)

    def submit(self, function: Callable[..., Any], *args: Any) -> Job:
        return self.session.submit(function, args, return_all=True)

    def late(self) -> Job:
        return self.session.cell_job("import time; time.sleep(60)", (), ranks=self.session.ranks, timeout=0.3)

    def close(self) -> None:
        self.session.close()


class Inline(Launcher):
    """No workers: this process."""

    world = 1

    def run(self, function: Callable[..., Any], args: Sequence[Any] = (), kwargs: Any = None) -> list[Any]:
        import torch.distributed as dist

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: data loader workers are forked from here
            values = super().run(function, args, kwargs)
        if dist.is_initialized():
            dist.destroy_process_group()
        return values


class Cancelled:
    """A job that was cancelled while it ran, and what it said before."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.called: list[Job] = []
        job.add_done_callback(lambda _: 1 / 0)
        job.add_done_callback(self.called.append)
        wait_until_running(job)
        self.done, self.running, self.was_cancelled = job.done(), job.running(), job.cancelled()
        self.text, self.markup = repr(job), job._repr_html_()
        with pytest.raises(FutureTimeoutError):
            job.result(0.05)
        self.stopped_s = time.monotonic()
        self.accepted = job.cancel()
        with pytest.raises(CancelledError):
            job.result(60)
        self.took_s = time.monotonic() - self.stopped_s


def wait_until(condition: Callable[[], bool], within_s: float) -> bool:
    """Whether a condition came true in time (the harness of kernels has the same; workers need not import that)."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def wait_until_running(job: Job) -> None:
    assert wait_until(lambda: all("running" in job.logs(number) for number in job.ranks), 60), job.logs()


METHODS = [name for name in ("zygote", "spawn", "fork") if name in STARTERS]
KINDS = (
    {name: (Launcher, name) for name in METHODS}
    | {f"{name} session": (InSession, name) for name in METHODS}
    | {"inline": (Inline, "inline")}
)

everywhere = pytest.mark.parametrize("launcher", list(KINDS), indirect=True)
on_workers = pytest.mark.parametrize("launcher", [name for name in KINDS if name != "inline"], indirect=True)
in_sessions = pytest.mark.parametrize("launcher", [name for name in KINDS if "session" in name], indirect=True)

BIG = np.arange(1 << 20)


@contextmanager
def surroundings(folder: Path) -> Iterator[Around]:
    """A kernel that differs from others in all that workers are to take over."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(MARK, "here")
        patch.chdir(folder)
        patch.setattr(sys, "path", [*sys.path, str(folder / "beside")])
        patch.setattr(sys, "argv", ["train.py", "--quick"])
        seed_all(SEED)
        here = look_around()
        seed_all(SEED)
        yield here


def launched(kind: str, folder: Path) -> Launcher:
    """A launcher that has run once."""
    make, method = KINDS[kind]
    big = BIG.copy() if kind == "inline" else BIG
    with surroundings(folder) as here:
        launcher = make(method)
        launcher.around, launcher.facts = here, launcher.run(looking_over(big), ARGUMENTS, KEYWORDS)
    return launcher


@pytest.fixture(scope="module")
def launchers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Launcher]]:
    """The launchers by their names, each made when it is first asked for."""
    made: dict[str, Launcher] = {}
    folder = tmp_path_factory.mktemp("kernel")

    def launcher_called(name: str) -> Launcher:
        if name not in made:
            made[name] = launched(name, folder)
        return made[name]

    yield launcher_called
    for launcher in made.values():
        launcher.close()


@pytest.fixture
def launcher(request: pytest.FixtureRequest, launchers: Callable[[str], Launcher]) -> Launcher:
    return launchers(request.param)


@pytest.fixture
def cell() -> Iterator[Callable[[str], dict[str, Any]]]:
    """Runs source in `__main__`, as a notebook's cell would; what it has defined there is gone afterwards."""
    namespace = importlib.import_module("__main__").__dict__
    before = set(namespace)

    def run(source: str) -> dict[str, Any]:
        exec(compile(source, "<cell>", "exec"), namespace)
        return namespace

    yield run
    for name in set(namespace) - before:
        del namespace[name]


# What a rank sees.


@everywhere
def test_values_come_home_by_rank(launcher: Launcher) -> None:
    assert [facts.rank for facts in launcher.facts] == list(range(launcher.world))


@on_workers
def test_each_rank_is_a_process_of_its_own(launcher: Launcher) -> None:
    assert len({os.getpid(), *(facts.pid for facts in launcher.facts)}) == launcher.world + 1


@everywhere
def test_arguments_arrive(launcher: Launcher) -> None:
    assert {repr(facts.received) for facts in launcher.facts} == {repr((ARGUMENTS, KEYWORDS))}


@everywhere
def test_a_rank_finds_its_place_in_the_environment(launcher: Launcher) -> None:
    world = str(launcher.world)
    for facts in launcher.facts:
        number = str(facts.rank)
        expected = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
        assert expected.items() <= facts.environ.items()
        assert facts.environ["MASTER_ADDR"] == "127.0.0.1"
        assert facts.environ["MASTER_PORT"].isdecimal()


OURS = {
    *(
        "NBACCEL_LAUNCHED",
        "RANK",
        "LOCAL_RANK",
        "GROUP_RANK",
        "WORLD_SIZE",
        "LOCAL_WORLD_SIZE",
        "MASTER_ADDR",
        "MASTER_PORT",
    ),
    *("NBACCEL_WORKER", "TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_USE_AGENT_STORE", "OMP_NUM_THREADS"),
    *("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "ACCELERATE_USE_CPU", MARK, "PYTEST_CURRENT_TEST"),
}


@everywhere
def test_the_environment_is_the_kernels_but_for_known_names(launcher: Launcher) -> None:
    kernels = {name: value for name, value in os.environ.items() if name not in OURS | {"PWD", "OLDPWD"}}
    for facts in launcher.facts:
        found = {name: value for name, value in facts.environ.items() if name not in OURS | {"PWD", "OLDPWD"}}
        changed = {name for name, _ in kernels.items() ^ found.items()}
        assert {name for name in changed if not name.startswith(("TORCH", "KINETO"))} == set()


@everywhere
@pytest.mark.parametrize("what", ["mark", "cwd", "sys_path", "argv", "draws"])
def test_a_rank_takes_over_from_the_kernel(launcher: Launcher, what: str) -> None:
    expected = getattr(launcher.around, what)
    assert [getattr(facts.around, what) for facts in launcher.facts] == [expected] * launcher.world


@everywhere
def test_ranks_add_up_a_tensor(launcher: Launcher) -> None:
    assert [facts.reduced for facts in launcher.facts] == [float(sum(range(launcher.world + 1)))] * launcher.world


@everywhere
def test_a_captured_array_arrives_whole(launcher: Launcher) -> None:
    assert {facts.sum_of_big for facts in launcher.facts} == {int(np.arange(1 << 20).sum())}


@on_workers
def test_each_rank_writes_to_its_own_array(launcher: Launcher) -> None:
    for facts in launcher.facts:
        assert facts.own_cell == -1
        assert facts.other_cells == (1 - facts.rank,)
    assert np.array_equal(BIG, np.arange(1 << 20))


@everywhere
def test_a_rank_may_have_data_loader_workers(launcher: Launcher) -> None:
    assert [facts.loaded for facts in launcher.facts] == [28] * launcher.world


@everywhere
def test_a_launch_inside_a_rank_is_refused(launcher: Launcher) -> None:
    assert all("this code runs in a worker already" in facts.refusal for facts in launcher.facts)


@on_workers
def test_a_seed_gives_the_same_numbers_on_all_ranks_and_launches(launcher: Launcher) -> None:
    seed_all(OTHER_SEED)
    here = draw()
    seed_all(SEED)
    with launcher.another(seed=OTHER_SEED) as seeded:
        assert seeded.run(draw) == [here] * launcher.world


CLASSES = """
import dataclasses, enum

class Colour(enum.Enum):
    RED = 1

@dataclasses.dataclass
class Point:
    x: int
    colour: Colour
    def moved(self):
        return Point(self.x + step, self.colour)

step = 10
point = Point(1, Colour.RED)

def move():
    return point.moved()
"""


@everywhere
def test_classes_of_the_notebook_travel_both_ways(launcher: Launcher, cell: Callable[[str], dict[str, Any]]) -> None:
    names = cell(CLASSES)
    home = launcher.main(names["move"])
    assert type(home) is names["Point"]
    assert home == names["Point"](11, names["Colour"].RED)


# What goes wrong.


def failure_of(launcher: Launcher, function: Callable[..., Any]) -> WorkerError:
    with pytest.raises(WorkerError) as caught:
        launcher.run(function)
    return caught.value


@on_workers
def test_an_error_of_one_rank_is_told_in_full(launcher: Launcher) -> None:
    error = failure_of(launcher, fail_on_rank_1)
    assert error.rank == 1
    assert "rank 1 of 2 failed: test_launchers.TroubleError: ('on this rank', 42)" in str(error)
    assert isinstance(error.__cause__, TroubleError)
    assert error.__cause__.code == 42
    trace = "\n".join(error.exceptions[1].traceback)
    assert 'raise TroubleError("on this rank", 42)' in trace
    assert "test_launchers.py" in trace
    assert "nbaccel/worker" not in trace
    # rank 0 waits in a collective: it is stopped, or notices that its peer has gone
    assert [failure.collateral for number, failure in error.exceptions.items() if number != 1] in ([], [True])


@on_workers
def test_equal_errors_are_told_as_one(launcher: Launcher) -> None:
    error = failure_of(launcher, fail_alike)
    assert str(error) == "ranks 0 and 1 of 2 failed: ValueError: wrong alike"
    assert sorted(error.exceptions) == [0, 1]


@on_workers
def test_what_only_followed_is_told_last(launcher: Launcher) -> None:
    error = failure_of(launcher, fail_and_lose_a_peer)
    assert error.rank == 1
    assert [error.exceptions[number].collateral for number in (0, 1)] == [True, False]
    assert str(error).splitlines() == [
        "rank 1 of 2 failed: ValueError: wrong",
        "rank 0: RuntimeError: gloo: connection closed by peer  (followed from the failure above)",
    ]


def test_inline_raises_what_the_code_raises() -> None:
    with pytest.raises(ValueError, match="invalid literal for int"):
        nbaccel.notebook_launcher(int, ("no number",), num_processes=1, start_method="inline")


@on_workers
@pytest.mark.parametrize(
    ("fate", "status", "words"),
    [
        ("SIGKILL", -signal.SIGKILL, "rank 1 was killed by SIGKILL"),
        ("exit", 7, "rank 1 called exit with code 7 before it had answered"),
    ],
)
def test_a_rank_that_dies_is_named_and_all_text_is_kept(launcher: Launcher, fate: str, status: int, words: str) -> None:
    job = launcher.submit(speak_and_end, fate)
    error = job.exception(60)
    assert isinstance(error, WorkerDiedError)
    assert (error.rank, error.status) == (1, status)
    assert words in str(error)
    assert str(error).endswith("the last words")
    assert job.logs(0) == lines_of(0)
    assert job.logs(1) == lines_of(1) + "the last words"


@on_workers
@pytest.mark.parametrize("stuck", [sleep_in_c, wait_for_a_peer])
def test_a_stop_ends_what_is_stuck(launcher: Launcher, stuck: Callable[[], None]) -> None:
    job = launcher.submit(stuck)
    wait_until_running(job)
    started = time.monotonic()
    job.stop()
    with pytest.raises(KeyboardInterrupt):
        job.result(60)
    assert time.monotonic() - started < PROMPT_S


@on_workers
def test_a_run_that_takes_too_long_is_ended(launcher: Launcher) -> None:
    started = time.monotonic()
    error = launcher.late().exception(60)
    assert isinstance(error, RunTimeoutError)
    assert error.unfinished == (0, 1)
    assert "timeout=0.3 s" in str(error)
    assert time.monotonic() - started < PROMPT_S


@on_workers
def test_an_argument_that_cannot_be_sent_is_named(launcher: Launcher) -> None:
    with pytest.raises(ShipError, match=r"args\[0\]\['lock'\] \(a lock\) cannot be sent"):
        launcher.run(print, ({"lock": threading.Lock()},))


@on_workers
def test_a_captured_value_that_cannot_be_sent_is_named(launcher: Launcher) -> None:
    lock = threading.Lock()
    with pytest.raises(ShipError, match=r"`lock`, which <lambda>\(\) uses \(a lock\) cannot be sent"):
        launcher.run(lambda: lock)


@on_workers
def test_a_value_that_cannot_come_home_is_named(launcher: Launcher) -> None:
    error = failure_of(launcher, return_a_lock)
    assert isinstance(error.__cause__, ShipError)
    assert "the value returned by return_a_lock()['lock'] (a lock) cannot be sent" in str(error)


# The words of a job.


@on_workers
def test_a_job_that_is_over_says_so(launcher: Launcher) -> None:
    job = launcher.finished
    assert (job.done(), job.running(), job.cancelled(), job.cancel()) == (True, False, False, False)
    assert job.exception() is None
    assert job.result() == job.result(0) == [0, 10]


@on_workers
def test_a_job_knows_its_ranks(launcher: Launcher) -> None:
    job = launcher.finished
    assert [job.rank(number).result() for number in job.ranks] == [0, 10]
    assert [job.rank(number).logs() for number in job.ranks] == ["rank 0 speaks\n", "rank 1 speaks\n"]
    assert job.logs() == "--- rank 0 ---\nrank 0 speaks\n--- rank 1 ---\nrank 1 speaks\n"


@on_workers
@pytest.mark.parametrize("ask", [Job.rank, Job.logs])
def test_a_rank_that_a_job_lacks_is_refused(launcher: Launcher, ask: Callable[[Job, int], object]) -> None:
    with pytest.raises(CallError, match=r"runs on ranks 0 and 1; it has no rank 2"):
        ask(launcher.finished, 2)


@on_workers
def test_a_job_describes_itself(launcher: Launcher) -> None:
    job = launcher.finished
    assert repr(job).startswith(f"<Job {job.number}: speak() on ranks 0 and 1, done, ")
    assert "✓ done" in job._repr_html_()
    assert repr(job.rank(1)).startswith("<rank 1 of <Job ")


@on_workers
def test_a_callback_after_the_end_is_called_at_once(launcher: Launcher) -> None:
    called: list[Job] = []
    launcher.finished.add_done_callback(lambda _: 1 / 0)
    launcher.finished.add_done_callback(called.append)
    assert called == [launcher.finished]


@on_workers
def test_a_job_that_runs_says_so(launcher: Launcher) -> None:
    story = launcher.cancelled
    assert (story.done, story.running, story.was_cancelled) == (False, True, False)
    assert ": loop() on ranks 0 and 1, running, " in story.text
    assert "▶ running" in story.markup
    assert "loop()" in story.markup


@on_workers
def test_a_cancelled_job_ends_soon_and_says_so(launcher: Launcher) -> None:
    story = launcher.cancelled
    assert story.accepted
    assert story.took_s < PROMPT_S
    assert (story.job.done(), story.job.cancelled(), story.job.cancel()) == (True, True, False)
    assert ", stopped, " in repr(story.job)
    with pytest.raises(CancelledError):
        story.job.exception()


@on_workers
def test_a_callback_is_called_at_the_end_whatever_another_one_does(launcher: Launcher) -> None:
    story = launcher.cancelled
    assert wait_until(lambda: story.called == [story.job], 5)


# What lives in a session.

COUNT = """
def count():
    global counted
    counted = globals().get("counted", 0) + 1
    return counted
"""


@in_sessions
def test_names_live_from_call_to_call(launcher: InSession, cell: Callable[[str], dict[str, Any]]) -> None:
    names = cell(COUNT)
    launcher.session.push(counted=0)
    assert [launcher.run(names["count"]) for _ in range(2)] == [[1, 1], [2, 2]]
    assert "counted" not in names


@in_sessions
def test_a_part_of_the_ranks_can_be_asked(launcher: InSession) -> None:
    session = launcher.session
    assert session.run(rank, ranks=1) == 1
    assert session.run(rank, ranks=[1], return_all=True) == [1]
    assert session.submit(rank, ranks=1).ranks == (1,)
    with pytest.raises(CallError, match="the session has ranks 0 and 1"):
        session.run(rank, ranks=2)


@in_sessions
def test_an_error_keeps_a_session_alive(launcher: InSession) -> None:
    launcher.session.push(kept=7)
    before = launcher.run(os.getpid)
    failure_of(launcher, fail_alike)
    assert launcher.run(os.getpid) == before
    assert launcher.session["kept"] == {0: 7, 1: 7}


@in_sessions
def test_the_group_is_right_after_an_interrupted_collective(launcher: InSession) -> None:
    before = launcher.run(os.getpid)
    job = launcher.submit(wait_for_a_peer)
    wait_until_running(job)
    job.stop()
    assert launcher.run(all_reduce) == [2.0, 2.0]
    assert launcher.run(os.getpid) == before


@in_sessions
def test_after_a_death_a_session_goes_on_afresh(launcher: InSession) -> None:
    launcher.session.push(lost=1)
    before = launcher.run(os.getpid)
    with pytest.raises(WorkerDiedError, match="rank 1 was killed by SIGKILL"):
        launcher.run(speak_and_end, ("SIGKILL",))
    assert set(launcher.run(os.getpid)).isdisjoint(before)
    assert "lost" not in launcher.session.names
    assert launcher.run(all_reduce) == [2.0, 2.0]


# What is left behind: nothing.


@dataclass(frozen=True)
class Traces:
    """What a launch could leave behind in the kernel."""

    descriptors: int
    memory_files: int
    threads: frozenset[str]
    processes: frozenset[int]
    environ: Mapping[str, str]
    handlers: tuple[Any, ...]

    @classmethod
    def settled(cls) -> Traces:
        """Once the last of an earlier launch is gone: nobody waits for the system to tear down its memory."""
        seen = [cls.now()]

        def is_still() -> bool:
            time.sleep(0.2)
            seen.append(cls.now())
            return seen[-1] == seen[-2]

        wait_until(is_still, 10)
        return seen[-1]

    @classmethod
    def now(cls) -> Traces:
        gc.collect()
        open_files = [os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
        return cls(
            len(open_files),
            sum("memfd:" in name for name in open_files),
            frozenset(f"{thread.name} {thread.ident}" for thread in threading.enumerate()),
            frozenset(process.pid for process in psutil.Process().children(recursive=True)),
            {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"},
            tuple(signal.getsignal(number) for number in sorted(signal.valid_signals())),
        )


@everywhere
def test_launches_leave_nothing_behind(launcher: Launcher) -> None:
    big = np.zeros(1 << 18)

    def launch() -> None:
        with launcher.another(num_processes=1) as fresh:
            assert fresh.run(lambda: big.nbytes) == [1 << 21]

    launch()
    before = Traces.settled()
    for _ in range(3 if launcher.method == "spawn" else 10):
        launch()
    wait_until(lambda: Traces.now() == before, 20)
    left = Traces.now()
    assert left == before, f"{left.threads ^ before.threads}, {left.processes ^ before.processes}"
