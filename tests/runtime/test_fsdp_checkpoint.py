"""FSDP's checkpoints: training goes on bit for bit, on other numbers of ranks, with and without Accelerate or FSDP."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from runtime_ranks import free_port, rank_environment
from safetensors.torch import load_file

from nbaccel.cli.merge_weights import command
from nbaccel.errors import CallError, StateError
from nbaccel.runtime.checkpoint.manifest import trouble_with
from nbaccel.runtime.parallel.named import by_name, by_number, names_of
from nbaccel.utils import merge_fsdp_weights

HERE = Path(__file__).parent
CHECKS = HERE / "fsdp_checkpoint_checks.py"
NAMES: list[str] = re.findall(r"^def (check_\w+)\(\)", CHECKS.read_text(), re.MULTILINE)
SHARDED, FULL = "SHARDED_STATE_DICT", "FULL_STATE_DICT"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]


def ranks_of(size: int, local_size: int, command: list[str]) -> list[int]:
    """Starts real ranks. Returns their exit codes."""
    port = free_port()
    environs = [rank_environment(rank, size, port) for rank in range(size)]
    for rank, environ in enumerate(environs):
        environ |= {"LOCAL_RANK": str(rank % local_size), "LOCAL_WORLD_SIZE": str(local_size)}
    ranks = [subprocess.Popen(command, env=environ) for environ in environs]
    try:
        return [process.wait(timeout=900) for process in ranks]
    finally:
        for process in ranks:
            process.kill()
            process.wait()


def train(size: int, library: str, answer: Path, *options: str, local_size: int = 0) -> list[Any]:
    """What each rank says: its losses after it has saved or loaded, and on rank 0 the weights before."""
    line = [sys.executable, str(HERE / "fsdp_peer.py"), library, str(answer), *options]
    assert ranks_of(size, local_size or size, line) == [0] * size
    return [json.loads((answer / f"{rank}.json").read_text()) for rank in range(size)]


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """A checkpoint of two ranks in shards, and what its training went on to."""
    folder = tmp_path_factory.mktemp("sharded")
    return folder / "state", train(2, "nbaccel", folder / "said", "--save", str(folder / "state"))


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    folder = tmp_path_factory.mktemp("full")
    said = train(2, "nbaccel", folder / "said", "--form", FULL, "--save", str(folder / "state"))
    return folder / "state", said


def test_shards(sharded: tuple[Path, list[Any]], tmp_path: Path) -> None:
    state, expected = sharded
    names = {path.relative_to(state).as_posix() for path in state.rglob("*") if path.is_file()}
    assert names >= {
        f"{folder}/{name}"
        for folder in ("pytorch_model_fsdp_0", "pytorch_model_fsdp_1", "optimizer_0", "optimizer_1")
        for name in (".metadata", "__0_0.distcp")
    }
    assert "optimizer_0/__1_0.distcp" in names
    assert not trouble_with(state)
    assert train(2, "nbaccel", tmp_path / "again", "--load", str(state)) == expected


def test_whole_files(full: tuple[Path, list[Any]], sharded: tuple[Path, list[Any]], tmp_path: Path) -> None:
    state, expected = full
    assert {path.name for path in state.iterdir()} >= {
        "pytorch_model_fsdp.bin", "pytorch_model_fsdp_1.bin", "optimizer.bin", "optimizer_1.bin",
    }  # fmt: skip
    assert expected == sharded[1]
    assert train(2, "nbaccel", tmp_path / "again", "--form", FULL, "--load", str(state)) == expected
    assert train(2, "nbaccel", tmp_path / "in_shards", "--load", str(state)) == expected


def test_in_the_background(sharded: tuple[Path, list[Any]], tmp_path: Path) -> None:
    for form in (SHARDED, FULL):
        state = str(tmp_path / form)
        said = train(2, "nbaccel", tmp_path / "said", "--form", form, "--save", state, "--asynchronous")
        assert said == sharded[1]
        assert not trouble_with(Path(state))
        assert train(2, "nbaccel", tmp_path / "again", "--load", state) == sharded[1]


def test_other_numbers_of_ranks(
    sharded: tuple[Path, list[Any]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    state, expected = sharded
    four = train(4, "nbaccel", tmp_path / "four", "--load", str(state), "--save", str(tmp_path / "state"))
    assert four[0]["weights"] == expected[0]["weights"]
    assert "has no random states of rank 3: its generators stay as they are" in capfd.readouterr().err
    two = train(2, "nbaccel", tmp_path / "two", "--load", str(tmp_path / "state"), "--form", FULL)
    assert two[0]["weights"] == expected[0]["weights"]
    one = train(1, "plain", tmp_path / "one", "--load", str(tmp_path / "state"))
    assert one[0]["weights"] == expected[0]["weights"]


def test_replicas_of_shards(sharded: tuple[Path, list[Any]], tmp_path: Path) -> None:
    state = str(tmp_path / "state")
    hybrid = ("--sharding", "HYBRID_SHARD")
    expected = train(4, "nbaccel", tmp_path / "first", *hybrid, "--save", state, local_size=2)
    assert train(4, "nbaccel", tmp_path / "again", *hybrid, "--load", state, local_size=2) == expected
    assert train(2, "nbaccel", tmp_path / "two", "--load", state)[0]["weights"] == expected[0]["weights"]


def test_without_fsdp(full: tuple[Path, list[Any]], tmp_path: Path) -> None:
    state, expected = full
    plain = train(1, "plain", tmp_path / "plain", "--load", str(state), "--save", str(tmp_path / "state"))
    assert plain[0]["weights"] == expected[0]["weights"]
    assert (tmp_path / "state" / "model.safetensors").is_file()
    again = train(1, "plain", tmp_path / "whole", "--load", str(tmp_path / "state"))
    assert again == plain
    back = train(2, "nbaccel", tmp_path / "back", "--load", str(tmp_path / "state"))
    assert back[0]["weights"] == expected[0]["weights"]


@pytest.mark.parametrize("form", [SHARDED, FULL])
def test_accelerate(form: str, tmp_path: Path) -> None:
    options = ("--alone", "--form", form)
    theirs = train(2, "accelerate", tmp_path / "theirs", *options, "--save", str(tmp_path / "state"))
    assert train(2, "nbaccel", tmp_path / "ours", *options, "--load", str(tmp_path / "state")) == theirs
    ours = train(2, "nbaccel", tmp_path / "ours", *options, "--save", str(tmp_path / "own"))
    assert train(2, "accelerate", tmp_path / "theirs", *options, "--load", str(tmp_path / "own")) == ours


def test_numbered_checkpoints(sharded: tuple[Path, list[Any]], tmp_path: Path) -> None:
    project = ("--project", str(tmp_path / "project"))
    expected = train(2, "nbaccel", tmp_path / "first", *project, "--save", "next")
    assert expected == sharded[1]
    again = train(2, "nbaccel", tmp_path / "again", *project, "--load", "latest")
    assert again == expected


def test_a_rank_is_killed_while_it_saves(sharded: tuple[Path, list[Any]], tmp_path: Path) -> None:
    for number, died in enumerate((0, 1)):
        state = tmp_path / f"state{number}"
        line = [sys.executable, str(HERE / "fsdp_peer.py"), "nbaccel", str(tmp_path), "--save", str(state)]
        codes = ranks_of(2, 2, [*line, "--die", str(died)])
        assert codes[died] == -signal.SIGKILL
        assert codes[1 - died] == 3
        assert not trouble_with(state)
        assert train(2, "nbaccel", tmp_path / "again", "--load", str(state)) == sharded[1]


@pytest.fixture(scope="module")
def on_two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    folder = tmp_path_factory.mktemp("checks")
    assert ranks_of(2, 2, [sys.executable, "-W", "error", str(CHECKS), str(folder), *NAMES]) == [0, 0]
    found = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]
    return {name: [one[name] for one in found] for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_on_two_ranks(name: str, on_two: dict[str, list[str]]) -> None:
    assert not any(on_two[name]), "\n".join(filter(None, on_two[name]))


def test_merging(sharded: tuple[Path, list[Any]], tmp_path: Path) -> None:
    state, said = sharded
    model = state / "pytorch_model_fsdp_0"
    merge_fsdp_weights(model, tmp_path / "merged")
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    assert {name: tensor.tolist() for name, tensor in merged.items()} == said[0]["weights"]
    shutil.copytree(model, tmp_path / "shards")
    merge_fsdp_weights(tmp_path / "shards", tmp_path / "torch", safe_serialization=False, remove_checkpoint_dir=True)
    assert not (tmp_path / "shards").exists()
    own = torch.load(tmp_path / "torch" / "pytorch_model.bin")
    assert {name: tensor.tolist() for name, tensor in own.items()} == said[0]["weights"]
    merge_fsdp_weights(model, tmp_path / "several", max_shard_size=120)
    assert len(list((tmp_path / "several").glob("*.safetensors"))) > 1


def test_what_cannot_be_merged(sharded: tuple[Path, list[Any]], full: tuple[Path, list[Any]], tmp_path: Path) -> None:
    state = sharded[0]
    for folder, words in (
        (state, "the shards of several models (pytorch_model_fsdp_0, pytorch_model_fsdp_1)"),
        (state / "optimizer_0", "holds an optimizer's state"),
        (tmp_path / "nowhere", "there is no such folder"),
        (full[0], "has no shards of a model"),
    ):
        with pytest.raises(CallError, match=re.escape(words)):
            merge_fsdp_weights(folder, tmp_path / "merged")
    shutil.copytree(state / "pytorch_model_fsdp_0", tmp_path / "shards")
    with pytest.raises(CallError, match="would remove what it writes"):
        merge_fsdp_weights(tmp_path / "shards", tmp_path / "shards" / "inside", remove_checkpoint_dir=True)
    (tmp_path / "shards" / "__0_0.distcp").unlink()
    with pytest.raises(StateError, match=r"__0_0.distcp is missing"):
        merge_fsdp_weights(tmp_path / "shards", tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_the_command(sharded: tuple[Path, list[Any]], tmp_path: Path) -> None:
    model = str(sharded[0] / "pytorch_model_fsdp_0")
    done = CliRunner().invoke(command, [model, str(tmp_path / "merged"), "--unsafe_serialization"])
    assert done.exit_code == 0, done.output
    assert f"written: {tmp_path / 'merged'}" in done.output
    assert (tmp_path / "merged" / "pytorch_model.bin").is_file()
    line = [sys.executable, "-m", "nbaccel.cli.main", "merge-weights", str(sharded[0]), str(tmp_path / "other")]
    found = subprocess.run(line, capture_output=True, text=True, check=False)
    assert found.returncode == 2
    assert found.stderr.startswith("nbaccel: ")
    assert "Give the folder of one of them" in found.stderr


def test_states_by_name() -> None:
    model, other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 1)
    optimizer = torch.optim.Adam([{"params": [model.bias]}, {"params": [model.weight], "lr": 0.5}])
    (model(torch.ones(1, 2)).sum()).backward()
    optimizer.step()
    names = names_of([other, model], optimizer, 0)
    assert names == [["bias"], ["weight"]]
    state = optimizer.state_dict()
    named = by_name(state, names)
    assert named["param_groups"][1]["params"] == ["weight"]
    assert by_number(named, names) == state
    assert by_number(state, names) == state
    turned = by_number(named, [["weight"], ["bias"]])
    assert turned["param_groups"][0]["lr"] == 0.5
    assert turned["state"][0] is state["state"][1]
    with pytest.raises(StateError, match=r"knows nothing of head. Give the optimizer the parameters"):
        by_number(named, [["bias"], ["head"]])
    both = torch.optim.SGD([model.bias, other.bias, torch.nn.Parameter(torch.zeros(1))])
    assert names_of([model, other], both, 0) == [["0.bias", "1.bias", "#2"]]
