"""Cells become a script: which ones are needed, and what of them is left. Without a kernel."""

from __future__ import annotations

import ast
import json
import runpy
from dataclasses import dataclass
from inspect import getsource
from pathlib import Path
from typing import Any

import pytest
import yaml
from IPython.core.inputtransformer2 import TransformerManager

from nbaccel.config import resolve
from nbaccel.errors import CallError, StateError
from nbaccel.notebook.export import Exported, export
from nbaccel.notebook.export.cells import Cell, read_cells
from nbaccel.notebook.export.choosing import choose, find_notebook, tagged_sources
from nbaccel.notebook.export.exporting import _write
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


def script_of(*sources: str, chosen_by: tuple[str, ...] = ()) -> str:
    cells = cells_of(*sources)
    chosen = choose(chosen_by, cells, {})
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


def test_what_is_timed_is_python_too() -> None:
    sources = ["%time data = 1", "if True:\n    %prun more = 2", "x = %time data + more", "%%timeit\ndata = 4"]
    assert numbers(needed(*sources, "%timeit data = 3", "%%time\n%%accelerate -n 2\nprint(data, x)")) == [1, 2, 3]
    timed = cells_of("%%time\n%%accelerate -n 2 --seed 3\n%%capture out\n%%time\nx = 1", "%%time\n%%bash\nls")
    assert [(cell.line, cell.source) for cell in timed] == [("-n 2 --seed 3", "x = 1\n")]
    assert choose((), cells_of("%timeit -n 1 -r1 notebook_launcher(train)"), {})[0].launches


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
        "num_machines": 1,
        "fsdp_config": {"fsdp_version": 2},
        "params": {"lr": 0.5},
    }
    assert resolved.config.seed == 3
    assert unknown == ["timeout=later()"]


def test_a_restart_of_a_session_keeps_what_was_given_before(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    lines = ["%accelerate start -n 2 --seed 3", "%accelerate restart", "%accelerate restart -n 4", "%%accelerate\n1"]
    config = settings_of(cells_of(*lines)[-1:], {})[0].config
    assert (config.num_processes, config.seed) == (4, 3)
    cells = cells_of(*lines, "%accelerate stop", "%accelerate start --seed 5", "%%accelerate\n1")
    config = settings_of(cells[-1:], {})[0].config
    assert (config.num_processes, config.seed) == (None, 5)


@pytest.mark.parametrize(
    ("cell", "settings", "unknown"),
    [
        ("%%accelerate --mixed-precision no --gradient-accumulation-steps 1 --no-use-cpu\n1",
         {"mixed_precision": "no", "gradient_accumulation_steps": 1, "use_cpu": False}, []),
        ("notebook_launcher(f, (), None, 'no', 29500, 'here', 0, 1)",
         {"mixed_precision": "no", "main_process_port": 29500, "main_process_ip": "here", "machine_rank": 0,
          "num_machines": 1}, []),
        ("notebook_launcher(f, config={'use_cpu': True}, use_cpu=False)", {"use_cpu": False}, []),
        ("notebook_launcher(f, config=CONFIG)", {"num_processes": 3, "fsdp_config": {"fsdp_version": 2}}, []),
        ("notebook_launcher(f, config=FILE)", {"num_processes": 7}, []),
        ("notebook_launcher(f, config=later())", {}, ["config=later()"]),
        ("notebook_launcher(f, **SETTINGS)", {"num_processes": 5, "num_machines": 1}, []),
        ("notebook_launcher(f, **{'use_cpu': True}, **later(), **FILE)", {"use_cpu": True}, ["**later()", "**FILE"]),
        ("notebook_launcher(f, params=PARAMS)", {"params": {"lr": 0.5}}, []),
        ("debug_launcher(f)", {"num_processes": 2, "use_cpu": True}, []),
        ("debug_launcher(f, (), 3)", {"num_processes": 3, "use_cpu": True}, []),
    ],
)  # fmt: skip
def test_all_that_was_given_is_in_the_file(
    cell: str, settings: dict[str, object], unknown: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    @dataclass
    class Given:
        lr: float = 0.5

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    (tmp_path / "named.yaml").write_text("num_processes: 7")
    namespace = {
        "CONFIG": {"num_processes": 3, "fsdp_config": {"fsdp_version": 2}},
        "FILE": tmp_path / "named.yaml",
        "SETTINGS": {"num_processes": 5, "num_nodes": 1, "return_all": True, "seed": None},
        "PARAMS": Given(),
    }
    resolved, open_ones = settings_of(cells_of(cell), namespace)
    assert (yaml.safe_load(as_yaml(resolved)) or {}, open_ones) == (settings, unknown)


def test_the_file_stands_above_the_projects(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    (tmp_path / ".accelerate").mkdir()
    (tmp_path / ".accelerate/default_config.yaml").write_text("mixed_precision: bf16\nuse_cpu: true\ngpu_ids: '1'\n")
    resolved, _ = settings_of(cells_of("%%accelerate --mixed-precision no --no-use-cpu gpu_ids=null\n1"), {})
    (tmp_path / "exported.yaml").write_text(as_yaml(resolved))
    again = resolve(config_file=tmp_path / "exported.yaml")
    assert (again.config.mixed_precision, again.config.use_cpu) == ("no", False)
    assert again.config == resolved.config


def test_secrets_stay_out_of_the_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    params = {"lr": 1, "pad_token": "<pad>", "hub": {"token": "hush", "name": "me"}}
    exported = written(tmp_path, "notebook_launcher(train_whole, params=P)", train_whole=train_whole, P=params)
    assert exported.config is not None
    assert "hush" not in exported.script.read_text() + exported.config.read_text()
    assert "params.hub.token holds a secret, which files do not: set the variable HUB_TOKEN" in exported.notes
    monkeypatch.setenv("HUB_TOKEN", "hush again")
    again = resolve(config_file=exported.config).config.params
    assert again == {"lr": 1, "pad_token": "<pad>", "hub": {"token": "hush again", "name": "me"}}
    assert "abc" not in script_of("%%accelerate api_key=abc lr=1\n1")


def test_secrets_that_a_file_names_are_found_there_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_TOKEN", "hush")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "mine")
    assert as_yaml(settings_of(cells_of("%%accelerate\n1"), {})[0]) == ""
    folder = tmp_path / ".accelerate"
    folder.mkdir()
    (folder / "default_config.yaml").write_text("params: {hub: {token: '${oc.env:HF_TOKEN}', name: me}}")
    (folder / "staging.yaml").write_text("params: {api_key: '${oc.env:HF_TOKEN}'}")
    exported = written(tmp_path, "%%accelerate --profile staging lr=1\n1")
    assert exported.config is not None
    assert yaml.safe_load(exported.config.read_text()) == {
        "profile": "staging",
        "params": {"lr": 1, "hub": {"name": "me"}},
    }
    assert not [note for note in exported.notes if "secret" in note]
    again = resolve(config_file=exported.config).config.params
    assert again == {"lr": 1, "hub": {"token": "hush", "name": "me"}, "api_key": "hush"}


# what a launched function is given


def written(folder: Path, *sources: str, **namespace: Any) -> Exported:
    """The export of the last launch of these cells."""
    cells = cells_of(*sources)
    chosen = choose((), cells, {})
    return _write(folder / "train.py", chosen, needs_of(chosen, cells), namespace, None, force=True)


def train(model: int = 0, lr: float = 0.1, *, items: int = 0) -> object:
    return model, lr, items


def train_whole(model: int = 0, params: Any = None) -> object:
    return model, dict(params)


GIVEN = "params={'lr': 0.5, 'items': 3}"


@pytest.mark.parametrize(
    ("launch", "value"),
    [
        (f"x = notebook_launcher(train, {GIVEN})", (0, 0.5, 3)),
        (f"x = notebook_launcher(train, (7,), {GIVEN})", (7, 0.5, 3)),
        (f"x = notebook_launcher(train, args=[7, 0.2], {GIVEN})", (7, 0.2, 3)),
        (f"x = notebook_launcher(train, kwargs={{'lr': 0.2}}, {GIVEN})", (0, 0.2, 3)),
        (f"x = notebook_launcher(train, ARGS, kwargs=NAMED, {GIVEN})", (7, 0.5, 4)),
        (f"x = notebook_launcher(train, {GIVEN}), notebook_launcher(train, (7, 8), {GIVEN})", ((0, 0.5, 3), (7, 8, 3))),
        ("params = {'lr': 0.5}\nx = notebook_launcher(train, (7,), params=params)", (7, 0.5, 0)),
        (f"x = notebook_launcher(train_whole, (7,), {GIVEN})", (7, {"lr": 0.5, "items": 3})),
        ("x = notebook_launcher(train_whole, (7,), params={'params': {'lr': 0.5}})", (7, {"lr": 0.5})),
        ("x = notebook_launcher(train_whole, (7, {}), params={'lr': 0.5})", (7, {})),
    ],
)
def test_a_script_gives_the_parameters_that_the_launch_left_open(
    launch: str, value: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    namespace = {"train": train, "train_whole": train_whole, "ARGS": (7,), "NAMED": {"items": 4}}
    definitions = [
        getsource(train),
        getsource(train_whole),
        "ARGS, NAMED = (7,), {'items': 4}",
        "from typing import Any",
    ]
    exported = written(tmp_path, *definitions[::-1], launch, **namespace, params={"lr": 0.5})
    monkeypatch.setenv("ACCELERATE_CONFIG_FILE", str(exported.config))
    assert runpy.run_path(str(exported.script), run_name="__main__")["x"] == value
    assert not [note for note in exported.notes if "parameters" in note]


def test_what_the_users_own_variables_gave_is_written_down(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LR", "0.25")
    exported = written(tmp_path, "notebook_launcher(train)", train=train)
    assert "result = train(lr=params['lr'])" in exported.script.read_text()
    assert exported.config is not None
    assert "lr: 0.25" in exported.config.read_text()


@pytest.mark.parametrize("arguments", ["(*ARGS, 1)", "later()", "(1,), kwargs={**ARGS}", "kwargs=dict(lr=1)"])
def test_arguments_that_cannot_be_counted_are_noted(
    arguments: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    launch = f"notebook_launcher(train, {arguments}"
    (note,) = [note for note in written(tmp_path, f"{launch}, {GIVEN})", train=train).notes if "train()" in note]
    assert note.startswith("train() gets no parameters of the configuration beside ")
    assert note.endswith(": write them into its call")
    assert not any("train()" in note for note in written(tmp_path, f"{launch}, use_cpu=True)", train=train).notes)


# jobs


def test_only_our_own_submit_is_a_launch() -> None:
    pool = "with ThreadPoolExecutor() as pool:\n    data = [pool.submit(load, p) for p in (1, 2)]"
    script = script_of(
        f"from concurrent.futures import ThreadPoolExecutor\n{pool}", "def train(n): return data", LAUNCH
    )
    assert pool in script
    with pytest.raises(CallError, match="no cell has launched anything yet"):
        choose((), cells_of(pool, "submit(form)", "form.submit(1)"), {})


@pytest.mark.parametrize(
    ("bound", "called"),
    [
        ("import nbaccel", "nbaccel.submit"),
        ("import nbaccel as nb", "nb.submit"),
        ("from nbaccel import submit", "submit"),
        ("from nbaccel import submit as start", "start"),
        ("from nbaccel import *", "submit"),
    ],
)
def test_submit_is_known_by_its_import(bound: str, called: str) -> None:
    assert "    x = train(3)\n" in script_of(bound, f"x = {called}(train, (3,))")


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("job = nbaccel.submit(train, (3,))\nx = job.result()", 3),
        ("x = [nbaccel.submit(train, (3,)).result(timeout=3)]", [3]),
        ("jobs = [nbaccel.submit(train, (n,)) for n in (1, 2)]\nx = [one.result() for one in jobs]", [1, 2]),
        ("jobs = {1: nbaccel.submit(train, (1,))}\nx = {n: one.result() for n, one in jobs.items()}", {1: 1}),
        (("jobs = []\nx = 0\nfor n in (1, 2):\n    jobs.append(nbaccel.submit(train, (n,)))\n"
         "for n, job in enumerate(jobs):\n    x += (job\n  .result())"), 3),
        ("job, other = nbaccel.submit(train, (3,)), 4\nwhile not job.done():\n    pass\nx = job.result()", 3),
        (("for n in (1, 2):\n    job = nbaccel.submit(train, (n,))\n    job.add_done_callback(\n        print)\n"
         "    x = job.result()"), 2),
        ("jobs = [nbaccel.submit(train, (n,)) for n in (1, 2)]\njob = jobs[1]\nlast = job\nx = last.result()", 2),
    ],
)  # fmt: skip
def test_a_jobs_result_stands_where_the_job_did(cell: str, value: object) -> None:
    scope: dict[str, object] = {"__name__": "__main__"}
    exec(compile(script_of("import nbaccel", "def train(n): return n", cell), "script", "exec"), scope)
    assert scope["x"] == value


@pytest.mark.parametrize(
    "collecting", ["x = [job.result() for job in jobs]", "x = []\nfor job in jobs:\n    x.append(job.result())"]
)
def test_jobs_may_be_collected_in_another_cell(collecting: str) -> None:
    scope: dict[str, object] = {"__name__": "__main__"}
    submitting = "jobs = [nbaccel.submit(train, (n,)) for n in (1, 2)]"
    script = script_of("import nbaccel", "def train(n): return n", submitting, collecting, chosen_by=("3", "4"))
    exec(compile(script, "script", "exec"), scope)
    assert scope["x"] == [1, 2]


def test_what_a_script_has_no_counterpart_for_is_noted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    session = "import nbaccel\nsession = nbaccel.Session(2)"
    cell = "job = nbaccel.submit(train)\nprint(job.logs(0), session)\njob.result()"
    exported = written(tmp_path, session, cell, train=train)
    assert "cell [2]: job.logs is asked of a job, and a script has none" in exported.notes
    assert "cell [1] makes a Session, which workers cannot: call its functions themselves" in exported.notes
    script = exported.script.read_text()
    assert "# (not exported) print(job.logs(0), session)" in script
    assert "result = job\n" in script


def test_only_a_notebook_can_be_exported(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="this is no notebook"):
        export(tmp_path / "train.py")
