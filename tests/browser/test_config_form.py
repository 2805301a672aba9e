"""The configuration form in JupyterLab, as people use it: mouse, keyboard, both themes, narrow windows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import Notebook, OpenLab, Server
from playwright.sync_api import Locator, expect

from harness import wait_until

PROJECT = """\
# Our project.
mixed_precision: fp16   # tuned
num_processes: 2
"""
OPEN = """import os
os.environ['ACCELERATE_MIXED_PRECISION'] = 'bf16'
%load_ext nbaccel"""
LONGEST_OPENING_S = 20
"""Generous, for many tests share a machine; benchmarks/config_form.py has the figures."""


@pytest.fixture
def project(server: Server) -> Iterator[Path]:
    """A project file beside the notebooks."""
    path = server.folder / ".accelerate" / "default_config.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(PROJECT)
    yield path
    path.unlink()
    path.parent.rmdir()


def opened(lab: OpenLab, *cells: str, **how: object) -> tuple[Notebook, Locator]:
    """A notebook whose second cell shows the form, and the form."""
    notebook = lab([OPEN, "%accelerate config", *cells], **how)
    notebook.run(0)
    form = notebook.run(1).locator(".nba-form")
    expect(field(form, "num_processes")).to_be_visible(timeout=LONGEST_OPENING_S * 1000)
    return notebook, form


def row(form: Locator, key: str) -> Locator:
    label = form.page.locator("label", has_text=re.compile(rf"^{key}( |$)"))
    return form.locator(".nba-row:visible").filter(has=label)


def field(form: Locator, key: str) -> Locator:
    """The control of a key."""
    return row(form, key).locator("input, select, textarea")


def cells(form: Locator, key: str) -> list[str]:
    """What the table beside a key says, a word per layer."""
    return [text.strip() for text in row(form, key).locator("tbody td").all_inner_texts()]


def test_the_winner_changes_while_a_variable_shadows_a_file(lab: OpenLab, project: Path) -> None:
    notebook, form = opened(lab, "%accelerate why mixed_precision")
    assert cells(form, "mixed_precision")[2:6] == ["·", "✓ bf16", "·", "fp16"]
    assert row(form, "mixed_precision").locator("s").first.inner_text() == "fp16"
    expect(row(form, "mixed_precision")).to_contain_text(".accelerate/default_config.yaml:2:18")
    field(form, "mixed_precision").select_option("no")
    expect(row(form, "mixed_precision")).to_contain_text("the configuration form")
    assert cells(form, "mixed_precision")[2:6] == ["✓ no", "bf16", "·", "fp16"]
    expect(notebook.run(2)).to_contain_text("the configuration form")
    row(form, "mixed_precision").get_by_role("button", name="Reset").click()
    expect(row(form, "mixed_precision")).not_to_contain_text("the configuration form")
    assert cells(form, "mixed_precision")[2:4] == ["·", "✓ bf16"]


def test_changes_are_saved_to_the_project_file_and_are_there_when_it_is_opened_again(
    lab: OpenLab, project: Path
) -> None:
    notebook, form = opened(lab)
    form.get_by_label("Edit", exact=True).select_option(label="project file .accelerate/default_config.yaml")
    expect(field(form, "num_processes")).to_have_value("2")
    field(form, "num_processes").fill("two")
    field(form, "num_processes").press("Enter")
    expect(row(form, "num_processes").get_by_role("alert")).to_contain_text("a whole number from 1")
    field(form, "num_processes").fill("3")
    field(form, "num_processes").press("Enter")
    expect(form.get_by_role("region", name="changes")).to_contain_text("+num_processes: 3")
    assert project.read_text() == PROJECT
    form.get_by_role("button", name="Save").click()
    expect(form).to_contain_text("Saved .accelerate/default_config.yaml.")
    assert project.read_text() == PROJECT.replace("num_processes: 2", "num_processes: 3")
    form = notebook.run(1).locator(".nba-form")
    expect(field(form, "num_processes")).to_have_attribute("placeholder", "3, project")


def test_the_keyboard_alone_is_enough(lab: OpenLab, project: Path) -> None:
    notebook, form = opened(lab)
    keyboard = notebook.page.keyboard
    form.get_by_role("tab", name=re.compile("^Common")).focus()
    keyboard.press("ArrowRight")
    keyboard.press("Enter")
    expect(form.get_by_role("tab", name=re.compile("^Machines"))).to_have_attribute("aria-selected", "true")
    expect(field(form, "compute_environment")).to_be_visible()
    expect(field(form, "rdzv_backend")).to_have_count(0)
    keyboard.press("Tab")
    assert focused(notebook) == "compute_environment"
    keyboard.press("Tab")
    assert focused(notebook) == "distributed_type"
    keyboard.type("FSDP")
    expect(form).to_contain_text("FSDP on dp_shard 2")
    assert wait_until(lambda: focused(notebook) == "distributed_type • changed", within_s=10)
    keyboard.press("Tab")
    assert notebook.page.evaluate("document.activeElement.textContent") == "Reset"
    keyboard.press("Enter")
    expect(form).to_contain_text("DDP, bf16")
    field(form, "num_machines").focus()
    keyboard.type("2")
    keyboard.press("Tab")
    expect(field(form, "rdzv_backend")).to_be_visible()
    expect(form).to_contain_text("the machines must know where to meet")


def focused(notebook: Notebook) -> str:
    """The label of the control that has the focus."""
    return str(notebook.page.evaluate("document.activeElement.labels[0].textContent"))


@pytest.mark.parametrize(("theme", "width"), [("light", 700), ("dark", 700), ("dark", 1500)])
def test_it_fits_and_can_be_read(lab: OpenLab, project: Path, theme: str, width: int) -> None:
    notebook, form = opened(lab, theme=theme, width=width, height=1250)
    field(form, "seed").fill("7")
    field(form, "seed").press("Enter")
    expect(row(form, "seed")).to_contain_text("the configuration form")
    notebook.picture(f"config_form_{theme}_{width}", 1)
    assert form.evaluate("form => form.scrollWidth <= form.clientWidth")
    assert form.evaluate("form => [...form.querySelectorAll('.nba-rows')].every(r => r.scrollWidth <= r.clientWidth)")
    for tab in form.get_by_role("tab").all():
        assert tab.evaluate("tab => tab.scrollWidth <= tab.clientWidth + 1"), tab.inner_text()
    assert notebook.violations(".nba-form") == []


def test_nothing_moves_at_an_edit_a_search_or_another_tab(lab: OpenLab, project: Path) -> None:
    _, form = opened(lab, width=1500, height=1250)
    save = form.get_by_role("button", name="Save")
    before = save.bounding_box()
    field(form, "num_processes").fill("many")
    field(form, "num_processes").press("Enter")
    expect(row(form, "num_processes").get_by_role("alert")).to_be_visible()
    assert save.bounding_box() == before
    form.get_by_role("tab", name=re.compile("^Parameters")).click()
    expect(form.get_by_label("New parameter")).to_be_visible()
    assert save.bounding_box() == before
    form.get_by_label("Search").fill("precision")
    expect(form).to_contain_text("keys found")
    assert save.bounding_box() == before


def test_a_parameter_named_like_a_script_does_no_harm(lab: OpenLab, project: Path) -> None:
    project.write_text(
        PROJECT + "project_name: '<script>window.harmed = 1</script><img src=x onerror=\"window.harmed = 1\">'\n"
    )
    notebook, form = opened(lab)
    form.get_by_role("tab", name=re.compile("^Project")).click()
    expect(row(form, "project_name")).to_contain_text("<script>")
    form.get_by_label("Edit", exact=True).select_option(label="project file .accelerate/default_config.yaml")
    expect(field(form, "project_name")).to_have_value(re.compile("^<script>"))
    assert notebook.page.evaluate("window.harmed") is None
