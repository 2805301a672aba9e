"""Jobs, progress and questions in a real kernel."""

from __future__ import annotations

import time

import pytest

from harness import Answer, Kernel, wait_until


def collected(kernel: Kernel, message_ids: list[str], until: str, timeout_s: float = 30) -> dict[str, str]:
    """What was printed in each of these cells, until one of them has printed `until`."""
    texts = dict.fromkeys(message_ids, "")
    deadline = time.monotonic() + timeout_s
    while until not in "".join(texts.values()):
        message = kernel.client.get_iopub_msg(timeout=max(0.1, deadline - time.monotonic()))
        parent = message["parent_header"].get("msg_id")
        if message["msg_type"] == "stream" and parent in texts:
            texts[parent] += message["content"]["text"]
    return texts


def test_output_of_a_background_job_goes_to_the_cell_that_started_it(kernel: Kernel) -> None:
    first = kernel.start(
        "%%accelerate -n 2 --background job\nimport time\nfor n in range(5):\n    print('tick', n)\n    time.sleep(0.2)\nprint('the end')"
    )
    kernel.finish(first)
    second = kernel.start("print('mine')\njob.result(20)\nprint('mine again')")
    texts = collected(kernel, [first, second], "mine again")
    assert "tick" not in texts[second]
    assert texts[first].endswith("tick 4\nthe end\n")
    assert "tick 3\ntick 4\nthe end\n" in kernel.value("job.logs(1)")


def test_displays_of_a_background_job_go_there_too(kernel: Kernel) -> None:
    first = kernel.start(
        "%%accelerate -n 1 --background job\nfrom IPython.display import display\nimport time\ntime.sleep(0.5)\ndisplay({'text/plain': 'shown'}, raw=True)"
    )
    kernel.finish(first)
    second = kernel.start("job.result(20)")
    while True:
        message = kernel.client.get_iopub_msg(timeout=20)
        if message["msg_type"] == "display_data" and "shown" in str(message["content"]["data"]):
            assert message["parent_header"]["msg_id"] == first
            break
    kernel.finish(second)


def test_names_of_a_background_cell_come_home_when_it_is_over(kernel: Kernel) -> None:
    kernel.ok("%%accelerate -n 2 --background job -o answer\nanswer = 42")
    assert wait_until(lambda: kernel.value("globals().get('answer')") == 42, 20)
    assert kernel.value("job.result()") == {"answer": 42}


def test_a_submitted_function_is_a_future(kernel: Kernel) -> None:
    kernel.ok(
        "import time\nfrom nbaccel import submit\ndef slow(x):\n    time.sleep(0.5)\n    return x + 1\n"
        "seen = []\njob = submit(slow, (1,), num_processes=2, return_all=True)\njob.add_done_callback(lambda job: seen.append(job.state))"
    )
    assert kernel.value("job.done()") is False
    assert "TimeoutError" in kernel.run("job.result(0.01)").error
    assert kernel.value("(job.result(20), job.done(), job.exception(), job.state, seen)") == (
        [2, 2],
        True,
        None,
        "done",
        ["done"],
    )
    shown = kernel.ok("job").displays[0]
    assert "slow() on ranks 0 and 1, done" in shown["text/plain"]
    assert "Job" in shown["text/html"]


def test_a_cancelled_job_says_so_and_leaves_nothing(kernel: Kernel) -> None:
    kernel.ok(
        "import time\nfrom concurrent.futures import CancelledError\njob = nbaccel.submit(time.sleep, (60,), num_processes=2)\ntime.sleep(0.3)"
    )
    assert kernel.value("(job.cancel(), )") == (True,)
    assert "CancelledError" in kernel.run("job.result(10)").error
    assert kernel.value("(job.cancel(), job.cancelled(), job.state)") == (False, True, "stopped")
    assert wait_until(lambda: len(kernel.children()) == 1, 5)


def test_the_error_of_a_background_job_is_seen_in_its_cell_and_raised_by_result(kernel: Kernel) -> None:
    first = kernel.start(
        "%%accelerate -n 2 --background job\nimport time\ntime.sleep(0.3)\nraise ValueError('in the background')"
    )
    kernel.finish(first)
    second = kernel.start(
        "try: job.result(20)\nexcept Exception as error: print(type(error).__name__)\ntime.sleep(0.3)\nprint('over')"
    )
    texts = collected(kernel, [first, second], "over")
    assert "ValueError: in the background" in texts[first]
    assert "WorkerError" in texts[second]


THERE_ALONE = """
def make():
    import pathlib, sys, tempfile
    folder = tempfile.mkdtemp()
    pathlib.Path(folder, "there_alone.py").write_text("class Thing: pass")
    sys.path.append(folder)
    import there_alone
    return there_alone.Thing()
"""


def test_a_result_that_cannot_come_home_is_the_error_of_a_background_job(kernel: Kernel) -> None:
    kernel.ok(THERE_ALONE)
    first = kernel.start("import time\njob = nbaccel.submit(make, num_processes=1)\njob")
    kernel.finish(first)
    second = kernel.start("error = job.exception(20)\nprint(repr(error))\ntime.sleep(0.5)\nprint('over')")
    texts = collected(kernel, [first, second], "over")
    assert "ModuleNotFoundError" in texts[second]
    assert "ModuleNotFoundError: No module named 'there_alone'" in texts[first]
    assert "Traceback" not in texts[first]
    assert kernel.value("job.state") == "failed"
    assert "there_alone" in kernel.run("job.result()").error


SLOW_TO_REBUILD = """
import time
from nbaccel.notebook.screen import PlainScreen

class Slow(Exception):
    def __setstate__(self, state): time.sleep(0.5)

def fails():
    error = Slow("wrong")
    error.detail = 1
    raise error

class Watching(PlainScreen):
    states = []
    def watch(self, job, *, lasts): self.job = job
    def end(self): self.states.append(self.job.state)
    def handle(self, job): self.states.append(job.state)
"""


def test_whoever_has_seen_all_of_a_job_finds_it_done(kernel: Kernel) -> None:
    kernel.ok(SLOW_TO_REBUILD)
    kernel.ok("job = nbaccel.submit(fails, num_processes=1, screen=Watching())")
    assert wait_until(lambda: kernel.value("len(Watching.states)") == 3, 20)
    assert kernel.value("Watching.states") == ["running", "failed", "failed"]


def test_jobs_of_a_session_run_side_by_side_on_different_ranks(kernel: Kernel) -> None:
    kernel.ok("import time\nsession = nbaccel.Session(2)\nstarted = time.monotonic()")
    kernel.ok(
        "jobs = [session.submit(time.sleep, (1.0,), ranks=rank) for rank in (0, 1)]\n[job.result(20) for job in jobs]"
    )
    assert kernel.value("time.monotonic() - started") < 1.8
    kernel.ok("jobs = [session.submit(lambda n: n, (n,)) for n in range(20)]")
    assert kernel.value("[job.result(20) for job in jobs]") == list(range(20))
    kernel.ok("session.close()")


def test_late_words_of_a_sessions_workers_find_their_cell(kernel: Kernel) -> None:
    kernel.ok("%accelerate start -n 1")
    first = kernel.start("%%accelerate\nimport threading\nthreading.Timer(0.5, print, ('late',)).start()")
    kernel.finish(first)
    second = kernel.start("import time\ntime.sleep(1.5)\nprint('over')")
    assert "late" in collected(kernel, [first, second], "over")[first]
    kernel.ok("%accelerate stop")


def asked(kernel: Kernel, code: str, *answers: str) -> tuple[Answer, list[str]]:
    """Run a cell that asks; returns what it produced and the prompts."""
    cell = kernel.client.execute(code, allow_stdin=True)
    prompts = []
    for answer in answers:
        prompts.append(kernel.client.get_stdin_msg(timeout=30)["content"]["prompt"])
        kernel.client.input(answer)
    return kernel.finish(cell), prompts


def test_input_and_getpass_are_served(kernel: Kernel) -> None:
    answer, prompts = asked(
        kernel,
        "%%accelerate -n 2\nimport os, getpass\nif os.environ['RANK'] == '0':\n"
        "    print('hello', input('name? '))\n    print(len(getpass.getpass('secret? ')))",
        "Ada", "abc",
    )  # fmt: skip
    assert prompts == ["name? ", "secret? "]
    assert answer.text() == "hello Ada\n3\n"


def test_breakpoint_is_served(kernel: Kernel) -> None:
    answer, _ = asked(kernel, "%%accelerate -n 1\nsecret = 'found it'\nbreakpoint()\nprint('went on')", "p secret", "c")
    assert "'found it'" in answer.text()
    assert answer.text().endswith("went on\n")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("%%accelerate -n 1\ninput('name? ')", "EOFError: the notebook cannot be asked"),
        (
            "%%accelerate -n 1\nimport threading\nerrors = []\ndef ask():\n    try: input()\n    except EOFError as e: errors.append(str(e))\nt = threading.Thread(target=ask); t.start(); t.join()\nraise ValueError(errors)",
            "works in the main thread",
        ),
    ],
)
def test_where_nobody_can_be_asked_input_is_a_clear_error(kernel: Kernel, code: str, words: str) -> None:
    cell = kernel.client.execute(code, allow_stdin=False)
    assert words in kernel.finish(cell).error


def test_a_background_job_cannot_ask(kernel: Kernel) -> None:
    kernel.ok("%%accelerate -n 1 --background job\ninput('name? ')")
    assert "a job in the background cannot ask" in kernel.run("job.result(20)").error


def test_an_interrupt_while_it_asks(kernel: Kernel) -> None:
    kernel.ok("%accelerate start -n 1")
    cell = kernel.client.execute("%%accelerate\nkept = 1\ninput('name? ')", allow_stdin=True)
    kernel.client.get_stdin_msg(timeout=30)
    kernel.manager.interrupt_kernel()
    assert "KeyboardInterrupt" in kernel.finish(cell).error
    answer, _ = asked(kernel, "%%accelerate\nprint(kept, input('again? '))", "yes")
    assert answer.text() == "1 yes\n"
    kernel.ok("%accelerate stop")


def test_progress_of_all_ranks_is_one_block(kernel: Kernel) -> None:
    answer = kernel.ok(
        "%%accelerate -n 2\nimport time\nfrom nbaccel import tqdm\nprint('before')\n"
        "for _ in tqdm(range(20), desc='epoch'): time.sleep(0.02)\nprint('after')"
    )
    assert answer.text() == "before\nafter\n"
    blocks = [o for o in answer.outputs if o["type"] == "display_data"]
    assert len(blocks) == 1
    last = [o["content"]["data"] for o in answer.outputs if "display" in o["type"]][-1]
    assert last["text/html"].count('role="progressbar"') == 2
    assert last["text/plain"].count("20/20") == 2


def test_a_bar_that_moves_while_another_ones_message_is_written_hangs_nobody(kernel: Kernel) -> None:
    kernel.ok(
        "%%accelerate -n 2\nimport gc, time\nfrom nbaccel import tqdm\n"
        "bars = [tqdm(total=50, mininterval=0) for _ in range(2)]\n"
        "def move(phase, info): bars[1].update(0) or bars[1].refresh()\n"
        "gc.callbacks.append(move)\nbefore = gc.get_threshold()\ngc.set_threshold(1)\n"
        "for _ in range(50):\n    bars[0].update()\n    time.sleep(0.03)\n"
        "gc.set_threshold(*before)\ngc.callbacks.remove(move)\nprint('done')"
    )


def test_a_plain_progress_bar_stays_one_line(kernel: Kernel) -> None:
    answer = kernel.ok(
        "%%accelerate -n 2\nfrom tqdm import tqdm\nimport time\nfor _ in tqdm(range(50)): time.sleep(0.01)"
    )
    assert "50/50" in answer.text("stderr")
    assert "[1]" not in answer.text("stderr").rpartition("\r")[0]


def test_print_plot_print_keeps_its_order_on_any_rank(kernel: Kernel) -> None:
    answer = kernel.ok(
        "%%accelerate -n 2 --output all\nimport os, matplotlib.pyplot as plt\nif os.environ['RANK'] == '1':\n"
        "    for n in range(3):\n        print('before', n)\n        plt.plot([n])\n        plt.show()\n        print('after', n)"
    )
    assert answer.order() == ["stream", "display_data"] * 3 + ["stream"]
    assert answer.text() == "".join(f"[1] before {n}\n[1]\n[1] after {n}\n" for n in range(3))
