"""States of several processes, and of Accelerate: the training goes on with the same losses, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from runtime_ranks import run_ranks

from nbaccel.runtime.checkpoint.manifest import trouble_with

PEER = Path(__file__).parent / "checkpoint_peer.py"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def train(size: int, library: str, answer: Path, *options: str) -> list[Any]:
    """The losses of each rank after it has saved or loaded."""
    run_ranks(size, PEER, library, str(answer), *options, timeout_s=200)
    return [json.loads((answer / f"{rank}.json").read_text()) for rank in range(size)]


def test_two_processes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    state = tmp_path / "state"
    expected = train(2, "nbaccel", tmp_path / "first", "--save", str(state), "--fail", "1")
    said = capfd.readouterr().out
    assert "saving the state failed: No space left on device. Free space" in said
    assert "saving the state failed on rank 1: saving the state failed: No space left" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "state", "state-asynchronous"]
    assert {path.name for path in state.iterdir()} >= {
        "dl_state_dict.bin", "dl_state_dict_rank1.bin", "random_states_0.pkl", "random_states_1.pkl",
    }  # fmt: skip
    assert not trouble_with(state)
    assert train(2, "nbaccel", tmp_path / "again", "--load", f"{state}-asynchronous") == expected
    assert train(2, "accelerate", tmp_path / "peer", "--load", str(state)) == expected
    train(1, "nbaccel", tmp_path / "fewer", "--load", str(state))
    assert "random states" not in capfd.readouterr().err


def test_what_accelerate_wrote(tmp_path: Path) -> None:
    expected = train(2, "accelerate", tmp_path / "first", "--save", str(tmp_path / "state"))
    assert train(2, "nbaccel", tmp_path / "again", "--load", str(tmp_path / "state")) == expected


def test_one_process_and_more_processes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    state = tmp_path / "state"
    expected = train(1, "accelerate", tmp_path / "peer", "--save", str(state))
    assert train(1, "nbaccel", tmp_path / "own", "--load", str(state)) == expected
    train(2, "nbaccel", tmp_path / "more", "--load", str(state))
    assert "has no random states of rank 1: its generators stay as they are" in capfd.readouterr().err
