"""`%%accelerate` in a real kernel."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness import Kernel, wait_until


def test_a_cell_runs_on_all_ranks_and_shows_its_last_expression(kernel: Kernel) -> None:
    kernel.ok("base = 10\ndef helper(x): return x + base")
    answer = kernel.ok("%%accelerate -n 2\nimport os\nprint('rank', os.environ['RANK'])\nhelper(5)")
    assert answer.text() == "rank 0\n[1] rank 1\n"
    assert [data["text/plain"] for data in answer.displays] == ["15"]


def test_last_expressions_that_differ_are_all_shown(kernel: Kernel) -> None:
    answer = kernel.ok("%%accelerate -n 3\nimport os\nint(os.environ['RANK'])")
    assert answer.displays[0]["text/plain"] == "0"
    assert answer.text() == "[1] 1\n[2] 2\n"


def test_names_come_back_on_request(kernel: Kernel) -> None:
    kernel.ok("%%accelerate -n 2 -o a,b\nimport os\na = [int(os.environ['RANK'])]\nb = 'x'\nc = 1")
    assert kernel.value("(a, b, 'c' in globals())") == ([0], "x", False)


def test_a_name_that_is_not_there_to_come_back(kernel: Kernel) -> None:
    assert "was to give back nope, but did not define it" in kernel.run("%%accelerate -n 1 -o nope\n1").error


def test_a_cell_trains_the_kernels_model(kernel: Kernel) -> None:
    kernel.ok("import torch\nmodel = torch.nn.Linear(2, 1)\nweight = model.weight")
    kernel.ok("%%accelerate -n 2\nwith torch.no_grad(): model.weight.fill_(4)")
    assert kernel.value("model.weight is weight and weight.tolist()") == [[4.0, 4.0]]
    kernel.ok("%%accelerate -n 2 --no-sync-models\nwith torch.no_grad(): model.weight.fill_(5)")
    assert kernel.value("weight.tolist()") == [[4.0, 4.0]]


def test_magics_await_and_shell_commands_work_in_the_cell(kernel: Kernel) -> None:
    answer = kernel.ok("%%accelerate -n 1\nimport asyncio\nawait asyncio.sleep(0)\n!echo from the shell\n%env HOME")
    assert "from the shell" in answer.text()


def test_names_that_magics_of_the_cell_use_are_sent(kernel: Kernel) -> None:
    kernel.ok("one = 1\ndef plus_one(x): return x + one\nfolder = 'here'")
    assert kernel.ok("%%accelerate -n 2\n%time plus_one(41)").displays[0]["text/plain"] == "42"
    assert kernel.ok("%%accelerate -n 1\n%%time\nprint(plus_one(42))\n!echo {folder}").text().startswith("43\nhere\n")
    assert kernel.ok("%%accelerate -n 1 lr=2\n%%time\nprint(params.lr)").text().startswith("2\n")


def test_print_plot_print_stay_in_order(kernel: Kernel) -> None:
    answer = kernel.ok(
        "%%accelerate -n 1\nimport matplotlib.pyplot as plt\nfor n in range(3):\n"
        "    print('before', n)\n    plt.plot([n]); plt.show()\n    print('after', n)"
    )
    assert answer.order() == ["stream", *["display_data", "stream"] * 3]
    assert all("image/png" in data for data in answer.displays)


def test_a_display_can_be_updated_and_cleared(kernel: Kernel) -> None:
    answer = kernel.ok(
        "%%accelerate -n 1\nfrom IPython.display import display, clear_output\n"
        "handle = display('one', display_id=True)\nhandle.update('two')\nclear_output(wait=True)\nprint('end')"
    )
    kinds = [output["type"] for output in answer.outputs]
    assert kinds[:3] == ["display_data", "update_display_data", "clear_output"]
    assert set(kinds[3:]) == {"stream"}  # a line may come in two
    assert answer.text() == "end\n"
    assert answer.outputs[1]["content"]["data"]["text/plain"] == "'two'"


def test_c_code_and_subprocesses_print_into_the_cell(kernel: Kernel) -> None:
    answer = kernel.ok(
        "%%accelerate -n 1\nimport ctypes, os, subprocess\nctypes.CDLL(None).puts(b'from C')\n"
        "os.write(1, b'raw\\n')\nsubprocess.run(['echo', 'child'])\nNone"
    )
    assert answer.text() == "from C\nraw\nchild\n"


def test_an_error_points_at_its_own_line(kernel: Kernel) -> None:
    answer = kernel.run("%%accelerate -n 2\nx = 1\ny = 0\nx / y\n")
    plain = re.sub(r"\x1b\[[0-9;]*m", "", answer.error)
    assert "ZeroDivisionError: division by zero" in plain
    assert "----> 4 x / y" in plain
    assert re.search(r"ranks? .* of 2 failed: ZeroDivisionError: division by zero", plain)
    assert "nbaccel/" not in plain


def test_an_error_in_a_function_of_another_cell_shows_its_source(kernel: Kernel) -> None:
    kernel.ok("def fails():\n    raise KeyError('deep')")
    plain = re.sub(r"\x1b\[[0-9;]*m", "", kernel.run("%%accelerate -n 2\nfails()").error)
    assert "raise KeyError('deep')" in plain
    kernel.ok("from nbaccel import notebook_launcher")
    plain = re.sub(r"\x1b\[[0-9;]*m", "", kernel.run("notebook_launcher(fails, num_processes=2)").error)
    assert "raise KeyError('deep')" in plain
    assert "nbaccel/" not in plain


def test_the_original_exception_can_be_caught_and_asked(kernel: Kernel) -> None:
    kernel.ok(
        "import os\nclass MyError(Exception): pass\n"
        "def fails():\n    if os.environ['RANK'] == '1': raise MyError('mine')\n    import time; time.sleep(60)\n"
        "from nbaccel.errors import WorkerError\n"
        "try: notebook_launcher(fails, num_processes=2)\nexcept WorkerError as error: caught = error"
    )
    assert kernel.value("(caught.rank, list(caught.exceptions), isinstance(caught.__cause__, MyError))") == (
        1,
        [1],
        True,
    )


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--mixed-precison bf16", "'--mixed-precison' is no flag. Did you mean --mixed-precision?"),
        ("--mixed-precision fp17", "from the flag --mixed-precision.*Possible: no, bf16, fp16, fp8"),
        ("-n -2", "num_processes='-2'.*a whole number from 1"),
        ("-n", "expected one argument"),
        ("--gpu-ids 0 --cpu", None),
        ("--background 2nd", "--background 2nd: possible is a name for the job's handle, such as job"),
        ("-o 'a", "No closing quotation"),
        ("--start-method inline -n 2", "one process"),
    ],
)
def test_errors_of_use_are_one_line(kernel: Kernel, line: str, words: str | None) -> None:
    answer = kernel.run(f"%%accelerate {line}\nprint('ran')")
    if words is None:
        assert answer.text().startswith("ran")
        return
    lines = answer.text("stderr").strip().splitlines()
    assert len(lines) == 1
    assert re.search(words, lines[0]), lines
    assert answer.text() == ""


def test_underscores_are_as_good_as_dashes(kernel: Kernel) -> None:
    kernel.ok(
        "%%accelerate -n 1 --mixed_precision=bf16 -o precision\nimport os\nprecision = os.environ['ACCELERATE_MIXED_PRECISION']"
    )
    assert kernel.value("precision") == "bf16"


def test_a_cell_that_is_no_python_starts_nothing(kernel: Kernel) -> None:
    assert "SyntaxError" in kernel.run("%%accelerate -n 2\nprint('x'").error


def test_a_name_that_cannot_be_sent_is_named(kernel: Kernel) -> None:
    kernel.ok("stream = (n for n in range(3))")
    assert "`stream` (a generator) cannot be sent" in kernel.run("%%accelerate -n 2\nnext(stream)").error
    kernel.ok("%%accelerate -n 2\nstream = iter([1])\nnext(stream)")


def test_names_that_the_cell_binds_itself_need_not_travel(kernel: Kernel) -> None:
    kernel.ok("file = open('/dev/null')")
    answer = kernel.ok(
        "%%accelerate -n 1\nwith open('/etc/hostname') as file:\n    text = file.read()\nprint(len(text) > 0)"
    )
    assert answer.text() == "True\n"


def test_help_lists_every_flag(kernel: Kernel) -> None:
    text = kernel.ok("%accelerate --help").text()
    assert kernel.ok("%%accelerate --help\npass").text() == text
    assert "--gradient-accumulation-steps" in text
    assert "Possible: no, bf16, fp16, fp8." in " ".join(text.split())
    assert kernel.value("'--mixed-precision' in get_ipython().object_inspect_text('%%accelerate')")


def test_the_line_magic_says_what_would_be_done_and_why(kernel: Kernel) -> None:
    text = kernel.ok("%accelerate -n 2 --mixed-precision bf16 --cpu").text()
    assert text.startswith("2 workers by zygote on cpu, ")
    assert "mixed_precision = 'bf16' from the flag --mixed-precision (call)\n  shadows 'no' from the default" in text


def test_inline_runs_the_cell_in_the_kernel(kernel: Kernel) -> None:
    kernel.ok("%%accelerate --start-method inline\nhere = 1 + 1")
    assert kernel.value("here") == 2
    assert "ZeroDivisionError" in kernel.run("%%accelerate --start-method inline\n1/0").error


def test_the_extension_can_be_loaded_twice_and_unloaded(fresh_kernel: Kernel) -> None:
    fresh_kernel.ok("%load_ext nbaccel\n%reload_ext nbaccel")
    fresh_kernel.ok("%%accelerate -n 1\nprint(1)")
    fresh_kernel.ok("%unload_ext nbaccel")
    assert "UsageError" in fresh_kernel.run("%%accelerate -n 1\nprint(1)").text("stderr")
    assert wait_until(lambda: fresh_kernel.children() == [], 20)


def test_the_kernel_imports_no_torch(fresh_kernel: Kernel) -> None:
    fresh_kernel.ok("%load_ext nbaccel")
    fresh_kernel.ok("%%accelerate -n 2\nimport torch\nprint(torch.ones(1))")
    assert fresh_kernel.value("'torch' in __import__('sys').modules") is False


def test_of_a_flood_the_cell_shows_head_and_tail_and_the_whole_is_on_disk(kernel: Kernel) -> None:
    kernel.ok("import psutil\nbefore = psutil.Process().memory_info().rss")
    answer = kernel.ok("%%accelerate -n 2\nfor n in range(1_000_000): print(n)")
    assert answer.text() == "".join(f"{n}\n" for n in (*range(500), *range(999_900, 1_000_000)))
    said = [o["content"]["data"]["text/plain"] for o in answer.outputs if "display" in o["type"]][-1]
    assert said.startswith("... 999,400 lines are left out here; all that the ranks printed is in ")
    folder = Path(said.rpartition(" ")[2])
    assert [len((folder / f"rank-{rank}.log").read_text().splitlines()) for rank in (0, 1)] == [1_000_000] * 2
    assert kernel.value("psutil.Process().memory_info().rss - before") < 100 << 20
