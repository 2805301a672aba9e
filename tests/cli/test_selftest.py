"""`nbaccel test`: what the workers' notes mean, and real runs, with and without faults in one rank."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from nbaccel.cli.test import command
from nbaccel.config import call_layer, resolve
from nbaccel.errors import ConfigError, MissingExtraError, PlanError
from nbaccel.launch.selftest import Report, Result, run_test
from nbaccel.launch.selftest.judge import (
    START_LIMIT_S,
    finished,
    late_workers,
    of_the_workers,
    unfinished,
    why_late,
    why_over,
)
from nbaccel.launch.selftest.report import REMEDIES, START
from nbaccel.machine import Machine
from nbaccel.plan import settle
from nbaccel.runtime.selftest import notes
from nbaccel.runtime.selftest.notes import BEGUN, CHECKS, FAILED, PASSED, Note, Wish

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("nowhere")]


def note(
    rank: int, state: str, text: str = "", *, check: str = "devices", time_s: float = 10.0, is_finding: bool = False
) -> Note:
    return Note(rank, check, state, text, 0.5, time_s, is_finding)


# --- notes and what they mean -----------------------------------------------------------------------------------------


def test_notes_travel_in_files(tmp_path: Path) -> None:
    wish = Wish(2, "cpu", "bf16", "bfloat16", 3, 60.0)
    wish.write(tmp_path)
    assert Wish.read(tmp_path) == wish
    first, second = note(4, BEGUN), note(4, PASSED, "a\nb")
    notes.append(tmp_path, 0, first)
    notes.append(tmp_path, 0, second)
    with (tmp_path / "worker0.jsonl").open("a") as file:
        file.write('{"rank": 4, "che')  # still being written
    assert notes.read(tmp_path, 2) == {0: [first, second], 1: []}


def test_the_start_is_over_when_all_have_spoken() -> None:
    assert finished(START, {0: [note(0, BEGUN, time_s=12.0)], 1: []}, 10.0) is None
    done = finished(START, {0: [note(0, BEGUN, time_s=12.0)], 1: [note(1, BEGUN, time_s=13.0)]}, 10.0)
    assert done == Result(START, PASSED, 3.0, "2 workers")


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (note(0, PASSED, "cpu"), note(1, BEGUN), None),
        (note(0, PASSED, "cpu"), note(1, PASSED, "cpu"), Result("devices", PASSED, 0.5, "cpu")),
        (note(0, PASSED, "cuda:0"), note(1, PASSED, "cuda:1"),
         Result("devices", PASSED, 0.5, "rank 0: cuda:0\nrank 1: cuda:1")),
        (note(0, PASSED, "cpu"), note(1, FAILED, "bad"), Result("devices", FAILED, 0.5, "rank 1: bad")),
        (note(0, FAILED, "bad"), note(1, FAILED, "bad"), Result("devices", FAILED, 0.5, "ranks 0 and 1: bad")),
        (note(0, FAILED, "closed", time_s=15), note(1, FAILED, "bad"),
         Result("devices", FAILED, 0.5, "rank 1: bad\nrank 0 failed because of that")),
        (note(0, FAILED, "odd", time_s=15, is_finding=True), note(1, FAILED, "bad"),
         Result("devices", FAILED, 0.5, "rank 1: bad\nrank 0: odd")),
    ],
)  # fmt: skip
def test_a_check_that_all_have_ended(first: Note, second: Note, expected: Result | None) -> None:
    assert finished("devices", {0: [note(0, BEGUN), first], 1: [note(1, BEGUN), second]}, 0.0) == expected


def test_checks_that_came_to_no_end() -> None:
    said = {0: [note(0, FAILED, "closed")], 1: [note(1, BEGUN)]}
    first, second = unfinished(["devices", "collectives"], said, "rank 1 died", "Do this.", 4.0)
    assert first == Result("devices", FAILED, 4.0, "rank 1 died\nrank 0 failed because of that", "Do this.")
    assert (second.state, str(second)) == ("not run", "[--]      collectives     not run")
    own = unfinished(["devices"], {0: [note(0, FAILED, "bad")], 1: []}, "", "", 4.0)[0]
    assert (own.text, own.remedy) == ("rank 0: bad", "")
    assert unfinished(["precision"], said, "", "", 4.0) == [Result("precision")]  # they stopped after the check before
    start, early = unfinished([START, "devices"], {0: [note(0, FAILED, "bad")], 1: []}, "", "", 4.0)
    assert (start.state, early.state) == ("not run", FAILED)


@pytest.mark.parametrize(
    ("last", "late"),
    [
        ([note(0, BEGUN, time_s=80.0)], []),
        ([note(0, BEGUN, time_s=30.0)], [0]),
        ([note(0, PASSED, time_s=30.0)], []),  # it waits for the others
        ([], []),
    ],
)
def test_who_is_late(last: list[Note], late: list[int]) -> None:
    assert late_workers({0: last}, now_s=100.0, begun_s=0.0, timeout_s=60.0) == late


def test_who_is_late_to_come_to_life() -> None:
    assert late_workers({0: [], 1: []}, now_s=START_LIMIT_S + 1, begun_s=0.0, timeout_s=60.0) == [0, 1]
    assert late_workers({0: []}, now_s=START_LIMIT_S + 1, begun_s=0.0, timeout_s=600.0) == []


IN_ALL_GATHER = textwrap.dedent("""\
    Thread 0x1 (most recent call first):
      File "/lib/threading.py", line 5 in wait

    Current thread 0x2 (most recent call first):
      File "/lib/torch/distributed/distributed_c10d.py", line 10 in all_gather
      File "/nbaccel/runtime/selftest/checks.py", line 20 in exchange
""")
IN_A_SLEEP = IN_ALL_GATHER.replace("/lib/torch/distributed/distributed_c10d.py", "/my/slow.py").replace(
    "all_gather", "nap"
)


@pytest.mark.parametrize(
    ("stacks", "text"),
    [
        (
            {0: IN_ALL_GATHER, 1: IN_A_SLEEP},
            "rank 1 came to no end within 5 s: exchange has led to nap (/my/slow.py:10)\nrank 0 waits in all_gather",
        ),
        (
            {0: IN_ALL_GATHER, 1: IN_ALL_GATHER},
            "ranks 0 and 1 wait in all_gather since 5 s: the ranks do not reach each other",
        ),
        ({0: ""}, "rank 0 came to no end within 5 s"),
    ],
)
def test_why_ranks_are_late(stacks: dict[int, str], text: str) -> None:
    assert why_late(stacks, 5.0) == text


TORCHRUN = textwrap.dedent("""\
    ValueError: mine
    E1121 15:31:57 2846 /lib/torch/distributed/elastic/multiprocessing/api.py:1002] failed (exitcode: 1)
    Root Cause (first observed failure):
    [0]:
      rank      : 1 (local_rank: 1)
      exitcode  : -9 (pid: 2854)
""")


@pytest.mark.parametrize(
    ("output", "said", "text"),
    [
        (TORCHRUN, {0: [note(0, BEGUN)], 1: [note(1, BEGUN)]}, "rank 1 was killed by SIGKILL"),
        (TORCHRUN, {0: [note(0, PASSED)], 1: [note(1, FAILED)]}, ""),
        ("", {0: [note(0, PASSED)], 1: [note(1, BEGUN)]}, "rank 1 ended without a word"),
        ("", {0: [], 1: []}, "the workers never came to life"),
        ("", {0: [note(0, FAILED)], 1: [note(1, BEGUN)]}, ""),
    ],
)
def test_why_the_workers_ended(output: str, said: dict[int, list[Note]], text: str) -> None:
    found = why_over(output, said)
    assert found.startswith(text)
    assert bool(found) is bool(text)


def test_the_output_is_that_of_the_workers() -> None:
    assert of_the_workers(TORCHRUN, 5) == "ValueError: mine"
    assert of_the_workers("a\nb\nc\n", 2) == "b\nc"


def test_each_check_has_a_remedy() -> None:
    assert set(REMEDIES) == {START, *CHECKS}


def test_a_report_prints_as_text() -> None:
    results = (Result("devices", PASSED, 0.1, "cpu"), Result("collectives", FAILED, 2.0, "rank 1: <a>\nrank 0: b"))
    good, bad = Report("testing", results[:1], 1.0), Report("testing", (*results, Result("precision")), 3.0, "boom")
    assert str(good) == "testing\n[ok]      devices           0.1 s  cpu\nAll 1 checks passed in 1.0 s."
    lines = str(bad).splitlines()
    assert [line[:8].strip() for line in lines] == [
        "testing",
        "[ok]",
        "[FAILED]",
        "",
        "",
        "[--]",
        "The last",
        "boom",
        "FAILED:",
    ]
    assert lines[-1] == "FAILED: collectives (1 checks were not run)."
    assert (good.passed, bad.passed) == (True, False)
    assert "&lt;a&gt;" in bad._repr_html_()
    assert repr(good) == str(good)


# --- the command ------------------------------------------------------------------------------------------------------


def invoke(*words: str) -> None:
    CliRunner().invoke(command, words, catch_exceptions=False)


@pytest.mark.parametrize(
    ("words", "kind", "message"),
    [
        (["train.py"], ConfigError, r"'train.py' \(given to nbaccel test\)"),
        (["--timeout", "0"], ConfigError, r"timeout='0' \(from the flag --timeout\)"),
        (["--timeout=soon"], ConfigError, "seconds, a number above 0"),
        (["--timeout=inf"], ConfigError, "seconds, a number above 0"),
        (["--module", "x"], ConfigError, "the flag --module"),
        (["--gpu_ids", "6,7"], PlanError, r"gpu_ids=6,7 \(from the flag --gpu-ids\)"),
    ],
)
def test_errors_before_anything_is_started(words: list[str], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        invoke(*words)


def test_wrong_gpus_in_a_file_or_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("config.yaml").write_text("mixed_precision: bf16\ngpu_ids: 6,7\n")
    with pytest.raises(PlanError, match=r"gpu_ids=6,7 \(from config.yaml:2:\d+\)"):
        invoke("--config_file", "config.yaml")
    monkeypatch.setenv("ACCELERATE_GPU_IDS", "6")
    with pytest.raises(PlanError, match=r"gpu_ids=6 \(from the variable ACCELERATE_GPU_IDS\)"):
        invoke()


def test_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="nbaccel test needs the package 'torch'"):
        invoke("-n", "1")


def test_help_says_what_timeout_means_here() -> None:
    shown = CliRunner().invoke(command, ["--help"]).output
    assert "--timeout SECONDS" in shown
    assert shown.count("--timeout ") == 1
    assert "--module" not in shown


# --- real runs --------------------------------------------------------------------------------------------------------

FAULTS = """
import importlib.abc, os, sys, time

class Faults(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "nbaccel.runtime.selftest.checks":
            import torch
            import torch.distributed as dist
            {fault}

if os.environ.get("RANK") == "1":
    sys.meta_path.insert(0, Faults())
    {early}
"""


def run_with(tmp_path: Path, fault: str = "", early: str = "", timeout_s: float = 60.0) -> tuple[Report, list[str]]:
    """A test on two workers with a fault in rank 1."""
    (tmp_path / "sitecustomize.py").write_text(FAULTS.format(fault=fault or "pass", early=early or "pass"))
    resolved = resolve(call_layer({"num_processes": 2, "use_cpu": True}))
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    shown: list[str] = []
    report = run_test(resolved, settle(resolved, Machine()), timeout_s=timeout_s, environ=environ, show=shown.append)
    return report, shown


def states(report: Report) -> dict[str, str]:
    return {result.check: result.state for result in report.results}


def test_a_sound_set_up() -> None:
    words = [
        "-n",
        "2",
        "--cpu",
        "--mixed_precision",
        "bf16",
        "--gradient-accumulation-steps",
        "2",
        "--max_restarts",
        "1",
    ]
    line = [sys.executable, "-c", "from nbaccel.cli.test import command; command()", *words]
    done = subprocess.run(line, capture_output=True, text=True, timeout=100)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout + done.stderr
    assert lines[0].startswith("testing 2 workers by torchrun on cpu")
    assert [line[:25].split(maxsplit=1) for line in lines[1:-1]] == [
        ["[ok]", f"{name:<15}"] for name in (START, *CHECKS)
    ]
    assert "gloo: all_reduce, all_gather, broadcast, barrier" in lines[3]
    assert "mixed_precision=bf16: products in bfloat16" in lines[4]
    assert "one step of 2 micro-batches on 2 ranks is what one process gets" in lines[5]
    assert lines[-1].startswith("All 8 checks passed in ")


def test_a_rank_that_dies_is_named(tmp_path: Path) -> None:
    report, shown = run_with(tmp_path, fault="dist.all_gather = lambda *_, **__: os.kill(os.getpid(), 9)")
    assert states(report)["collectives"] == FAILED
    assert set(list(states(report).values())[3:]) == {"not run"}
    assert report.results[2].text.startswith("rank 1 was killed by SIGKILL")
    assert "What to do: The last output may say why" in str(report)
    assert "\n".join(shown) == str(report).partition("\nFAILED: ")[0]


def test_a_rank_that_hangs_is_named(tmp_path: Path) -> None:
    report, _ = run_with(tmp_path, fault="dist.all_gather = lambda *_, **__: time.sleep(500)", timeout_s=4.0)
    assert states(report)["collectives"] == FAILED
    found = report.results[2].text
    assert found.startswith("rank 1 came to no end within 4 s: exchange has led to <lambda>")
    assert found.endswith("rank 0 waits in all_gather")
    assert "--timeout 300" in str(report)


def test_wrong_arithmetic_is_found(tmp_path: Path) -> None:
    fault = "right = torch.Tensor.double; torch.Tensor.double = lambda one: right(one) * 2"
    report, _ = run_with(tmp_path, fault=fault)
    assert report.results[1].text.startswith("rank 1: a product of matrices is wrong by ")
    assert "nvidia-smi" in str(report)
    assert states(report)["collectives"] == "not run"


def test_workers_that_do_not_come_to_life(tmp_path: Path) -> None:
    report, _ = run_with(tmp_path, early="raise SystemExit('no site today')")
    assert states(report)[START] == FAILED
    assert report.results[0].text.startswith("rank 1 called exit with code 1")
    assert "no site today" in report.output
    assert "Root Cause" not in report.output


def workers_of_tests() -> list[psutil.Process]:
    mine = psutil.Process().children(recursive=True)
    return [one for one in mine if one.status() != psutil.STATUS_ZOMBIE and "nbaccel.runtime.selftest" in one.cmdline()]


def test_an_interrupt_leaves_no_process() -> None:
    def interrupt(line: str) -> None:
        if START in line:
            assert workers_of_tests()
            raise KeyboardInterrupt

    resolved = resolve(call_layer({"num_processes": 1, "use_cpu": True}))
    with pytest.raises(KeyboardInterrupt):
        run_test(resolved, settle(resolved, Machine()), show=interrupt)
    assert not workers_of_tests()


def test_a_signal_to_the_command_ends_the_workers() -> None:
    line = [sys.executable, "-c", "from nbaccel.cli.test import command; command()", "-n", "1", "--cpu"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        while START not in running.stdout.readline():
            pass
        running.send_signal(signal.SIGTERM)
        running.stdout.close()
        assert running.wait(timeout=60) == 128 + signal.SIGTERM
    time.sleep(0.1)
    assert not workers_of_tests()
