"""Sessions in a real kernel: what lives from cell to cell, and who has what."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from harness import Kernel, running_kernel, wait_until


@pytest.fixture(scope="module")
def session() -> Iterator[Kernel]:
    with running_kernel() as kernel:
        kernel.ok("%load_ext nbaccel\nimport nbaccel, os\nfrom nbaccel import notebook_launcher")
        kernel.ok("%accelerate start -n 2")
        yield kernel


@pytest.fixture(autouse=True)
def fresh_workers(session: Kernel) -> None:
    session.ok("%accelerate restart")


def test_variables_live_from_cell_to_cell_on_each_rank(session: Kernel) -> None:
    session.ok("%%accelerate\nimport os\nrank = int(os.environ['RANK'])")
    assert session.ok("%%accelerate\nrank += 10\nrank").displays[0]["text/plain"] == "10"
    assert session.value("nbaccel.notebook.session.running()['rank']") == {0: 10, 1: 11}


def test_the_process_group_lives_from_cell_to_cell(session: Kernel) -> None:
    session.ok("%%accelerate\nimport torch, torch.distributed as dist\ndist.init_process_group()")
    total = "%%accelerate\nt = torch.tensor(1.0 + dist.get_rank())\ndist.all_reduce(t)\nprint(t.item())"
    assert [session.ok(total).text() for _ in range(2)] == ["3.0\n", "3.0\n"]


def test_a_process_group_can_be_taken_down_and_formed_again_in_the_next_cell(session: Kernel) -> None:
    cell = (
        "%%accelerate\nimport torch, torch.distributed as dist\ndist.init_process_group()\nt = torch.ones(1)\n"
        "dist.all_reduce(t)\ndist.destroy_process_group()\nprint(t.item())"
    )
    assert [session.ok(cell).text() for _ in range(5)] == ["2.0\n"] * 5


def test_the_same_cell_runs_fifty_times(session: Kernel) -> None:
    cell = (
        "%%accelerate\nfrom nbaccel import Accelerator\naccelerator = Accelerator()\nprint(accelerator.num_processes)"
    )
    assert {session.ok(cell).text() for _ in range(50)} == {"2\n"}


def test_names_that_a_cell_uses_are_sent_with_all_that_they_use(session: Kernel) -> None:
    session.ok("scale = 2\ndef scaled(x): return x * scale\ndef twice(x): return scaled(scaled(x))")
    assert session.ok("%%accelerate\nprint(twice(3))").text() == "12\n"
    session.ok("scale = 10")
    assert session.ok("%%accelerate\nprint(twice(3))").text() == "300\n"
    session.ok("def scaled(x): return -x")
    assert session.ok("%%accelerate\nprint(twice(3))").text() == "3\n"


def test_names_that_magics_of_a_cell_use_are_sent_anew(session: Kernel) -> None:
    for value in (1, 2):
        session.ok(f"within = {value}")
        assert session.ok("%%accelerate\n%time print(within)").text().startswith(f"{value}\n")
        assert session.ok("%%accelerate\n!echo $within").text() == f"{value}\n"


def test_a_kernel_function_sees_names_that_live_only_in_the_workers(session: Kernel) -> None:
    session.ok("def peek(): return only_there")
    session.ok("%%accelerate\nonly_there = 7")
    assert session.ok("%%accelerate\nprint(peek())").text() == "7\n"
    assert session.value("nbaccel.notebook.session.running().run(peek)") == 7


def test_what_the_workers_have_bound_is_theirs_until_the_notebook_binds_it_anew(session: Kernel) -> None:
    session.ok("lr = 0.1")
    assert session.ok("%%accelerate\nlr = lr * 0.5\nprint(lr)").text() == "0.05\n"
    assert session.ok("%%accelerate\nprint(lr)").text() == "0.05\n"
    session.ok("lr = 0.2")
    answer = session.ok("%%accelerate\nprint(lr)")
    assert answer.text() == "0.2\n"
    assert "`lr`, which workers had bound themselves, is replaced by the notebook's newer value" in answer.notes()


@pytest.mark.parametrize(("first", "change"), [("0.5", "total + 1.0"), ("'a'", "total + 'b'")])
def test_a_number_or_text_that_workers_have_counted_on_is_theirs(session: Kernel, first: str, change: str) -> None:
    session.ok(f"total = {first}")
    session.ok(f"%%accelerate\nfor _ in range(2): total = {change}")
    session.ok(f"total = {first} * 2")
    assert "`total`, which workers had bound themselves" in session.ok("%%accelerate\nprint(total)").notes()


def test_changes_inside_an_object_need_a_push(session: Kernel) -> None:
    session.ok("box = [1]")
    session.ok("%%accelerate\nbox")
    session.ok("box.append(2)")
    assert session.ok("%%accelerate\nprint(box)").text() == "[1]\n"
    session.ok("%accelerate push box")
    assert session.ok("%%accelerate\nprint(box)").text() == "[1, 2]\n"


def test_pull_brings_a_name_home_and_leaves_it_in_sync(session: Kernel) -> None:
    session.ok("%%accelerate\nimport os\nfound = [int(os.environ['RANK'])]")
    session.ok("%accelerate pull found")
    assert session.value("found") == [0]
    session.ok("%accelerate pull found --ranks 1")
    assert session.value("found") == [1]
    session.ok("%%accelerate\nfound.append(5)")
    assert session.value("nbaccel.notebook.session.running()['found']") == {0: [0, 5], 1: [1, 5]}


def test_a_trained_model_comes_home_in_place(session: Kernel) -> None:
    session.ok(
        "import torch\nmodel = torch.nn.Linear(1, 1)\nsame = model\noptimizer = torch.optim.SGD(model.parameters(), lr=1.0)"
    )
    session.ok("%%accelerate\nwith torch.no_grad(): model.weight.fill_(3.0)")
    session.ok("%%accelerate -o model\nmodel.bias.data.fill_(4.0)")
    assert session.value("(model is same, model.weight.item(), model.bias.item())") == (True, 3.0, 4.0)
    assert session.value("optimizer.param_groups[0]['params'][0] is model.weight") is True


def test_ranks_run_a_part_of_the_session(session: Kernel) -> None:
    answer = session.ok("%%accelerate --ranks 1\nimport os\nmine = os.environ['RANK']\nprint(mine)\nmine")
    assert answer.text() == "1\n"
    assert answer.displays[0]["text/plain"] == "'1'"
    assert "rank 0 has no name 'mine'" in session.run("nbaccel.notebook.session.running().pull('mine')").error


def test_new_gives_fresh_workers(session: Kernel) -> None:
    session.ok("%%accelerate\nhere = 1")
    assert session.ok("%%accelerate --new -n 1\nprint('here' in globals())").text() == "False\n"
    assert session.ok("%%accelerate\nprint(here)").text() == "1\n"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("%accelerate start", "a session is running already"),
        ("%accelerate statu", "Did you mean 'status'"),
        ("%accelerate push nothing_of_that_name", "the notebook has no name 'nothing_of_that_name'"),
        ("%accelerate push", "names are missing"),
        ("%accelerate pull nothing_of_that_name", "rank 0 has no name"),
        ("%accelerate pull x --ranks 0,1", "give one rank"),
        ("%accelerate status now", "takes flags only"),
        ("%accelerate debug first", "'first' is no rank"),
        ("%%accelerate --ranks 5\n1", "the session has ranks 0 and 1"),
        ("%%accelerate --ranks 1:1\n1", "is no rank"),
        ("%%accelerate -n 3\n1", "the running session has num_processes=2"),
        ("%%accelerate --config-file other.yaml\n1", "other.yaml is read when workers are started"),
        ("%%accelerate --new --background --start-method inline -n 1\n1", "--background needs worker processes"),
    ],
)
def test_errors_of_use_are_one_line(session: Kernel, line: str, words: str) -> None:
    answer = session.run(line)
    said = answer.text("stderr") + answer.error
    assert words in said
    assert "Traceback" not in said


def test_a_session_over_what_it_cannot_do_is_one_clear_error(session: Kernel) -> None:
    assert "needs worker processes" in session.run("nbaccel.Session(1, start_method='inline')").error
    many = "nbaccel.Session(2, num_machines=2, main_process_ip='localhost', main_process_port=1234)"
    assert "sessions live on one machine" in session.run(many).error


def test_a_closed_session_says_so(session: Kernel) -> None:
    session.ok("with nbaccel.Session(1) as one: print(one)")
    assert "this session has ended" in session.run("one.run(print)").error
    assert "this session has ended" in session.run("one.stacks()").error
    threads = "[thread.name for thread in __import__('threading').enumerate()].count('nbaccel-session')"
    before = session.value(threads)
    assert "this session has ended" in session.run("one.restart()").error
    assert session.value(threads) == before


def test_an_object_of_its_own_has_its_own_workers(session: Kernel) -> None:
    session.ok("%%accelerate\nwhere = 'here'")
    session.ok("with nbaccel.Session(1) as other: print(other.run(lambda: 'where' in globals()))")


def test_await_magics_help_and_timeit_work(session: Kernel) -> None:
    assert session.ok("%%accelerate\nimport asyncio\nawait asyncio.sleep(0)\nprint('awaited')").text() == "awaited\n"
    assert "loop" in session.ok("%%accelerate\n%timeit -n 1 -r 1 1 + 1").text()
    session.ok("%%accelerate\ndef helped():\n    'What it does.'")
    assert "What it does." in str(session.ok("%%accelerate --ranks 0\nhelped?").displays)


def test_names_of_the_workers_are_completed(session: Kernel) -> None:
    session.ok("%%accelerate\nunmistakable_name = 1")
    session.client.complete("%%accelerate\nunmista")
    reply = session.client.get_shell_msg(timeout=20)
    while reply["msg_type"] != "complete_reply":
        reply = session.client.get_shell_msg(timeout=20)
    assert "unmistakable_name" in reply["content"]["matches"]


def test_status_says_what_each_rank_does(session: Kernel) -> None:
    session.ok("%%accelerate --background nap\nimport time\nbusy = 1\ntime.sleep(30)")
    wait_until(lambda: "runs cell" in str(session.ok("%accelerate status").displays), 10)
    shown = session.ok("%accelerate status").displays[0]
    assert "runs cell [" in shown["text/plain"]
    assert "<table" in shown["text/html"]
    session.ok(
        "nap.cancel()\nimport concurrent.futures\ntry: nap.result(10)\nexcept concurrent.futures.CancelledError: pass"
    )
    assert "idle" in session.ok("%accelerate status").displays[0]["text/plain"]


def test_an_error_keeps_the_variables(session: Kernel) -> None:
    session.ok("%%accelerate\nimport os\nkept = 1")
    answer = session.run(
        "%%accelerate\nkept = 2\nif os.environ['RANK'] == '1':\n    raise ValueError('mine')\nkept = 3"
    )
    assert "rank 1 of 2 failed: ValueError: mine" in answer.error
    assert session.value("nbaccel.notebook.session.running()['kept']") == {0: 3, 1: 2}


def test_debug_opens_the_frames_of_the_rank_that_failed(session: Kernel) -> None:
    session.run(
        "%%accelerate\nimport os\ndef inner(secret):\n    raise ValueError\nif os.environ['RANK'] == '1': inner('found it')"
    )
    session.client.allow_stdin = True
    cell = session.client.execute("%debug", allow_stdin=True)
    for answer in ("p secret", "q"):
        session.client.get_stdin_msg(timeout=30)
        session.client.input(answer)
    assert "found it" in session.finish(cell).text()


def test_debug_of_a_one_shot_run_says_what_it_can_do(session: Kernel) -> None:
    session.run("%%accelerate --new -n 1\n1 / 0")
    assert "in a worker that is gone" in session.ok("%debug").text()
    session.run("1 / 0")
    cell = session.client.execute("%debug", allow_stdin=True)
    session.client.get_stdin_msg(timeout=30)
    session.client.input("q")
    assert "worker that is gone" not in session.finish(cell).text()


def test_the_session_ends_and_nothing_is_left(session: Kernel) -> None:
    session.ok("%accelerate stop")
    assert wait_until(lambda: len(session.children()) == 1, 5)
    assert "no session is running" in session.run("%accelerate stop").text("stderr")
    started = time.monotonic()
    session.ok("%accelerate start -n 2")
    assert time.monotonic() - started < 10
