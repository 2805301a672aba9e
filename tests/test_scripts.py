"""Outside a notebook: scripts without a guard, IPython in a terminal, machines that train together."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import sys
from nbaccel import notebook_launcher
print("top level runs once")

def train(name):
    import torch, torch.distributed as dist
    dist.init_process_group()
    total = torch.ones(1)
    dist.all_reduce(total)
    print(f"hello {name} from {dist.get_rank()}")
    return total.item(), sys.argv[1:]

print(notebook_launcher(train, ("you",), num_processes=2))
"""


def run(command: list[str], folder: Path, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100, **options)  # type: ignore[call-overload, no-any-return]


def test_a_plain_script_needs_no_guard(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    done = run([sys.executable, "script.py", "--flag"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "top level runs once",
        "hello you from 0",
        "[1] hello you from 1",
        "(2.0, ['--flag'])",
    ]
    assert done.stderr == ""


def test_a_local_module_that_shadows_the_standard_library_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT.replace("print(", "import helper_beside\nprint(", 1))
    (tmp_path / "helper_beside.py").write_text("")
    (tmp_path / "queue.py").write_text("raise RuntimeError('not the queue you look for')")
    (tmp_path / "torch.py").write_text("raise RuntimeError('not the torch you look for')")
    done = run([sys.executable, "-c", f"import sys; sys.path.remove('')\n{SCRIPT}"], tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_script_from_standard_input(tmp_path: Path) -> None:
    done = run([sys.executable, "-"], tmp_path, input=SCRIPT)
    assert "hello you from 0" in done.stdout, done.stderr


def test_ipython_in_a_terminal(tmp_path: Path) -> None:
    cell = "import os\nprint('rank', os.environ['RANK'])\n40 + 2"
    lines = f"%load_ext nbaccel\nget_ipython().run_cell_magic('accelerate', '-n 2', {cell!r})\n"
    (tmp_path / "lines.ipy").write_text(lines)
    done = run([sys.executable, "-m", "IPython", "--colors=NoColor", "lines.ipy"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["rank", "0", "[1]", "rank", "1", "42"]


def test_progress_in_a_terminal_stays_one_line_until_the_end(tmp_path: Path) -> None:
    cell = "from nbaccel import tqdm\nimport time\nfor _ in tqdm(range(20), desc='epoch'): time.sleep(0.02)\n40 + 2"
    lines = f"%load_ext nbaccel\nget_ipython().run_cell_magic('accelerate', '-n 2', {cell!r})\n"
    (tmp_path / "lines.ipy").write_text(lines)
    command = [sys.executable, "-m", "IPython", "--colors=NoColor", "lines.ipy"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=100)  # carriage returns as they are
    assert done.stdout == b"42\n"
    first, last, end = done.stderr.decode().split("\n")
    *live, first = first.split("\r")
    assert {line[:13] for line in live if line.strip()} == {"rank 0 epoch:"}
    assert [line.split("|")[0] for line in (first, last, end)] == ["rank 0 epoch: 100%", "rank 1 epoch: 100%", ""]


def test_an_error_ends_a_script_with_the_remote_message(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        "from nbaccel import notebook_launcher\n"
        "def fails(): raise ValueError('remote')\n"
        "notebook_launcher(fails, num_processes=2)\n"
    )
    done = run([sys.executable, "script.py"], tmp_path)
    assert done.returncode == 1
    assert re.search(r"WorkerError: ranks? .* of 2 failed: ValueError: remote", done.stderr)
    assert re.search(r'script.py", line 2, in fails\n +def fails\(\): raise ValueError', done.stderr)


def test_two_machines_meet(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    script = (
        "import sys\nfrom nbaccel import notebook_launcher\n"
        "def total():\n    import torch, torch.distributed as dist\n    dist.init_process_group()\n"
        "    t = torch.tensor(float(dist.get_rank())); dist.all_reduce(t)\n    return dist.get_rank(), t.item()\n"
        f"print(notebook_launcher(total, num_processes=4, num_nodes=2, node_rank=int(sys.argv[1]), return_all=True,\n"
        f"                        rdzv_endpoint='127.0.0.1:{port}'))\n"
    )
    (tmp_path / "node.py").write_text(script)
    command = [sys.executable, "node.py"]
    other = subprocess.Popen([*command, "1"], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    first = run([*command, "0"], tmp_path)
    assert first.stdout == "[(0, 6.0), (1, 6.0)]\n", first.stderr
    assert other.communicate(timeout=60)[0] == "[(2, 6.0), (3, 6.0)]\n"
