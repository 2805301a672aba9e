"""Saving and loading the state of a training, on one process."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, MultiStepLR, OneCycleLR
from torch.utils.data import DataLoader, TensorDataset

from nbaccel.errors import CallError, StateError
from nbaccel.runtime.accelerator import Accelerator
from nbaccel.runtime.checkpoint import folders
from nbaccel.runtime.checkpoint.checkpoints import Checkpoints, Numbering
from nbaccel.runtime.checkpoint.manifest import FILE, read_manifest, trouble_with
from nbaccel.runtime.checkpoint.reading import load_file_of_torch
from nbaccel.runtime.checkpoint.store import Part, Store

HERE = Path(__file__).parent
KILLS = HERE.parents[1] / "benchmarks" / "kill_saves.py"


class Registered:
    def __init__(self, value: Any = 0) -> None:
        self.value = value

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value = state["value"]


class Training:
    """A small training with two models, and its checkpoints."""

    def __init__(
        self, numbering: Numbering | None = None, seed: int = 0, scheduler: Any = None, **options: Any
    ) -> None:
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        self.accelerator = Accelerator(**options)
        first, second = torch.nn.Linear(4, 4), torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(4, 1))
        optimizers = [torch.optim.AdamW(first.parameters(), 0.01), torch.optim.SGD(second.parameters(), 0.1, 0.9)]
        schedulers = [(scheduler or (lambda one: MultiStepLR(one, [2, 4])))(one) for one in optimizers]
        x = torch.linspace(-1, 1, 32).view(8, 4)
        loader = DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), batch_size=2, shuffle=True)
        prepared = self.accelerator.prepare(first, second, *optimizers, *schedulers, loader)
        self.first, self.second, *self.rest, self.loader = prepared
        self.optimizers, self.schedulers = self.rest[:2], self.rest[2:]
        self.checkpoints = checkpoints_of(self.accelerator, numbering)

    def run(self, passes: int = 1) -> list[float]:
        losses = []
        for _ in range(passes):
            for x, y in self.loader:
                with self.accelerator.accumulate(self.first, self.second):
                    loss = (self.second(self.first(x)) - y).square().mean() * (1 + random.random() + np.random.rand())
                    self.accelerator.backward(loss)
                    for one in (*self.optimizers, *self.schedulers):
                        one.step()
                    for one in self.optimizers:
                        one.zero_grad()
                losses.append(loss.item())
        return losses


def checkpoints_of(accelerator: Accelerator, numbering: Numbering | None = None, **options: Any) -> Checkpoints:
    return Checkpoints(
        accelerator._runtime, accelerator._prepared, accelerator._accumulation, numbering or Numbering(), **options
    )


def small(numbering: Numbering | None = None, value: float = 0.0) -> tuple[torch.nn.Module, Checkpoints]:
    """A model of one number."""
    accelerator = Accelerator()
    model = accelerator.prepare(torch.nn.Linear(1, 1, bias=False))
    torch.nn.init.constant_(model.weight, value)
    return model, checkpoints_of(accelerator, numbering)


def numbered(folder: Path, limit: int | None = None) -> Numbering:
    return Numbering(str(folder), automatic=True, limit=limit)


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("safe", [True, False])
def test_a_training_goes_on_as_if_nothing_had_happened(tmp_path: Path, safe: bool, asynchronous: bool) -> None:
    training = Training(gradient_accumulation_steps=2)
    training.run()
    saved = training.checkpoints.save(tmp_path / "state", safe, asynchronous=asynchronous)
    expected = training.run(2)
    training.checkpoints.wait()
    again = Training(seed=1, gradient_accumulation_steps=2)
    again.run()
    assert again.checkpoints.load(saved) == tmp_path / "state"
    assert again.run(2) == expected
    names = {path.name for path in saved.iterdir()}
    models = {"model.safetensors", "model_1.safetensors"} if safe else {"pytorch_model.bin", "pytorch_model_1.bin"}
    assert names >= models | {
        "optimizer.bin", "optimizer_1.bin", "scheduler.bin", "scheduler_1.bin", "random_states_0.pkl",
        "nbaccel_config.yaml", FILE,
    }  # fmt: skip
    assert all(one.last_epoch == 6 for one in again.schedulers)


@pytest.mark.parametrize(
    "scheduler",
    [lambda one: CosineAnnealingLR(one, 9), lambda one: OneCycleLR(one, 0.1, total_steps=20)],
    ids=["cosine", "one cycle"],
)
def test_schedulers_come_back(tmp_path: Path, scheduler: Callable[..., Any]) -> None:
    training = Training(scheduler=scheduler)
    training.run()
    training.checkpoints.save(tmp_path / "state")
    expected = training.run()
    again = Training(seed=1, scheduler=scheduler)
    again.checkpoints.load(tmp_path / "state")
    assert again.run() == expected
    assert [one.get_last_lr() for one in again.schedulers] == [one.get_last_lr() for one in training.schedulers]


def test_the_scaler_of_fp16_comes_back(tmp_path: Path) -> None:
    training = Training(mixed_precision="fp16")
    training.run()
    scaler = training.accelerator.scaler
    assert scaler is not None
    scaler.update(123.0)
    training.checkpoints.save(tmp_path / "state")
    again = Training(seed=1, mixed_precision="fp16")
    again.checkpoints.load(tmp_path / "state")
    assert again.accelerator.scaler is not None
    assert again.accelerator.scaler.get_scale() == 123.0
    plain = Training()
    plain.checkpoints.save(tmp_path / "plain")
    with pytest.warns(UserWarning, match="the loss scale of fp16 begins anew"):
        Training(mixed_precision="fp16").checkpoints.load(tmp_path / "plain")


def test_tied_weights_are_written_once(tmp_path: Path) -> None:
    def tied(value: float) -> tuple[Any, Checkpoints]:
        accelerator = Accelerator()
        model = torch.nn.ModuleList([torch.nn.Linear(2, 2, bias=False) for _ in range(2)])
        model[1].weight = model[0].weight
        torch.nn.init.constant_(model[0].weight, value)  # type: ignore[arg-type]
        return accelerator.prepare(model), checkpoints_of(accelerator)

    tied(3.0)[1].save(tmp_path / "state")
    from safetensors.torch import load_file

    assert list(load_file(tmp_path / "state" / "model.safetensors")) == ["0.weight"]
    model, checkpoints = tied(0.0)
    checkpoints.load(tmp_path / "state")
    assert model[1].weight.sum() == 12.0
    assert model[1].weight is model[0].weight


def test_the_place_in_the_window_comes_back(tmp_path: Path) -> None:
    accelerator = Accelerator(gradient_accumulation_steps=4)
    model = accelerator.prepare(torch.nn.Linear(1, 1))
    with accelerator.accumulate(model):
        pass
    with pytest.warns(UserWarning, match="in the middle of an accumulation window"):
        checkpoints_of(accelerator).save(tmp_path / "state")
    again = Accelerator(gradient_accumulation_steps=4)
    again.prepare(torch.nn.Linear(1, 1))
    checkpoints_of(again).load(tmp_path / "state")
    assert again.step == 1


# What is registered, hooks, stores


def test_registered_objects(tmp_path: Path) -> None:
    _, checkpoints = small()
    one, two = Registered({"a": torch.ones(2)}), Registered(2)
    checkpoints.register(one, two)
    checkpoints.register(two)
    assert checkpoints.custom == [one, two]
    checkpoints.save(tmp_path / "state")
    _, again = small()
    found = [Registered(), Registered()]
    again.register(*found)
    again.load(tmp_path / "state")
    assert found[0].value["a"].tolist() == [1, 1]
    assert found[1].value == 2
    _, fewer = small()
    fewer.register(Registered())
    with pytest.warns(UserWarning, match="1 of the custom in .*state are not in this training"):
        fewer.load(tmp_path / "state")
    _, more = small()
    more.register(*(Registered() for _ in range(3)))
    with pytest.raises(StateError, match=r"has no custom_checkpoint_2.pkl, and this training has 1 models, 3 custom"):
        more.load(tmp_path / "state")


@pytest.mark.parametrize("name", ["state_dict", "load_state_dict"])
def test_what_cannot_be_registered(name: str) -> None:
    item = Registered()
    setattr(item, name, None)
    with pytest.raises(CallError, match=rf"a Registered has no method {name}\(\)"):
        small()[1].register(item)


class Untrusted:
    """Reading it as a pickle would run code."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("false",)


class Odd:
    pass


def test_nothing_that_a_file_asks_for_is_run(tmp_path: Path) -> None:
    _, checkpoints = small()
    bad, odd = Registered(Untrusted()), Registered(Odd())
    checkpoints.register(bad)
    checkpoints.save(tmp_path / "bad")
    with pytest.raises(StateError, match=r"could run any code.*weights_only"):
        checkpoints.load(tmp_path / "bad")
    checkpoints.custom[:] = [odd]
    checkpoints.save(tmp_path / "odd")
    with pytest.raises(StateError, match=r"holds an object of .*Odd"):
        checkpoints.load(tmp_path / "odd")
    checkpoints.load(tmp_path / "odd", {"weights_only": False})
    assert isinstance(odd.value, Odd)


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(b"")
    with pytest.raises(StateError, match=r"x.bin cannot be read"):
        load_file_of_torch(tmp_path / "x.bin")


def test_hooks_may_take_over(tmp_path: Path) -> None:
    model, checkpoints = small(value=5.0)
    seen: list[Any] = []

    def before_saving(models: list[Any], weights: list[Any], folder: str) -> None:
        (Path(folder) / "sub").mkdir()
        (Path(folder) / "sub" / "own.txt").write_text(str(weights.pop()["weight"].item()))
        seen.append(models)

    def before_loading(models: list[Any], folder: str) -> None:
        torch.nn.init.constant_(models.pop().weight, float((Path(folder) / "sub" / "own.txt").read_text()))

    handles = [checkpoints.before_saving.add(before_saving), checkpoints.before_loading.add(before_loading)]
    saved = checkpoints.save(tmp_path / "state")
    assert not (saved / "model.safetensors").exists()
    manifest = read_manifest(saved)
    assert manifest is not None
    assert manifest.files["sub/own.txt"].num_bytes == 3
    torch.nn.init.zeros_(model.weight)
    checkpoints.load(saved)
    assert model.weight.item() == 5.0
    for handle in handles:
        handle.remove()
    checkpoints.save(saved)
    assert (saved / "model.safetensors").exists()
    assert not (saved / "sub" / "own.txt").exists()
    assert seen == [[model]]


def test_another_store_writes_in_its_own_way(tmp_path: Path) -> None:
    class Reversed(Store):
        def collect(self, weights: Any, models: Any, optimizers: Any, safe: bool) -> list[Part]:
            return [Part("reversed.bin", list(reversed(weights)))]

        def missing(self, folder: Path, num_models: int, num_optimizers: int) -> str:
            return "" if (folder / "reversed.bin").exists() else "reversed.bin"

        def load_models(self, folder: Path, models: Any, load: Any, **options: Any) -> None:
            for model, state in zip(models, reversed(load_file_of_torch(folder / "reversed.bin")), strict=True):
                model.load_state_dict(state)

    accelerator = Accelerator()
    model = accelerator.prepare(torch.nn.Linear(1, 1))
    checkpoints = checkpoints_of(accelerator, store=Reversed)
    weight = model.weight.item()
    checkpoints.save(tmp_path / "state")
    torch.nn.init.zeros_(model.weight)
    checkpoints.load(tmp_path / "state")
    assert model.weight.item() == weight


# Numbers


def test_numbers_go_on_and_the_oldest_go(tmp_path: Path) -> None:
    model, checkpoints = small(numbered(tmp_path, limit=2))
    for value in range(4):
        torch.nn.init.constant_(model.weight, value)
        assert checkpoints.save().name == f"checkpoint_{value}"
    home = tmp_path / "checkpoints"
    assert sorted(path.name for path in home.iterdir()) == ["checkpoint_2", "checkpoint_3"]
    again, others = small(numbered(tmp_path, limit=2))
    assert others.load("latest") == home / "checkpoint_3"
    assert again.weight.item() == 3
    assert others.numbering.iteration == 4
    _, third = small(numbered(tmp_path))
    assert third.save().name == "checkpoint_4"
    assert third.load(home / "checkpoint_2").name == "checkpoint_2"
    assert third.save().name == "checkpoint_5"


def test_only_the_newest_may_be_left(tmp_path: Path) -> None:
    _, checkpoints = small(numbered(tmp_path, limit=1))
    for _ in range(3):
        checkpoints.save()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["checkpoint_2"]


def test_leftovers_are_cleaned(tmp_path: Path) -> None:
    home = tmp_path / "checkpoints"
    for name in (".checkpoint_7.unfinished", ".checkpoint_1.deleted", "mine"):
        (home / name).mkdir(parents=True)
    _, checkpoints = small(numbered(tmp_path))
    checkpoints.save()
    assert sorted(path.name for path in home.iterdir()) == ["checkpoint_0", "mine"]
    (tmp_path / ".state.unfinished").mkdir()
    checkpoints.numbering.automatic = False
    checkpoints.save(tmp_path / "state")
    assert not (tmp_path / ".state.unfinished").exists()
    gone = tmp_path / ".state.deleted"
    gone.mkdir()
    folders.remove(tmp_path / "state")
    assert not gone.exists()


def damage_truncated(folder: Path) -> None:
    with open(folder / "model.safetensors", "r+b") as stream:
        stream.truncate(10)


def damage_flipped(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def damage_missing(folder: Path) -> None:
    (folder / "random_states_0.pkl").unlink()


def damage_manifest(folder: Path) -> None:
    (folder / FILE).write_text("{")


def damage_future(folder: Path) -> None:
    (folder / FILE).write_text(json.dumps({"format": 99}))


def damage_shape(folder: Path) -> None:
    (folder / FILE).write_text(json.dumps({"format": 1}))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (damage_truncated, "model.safetensors has 10 bytes instead of"),
        (damage_flipped, "the content of model.safetensors is not what was written"),
        (damage_missing, "random_states_0.pkl is missing"),
        (damage_manifest, ""),
        (damage_future, "format 99"),
        (damage_shape, "does not say what"),
    ],
)
def test_damaged_ones_are_skipped_and_refused(tmp_path: Path, damage: Callable[[Path], None], said: str) -> None:
    model, checkpoints = small(numbered(tmp_path), value=1.0)
    checkpoints.save()
    torch.nn.init.constant_(model.weight, 2.0)
    newest = checkpoints.save()
    damage(newest)
    with pytest.warns(UserWarning, match=rf"checkpoint_1 is left out.*{re.escape(said)}"):
        assert checkpoints.load().name == "checkpoint_0"
    assert model.weight.item() == 1.0
    with pytest.raises(StateError, match=rf"checkpoint_1 is no complete checkpoint: .*{re.escape(said)}"):
        checkpoints.load(newest)
    damage_missing(tmp_path / "checkpoints" / "checkpoint_0")
    with pytest.warns(UserWarning, match="is left out"), pytest.raises(StateError, match="there is no complete"):
        checkpoints.load("latest")
    checkpoints.numbering.limit = 1
    assert checkpoints.save().name == "checkpoint_2"
    assert checkpoints.load().name == "checkpoint_2"


def test_unreadable_content_is_trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, checkpoints = small()
    saved = checkpoints.save(tmp_path / "state")

    def refuse(path: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("nbaccel.runtime.checkpoint.manifest.record_of", refuse)
    assert "cannot be read (Input/output error)" in trouble_with(saved)


def test_folders_of_accelerate_are_judged_by_their_files(tmp_path: Path) -> None:
    model, checkpoints = small(value=4.0)
    saved = checkpoints.save(tmp_path / "state")
    (saved / FILE).unlink()
    torch.nn.init.zeros_(model.weight)
    checkpoints.load(saved)
    assert model.weight.item() == 4.0
    for content in (b"", b"\xff" * 20, b"\x02" + b"\0" * 7 + b"xx", (saved / "model.safetensors").read_bytes()[:-1]):
        (saved / "model.safetensors").write_bytes(content)
        with pytest.raises(StateError, match=r"model.safetensors is incomplete"):
            checkpoints.load(saved)
    (saved / "random_states_0.pkl").unlink()
    with pytest.raises(StateError, match="there are no random states"):
        checkpoints.load(saved)


def test_a_note_of_a_position_that_is_accelerates(tmp_path: Path) -> None:
    training = Training()
    saved = training.checkpoints.save(tmp_path / "state")
    (saved / FILE).unlink()
    torch.save({"_snapshot": 1}, saved / "dl_state_dict.bin")
    with pytest.warns(UserWarning, match="Accelerate's note of the position in loader 0"):
        training.checkpoints.load(saved)


# A folder that is there


def test_a_folder_keeps_what_is_not_the_checkpoints(tmp_path: Path) -> None:
    model, checkpoints = small(value=1.0)
    (tmp_path / "own.txt").write_text("mine")
    checkpoints.save(tmp_path)
    (tmp_path / "pytorch_model.bin").write_text("also mine")
    checkpoints.register(Registered())
    checkpoints.save(tmp_path)
    checkpoints.custom.clear()
    torch.nn.init.constant_(model.weight, 2.0)
    checkpoints.save(tmp_path)
    assert (tmp_path / "own.txt").read_text() == "mine"
    assert (tmp_path / "pytorch_model.bin").exists()
    assert not (tmp_path / "custom_checkpoint_0.pkl").exists()
    assert not (tmp_path / ".unfinished").exists()
    torch.nn.init.zeros_(model.weight)
    checkpoints.load(tmp_path)
    assert model.weight.item() == 2.0


def test_a_crash_among_the_moves_is_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each system call of the commit in turn."""
    survived = 0
    for crash_at in range(1, 12):
        target = tmp_path / str(crash_at)
        model, checkpoints = small(value=1.0)
        checkpoints.save(target)
        torch.nn.init.constant_(model.weight, 2.0)
        real, count = os.replace, 0

        def crashing(source: Any, to: Any, real: Any = real, crash_at: int = crash_at) -> None:
            nonlocal count
            count += 1
            if count == crash_at:
                raise KeyboardInterrupt
            real(source, to)

        monkeypatch.setattr(os, "replace", crashing)
        try:
            checkpoints.save(target)
        except KeyboardInterrupt:
            survived += 1
        monkeypatch.setattr(os, "replace", real)
        torch.nn.init.zeros_(model.weight)
        checkpoints.load(target)
        assert model.weight.item() in (1.0, 2.0)
        assert model.weight.item() == (1.0 if crash_at == 1 else 2.0)
        checkpoints.save(target)
        assert not trouble_with(target)
    assert survived > 4


# What cannot be


def test_a_folder_that_this_machine_does_not_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = Training()
    monkeypatch.setattr(folders, "begin", lambda target: target.with_name("on_machine_0"))
    words = r"does not see .*on_machine_0, which rank 0 has made\..*ProjectConfiguration\(save_on_each_node=True\)"
    for asynchronous in (False, True):
        with pytest.raises(StateError, match=words):
            training.checkpoints.save(tmp_path / "state", asynchronous=asynchronous)
    assert not list(tmp_path.iterdir())


def test_calls_that_cannot_be(tmp_path: Path) -> None:
    _, checkpoints = small()
    with pytest.raises(CallError, match=r"save_state.* knows no folder"):
        checkpoints.save()
    with pytest.raises(CallError, match=r"there is none\. Give a folder"):
        checkpoints.load()
    with pytest.raises(CallError, match="there is no such folder"):
        checkpoints.load(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(CallError, match="there is a file of this name"):
        checkpoints.save(tmp_path / "file")
    with pytest.raises(CallError, match=r"load_state\(stricte=...\): there is no such argument"):
        checkpoints.load(tmp_path, stricte=True)
    _, others = small(numbered(tmp_path))
    others.save()
    with pytest.raises(CallError, match=r"Possible in .*checkpoints: checkpoint_0"):
        others.load(tmp_path / "nowhere")


def test_another_model_is_refused(tmp_path: Path) -> None:
    _, checkpoints = small()
    checkpoints.save(tmp_path / "state")
    accelerator = Accelerator()
    model = accelerator.prepare(torch.nn.Linear(1, 1))
    others = checkpoints_of(accelerator)
    with pytest.raises(StateError, match="the model also has bias"):
        others.load(tmp_path / "state")
    others.load(tmp_path / "state", strict=False, map_location="cpu")
    assert model.bias is not None
    accelerator = Accelerator()
    accelerator.prepare(torch.nn.Linear(2, 1, bias=False))
    with pytest.raises(StateError, match="size mismatch"):
        checkpoints_of(accelerator).load(tmp_path / "state")
    accelerator = Accelerator()
    accelerator.prepare(torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1))
    with pytest.raises(StateError, match=r"has no model_1.safetensors or pytorch_model_1.bin"):
        checkpoints_of(accelerator).load(tmp_path / "state")


def test_a_state_that_safetensors_cannot_hold(tmp_path: Path) -> None:
    class Extra(torch.nn.Module):
        def get_extra_state(self) -> Any:
            return {"a": 1}

        def set_extra_state(self, state: Any) -> None:
            self.found = state

    accelerator = Accelerator()
    model = accelerator.prepare(Extra())
    checkpoints = checkpoints_of(accelerator)
    with pytest.raises(CallError, match=r"holds '_extra_state', a dict.*safe_serialization=False"):
        checkpoints.save(tmp_path / "state")
    assert list(tmp_path.iterdir()) == []
    checkpoints.save(tmp_path / "state", safe=False)
    checkpoints.load(tmp_path / "state")
    assert model.found == {"a": 1}


# Full disks, and work in the background


def test_a_full_disk_leaves_the_last_one(tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk."""
    code = f"""
import resource, signal, sys
sys.path.insert(0, {str(HERE)!r})
import torch
from test_checkpoint import numbered, small
from nbaccel.errors import StateError
from pathlib import Path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
model, checkpoints = small(numbered(Path({str(tmp_path)!r})), value=1.0)
checkpoints.save()
model.register_buffer("big", torch.zeros(1 << 20))
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
for asynchronous in (False, True):
    try:
        checkpoints.save(asynchronous=asynchronous)
        checkpoints.wait()
    except StateError as error:
        print(error)
del model._buffers["big"]
torch.nn.init.zeros_(model.weight)
found = sorted(path.name for path in Path({str(tmp_path)!r}, "checkpoints").iterdir())
print(checkpoints.load().name, model.weight.item(), found)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, second, last = done.stdout.splitlines()
    assert first == second
    assert "saving the state failed: File too large" in first
    assert "Earlier checkpoints are as they were" in first
    assert last == "checkpoint_0 1.0 ['checkpoint_0']"


def test_an_error_in_the_background_comes_with_the_next_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, checkpoints = small()

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device", "x")

    with monkeypatch.context() as patched:
        patched.setattr(folders, "commit", fail)
        checkpoints.save(tmp_path / "one", asynchronous=True)
        with pytest.raises(StateError, match=r"No space left on device \(x\)"):
            checkpoints.save(tmp_path / "two", asynchronous=True)
    checkpoints.wait()
    checkpoints.save(tmp_path / "two", asynchronous=True)
    checkpoints.wait()
    assert not checkpoints.is_saving
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == ["two"]


def test_the_end_of_the_process_waits_and_tells(tmp_path: Path) -> None:
    code = f"""
import sys
sys.path.insert(0, {str(HERE)!r})
import threading
import time
from pathlib import Path
from test_checkpoint import small
from nbaccel.runtime.checkpoint import folders, store
_, checkpoints = small()
checkpoints.save(Path({str(tmp_path)!r}, "one"), asynchronous=True)
checkpoints.wait()
commit, in_threads = folders.commit, store.in_threads
def late(*args):
    while threading.main_thread().is_alive():
        time.sleep(0.01)
    return in_threads(*args)
def fail(*args):
    commit(*args)
    raise OSError(28, "No space left on device")
store.in_threads, folders.commit = late, fail
checkpoints.save(Path({str(tmp_path)!r}, "two"), asynchronous=True)
print(checkpoints.is_saving)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
    assert "nbaccel: the last state was not saved: saving the state failed: No space left" in done.stderr
    assert not trouble_with(tmp_path / "two")


def test_copies_do_not_change_with_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, checkpoints = small(value=1.0)
    commit = folders.commit
    monkeypatch.setattr(folders, "commit", lambda *args: (time.sleep(0.2), commit(*args)))
    buffers = []
    for value in (1.0, 2.0):
        torch.nn.init.constant_(model.weight, value)
        checkpoints.save(tmp_path / str(value), asynchronous=True)
        torch.nn.init.zeros_(model.weight)
        buffers.append({place: tensor.data_ptr() for place, tensor in checkpoints._staging._buffers.items()})
    checkpoints.load(tmp_path / "1.0")
    assert model.weight.item() == 1.0
    checkpoints.load(tmp_path / "2.0")
    assert model.weight.item() == 2.0
    assert buffers[0] == buffers[1]
    checkpoints._staging.forget()


def test_ten_kills_lose_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(KILLS), "--kills", "10", "--folder", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "10 kills" in done.stdout
