"""The monitor of a run in JupyterLab: it moves, it stops the run, and a reopened notebook shows what is left of it."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from lab import Notebook, OpenLab
from playwright.sync_api import expect

PATIENCE_MS = 30_000

TRAIN = """
import math, time
from nbaccel import Accelerator, notebook_launcher, tqdm

def train(steps=300):
    accelerator = Accelerator()
    for epoch in tqdm(range(2), desc="epochs"):
        for number in tqdm(range(steps), desc="steps", leave=False):
            step = epoch * steps + number
            accelerator.log({"train/loss": math.exp(-step / steps), "lr": 1e-3}, step=step)
            time.sleep(0.05)
        print(f"rank {accelerator.process_index}: epoch {epoch}")
    return step
"""


def running(lab: OpenLab, call: str, theme: str = "light") -> Notebook:
    """A notebook whose last cell runs and shows its monitor."""
    notebook = lab(["%load_ext nbaccel", TRAIN, call], theme=theme)
    notebook.run(0)
    notebook.run(1)
    notebook.start(2)
    expect(notebook.output(2).get_by_role("button", name="Stacks")).to_be_visible(timeout=PATIENCE_MS)
    return notebook


def figure(notebook: Notebook, name: str) -> str:
    found = re.search(rf"{name}\n(\S+)", notebook.output(2).inner_text())
    return found[1] if found else ""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_run_is_seen_while_it_runs_and_afterwards(lab: OpenLab, theme: str) -> None:
    notebook = running(lab, "notebook_launcher(train, num_processes=2)", theme)
    shown = notebook.output(2)
    expect(shown).to_contain_text("▶ running")
    expect(shown.get_by_role("progressbar")).to_have_count(4, timeout=PATIENCE_MS)
    first = int(figure(notebook, "progress").rstrip("%"))
    notebook.page.wait_for_function(
        "first => { const text = document.querySelectorAll('.jp-Cell')[2].innerText;"
        " const found = text.match(/progress\\s+(\\d+)%/); return found && Number(found[1]) > first + 10 }",
        arg=first,
    )
    assert ":" in figure(notebook, "remaining")
    expect(shown.locator("svg polyline")).to_have_count(2, timeout=PATIENCE_MS)
    shown.get_by_text("Output of each rank").click()
    shown.get_by_role("tab", name="rank 1").click()
    tail = shown.locator(".widget-html:visible", has_text="rank 1: epoch 0")
    expect(tail).to_be_visible(timeout=PATIENCE_MS)
    shown.get_by_role("button", name="Stacks").click()
    expect(shown).to_contain_text("in train: time.sleep(0.05)", timeout=PATIENCE_MS)
    notebook.picture(f"monitor_running_{theme}", 2)
    assert notebook.violations(".jp-OutputArea-child .widget-vbox") == []
    notebook.wait(2)
    _check_summary(notebook)
    expect(shown).to_contain_text("599")
    notebook.save()
    notebook.shut_down()
    notebook.page.reload()
    expect(shown.locator("img")).to_be_visible(timeout=PATIENCE_MS)
    _check_summary(notebook)
    notebook.picture(f"monitor_reopened_{theme}", 2)
    assert notebook.violations(".jp-OutputArea-child .nba") == []


def _check_summary(notebook: Notebook) -> None:
    shown = notebook.output(2)
    expect(shown).to_contain_text("✓ done")
    expect(shown.get_by_role("img", name="curves of train/loss, lr")).to_be_visible()
    expect(shown.locator(".jupyter-widgets")).to_have_count(0)
    expect(shown).not_to_contain_text("model not found")
    width = shown.locator("img").evaluate("image => image.naturalWidth")
    assert width > 300


def test_its_button_stops_a_running_cell(lab: OpenLab) -> None:
    notebook = running(lab, "notebook_launcher(train, (2000,), num_processes=2)")
    notebook.output(2).get_by_role("button", name="Interrupt", exact=True).click()
    notebook.wait(2)
    expect(notebook.output(2)).to_contain_text("! stopped")
    expect(notebook.output(2)).to_contain_text("KeyboardInterrupt")
    expect(notebook.output(2).locator(".jupyter-widgets")).to_have_count(0)


def test_the_notebooks_button_stops_it_too(lab: OpenLab) -> None:
    notebook = running(lab, "notebook_launcher(train, (2000,), num_processes=2)")
    notebook.interrupt()
    notebook.wait(2)
    expect(notebook.output(2)).to_contain_text("! stopped")
    expect(notebook.output(2)).to_contain_text("KeyboardInterrupt")


def test_a_run_in_the_background_is_stopped_from_its_monitor(lab: OpenLab) -> None:
    call = "import nbaccel\njob = nbaccel.submit(train, (2000,), num_processes=2)"
    notebook = running(lab, call)
    assert not notebook.is_running(2)
    notebook.output(2).get_by_role("button", name="Stop now").click()
    expect(notebook.output(2)).to_contain_text("! stopped", timeout=PATIENCE_MS)
    expect(notebook.output(2).locator(".jupyter-widgets")).to_have_count(0)


def test_nothing_below_moves_while_it_runs(lab: OpenLab) -> None:
    notebook = running(lab, "notebook_launcher(train, num_processes=2)")
    expect(notebook.output(2).locator("svg polyline")).to_have_count(2, timeout=PATIENCE_MS)
    heights = notebook.page.evaluate(
        """async () => {
            const output = document.querySelectorAll('.jp-Cell')[2].querySelector('.jupyter-widgets');
            const seen = new Set();
            for (let frame = 0; frame < 90; frame++) {
                await new Promise(resolve => requestAnimationFrame(resolve));
                seen.add(Math.round(output.getBoundingClientRect().height));
                await new Promise(resolve => setTimeout(resolve, 20));
            }
            return [...seen];
        }"""
    )
    assert len(heights) == 1, heights


def test_an_exported_notebook_shows_the_summary(lab: OpenLab) -> None:
    notebook = lab(["%load_ext nbaccel", TRAIN, "notebook_launcher(train, (40,), num_processes=2)"])
    notebook.shut_down()
    command = [
        sys.executable,
        "-m",
        "nbconvert",
        "--to",
        "html",
        "--execute",
        str(notebook.path),
        "--output",
        "exported",
    ]
    subprocess.run(command, check=True, timeout=180, capture_output=True)
    html = (notebook.path.parent / "exported.html").read_text()
    assert "✓ done" in html
    assert 'alt="curves of train/loss, lr"' in html
    assert '<script type="application/vnd.jupyter.widget-view+json"' not in html
    assert "Error displaying widget" not in html
