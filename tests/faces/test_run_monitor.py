"""The monitor of runs in a real kernel: which runs get one, what it tells, what is left of it."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from typing import Any

import pytest

from harness import Answer, Kernel, running_kernel, wait_until
from nbaccel.look.ticks import short

pytestmark = pytest.mark.slow

VIEW = "application/vnd.jupyter.widget-view+json"
TRAIN = """
import time
from nbaccel import Accelerator, tqdm

def train(seconds, bars=True, name="loss"):
    accelerator = Accelerator()
    steps = range(int(seconds * 20))
    for step in tqdm(steps, desc="steps") if bars else steps:
        accelerator.log({f"train/{name}": 1 / (step + 1)}, step=step)
        time.sleep(0.05)
    print("over")
    return step
"""


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    with running_kernel(NBACCEL_MONITOR="auto") as running:
        running.ok("%load_ext nbaccel\nimport nbaccel\nfrom nbaccel import notebook_launcher\n" + TRAIN)
        running.ok("notebook_launcher(train, (0.1,), num_processes=2, monitor='never')")
        yield running


def shown(answer: Answer) -> list[dict[str, Any]]:
    """What was displayed, in its order; updates too."""
    return [one["content"] for one in answer.outputs if one["type"] in ("display_data", "update_display_data")]


def final(answer: Answer) -> dict[str, Any]:
    """What stands in the end where the monitor was."""
    views = [one["transient"]["display_id"] for one in shown(answer) if VIEW in one["data"]]
    assert len(set(views)) == 1
    (*_, last) = [one for one in shown(answer) if one["transient"].get("display_id") == views[0]]
    data: dict[str, Any] = last["data"]
    return data


def curves_in(html: str) -> str:
    found = re.search(r'src="data:image/svg\+xml;base64,([^"]+)"', html)
    assert found is not None, html
    return base64.b64decode(found[1]).decode()


def test_a_short_run_has_none(kernel: Kernel) -> None:
    answer = kernel.ok("notebook_launcher(train, (0.2,), num_processes=2)")
    assert not [one for one in answer.outputs if one["type"].startswith("comm")]
    assert all(VIEW not in one["data"] for one in shown(answer))
    assert "100%" in shown(answer)[-1]["data"]["text/plain"]


def test_a_longer_run_ends_as_html(kernel: Kernel) -> None:
    kernel.ok("import ipywidgets; before = len(ipywidgets.Widget.widgets)")
    answer = kernel.ok("notebook_launcher(train, (4,), num_processes=2)")
    data = final(answer)
    assert set(data) == {"text/html", "text/plain"}
    assert "✓ done" in data["text/html"]
    assert "<polyline" in curves_in(data["text/html"])
    assert "100%" in data["text/html"]
    assert "train/loss" in data["text/plain"]
    assert "rank 1 steps: 100%" in data["text/plain"]
    assert answer.text() == "over\n"
    # the bars that were there before have become the monitor: nothing is shown twice
    assert len({one["transient"]["display_id"] for one in shown(answer)}) == 1
    assert kernel.value("len(ipywidgets.Widget.widgets) - before") == 0
    assert kernel.value("[t.name for t in __import__('threading').enumerate() if t.name == 'nbaccel-monitor']") == []


def test_it_moves_while_the_run_goes_on(kernel: Kernel) -> None:
    answer = kernel.ok("notebook_launcher(train, (5,), num_processes=2)")
    states = [one["content"]["data"].get("state", {}) for one in answer.outputs if one["type"] == "comm_msg"]
    values = [str(state["value"]) for state in states if "value" in state]
    fractions = [int(found) for value in values for found in re.findall(r">(\d+)%</div>", value) if "elapsed" in value]
    assert len(set(fractions)) >= 5
    assert fractions == sorted(fractions)
    assert any("<svg" in value for value in values)


def test_never_means_never(kernel: Kernel) -> None:
    answer = kernel.ok("notebook_launcher(train, (3,), num_processes=1, monitor='never')")
    assert all(VIEW not in one["data"] for one in shown(answer))


def test_always_means_from_the_start(kernel: Kernel) -> None:
    answer = kernel.ok("notebook_launcher(train, (0.2, False), num_processes=1, monitor='always')")
    assert "✓ done" in final(answer)["text/html"]


def test_in_a_session_too(kernel: Kernel) -> None:
    kernel.ok("%accelerate start -n 2")
    try:
        answer = kernel.ok("%%accelerate --monitor always\nimport time\ntime.sleep(0.3)\nprint('cell')")
        assert "cell [" in final(answer)["text/plain"]
        assert answer.text() == "cell\n"
        long = kernel.ok("%%accelerate\nimport time\ntime.sleep(3)")
        assert "✓ done" in final(long)["text/html"]
    finally:
        kernel.ok("%accelerate stop")


def test_a_failed_run_says_so(kernel: Kernel) -> None:
    code = (
        "def fail():\n    import os, time\n    time.sleep(3)\n    assert os.environ['RANK'] != '1', 'broken'\n"
        "    time.sleep(60)\nnotebook_launcher(fail, num_processes=2)"
    )
    answer = kernel.run(code)
    assert "broken" in answer.error
    rows = re.findall(r"<tr><td>(\d)</td><td><span[^>]*>(\w+)</span>", final(answer)["text/html"])
    assert rows == [("0", "stopped"), ("1", "failed")]


def test_an_interrupt_leaves_a_summary(kernel: Kernel) -> None:
    message = kernel.start("notebook_launcher(train, (60,), num_processes=2)")
    answer = Answer()
    while not any(VIEW in one.get("data", {}) for one in (output["content"] for output in answer.outputs)):
        got = kernel.client.get_iopub_msg(timeout=60)
        if got["parent_header"].get("msg_id") == message and got["msg_type"] not in ("status", "execute_input"):
            answer.outputs.append({"type": got["msg_type"], "content": got["content"]})
    kernel.manager.interrupt_kernel()
    rest = kernel.finish(message)
    assert "KeyboardInterrupt" in rest.error
    data = final(Answer(answer.outputs + rest.outputs))
    assert "! stopped" in data["text/html"]
    assert "<polyline" in curves_in(data["text/html"])
    kernel.ok("1")


def test_what_was_logged_is_escaped(kernel: Kernel) -> None:
    evil = "<script>alert(1)</script>"
    answer = kernel.ok(f"notebook_launcher(train, (3, True, {evil!r}), num_processes=1)")
    html = final(answer)["text/html"]
    assert "<script" not in html + curves_in(html)
    assert "&lt;script&gt;" in curves_in(html)


def test_a_flood_of_numbers_stays_a_trickle(kernel: Kernel) -> None:
    code = (
        "def flood():\n    import time\n    from nbaccel import Accelerator\n    accelerator = Accelerator()\n"
        "    until, step = time.monotonic() + 4, 0\n    while time.monotonic() < until:\n"
        "        accelerator.log({'loss': float(step)}, step=step)\n        step += 1\n    return step\n"
        "steps = notebook_launcher(flood, num_processes=2)\nprint(steps)"
    )
    answer = kernel.ok(code)
    steps = int(answer.text())
    assert steps > 10_000
    assert sum(one["type"] == "comm_msg" for one in answer.outputs) < 120
    html = final(answer)["text/html"]
    assert len(html) < 60_000
    count = re.search(r"→ \S+  \(min 0, max (\S+), (\d+) values\)", final(answer)["text/plain"])
    assert count is not None
    assert int(count[2]) < steps
    assert count[1] == short(steps - 1)


def test_a_job_in_the_background_can_be_watched_from_another_cell(kernel: Kernel) -> None:
    kernel.ok("import nbaccel_widgets\njob = nbaccel.submit(train, (60,), num_processes=2)")
    answer = kernel.ok("monitor = nbaccel_widgets.RunMonitor(job)\nmonitor")
    (live,) = shown(answer)
    assert VIEW in live["data"]
    assert "train() on ranks 0 and 1" in live["data"]["text/plain"]
    assert wait_until(lambda: kernel.value("job.feed.board.num_values() > 0"), 30)
    kernel.ok("monitor._buttons.children[2].click()")
    assert wait_until(lambda: kernel.value("'rank 1' in monitor._outputs._stacks.value"), 10)
    kernel.ok("monitor._buttons.children[0].click()")
    assert wait_until(lambda: kernel.value("job.cancelled()"), 10)
    again = kernel.ok("nbaccel_widgets.RunMonitor(job)")
    assert "! stopped" in shown(again)[0]["data"]["text/html"]


def test_stop_now_does_not_wait(kernel: Kernel) -> None:
    kernel.ok(
        "def stubborn():\n    import time\n    while True:\n        try:\n            time.sleep(60)\n"
        "        except KeyboardInterrupt:\n            print('no', flush=True)\n"
        "job = nbaccel.submit(stubborn, num_processes=2)\nmonitor = nbaccel_widgets.RunMonitor(job)"
    )
    assert wait_until(lambda: kernel.value("job.doing(0) == 'running'"), 20)
    kernel.ok("monitor._buttons.children[1].click()")
    assert wait_until(lambda: kernel.value("job.cancelled()"), 10)


def test_without_ipywidgets_runs_have_none_and_always_says_what_to_install() -> None:
    with running_kernel(NBACCEL_MONITOR="auto") as bare:
        bare.ok("import sys; sys.modules['ipywidgets'] = None\nfrom nbaccel import notebook_launcher\n" + TRAIN)
        answer = bare.ok("notebook_launcher(train, (3,), num_processes=1)")
        assert all(VIEW not in one["data"] for one in shown(answer))
        refused = bare.run("notebook_launcher(train, (3,), num_processes=1, monitor='always')")
        assert "MissingExtraError" in refused.error
        assert "pip install 'nbaccel[widgets]'" in refused.error
