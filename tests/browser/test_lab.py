"""The browser lane itself: a cell trains on two ranks in JupyterLab and shows what they print."""

from __future__ import annotations

from lab import OpenLab
from playwright.sync_api import expect

CELL = """%%accelerate -n 2 --output ranks
import torch
from nbaccel import Accelerator
accelerator = Accelerator()
print('total', accelerator.reduce(torch.tensor([accelerator.process_index + 1.0])).item())"""


def test_a_cell_runs_on_two_ranks(lab: OpenLab) -> None:
    notebook = lab(["%load_ext nbaccel", CELL])
    notebook.run(0)
    expect(notebook.run(1)).to_contain_text("total 3.0")
    assert not notebook.is_running(1)


def test_the_stop_button_stops_and_the_kernel_goes_on(lab: OpenLab) -> None:
    notebook = lab(["%load_ext nbaccel", "%%accelerate -n 2\nimport time\nprint('begun')\ntime.sleep(600)", "6 * 7"])
    notebook.run(0)
    notebook.start(1)
    expect(notebook.output(1)).to_contain_text("begun", timeout=30_000)
    notebook.interrupt()
    notebook.wait(1)
    expect(notebook.output(1)).to_contain_text("KeyboardInterrupt")
    expect(notebook.run(2)).to_contain_text("42")
