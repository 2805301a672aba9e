"""The command line, as a user runs it: in processes of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

import nbaccel
from nbaccel.config import COMMON

COMMAND = [sys.executable, "-m", "nbaccel.cli.main"]


def run(*arguments: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run `nbaccel` with variables added to an environment that holds none of ours."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("ACCELERATE_", "NBACCEL_"))}
    clean.pop("OMP_NUM_THREADS", None)
    line = [*COMMAND, *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=100, env={**clean, **environ})


def wait_until(is_true: object, timeout_s: float = 60.0) -> None:
    assert callable(is_true)
    deadline = time.monotonic() + timeout_s
    while not is_true():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


@pytest.fixture
def summing_script(tmp_path: Path) -> Path:
    script = tmp_path / "summing.py"
    script.write_text(
        "import os, sys, torch, torch.distributed as dist\n"
        "dist.init_process_group('gloo')\n"
        "total = torch.tensor([float(dist.get_rank() + 1)])\n"
        "dist.all_reduce(total)\n"
        "if dist.get_rank() == 0:\n"
        "    names = ('ACCELERATE_MIXED_PRECISION', 'ACCELERATE_GRADIENT_ACCUMULATION_STEPS', 'ACCELERATE_USE_CPU',\n"
        "             'OMP_NUM_THREADS')\n"
        "    print('sum', total.item(), sys.argv[1:], *(os.environ.get(name) for name in names))\n"
        "    from nbaccel.config.launched import resolve_in_worker\n"
        "    print(resolve_in_worker().explain('mixed_precision'))\n"
        "dist.destroy_process_group()\n"
    )
    return script


@pytest.fixture
def sleeping_script(tmp_path: Path) -> Path:
    script = tmp_path / "sleeping.py"
    script.write_text(
        "import os, pathlib, time\n"
        "pathlib.Path(__file__).with_name('pid' + os.environ['RANK']).write_text(str(os.getpid()))\n"
        "time.sleep(100)\n"
    )
    return script


# --- help, version, env -----------------------------------------------------------------------------------------------


def test_help_names_the_commands() -> None:
    done = run("--help")
    assert done.returncode == 0
    assert all(f"  {name} " in done.stdout for name in ("env", "doctor", "test", "launch"))


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["launch", "--help"], ["launch", "--dry-run", __file__], ["test", "--help"], ["doctor"], ["env"]],
)
def test_no_command_imports_torch_by_itself(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from nbaccel.cli.main import commands\n"
        "try:\n"
        f"    commands({arguments!r}, standalone_mode=False)\n"
        "except SystemExit:\n"
        "    pass\n"
        "assert 'torch' not in sys.modules and 'IPython' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, stdout=subprocess.DEVNULL)


def test_help_does_not_load_the_schema() -> None:
    code = (
        "import sys\n"
        "from nbaccel.cli.main import commands\n"
        "commands(['--help'], standalone_mode=False)\n"
        "assert 'pydantic' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, stdout=subprocess.DEVNULL)


def test_version() -> None:
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, f"nbaccel {nbaccel.__version__}\n")


def test_unknown_command() -> None:
    done = run("lanch")
    assert done.returncode == 2
    assert "No such command 'lanch'" in done.stderr


def test_env_shows_machine_versions_and_configuration() -> None:
    done = run("env", ACCELERATE_MIXED_PRECISION="bf16", NBACCEL_PLATFORM="binder")
    assert done.returncode == 0
    assert "platform    binder" in done.stdout
    for word in ("cores", "memory", "devices", "python", "torch", "ipython", "ipywidgets"):
        assert f"\n{word} " in done.stdout
    lines = {line.split()[0]: line for line in done.stdout.splitlines() if " = " in line}
    assert list(lines) == list(COMMON)
    assert lines["mixed_precision"].split()[2:] == [
        "'bf16'",
        "environment",
        "the",
        "variable",
        "ACCELERATE_MIXED_PRECISION",
    ]
    assert lines["seed"].split()[2:] == ["None", "default", "the", "default"]


def test_env_with_a_wrong_variable_still_shows_the_machine() -> None:
    done = run("env", ACCELERATE_MIXED_PRECISION="bf17")
    assert done.returncode == 2
    assert "cores" in done.stdout
    assert done.stderr.count("\n") == 1
    assert "ACCELERATE_MIXED_PRECISION" in done.stderr
    assert "Did you mean 'bf16'?" in done.stderr


# --- launch -----------------------------------------------------------------------------------------------------------


def test_launch_runs_a_script_on_two_processes(summing_script: Path) -> None:
    flags = ["--num_processes", "2", "--cpu", "--mixed-precision", "BF16", "--gradient-accumulation-steps", "4"]
    done = run("launch", *flags, summing_script, "--lr", "1e-3", "-n", "9")
    assert done.returncode == 0, done.stderr
    assert "sum 3.0 ['--lr', '1e-3', '-n', '9'] bf16 4 true" in done.stdout
    assert "mixed_precision = 'bf16' from the flag --mixed-precision (call)" in done.stdout
    assert done.stderr == ""


def test_launch_takes_what_flags_leave_out_from_the_environment(summing_script: Path) -> None:
    done = run(
        "launch", "--no-cpu", summing_script, ACCELERATE_NUM_PROCESSES="1", ACCELERATE_USE_CPU="1", OMP_NUM_THREADS="1"
    )
    assert done.returncode == 0, done.stderr
    assert "sum 1.0 [] None None true 1" in done.stdout


def test_exit_code_of_a_failed_run(tmp_path: Path) -> None:
    script = tmp_path / "failing.py"
    script.write_text("raise SystemExit(3)")
    done = run("launch", "-n", "1", script)
    assert done.returncode == 1  # torch's launcher ends with 1, and names the rank and its 3
    assert "exitcode  : 3" in done.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--num-processes", "two"],
            "num_processes='two' (from the flag --num-processes) is not valid. Possible: a whole",
        ),
        (["--mixed-precision", "bf17"], "Possible: no, bf16, fp16, fp8. Did you mean 'bf16'?"),
        (["--mixed-precision", "fp8"], "nbaccel has no fp8 arithmetic"),
        (["--num-machines", "2"], "the machines must know where to meet"),
    ],
)
def test_errors_are_one_line(summing_script: Path, flags: list[str], message: str) -> None:
    done = run("launch", *flags, summing_script)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.startswith("nbaccel: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [["no_such_script.py"], ["--start-method", "spawn", __file__], []])
def test_what_launch_does_not_take(arguments: list[str]) -> None:
    done = run("launch", *arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


def test_launch_without_torch_says_what_to_install(summing_script: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from nbaccel.cli.main import main\n"
        f"sys.argv[1:] = ['launch', {str(summing_script)!r}]\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "pip install 'nbaccel[torch]'" in done.stderr


def test_timeout_stops_the_run_and_names_the_ranks(sleeping_script: Path) -> None:
    done = run("launch", "-n", "2", "--timeout", "8", sleeping_script)
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("nbaccel: the run took longer than timeout=8 s and was stopped; ranks 0 and 1 had not")
    for rank in range(2):
        assert not psutil.pid_exists(int(sleeping_script.with_name(f"pid{rank}").read_text()))


def test_timeout_before_there_are_workers(sleeping_script: Path) -> None:
    done = run("launch", "-n", "1", "--timeout", "0.05", sleeping_script)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("nbaccel: timeout=0.05 s was over while no worker ran")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_workers(sleeping_script: Path, number: signal.Signals) -> None:
    line = [*COMMAND, "launch", "-n", "2", str(sleeping_script)]
    hear = lambda: signal.signal(number, signal.SIG_DFL)  # noqa: E731 - the tests themselves may run in the background
    with subprocess.Popen(line, stderr=subprocess.PIPE, preexec_fn=hear) as launcher:
        pids = pids_of(sleeping_script, 2)
        launcher.send_signal(number)
        launcher.communicate(timeout=60)
    assert launcher.returncode != 0
    assert not any(map(psutil.pid_exists, pids))


def test_a_launch_under_nohup_outlives_its_terminal(sleeping_script: Path) -> None:
    line = ["nohup", *COMMAND, "launch", "-n", "1", str(sleeping_script)]
    with subprocess.Popen(line, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as launcher:
        (pid,) = pids_of(sleeping_script, 1)
        launcher.send_signal(signal.SIGHUP)
        launcher.send_signal(signal.SIGTERM)
        said = launcher.communicate(timeout=60)[1]
    assert f"got signal: {signal.SIGTERM:d}\n" in said
    assert f"got signal: {signal.SIGHUP:d}\n" not in said
    assert not psutil.pid_exists(pid)


def pids_of(script: Path, num_workers: int) -> list[int]:
    """The workers of a sleeping script, once all of them sleep."""
    files = [script.with_name(f"pid{rank}") for rank in range(num_workers)]
    wait_until(lambda: all(file.exists() and file.read_text() for file in files))
    return [int(file.read_text()) for file in files]
