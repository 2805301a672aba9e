"""The launch form in JupyterLab: filled in, launched, launched again, compared; the kernel stays free."""

from __future__ import annotations

import pytest
from lab import OpenLab
from playwright.sync_api import expect

pytestmark = pytest.mark.timeout(300)

TRAIN = """%load_ext nbaccel
import time
from typing import Annotated, Literal
from pydantic import Field

def train(lr: Annotated[float, Field(gt=0, le=1)] = 0.1, optimizer: Literal["sgd", "adam"] = "sgd", wait: bool = False):
    print("rate is", lr)
    while wait:
        time.sleep(0.1)
    return {"loss": lr * 2}"""


def test_a_function_is_launched_compared_and_stopped(lab: OpenLab) -> None:
    notebook = lab([TRAIN, "%accelerate form train -n 2", "6 * 7"], height=1400)
    notebook.run(0)
    form = notebook.run(1)
    field = lambda name: form.get_by_label(name, exact=True)  # noqa: E731
    launch = form.get_by_role("button", name="Launch")

    field("lr").fill("2")
    expect(form).to_contain_text("2.0 is not valid. Possible: a number above 0 up to 1.")
    expect(launch).to_be_disabled()

    field("lr").fill("0.5")
    expect(form).to_contain_text("notebook_launcher(train, (0.5,), num_processes=2)")
    launch.click()
    expect(form.locator("table").last).to_contain_text("done", timeout=60_000)
    expect(form).to_contain_text("rate is 0.5")
    assert notebook.violations(".jp-OutputArea-output .widget-vbox") == []

    field("lr").fill("0.25")
    field("optimizer").select_option("adam")
    field("wait").check()
    launch.click()
    expect(form).to_contain_text("is going on; stop it, or wait for its end", timeout=30_000)
    expect(launch).to_be_disabled()
    expect(notebook.run(2)).to_contain_text("42")
    form.get_by_role("button", name="Interrupt").click()
    expect(launch).to_be_enabled(timeout=60_000)
    expect(form).to_contain_text("stopped")

    field("compare with").select_option(index=2)
    expect(form).to_contain_text("lines differ")
    form.get_by_label("run", exact=True).select_option(index=1)
    form.get_by_role("button", name="Use again").click()
    expect(field("lr")).to_have_value("0.5")
    form.get_by_role("button", name="Undo").click()
    expect(field("lr")).to_have_value("0.25")
