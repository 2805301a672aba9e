"""`nbaccel doctor`: what it finds, what it makes of it, and how it says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from nbaccel.cli.doctor import command
from nbaccel.config import call_layer, resolve
from nbaccel.errors import ConfigError
from nbaccel.launch.checkup import check_up
from nbaccel.launch.checkup.checkup import Checkup, reasons
from nbaccel.launch.checkup.findings import Findings, gather
from nbaccel.launch.checkup.problems import problems
from nbaccel.machine import Gpu, Machine, Obstacle
from nbaccel.plan import Plan, settle

pytestmark = pytest.mark.usefixtures("nowhere")

CPU = Machine(usable_cores=4, physical_cores=2, memory_bytes=8 << 30)
GPUS = replace(CPU, gpus=(Gpu(0, "0", "H200", 139 << 30), Gpu(1, "1")))
TPU = replace(CPU, tpu_kind="v5e", tpu_chips=4)
SOUND = Findings(CPU, versions={"python": "3.11.7", "torch": "2.8.0"}, plan=Plan("torchrun", "cpu", 2, 2))


def test_a_sound_machine_has_no_problem() -> None:
    assert problems(SOUND) == []


@pytest.mark.parametrize(
    ("change", "text", "remedy"),
    [
        ({"error": "gpu_ids=7: no."}, "gpu_ids=7: no.", "Nothing can be launched"),
        ({"versions": {"torch": ""}}, "torch is not installed.", "pip install 'nbaccel[torch]'"),
        ({"versions": {"torch": "2.3.1+cu121"}}, "torch 2.3.1+cu121 is too old.", "torch>=2.4"),
        ({"machine": replace(CPU, gpu_obstacle=Obstacle("no GPU answers.", "Ask."))}, "no GPU answers.", "Ask."),
        ({"hidden_gpus": 2}, "CUDA_VISIBLE_DEVICES hides all of this machine's GPUs (2).", "Unset it"),
        ({"machine": TPU}, "There are 4 TPU chips, but no torch_xla.", "nbaccel[xla]"),
        ({"free_memory_bytes": 900 << 20}, "2 workers take about 1.0 GiB before any model or data; 0.9 GiB", "fewer"),
        ({"shared_memory_bytes": 64 << 20}, "/dev/shm has 64 MiB free", "--shm-size"),
        ({"temporary_bytes": 5 << 20}, "The temporary folder has 5 MiB free.", "TMPDIR"),
        ({"unwritable": {"HF_HOME": "/ro"}}, "/ro (HF_HOME) cannot be written to.", "Set HF_HOME"),
        ({"unwritable": {"project_dir": "/ro"}}, "/ro (project_dir) cannot be written to.", "Set project_dir"),
        ({"most_open_files": 256}, "A process may have 256 files open", "ulimit -n"),
        ({"plan": Plan("torchrun", "cpu", 2, 2, 0, 8)}, "2 workers with 8 CPU threads each share 4 cores", "lower it"),
    ],
)  # fmt: skip
def test_what_is_a_problem(change: dict[str, object], text: str, remedy: str) -> None:
    (found,) = problems(replace(SOUND, **change))  # type: ignore[arg-type]
    assert found.text.startswith(text)
    assert remedy in found.remedy


@pytest.mark.parametrize(
    "change",
    [
        {"machine": GPUS},
        {"machine": TPU, "versions": {"torch": "2.8.0", "torch_xla": "2.8"}},
        {"shared_memory_bytes": None},
        {"plan": Plan("torchrun", "cpu", 8, 8)},
        {"plan": None},
    ],
)
def test_what_is_no_problem(change: dict[str, object]) -> None:
    assert problems(replace(SOUND, **change)) == []  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("machine", "given", "why"),
    [
        (CPU, {}, ["device   cpu: there is no other that torch could use",
                   "workers  2: num_processes is left out, so one per physical core, up to 4",
                   "threads  2: 4 usable cores for 2 workers here"]),
        (GPUS, {}, ["device   cuda: the best that there is", "workers  2: num_processes is left out, so one per device",
                    "threads  2: 4 usable cores for 2 workers here"]),
        (GPUS, {"use_cpu": True, "num_processes": 1, "num_cpu_threads_per_process": 3},
         ["device   cpu: use_cpu=True is set by the argument use_cpu=",
          "workers  1: num_processes is set by the argument num_processes=",
          "threads  3: num_cpu_threads_per_process is set by the argument num_cpu_threads_per_process="]),
        (GPUS, {"gpu_ids": "1"}, ["device   cuda: gpu_ids=(1,) is set by the argument gpu_ids=",
                                  "workers  1: num_processes is left out, so one per device",
                                  "threads  4: 4 usable cores for 1 workers here"]),
    ],
)  # fmt: skip
def test_why_a_launch_does_what_it_does(machine: Machine, given: dict[str, object], why: list[str]) -> None:
    resolved = resolve(call_layer(given), environ={})
    assert list(reasons(resolved, settle(resolved, machine), machine)) == why


def test_what_is_gathered(nowhere: Path, tmp_path: Path) -> None:
    (nowhere / ".accelerate").mkdir()
    (nowhere / ".accelerate/dev.yaml").write_text("num_processes: 2")
    (nowhere / "old.yaml").write_text("fp16: true\n")
    blocked = tmp_path / "blocked"
    blocked.touch()
    environ = {"HF_HOME": str(blocked / "hf"), "HOME": str(tmp_path)}
    layer = call_layer({"project_dir": str(blocked), "profile": "dev"})
    found = gather(layer, config_file="old.yaml", machine=CPU, environ=environ, folder=nowhere, launcher="torchrun")
    assert found.plan is not None
    assert (found.plan.launcher, found.plan.world_size) == ("torchrun", 2)
    assert found.unwritable == {"HF_HOME": str(blocked / "hf/accelerate"), "project_dir": str(blocked)}
    assert found.files == (
        ("--config-file", "old.yaml", True),
        ("project", ".accelerate/default_config.yaml", False),
        ("profile dev", ".accelerate/dev.yaml", True),
        ("variables", ".env", False),
        ("user", str(blocked / "hf/accelerate/default_config.yaml"), False),
    )
    assert found.versions["torch"]
    text = str(Checkup(found, ()))
    assert "note: old.yaml:1:" in text
    assert "num_processes   = 2" in text


def test_hidden_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def probe(environ: dict[str, str]) -> Machine:
        seen.append(environ)
        return GPUS if "CUDA_VISIBLE_DEVICES" not in environ else CPU

    monkeypatch.setattr("nbaccel.launch.checkup.findings.probe", probe)
    assert gather(environ={"CUDA_VISIBLE_DEVICES": "9"}).hidden_gpus == 2
    assert gather(environ={}).hidden_gpus == 0
    assert gather(environ={"ACCELERATE_CONFIG_FILE": "none.yaml"}).files[0] == (
        "ACCELERATE_CONFIG_FILE", "none.yaml", False
    )  # fmt: skip


def test_a_wrong_configuration_is_a_problem_among_others() -> None:
    Path("wrong.yaml").write_text("mixed_precision: bf17\n")
    found = check_up(config_file="wrong.yaml", machine=CPU, environ={})
    assert "wrong.yaml:1:" in found.problems[0].text
    for words in ("the configuration is not valid, see below", "nothing, see below", "  1. mixed_precision='bf17'"):
        assert words in str(found)
    assert repr(found) == str(found)
    assert found._repr_html_().startswith("<pre>Machine")


def test_devices_are_listed() -> None:
    text = str(check_up(machine=replace(GPUS, has_mps=True, tpu_kind="v5e", tpu_chips=1), environ={}))
    for words in ("cuda:0  H200, 139.0 GiB (CUDA_VISIBLE_DEVICES=0)", "cuda:1  GPU (", "tpu  v5e, 1 chip\n", "mps"):
        assert words in text


def test_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nbaccel.launch.checkup.checkup.problems", lambda found: [])
    done = CliRunner().invoke(command, ["-n", "2", "--cpu"], catch_exceptions=False)
    assert done.exit_code == 0
    headings = [line for line in done.output.splitlines() if line and not line.startswith(" ")]
    assert headings == [
        "Machine", "Versions", "Configuration files", "What somebody has set", "What a launch does", "Problems",
    ]  # fmt: skip
    assert "num_processes = 2     call  the flag -n" in done.output
    assert "start_method" not in done.output
    assert "2 workers by torchrun on cpu" in done.output
    assert "none found" in done.output


def test_problems_are_an_exit_code() -> None:
    done = CliRunner().invoke(command, ["--gpu-ids", "7"], catch_exceptions=False)
    assert done.exit_code == 1
    assert "gpu_ids=7 (from the flag --gpu-ids)" in done.output


def test_help_and_what_it_does_not_take() -> None:
    assert "--num-processes" in CliRunner().invoke(command, ["--help"]).output
    with pytest.raises(ConfigError, match=r"'train.py' \(given to nbaccel doctor\)"):
        CliRunner().invoke(command, ["train.py"], catch_exceptions=False)
