"""Curves that grow in the cell while workers train."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

from harness import Kernel

TRAIN = """
def train():
    import time
    from nbaccel.runtime.state import PartialState
    from nbaccel.runtime.tracking.trackers import Trackers
    trackers = Trackers("notebook", is_main=PartialState().is_main_process)
    for step in range(30):
        trackers.log({"train/loss": 1 / (step + 1), "eval/loss": 2 / (step + 1), "lr": 0.1}, step=step)
        time.sleep(0.05)
    trackers.finish()
"""


def test_workers_draw_curves_that_stay_in_the_cell(kernel: Kernel) -> None:
    answer = kernel.ok(TRAIN + "\nnotebook_launcher(train, num_processes=2)")
    shown = [one for one in answer.outputs if "image/svg+xml" in one["content"].get("data", {})]
    assert [one["type"] for one in shown[:2]] == ["display_data", "update_display_data"]
    assert 3 <= len(shown) <= 6
    assert len({one["content"]["transient"]["display_id"] for one in shown}) == 1
    last = shown[-1]["content"]["data"]
    assert len(ElementTree.fromstring(last["image/svg+xml"]).findall(".//{*}polyline")) == 3
    assert [line.split()[0] for line in last["text/plain"].splitlines()] == ["train/loss", "eval/loss", "lr"]


def test_the_kernel_itself_draws_curves_too(kernel: Kernel) -> None:
    """The last picture of a cell is complete even if nobody ends the run."""
    answer = kernel.ok(
        "from nbaccel.runtime.tracking.notebook import NotebookTracker\n"
        "tracker = NotebookTracker(); tracker.start()\n"
        "for step in range(5): tracker.log({'loss': step})"
    )
    shown = [one["content"]["data"] for one in answer.outputs if "image/svg+xml" in one["content"].get("data", {})]
    assert "5 values" in shown[-1]["text/plain"]
    assert len(shown) == 2
