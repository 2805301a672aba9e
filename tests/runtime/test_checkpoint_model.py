"""Weights as files for others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import load_checkpoint_in_model
from safetensors.torch import load_file

from nbaccel.errors import CallError, StateError
from nbaccel.runtime.checkpoint.random_states import restore_random_states
from nbaccel.runtime.checkpoint.safe_file import write_safetensors
from nbaccel.runtime.checkpoint.staging import Staging
from nbaccel.runtime.checkpoint.store import Part
from nbaccel.runtime.checkpoint.weights import size_in_bytes
from nbaccel.runtime.saving import save_model


def tied() -> torch.nn.ModuleList:
    layers = torch.nn.ModuleList([torch.nn.Linear(8, 8, bias=False) for _ in range(4)])
    layers[3].weight = layers[0].weight
    return layers


@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize("limit", ["10GB", 600])
def test_others_load_it(tmp_path: Path, safe: bool, limit: int | str) -> None:
    model, other = tied(), tied()
    save_model(model.state_dict(), tmp_path, limit, safe)
    load_checkpoint_in_model(other, str(tmp_path))
    other[3].weight = other[0].weight
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_files_have_the_usual_names_and_old_ones_go(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    save_model(tied().state_dict(), tmp_path, 256)
    names = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
    found = sorted(path.name for path in tmp_path.iterdir())
    assert found == sorted([*names, "mine.txt", "model.safetensors.index.json"])
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index == {
        "metadata": {"total_size": 768},
        "weight_map": {"0.weight": names[0], "1.weight": names[1], "2.weight": names[2]},
    }
    save_model(tied().state_dict(), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.txt", "model.safetensors"]


def test_what_cannot_be_saved(tmp_path: Path) -> None:
    for size in ("10 gigs", 0, -1, True, "0MB", None):
        with pytest.raises(CallError, match="max_shard_size="):
            size_in_bytes(size)  # type: ignore[arg-type]
    assert [size_in_bytes(size) for size in ("1.5KB", "2MiB", 7)] == [1500, 2 << 20, 7]
    (tmp_path / "file").write_text("x")
    with pytest.raises(CallError, match="there is a file of this name"):
        save_model({}, tmp_path / "file")
    with pytest.raises(StateError, match="w has no values"):
        save_model({"w": torch.empty(1, device="meta")}, tmp_path)
    with pytest.raises(CallError, match="safetensors takes tensors alone"):
        save_model({"w": 1}, tmp_path)


def test_any_tensor_becomes_safetensors(tmp_path: Path) -> None:
    base = torch.arange(12.0).view(3, 4)
    tensors = {
        "plain": base, "view": base[:, 1:3], "turned": base.t(), "scalar": torch.tensor(3), "empty": torch.zeros(0, 4),
        "half": base.bfloat16(), "bool": base > 3, "grad": base.clone().requires_grad_(),
    }  # fmt: skip
    for more in ({}, {"small": base.to(torch.float8_e4m3fn)}):
        with open(tmp_path / "x.safetensors", "wb") as stream:
            write_safetensors({**tensors, **more}, stream)
        found = load_file(tmp_path / "x.safetensors")
        assert found.keys() == {**tensors, **more}.keys()
        assert all(torch.equal(found[name].float(), value.float()) for name, value in {**tensors, **more}.items())


def test_copies_keep_what_is_tied_and_how_it_is_nested() -> None:
    weight = torch.ones(2)
    sparse = torch.eye(2).to_sparse()
    state: dict[Any, Any] = {"a": weight, "b": [weight, (torch.zeros(0), {"c": 1})], "d": sparse, "e": torch.zeros(0)}
    (part,) = Staging().copies_of([Part("x", state)])
    weight.zero_()
    copied = part.state
    assert copied["a"].tolist() == [1, 1]
    assert copied["b"][0] is copied["a"]
    assert copied["b"][1][1] == {"c": 1}
    assert copied["d"].is_sparse
    assert copied["e"].shape == (0,)


def test_states_of_other_gpus_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", given.append)
    restore_random_states({"torch_cuda_manual_seed": [torch.zeros(1)]})
    assert len(given) == 1
    with pytest.warns(UserWarning, match="random states of 2 GPUs, and 1 are visible"):
        restore_random_states({"torch_cuda_manual_seed": [torch.zeros(1)] * 2})
    assert len(given) == 1
