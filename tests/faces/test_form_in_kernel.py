"""The forms in a real kernel: what the configuration form edits is what cells get, what the launch form's line says is in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import Kernel

WIDGET = "application/vnd.jupyter.widget-view+json"


@pytest.fixture
def project(kernel: Kernel, tmp_path: Path) -> Iterator[Path]:
    """A project whose file says that two workers train in fp16."""
    (tmp_path / ".accelerate").mkdir()
    (tmp_path / ".accelerate/default_config.yaml").write_text(
        "num_processes: 2\nmixed_precision: fp16\nuse_cpu: true\n"
    )
    kernel.ok(f"import os; os.chdir({str(tmp_path)!r}); os.environ['HF_HOME'] = {str(tmp_path / 'home')!r}")
    yield tmp_path
    kernel.ok("from nbaccel.config import NOTEBOOK; NOTEBOOK.replace({})")


def test_config_opens_the_form_and_its_edits_reach_why_and_cells(kernel: Kernel, project: Path) -> None:
    shown = kernel.ok("%accelerate config").displays[0]
    assert WIDGET in shown
    assert "mixed_precision" in shown["text/plain"]
    assert "<table" in shown["text/html"]
    kernel.ok("form = _; form.row('mixed_precision').control.value = 'bf16'")
    why = kernel.ok("%accelerate why mixed_precision").displays[0]["text/plain"]
    assert "mixed_precision = 'bf16' from the configuration form (notebook)" in why
    assert "shadows 'fp16' from .accelerate/default_config.yaml:2:18 (project)" in why
    cell = "%%accelerate\nfrom nbaccel import Accelerator\nprint(Accelerator().mixed_precision)"
    assert kernel.ok(cell).text().strip() == "bf16"
    kernel.ok("%accelerate undo")
    kernel.ok("form.foot.refresh.click()")
    assert kernel.ok("print(form.values)").text().strip() == "{}"
    kernel.ok("%accelerate set seed 4")
    kernel.ok("form.refresh(); form.undo()")
    assert "seed" not in kernel.ok("from nbaccel.config import NOTEBOOK; print(NOTEBOOK.layer())").text()


def test_config_of_a_profile_and_a_file(kernel: Kernel, project: Path) -> None:
    (project / ".accelerate/prod.yaml").write_text("timeout: 60\n")
    (project / "named.yaml").write_text("seed: 3\n")
    kernel.ok("%accelerate config --profile prod --config-file named.yaml")
    assert kernel.ok("print(_.picture.value('timeout'), _.picture.value('seed'))").text().split() == ["60.0", "3"]


def test_config_show_is_the_table(kernel: Kernel, project: Path) -> None:
    shown = kernel.ok("%accelerate config show").displays[0]
    assert WIDGET not in shown
    assert "num_processes" in shown["text/plain"]


def test_without_ipywidgets_config_is_the_table(fresh_kernel: Kernel, tmp_path: Path) -> None:
    fresh_kernel.ok(f"import os, sys; os.chdir({str(tmp_path)!r}); sys.modules['ipywidgets'] = None")
    fresh_kernel.ok("%load_ext nbaccel")
    shown = fresh_kernel.ok("%accelerate config").displays[0]
    assert "num_processes" in shown["text/plain"]
    assert WIDGET not in shown


def test_a_launch_form_has_what_stands_on_its_line(kernel: Kernel, project: Path) -> None:
    (project / "named.yaml").write_text("seed: 3\nparams:\n  epochs: 7\n")
    kernel.ok("def train(lr: float = 0.1, epochs: int = 1, trainer: dict = {}): return lr, epochs, trainer")
    kernel.ok("%accelerate form train -n 1 --timeout none --config-file named.yaml lr=0.5 trainer.wait=true")
    kernel.ok("form = _")
    assert kernel.ok("print(form.code)").text().strip() == (
        "notebook_launcher(train, (0.5,), num_processes=1, timeout='none', config='named.yaml', "
        "kwargs={'trainer': {'wait': True}})"
    )
    assert kernel.ok("print(form.launch().result(60))").text().strip() == "(0.5, 7, {'wait': True})"
    answer = kernel.run("%accelerate form train lrr=0.5")
    assert "UsageError: %accelerate form: the parameter 'lrr'" in answer.text("stderr")
    assert "Did you mean 'lr'?" in answer.text("stderr")
