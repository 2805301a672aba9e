"""Cells become a script: which ones are needed, and what of them is left. Without a kernel."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
import yaml
from IPython.core.inputtransformer2 import TransformerManager

from nbaccel.config import KEYS
from nbaccel.errors import CallError, StateError
from nbaccel.notebook.export import export
from nbaccel.notebook.export.cells import Cell, read_cells
from nbaccel.notebook.export.choosing import choose, find_notebook, tagged_sources
from nbaccel.notebook.export.needs import Needs, needs_of
from nbaccel.notebook.export.script import Script
from nbaccel.notebook.export.settings import as_yaml, settings_of

LAUNCH = "notebook_launcher(train, (3,), num_processes=2)"


def cells_of(*sources: str, failed: tuple[int, ...] = ()) -> list[Cell]:
    """Cells numbered from 1."""
    return read_cells(["", *sources], failed, TransformerManager().transform_cell)


def needed(*sources: str, failed: tuple[int, ...] = ()) -> Needs:
    """What the last launch of these cells needs."""
    cells = cells_of(*sources, failed=failed)
    return needs_of(choose((), cells, {}), cells)


def numbers(needs: Needs) -> list[int]:
    return [cell.number for cell in needs.cells]


def script_of(*sources: str) -> str:
    cells = cells_of(*sources)
    chosen = choose((), cells, {})
    return Script("Title.", "nbaccel launch x.py", needs_of(chosen, cells).cells, chosen).text()


# which cells


def test_definitions_are_followed_to_their_own() -> None:
    needs = needed(
        "import math", "unused = 1", "def helper(x): return math.sqrt(x)", "def train(n): return helper(n)", LAUNCH
    )
    assert numbers(needs) == [1, 3, 4]
    assert needs.names[3] == ("helper",)
    assert needs.missing == ("notebook_launcher",)


def test_the_last_definition_before_the_run_counts() -> None:
    assert numbers(needed("def train(n): return 1", "def train(n): return 2", LAUNCH, "def train(n): return 3")) == [2]


def test_what_a_function_reads_is_as_it_was_when_it_ran() -> None:
    assert numbers(needed("def train(n): return RATE", "RATE = 1", "RATE = 2", LAUNCH)) == [1, 3]


def test_what_a_cell_reads_at_once_is_as_it_was_before_it() -> None:
    assert numbers(needed("RATE = 1", "half = RATE / 2", "RATE = 5", "def train(n): return half", LAUNCH)) == [1, 2, 4]


def test_names_of_a_function_of_its_own_need_nothing() -> None:
    assert numbers(
        needed("x = 1", "total = 2", "def train(x):\n    total = x\n    return [y for y in range(total)]", LAUNCH)
    ) == [3]


@pytest.mark.parametrize(
    "change", ["config['lr'] = 2", "config.lr = 2", "del config['a']", "config.update(a=1)", "set_up(config)"]
)
def test_cells_that_change_an_object_belong_to_it(change: str) -> None:
    define = "def set_up(x): pass"
    assert 3 in numbers(needed(define, "config = {}", change, "def train(n): return config", LAUNCH))


@pytest.mark.parametrize("harmless", ["print(config)", "len(config)", "other = config"])
def test_cells_that_only_look_do_not(harmless: str) -> None:
    assert numbers(needed("config = {}", harmless, "def train(n): return config", LAUNCH)) == [1, 3]


def test_modules_are_changed_by_settings_only() -> None:
    sources = [
        "import torch, os",
        "torch.manual_seed(1)",
        "os.environ['A'] = '1'",
        "torch.ones(2)",
        "def train(n): return torch, os",
        LAUNCH,
    ]
    assert numbers(needed(*sources)) == [1, 2, 3, 5]


def test_cells_that_failed_or_are_no_python_do_not_count() -> None:
    sources = ["RATE = 1", "RATE = 1 / 0", "RATE = = 3", "%%bash\nRATE=3", "def train(n): return RATE", LAUNCH]
    assert numbers(needed(*sources, failed=(2,))) == [1, 5]


def test_a_star_import_may_define_anything() -> None:
    assert numbers(needed("from math import *", "def train(n): return sqrt(n)", LAUNCH)) == [1, 2]


def test_workers_names_count_in_a_session_and_outputs_without() -> None:
    session = [
        "%accelerate start -n 2",
        "%%accelerate\nmodel = 1",
        "%accelerate stop",
        "%%accelerate\nmodel = 2",
        "%%accelerate\nmodel",
    ]
    assert numbers(needed(*session)) == [2]
    assert numbers(needed("%%accelerate -o model\nmodel = 1", "%%accelerate\nmodel")) == [1]


# which cells are meant


def test_the_last_launch_is_meant_if_nothing_is_said() -> None:
    cells = cells_of("%%accelerate\n1", LAUNCH, "x = 1")
    assert [cell.number for cell in choose((), cells, {})] == [2]


def test_cells_are_named_by_number_function_and_tag() -> None:
    cells = cells_of("x = 1", LAUNCH, LAUNCH, "%%accelerate\nx")
    tagged = {"export": ["x = 1", "%%accelerate\nx"], "last": ["%%accelerate\nx\n"]}
    for words, expected in ((["1"], [1]), (["train"], [3]), (["last", "1"], [1, 4]), ([], [1, 4])):
        assert [cell.number for cell in choose(words, cells, tagged)] == expected


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["7"], r"there is no cell \[7\].*Possible: 1, 2"),
        (["trian"], "Did you mean 'train'"),
        (["old"], "has not run well in this kernel"),
    ],
)
def test_what_means_no_cell_is_refused(words: list[str], said: str) -> None:
    with pytest.raises(CallError, match=said):
        choose(words, cells_of("x = 1", LAUNCH), {"old": ["x = 2"]})


def test_without_a_launch_there_is_nothing_to_export() -> None:
    with pytest.raises(CallError, match="no cell has launched anything yet"):
        choose((), cells_of("x = 1"), {})


def test_the_notebooks_file_and_its_tags(tmp_path: Path) -> None:
    file = tmp_path / "work.ipynb"
    cell = {"cell_type": "code", "source": ["x = 1\n", "x"], "metadata": {"tags": ["export"]}}
    file.write_text(
        json.dumps({"cells": [cell, {"cell_type": "markdown", "source": "", "metadata": {"tags": ["no"]}}]})
    )
    assert tagged_sources(file) == {"export": ["x = 1\nx"]}
    assert find_notebook({}, {"JPY_SESSION_NAME": str(file)}) == file
    assert find_notebook({"__vsc_ipynb_file__": str(file)}, {}) == file
    assert find_notebook({"__vsc_ipynb_file__": "gone.ipynb"}, {"JPY_SESSION_NAME": "console-1"}) is None
    file.write_text("{}")
    with pytest.raises(CallError, match="cannot be read as a notebook"):
        tagged_sources(file)


# what is written


def test_magics_become_comments_and_timing_goes() -> None:
    script = script_of(
        "%matplotlib inline\n!ls\nfiles = !ls\nif True:\n    %env A=1\n%time RATE = 1\ndef train(n): return RATE",
        LAUNCH,
    )
    for line in ("# %matplotlib inline", "# !ls", "# files = !ls", "    pass  # %env A=1", "RATE = 1"):
        assert line in script.split("\n")
    ast.parse(script)


def test_a_launch_calls_the_function_itself_below_main() -> None:
    script = script_of("def train(n): return n", f"losses = {LAUNCH}\nprint(losses)")
    assert 'if __name__ == "__main__":\n    # %% cell [2]\n    losses = train(3)\n    print(losses)' in script
    assert "result = train(3)" in script_of("def train(n): return n", LAUNCH)


@pytest.mark.parametrize(
    ("call", "direct"),
    [
        ("notebook_launcher(train)", "train()"),
        ("notebook_launcher(train, args, 2)", "train(*args)"),
        ("notebook_launcher(train, (1, [2]), kwargs={'a': 1})", "train(1, [2], **{'a': 1})"),
        ("notebook_launcher(train, args=(é, 2))", "train(é, 2)"),
        ("nbaccel.debug_launcher(train, ())", "train()"),
    ],
)
def test_arguments_of_a_launch_are_taken_over(call: str, direct: str) -> None:
    assert f"\n    x = {direct}\n" in script_of(f"x = {call}")


def test_a_launch_in_a_needed_cell_does_not_run() -> None:
    script = script_of(
        f"def train(n): return n\n{LAUNCH}", "def other(n): return train(n)", "notebook_launcher(other, (1,))"
    )
    assert f"# (not exported) {LAUNCH}" in script


def test_definitions_of_the_launching_cell_stand_above_main() -> None:
    script = script_of(f"import math\ndef train(n):\n    return n\n# run it\n{LAUNCH}")
    above, _, below = script.partition("if __name__")
    assert "def train(n):" in above
    assert "# run it" in below
    assert "def train" not in below


def test_the_inside_of_texts_is_not_indented() -> None:
    script = script_of("%%accelerate\ntext = '''a\nb'''\nmore = f'''{text}\nc'''\nprint(\n    text,\n    more)")
    scope: dict[str, object] = {"__name__": "__main__"}
    exec(compile(script, "script", "exec"), scope)
    assert (scope["text"], scope["more"]) == ("a\nb", "a\nb\nc")


def test_what_a_cell_would_show_is_printed() -> None:
    assert "print(x)" in script_of("%%accelerate\nx = 1\nx")
    assert "print((x, 1))" in script_of("%%accelerate\nx = 1\nx, 1")
    assert "print" not in script_of("%%accelerate\nx = {}\nx.clear()")


def test_a_script_that_would_be_empty_still_runs() -> None:
    exec(compile(script_of("%%accelerate\n!ls"), "script", "exec"), {"__name__": "__main__"})


# the configuration


def test_settings_come_from_lines_sessions_and_calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    cells = cells_of(
        "%accelerate start -n 2 --seed 3",
        "%%accelerate --output all lr=0.5\n1",
        "notebook_launcher(train, (), N, 'bf16', num_nodes=1, fsdp_config={'fsdp_version': 2}, "
        "start_method='spawn', timeout=later())",
    )
    resolved, unknown = settings_of(cells[1:], {"N": 4})
    assert yaml.safe_load(as_yaml(resolved)) == {
        "num_processes": 4,
        "mixed_precision": "bf16",
        "params": {"lr": 0.5},
    } | ({} if KEYS["fsdp_config.fsdp_version"].default == 2 else {"fsdp_config": {"fsdp_version": 2}})
    assert resolved.config.seed == 3
    assert unknown == ["timeout=later()"]


def test_secrets_stay_out_of_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    resolved, _ = settings_of(cells_of("%%accelerate api_key=abc lr=1\n1"), {})
    assert "abc" not in as_yaml(resolved) + script_of("%%accelerate api_key=abc lr=1\n1")
    assert "lr: 1" in as_yaml(resolved)


def test_only_a_notebook_can_be_exported(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="this is no notebook"):
        export(tmp_path / "train.py")
