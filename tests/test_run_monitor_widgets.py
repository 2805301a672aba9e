"""The monitor's widgets, and its text in a terminal, on jobs that nobody runs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import ipywidgets
import pytest

from nbaccel.launch.doctor import Report
from nbaccel.launch.events import Lasting, Text
from nbaccel.launch.feed import LASTING_S
from nbaccel.launch.job import Job
from nbaccel.launch.output import Policy
from nbaccel.notebook import monitoring
from nbaccel.notebook.screen import PlainScreen
from nbaccel.wire.messages import Point
from nbaccel_widgets import RunMonitor
from nbaccel_widgets.monitor.outputs import MOST_TABS, Outputs

EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture
def job() -> Iterator[Job]:
    made = Job(f"train{EVIL}()", (0, 1), Policy())
    yield made
    if not made.done():
        made.finish()


def log(job: Job, *losses: float) -> None:
    now = time.monotonic()
    job.feed.metrics(0, tuple(Point(step, now + step, {EVIL: loss}) for step, loss in enumerate(losses)))


def html_of(widget: ipywidgets.Widget) -> str:
    own = str(widget.value) if isinstance(widget, ipywidgets.HTML) else ""
    return own + "".join(map(html_of, getattr(widget, "children", ())))


def wait_for(monitor: RunMonitor, text: str) -> None:
    deadline = time.monotonic() + 20
    while text not in html_of(monitor):
        assert time.monotonic() < deadline, html_of(monitor)
        time.sleep(0.02)


def test_it_draws_what_the_job_tells_and_ends_as_html(job: Job) -> None:
    monitor = RunMonitor(job)
    shown: list[tuple[Mapping[str, Any], bool]] = []
    monitor.show(lambda data, update: shown.append((data, update)))
    assert "starting" in html_of(monitor)
    log(job, 2.0, 1.0)
    job.feed.text(1, 1, f"10%\r50% {EVIL}\n", 0.0)
    wait_for(monitor, "50% &lt;img")
    wait_for(monitor, "<polyline")
    assert EVIL not in html_of(monitor)
    assert "10%" not in html_of(monitor)
    job.finish()
    (live, first), (final, second) = shown
    assert (first, second) == (False, True)
    assert live["application/vnd.jupyter.widget-view+json"]["model_id"]
    assert set(final) == {"text/html", "text/plain"}
    assert EVIL not in final["text/html"]
    assert "(min 1, max 2, 2 values)" in final["text/plain"]
    assert monitor.comm is None
    monitor.show(lambda data, update: shown.append((data, update)))
    assert shown[-1] == (final, False)


def test_of_a_job_that_is_over_there_is_only_the_summary(job: Job) -> None:
    log(job, 3.0)
    job.finish(RuntimeError("broken"))
    shown: list[Mapping[str, Any]] = []
    RunMonitor(job).show(lambda data, update: shown.append(data))
    assert "✗ failed" in shown[0]["text/html"]


def test_where_clicks_are_not_heard_it_says_so(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nbaccel_widgets.monitor.monitor._DEAF_AFTER_S", 0.0)
    wait_for(RunMonitor(job, hears=lambda: False), "use the notebook&#x27;s Interrupt button")


def test_buttons_stop_the_job(job: Job) -> None:
    interrupt, stop_now, stacks = RunMonitor(job)._buttons.children
    stacks.click()  # nothing runs yet: nothing comes of it
    interrupt.click()
    assert (job.state, job._stops) == ("stopping", 1)
    stop_now.click()
    assert job._stops == 2
    job.finish()
    assert job.cancelled()


def test_in_a_cell_interrupt_does_what_the_notebooks_button_does(job: Job) -> None:
    interrupt, _, _ = RunMonitor(job, stop=job.stop)._buttons.children
    interrupt.click()
    job.finish()
    assert not job.cancelled()


def test_stacks_come_to_the_front(job: Job) -> None:
    monitor = RunMonitor(job)
    monitor._take_report(Report(()))
    deadline = time.monotonic() + 20
    while monitor._folded.selected_index is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert monitor._outputs.selected_index == 2


def test_of_many_ranks_one_is_chosen() -> None:
    job = Job("train()", tuple(range(MOST_TABS + 1)), Policy())
    outputs = Outputs(job)
    job.feed.text(7, 1, "of rank 7\n", 0.0)
    assert outputs._choice is not None
    assert outputs.get_title(0) == "output"
    outputs._choice.value = "7"
    assert "of rank 7" in html_of(outputs)
    assert len(Outputs(Job("train()", tuple(range(MOST_TABS)), Policy())).children) == MOST_TABS + 1


def test_a_run_is_said_to_last_once(job: Job) -> None:
    for now in (10.0, 10.0 + LASTING_S - 0.01, 10.0 + LASTING_S, 99.0):
        job.feed.tick(now)
    job.feed.text(0, 1, "x", 99.0)
    assert job.next_event() == Lasting()
    assert job.next_event() == Text(1, "x")


@pytest.mark.parametrize(
    ("mode", "lasts", "counted", "wanted"),
    [
        ("auto", False, True, False),
        ("auto", True, True, True),
        ("always", False, True, True),
        ("never", True, True, False),
        ("always", True, False, False),
    ],
)
def test_which_runs_get_one(mode: str, lasts: bool, counted: bool, wanted: bool) -> None:
    job = Job("train()", (0,), Policy(), counted=counted)
    assert monitoring.wants_monitor(mode, job, lasts=lasts) is wanted


@pytest.mark.parametrize(("mode", "said"), [("always", True), ("auto", False), ("never", False)])
def test_a_terminal_gets_text_at_the_end(mode: str, said: bool, job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    screen = PlainScreen(mode)
    screen.begin(job.ranks)
    screen.watch(job, lasts=False)
    screen.watch(job, lasts=True)
    log(job, 2.0, 1.0)
    job.finish()
    screen.end()
    assert ("ranks 0 and 1: done, took 0:00" in capsys.readouterr().err) is said
