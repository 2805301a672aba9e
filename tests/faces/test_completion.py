"""What the Tab key offers in a real kernel, with jedi and without."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import Kernel, running_kernel

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("completing")
    for name in (
        "run.yaml",
        "notes.txt",
        "conf/fast.yaml",
        ".accelerate/default_config.yaml",
        ".accelerate/night.yaml",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("")
    return folder


@pytest.fixture(scope="module", params=[True, False], ids=["jedi", "plain"])
def completing(request: pytest.FixtureRequest, folder: Path) -> Iterator[Kernel]:
    with running_kernel() as running:
        running.ok(f"import os; os.chdir({str(folder)!r}); get_ipython().Completer.use_jedi = {request.param}")
        running.ok("%load_ext nbaccel\ndef train(): pass\nmodel = 3")
        yield running


@pytest.fixture(scope="module")
def in_session(completing: Kernel) -> Kernel:
    completing.ok("%accelerate start -n 2")
    completing.ok("%%accelerate\nworker_only = 3")
    return completing


def offered(kernel: Kernel, code: str) -> list[str]:
    """The line as it would be with each of the offered words."""
    asked = kernel.client.complete(code)
    while (answer := kernel.client.get_shell_msg(timeout=60))["parent_header"].get("msg_id") != asked:
        pass
    content = answer["content"]
    return [code[: content["cursor_start"]] + match + code[content["cursor_end"] :] for match in content["matches"]]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("%accelerate st", ["%accelerate start", "%accelerate stop", "%accelerate status", "%accelerate stacks"]),
        ("status = %accelerate sto", ["status = %accelerate stop"]),
        ("accelerate und", ["accelerate undo"]),
        ("%%accelerate --mixed", ["%%accelerate --mixed-precision"]),
        ("%accelerate start --mixed-precision b", ["%accelerate start --mixed-precision bf16"]),
        ("%%accelerate --mixed_precision b", ["%%accelerate --mixed_precision bf16"]),
        ("%%accelerate --mixed-precision=b", ["%%accelerate --mixed-precision=bf16"]),
        ("%%accelerate mixed_precision=b", ["%%accelerate mixed_precision=bf16"]),
        ("%%accelerate use_cpu=t", ["%%accelerate use_cpu=true"]),
        (
            "%%accelerate --mixed-precision ",
            [f"%%accelerate --mixed-precision {one}" for one in ("no", "fp16", "bf16", "fp8")],
        ),
        ("%accelerate set fsdp_config.fsdp_ver", ["%accelerate set fsdp_config.fsdp_version"]),
        ("%accelerate why fsdp_ver", ["%accelerate why fsdp_version"]),
        ("%accelerate set mixed_precision bf", ["%accelerate set mixed_precision bf16"]),
        ("%accelerate config set mixed_precision bf", ["%accelerate config set mixed_precision bf16"]),
        ("%accelerate config val", ["%accelerate config validate"]),
        ("%accelerate config validate co", ["%accelerate config validate conf/"]),
        ("%%accelerate --config-file ", ["%%accelerate --config-file conf/", "%%accelerate --config-file run.yaml"]),
        ("%%accelerate --config-file conf/", ["%%accelerate --config-file conf/fast.yaml"]),
        ("%%accelerate --profile ni", ["%%accelerate --profile night"]),
        ("%%accelerate -o mod", ["%%accelerate -o model"]),
        ("%accelerate form tra", ["%accelerate form train"]),
        ("%accelerate push mod", ["%accelerate push model"]),
        ("%accelerate export --ce", ["%accelerate export --cells"]),
        ("%accelerate export --cells tra", ["%accelerate export --cells train"]),
    ],
)
def test_a_line_is_completed_by_what_can_follow_and_by_nothing_else(
    completing: Kernel, line: str, words: list[str]
) -> None:
    assert sorted(offered(completing, line)) == sorted(words)


def test_the_first_word_is_a_command(completing: Kernel) -> None:
    words = offered(completing, "%accelerate ")
    assert {"%accelerate start", "%accelerate export", "%accelerate form"} <= set(words)
    assert all(word.split()[1].isalpha() for word in words)


def test_a_cell_without_a_beginning_offers_flags(completing: Kernel) -> None:
    for line in ("%%accelerate ", "%%accelerate -", "%%accelerate --use-cpu ", "%accelerate start "):
        words = offered(completing, line)
        assert f"{line.rstrip('-')}--num-processes" in words
        assert all(word.split()[-1].startswith("-") for word in words)


def test_other_lines_are_left_alone(completing: Kernel) -> None:
    assert offered(completing, "mode") == ["model"]
    assert offered(completing, "%%accelerate\nmode") == ["%%accelerate\nmodel"]
    assert not any("mixed_precision" in word for word in offered(completing, "x = mixed"))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("%%accelerate --ranks ", ["%%accelerate --ranks 0", "%%accelerate --ranks 1"]),
        ("%%accelerate --ranks 0,", ["%%accelerate --ranks 0,0", "%%accelerate --ranks 0,1"]),
        ("%accelerate pull worker", ["%accelerate pull worker_only"]),
        ("%accelerate debug ", ["%accelerate debug 0", "%accelerate debug 1"]),
        ("%%accelerate\nworker_o", ["%%accelerate\nworker_only"]),
    ],
)
def test_ranks_and_names_of_a_session_are_completed(in_session: Kernel, line: str, words: list[str]) -> None:
    assert offered(in_session, line) == words


def test_loading_anew_and_unloading_leaves_nothing_twice(completing: Kernel) -> None:
    completing.ok("%reload_ext nbaccel")
    assert offered(completing, "%accelerate sto") == ["%accelerate stop"]
    completing.ok("%unload_ext nbaccel")
    assert "%accelerate stop" not in offered(completing, "%accelerate sto")
