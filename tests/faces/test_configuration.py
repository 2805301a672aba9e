"""The configuration in a real kernel: layers, parameters, what workers see of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import Kernel

PROJECT = """\
use_cpu: true
num_processes: 2
mixed_precision: bf16
params:
  lr: 0.01
  trainer:
    epochs: 3
"""


@pytest.fixture
def project(kernel: Kernel, tmp_path: Path) -> Iterator[Path]:
    """The kernel works in a project of its own."""
    (tmp_path / ".accelerate").mkdir()
    (tmp_path / ".accelerate/default_config.yaml").write_text(PROJECT)
    kernel.ok(f"import os\nbefore = os.getcwd(), dict(os.environ)\nos.chdir({str(tmp_path)!r})")
    yield tmp_path
    kernel.ok("%accelerate unset\nos.chdir(before[0])\nos.environ.clear()\nos.environ.update(before[1])")


def test_why_set_and_undo(kernel: Kernel, project: Path) -> None:
    answer = kernel.ok("%accelerate why mixed_precision")
    assert "'bf16' from .accelerate/default_config.yaml:3:18 (project)" in answer.displays[0]["text/plain"]
    assert "<s><code>&#x27;no&#x27;</code></s>" in answer.displays[0]["text/html"]
    kernel.ok("os.environ['ACCELERATE_MIXED_PRECISION'] = 'fp16'")
    shown = kernel.ok("%accelerate set mixed_precision no").displays[0]["text/plain"]
    assert shown.splitlines()[:3] == [
        "mixed_precision = 'no' from %accelerate set mixed_precision (notebook)",
        "  shadows 'fp16' from the variable ACCELERATE_MIXED_PRECISION (environment)",
        "  shadows 'bf16' from .accelerate/default_config.yaml:3:18 (project)",
    ]
    kernel.ok("%accelerate undo")
    assert kernel.value("nbaccel.config.resolve().config.mixed_precision") == "fp16"
    kernel.ok("%accelerate set lr=0.5")
    assert kernel.value("nbaccel.config.resolve().config.params['lr']") == 0.5
    assert "forgotten: params.lr" in kernel.ok("%accelerate unset params.lr").text()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("why mixed_precison", "Did you mean 'mixed_precision'?"),
        ("why", "one word is needed: %accelerate why KEY"),
        ("set mixed_precision", "two words are needed: %accelerate set KEY VALUE"),
        ("set mixed_precision bf61", "Did you mean 'bf16'?"),
        ("set nonsense 3", "the key 'nonsense'"),
        ("unset seed", "'seed' is not set for this notebook"),
        ("undo", "nothing has been set for this notebook"),
        ("wyh seed", "Did you mean 'why'?"),
    ],
)
def test_errors_of_use_are_one_line_and_change_nothing(kernel: Kernel, project: Path, line: str, words: str) -> None:
    kernel.ok("while nbaccel.config.NOTEBOOK.undo(): pass")
    error = kernel.run(f"%accelerate {line}").text("stderr")
    assert error.startswith("UsageError: %accelerate")
    assert error.count("\n") == 1
    assert words in error
    assert kernel.value("dict(nbaccel.config.NOTEBOOK.layer())") == {}


def test_a_cell_reads_the_parameters_and_its_line_overrides_them(kernel: Kernel, project: Path) -> None:
    cell = "if os.environ['RANK'] == '0': print(params.lr, params.trainer.epochs)"
    assert kernel.ok(f"%%accelerate\n{cell}").text() == "0.01 3\n"
    assert kernel.ok(f"%%accelerate trainer.epochs=5\n{cell}").text() == "0.01 5\n"
    kernel.ok("params = {'lr': 7, 'own': 1}")
    assert kernel.ok("%%accelerate lr=8 -n 1\nprint(params['lr'], params['own'])").text() == "8 1\n"
    kernel.ok("params = 5")
    assert "UsageError" in kernel.run("%%accelerate lr=8\nprint(params)").text("stderr")
    kernel.ok("del params")


def test_a_session_keeps_the_projects_settings_and_takes_parameters_by_cell(kernel: Kernel, project: Path) -> None:
    kernel.ok("%accelerate start")
    try:
        cell = "import os\nprint(os.environ['RANK'], params.lr, os.environ['ACCELERATE_MIXED_PRECISION'])"
        assert kernel.ok(f"%%accelerate\n{cell}").text() == "0 0.01 bf16\n[1] 1 0.01 bf16\n"
        assert kernel.ok(f"%%accelerate lr=2\n{cell}").text() == "0 2 bf16\n[1] 1 2 bf16\n"
        assert kernel.ok(f"%%accelerate\n{cell}").text() == "0 0.01 bf16\n[1] 1 0.01 bf16\n"
        assert "mixed_precision='no', but the running session" in kernel.run("%%accelerate mixed_precision=no\n1").text(
            "stderr"
        )
    finally:
        kernel.ok("%accelerate stop")


def test_a_restart_keeps_the_flags_of_the_start_and_takes_new_settings_over(kernel: Kernel, project: Path) -> None:
    kernel.ok("%accelerate start -n 1 --seed 7")
    seen = (
        "%%accelerate\nimport os\nfrom nbaccel import Accelerator\nconfig = Accelerator().config.config\n"
        "print(config.num_processes, config.seed, config.mixed_precision, config.gradient_accumulation_steps, params.lr)"
    )
    try:
        kernel.ok("first = nbaccel.notebook.session.running()\n%accelerate restart")
        assert kernel.value("nbaccel.notebook.session.running() is first")
        assert "%accelerate restart takes new settings over" in kernel.ok("%accelerate set mixed_precision no").text()
        assert kernel.ok(seen).text() == "1 7 bf16 1 0.01\n"
        kernel.ok("%accelerate restart")
        assert kernel.ok(seen).text() == "1 7 no 1 0.01\n"
        (project / "other.yaml").write_text("gradient_accumulation_steps: 4\n")
        kernel.ok("%accelerate restart --config-file other.yaml")
        assert kernel.ok(seen).text() == "1 7 no 4 0.01\n"
        kernel.ok("%accelerate restart lr=5 --seed 8")
        assert kernel.ok(seen).text() == "1 8 no 4 5\n"
        assert "mixed_precision='fp17'" in kernel.run("%accelerate restart --mixed-precision fp17").text("stderr")
        assert kernel.ok(seen).text() == "1 8 no 4 5\n"
    finally:
        kernel.ok("%accelerate stop")


def test_a_cell_of_a_session_may_say_how_many_workers_it_has(kernel: Kernel) -> None:
    kernel.ok("%accelerate start")
    try:
        number = kernel.value("len(nbaccel.notebook.session.running().ranks)")
        assert kernel.ok(f"%%accelerate -n {number} --ranks 0\nprint('ran')").text() == "ran\n"
        error = kernel.run(f"%%accelerate -n {number + 1}\n1").text("stderr")
        assert f"but the running session has num_processes={number}." in error
    finally:
        kernel.ok("%accelerate stop")


OBJECTS = """
import dataclasses
from omegaconf import OmegaConf
from pydantic import BaseModel

class Trainer(BaseModel):
    epochs: int
    batch_size: int = 32

@dataclasses.dataclass
class Everything:
    lr: float
    trainer: dict

class Settings(BaseModel):
    lr: float = 0.5
    trainer: Trainer = Trainer(epochs=9)

def train(lr: float, trainer: Trainer, momentum: float = 0.9):
    return lr, trainer.epochs, trainer.batch_size, momentum
"""


@pytest.mark.parametrize(
    ("params", "returned"),
    [
        ("None", (0.01, 3, 32, 0.9)),
        ("{'trainer': {'epochs': 10}}", (0.01, 10, 32, 0.9)),
        ("OmegaConf.create({'trainer': {'epochs': '${twice}'}, 'twice': 4, 'lr': 1})", None),
        ("OmegaConf.create({'trainer': {'epochs': 2, 'batch_size': '${.epochs}'}})", (0.01, 2, 2, 0.9)),
        ("Settings()", (0.5, 9, 32, 0.9)),
        ("Everything(2, {'epochs': 1, 'batch_size': 8})", (2.0, 1, 8, 0.9)),
    ],
)
def test_a_functions_parameters_are_filled_in(
    kernel: Kernel, project: Path, params: str, returned: tuple[float, ...] | None
) -> None:
    kernel.ok(OBJECTS)
    call = f"notebook_launcher(train, num_processes=1, params={params})"
    if returned is None:
        assert "the parameter 'twice' (from the argument params=) is not valid" in kernel.run(call).error
    else:
        assert kernel.value(call) == returned
        assert kernel.value(f"nbaccel.submit(train, num_processes=1, params={params}).result(60)") == returned


def test_the_users_own_variable_and_arguments_of_the_call_stand_above_the_file(kernel: Kernel, project: Path) -> None:
    kernel.ok(f"{OBJECTS}\nos.environ['MOMENTUM'] = '0.5'\nos.environ['LR'] = '3e-2'")
    assert kernel.value("notebook_launcher(train, num_processes=1)") == (0.03, 3, 32, 0.5)
    assert kernel.value("notebook_launcher(train, (1.0,), num_processes=1)") == (1.0, 3, 32, 0.5)
    kernel.ok("os.environ['LR'] = 'high'")
    error = kernel.run("notebook_launcher(train, num_processes=1)").error
    assert "params.lr='high' (from the variable LR) is not valid" in error


def test_functions_of_a_session_get_parameters_too(kernel: Kernel, project: Path) -> None:
    kernel.ok(f"{OBJECTS}\nos.environ['MOMENTUM'] = '0.5'\ndef other(): return 'other'\ndef strict(lr: int): return lr")
    kernel.ok("one = nbaccel.Session(1, params={'trainer': {'epochs': 10}})")
    assert kernel.value("one.run(train)") == (0.01, 10, 32, 0.5)
    assert kernel.value("one.run(train, (1.0,), {'momentum': 0.9})") == (1.0, 10, 32, 0.9)
    assert kernel.value("one.submit(train).result(60)") == (0.01, 10, 32, 0.5)
    assert kernel.value("one.run(other)") == "other"
    error = kernel.run("one.run(strict)").error
    assert "params.lr=0.01 (from .accelerate/default_config.yaml:5:7) is not valid" in error
    kernel.ok("one.close()")
    assert kernel.value("nbaccel.Session(1, params={'lr': 0.5}).run(strict, (7,))") == 7


def test_accelerator_says_what_contradicts_the_launch_and_what_comes_too_late(kernel: Kernel, project: Path) -> None:
    answer = kernel.ok(
        "%%accelerate --mixed-precision no\nfrom nbaccel import Accelerator\nAccelerator(mixed_precision='bf16')"
    )
    assert "says mixed_precision='bf16' and is in force" in answer.text("stderr")
    assert "'no' by the flag --mixed-precision" in answer.text("stderr")
    error = kernel.run("%%accelerate\nfrom nbaccel import Accelerator\nAccelerator(num_processes=4)").error
    assert "Accelerator(num_processes=...) comes too late" in error
    answer = kernel.ok(
        "%%accelerate\nfrom nbaccel import Accelerator\na = Accelerator(gradient_accumulation_steps=2)\n"
        "if a.is_main_process: print(a.state, a.config.explain('mixed_precision'), sep='\\n')"
    )
    assert "gradient_accumulation_steps = 2 constructor" in " ".join(answer.text().split())
    assert "mixed_precision = 'bf16' from .accelerate/default_config.yaml:3:18 (project)" in answer.text()


def test_a_variable_that_training_code_sets_in_the_worker_counts(kernel: Kernel, project: Path) -> None:
    answer = kernel.ok(
        "%%accelerate -n 1\nimport os\nos.environ['ACCELERATE_MIXED_PRECISION'] = 'fp16'\n"
        "from nbaccel import Accelerator\nprint(Accelerator().config.explain('mixed_precision'))"
    )
    assert "'fp16' from the variable ACCELERATE_MIXED_PRECISION, set in the worker (environment)" in answer.text()


def test_what_accelerate_drops_reaches_accelerate_itself(kernel: Kernel, project: Path) -> None:
    (project / ".accelerate/default_config.yaml").write_text(
        f"{PROJECT}enable_cpu_affinity: true\nfp8_config:\n  amax_history_length: 7\n  override_linear_precision: true\n"
    )
    answer = kernel.ok(
        "%%accelerate\nimport os\nfrom accelerate import Accelerator\n"
        "names = ('AMAX_HISTORY_LEN', 'OVERRIDE_FPROP', 'OVERRIDE_WGRAD')\n"
        "if os.environ['RANK'] == '0': print(Accelerator(cpu=True).mixed_precision, [os.environ['ACCELERATE_FP8_' + n] for n in names], len(os.sched_getaffinity(0)))\n"
        "else: Accelerator(cpu=True)"
    )
    assert "bf16 ['7', 'true', 'true'] 1" in answer.text()
    assert (
        kernel.value("notebook_launcher(lambda: os.environ['ACCELERATE_MIXED_PRECISION'], mixed_precision='fp16')")
        == "fp16"
    )


def test_dotenv_is_for_the_workers_and_secrets_are_masked(kernel: Kernel, project: Path) -> None:
    (project / ".env").write_text("SOME_API_TOKEN=hush\nACCELERATE_GRADIENT_ACCUMULATION_STEPS=4\n")
    assert kernel.value("notebook_launcher(lambda: os.environ['SOME_API_TOKEN'])") == "hush"
    assert kernel.value("'SOME_API_TOKEN' in os.environ") is False
    text = kernel.ok("%accelerate why gradient_accumulation_steps").displays[0]["text/plain"]
    assert "the variable ACCELERATE_GRADIENT_ACCUMULATION_STEPS in .env:2" in text
    kernel.ok("%accelerate set params.api_key abcdef")
    answer = kernel.ok("%accelerate why params.api_key")
    assert "abcdef" not in str(answer.outputs)
    assert "********" in answer.displays[0]["text/plain"]


def test_the_log_level_shows_where_values_come_from_before_the_launch(kernel: Kernel, project: Path) -> None:
    kernel.ok("os.environ['ACCELERATE_LOG_LEVEL'] = 'DEBUG'")
    lines = kernel.ok("%%accelerate --seed 3\nprint('runs')").text().splitlines()
    assert lines[0].split() == ["seed", "=", "3", "call", "the", "flag", "--seed"]
    assert "2 workers by zygote on cpu, 1 CPU thread each" in lines
    assert lines.index("runs") > lines.index("2 workers by zygote on cpu, 1 CPU thread each")


def test_a_run_with_a_project_folder_leaves_a_snapshot_that_can_be_used_again(kernel: Kernel, project: Path) -> None:
    kernel.ok("%%accelerate --project-dir out --seed 5 lr=0.5\npass")
    kernel.ok(
        "import pathlib, time\nwhile not list(pathlib.Path('out').rglob('nbaccel_config.yaml')): time.sleep(0.05)"
    )
    (file,) = (project / "out").rglob("nbaccel_config.yaml")
    text = file.read_text()
    assert "seed: the flag --seed (call)" in text
    assert "mixed_precision: .accelerate/default_config.yaml:3:18 (project)" in text
    answer = kernel.ok(f"%accelerate --config-file {file}").text()
    assert f"seed = 5 from {file.relative_to(project)}" in answer
    assert "params.lr = 0.5 from" in answer


def test_an_impossible_wish_says_where_it_came_from(kernel: Kernel, project: Path) -> None:
    with (project / ".accelerate/default_config.yaml").open("a") as file:
        file.write("distributed_type: DEEPSPEED\n")
    error = kernel.run("%%accelerate\n1").text("stderr")
    assert "distributed_type='DEEPSPEED' (from .accelerate/default_config.yaml:8:19)" in error


def test_what_hydra_composes_in_a_cell_is_passed_on(kernel: Kernel, project: Path) -> None:
    (project / "conf").mkdir()
    (project / "conf/config.yaml").write_text("lr: 0.1\ntrainer: {epochs: 4, batch_size: '${twice:8}'}\n")
    kernel.ok(
        f"{OBJECTS}\nimport hydra\nOmegaConf.register_new_resolver('twice', lambda n: 2 * n, replace=True)\n"
        f"with hydra.initialize_config_dir({str(project / 'conf')!r}, version_base=None):\n"
        "    composed = hydra.compose('config', overrides=['lr=0.7'])"
    )
    assert kernel.value("notebook_launcher(train, num_processes=1, params=composed)") == (0.7, 4, 16, 0.9)
    sweep = "[notebook_launcher(train, num_processes=1, params={**composed, 'lr': lr})[0] for lr in (1, 2)]"
    assert kernel.value(sweep) == [1.0, 2.0]
    cell = "%%accelerate -n 1 lr=3\nprint(params.lr, params.trainer.batch_size)"
    kernel.ok("params = composed")
    assert kernel.ok(cell).text() == "3 16\n"
    kernel.ok("del params")


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("config", "num_processes               = 2"),  # ipywidgets 7 cuts a widget's text off
        ("config show seed", "seed"),
        ("config why mixed_precision", "(project)"),
        ("config validate", "no problems"),
        ("config set seed 3", "+seed: 3"),
        ("doctor", "2 workers by zygote on cpu"),
    ],
)
def test_commands_of_the_terminal_are_magics_too(kernel: Kernel, project: Path, words: str, shown: str) -> None:
    assert shown in kernel.ok(f"%accelerate {words}").displays[0]["text/plain"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("config shwo", "Did you mean 'show'?"),
        ("config why", "write %accelerate config why KEY."),
        ("config set seed", "write %accelerate config set KEY VALUE."),
        ("config diff", "one or two files are needed"),
        ("config seed=3", "set a key with %accelerate config set KEY VALUE"),
        ("test now", "'now' is too much"),
    ],
)
def test_wrong_commands_are_one_line(kernel: Kernel, project: Path, words: str, message: str) -> None:
    assert message in kernel.run(f"%accelerate {words}").text("stderr")


def test_the_set_up_is_checked_from_a_cell(kernel: Kernel, project: Path) -> None:
    assert "All 8 checks passed" in kernel.ok("%accelerate test").text()
