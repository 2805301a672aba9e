"""Checks of FSDP's checkpoints on every rank of a real group: `python fsdp_checkpoint_checks.py folder name ...`."""

from __future__ import annotations

import faulthandler
import json
import os
import pickle
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from runtime_ranks import verdict

from nbaccel.errors import CallError, PlanError, StateError
from nbaccel.runtime.accelerator import Accelerator
from nbaccel.runtime.checkpoint.checkpoints import Checkpoints, Numbering
from nbaccel.runtime.checkpoint.manifest import trouble_with
from nbaccel.runtime.checkpoint.spread_store import SpreadStore
from nbaccel.runtime.handlers import ProjectConfiguration
from nbaccel.runtime.state import PartialState
from nbaccel.utils import (
    fsdp2_load_full_state_dict,
    fsdp2_prepare_model,
    load_checkpoint_in_model,
    load_fsdp_model,
    load_fsdp_optimizer,
    merge_fsdp_weights,
    save_fsdp_model,
    save_fsdp_optimizer,
)

FOLDER = Path(sys.argv[1]) if len(sys.argv) > 1 else Path()
SHARDED, FULL = "SHARDED_STATE_DICT", "FULL_STATE_DICT"


def fsdp(form: str = SHARDED, **arguments: Any) -> Accelerator:
    return Accelerator(fsdp_config={"fsdp_version": 2, "fsdp_state_dict_type": form}, **arguments)


def trained(accelerator: Accelerator, *sizes: int, steps: int = 1) -> tuple[Any, Any]:
    torch.manual_seed(3)
    model = accelerator.prepare(torch.nn.Linear(*(sizes or (5, 3))))
    optimizer = accelerator.prepare(torch.optim.Adam(model.parameters(), lr=0.1))
    for _ in range(steps):
        accelerator.backward(model(torch.ones(1, model.in_features)).sum())
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def whole(model: Any) -> torch.Tensor:
    weight: torch.Tensor = model.weight.full_tensor().detach()
    return weight


def moments(model: Any, optimizer: Any) -> torch.Tensor:
    found: torch.Tensor = optimizer.state[model.weight]["exp_avg"].full_tensor()
    return found


def on_rank_0(accelerator: Accelerator, work: Callable[[], Any]) -> None:
    if accelerator.is_main_process:
        work()
    accelerator.wait_for_everyone()


def check_hooks() -> None:
    for form in (SHARDED, FULL):
        accelerator = fsdp(form)
        first, second = accelerator.prepare(torch.nn.Linear(5, 3)), accelerator.prepare(torch.nn.Linear(5, 3))
        seen = []

        def own(models: Any, weights: Any, folder: str, accelerator: Any = accelerator, seen: Any = seen) -> None:
            seen.append((len(models), len(weights), Path(folder).is_dir()))
            if accelerator.is_main_process:  # as diffusers' scripts do, on this rank alone
                weights.pop(0)
                (Path(folder) / "mine.txt").write_text("mine")

        handle = accelerator.register_save_state_pre_hook(own)
        accelerator.save_state(FOLDER / f"hooked{form}")
        assert seen == [(2, 2, True)]
        handle.remove()
        names = {path.name for path in (FOLDER / f"hooked{form}").iterdir()}
        assert "mine.txt" in names
        assert not names & {"pytorch_model_fsdp_1", "pytorch_model_fsdp_1.bin"}
        before = whole(first), whole(second)
        with torch.no_grad():
            first.weight.mul_(0), second.weight.mul_(0)
        handle = accelerator.register_load_state_pre_hook(lambda models, folder: models.pop(0))
        accelerator.load_state(FOLDER / f"hooked{form}")
        handle.remove()
        assert torch.equal(whole(second), before[1])
        assert not whole(first).any()


def check_hooks_that_change_weights() -> None:
    accelerator = fsdp()
    accelerator.prepare(torch.nn.Linear(5, 3))

    def bias_alone(models: Any, weights: Any, folder: str) -> None:
        weights[0] = {"bias": weights[0]["bias"]}

    handle = accelerator.register_save_state_pre_hook(bias_alone)
    accelerator.save_state(FOLDER / "bias")
    handle.remove()
    with pytest.raises(StateError, match="the model also has weight"):
        accelerator.load_state(FOLDER / "bias")
    accelerator.load_state(FOLDER / "bias", strict=False)

    def uneven(models: Any, weights: Any, folder: str) -> None:
        if accelerator.is_main_process:
            bias_alone(models, weights, folder)
        else:
            weights.clear()

    handle = accelerator.register_save_state_pre_hook(uneven)
    with pytest.raises(StateError, match=r"Let it do so on all ranks|has put other weights"):
        accelerator.save_state(FOLDER / "uneven")
    handle.remove()
    assert not (FOLDER / "uneven").exists()

    def raises(models: Any, weights: Any, folder: str) -> None:
        if not accelerator.is_main_process:
            raise ValueError("not here")

    handle = accelerator.register_save_state_pre_hook(raises)
    with pytest.raises((StateError, ValueError), match="not here"):
        accelerator.save_state(FOLDER / "raises")
    handle.remove()
    accelerator.save_state(FOLDER / "after")


def check_another_model() -> None:
    for form in (SHARDED, FULL):
        accelerator = fsdp(form)
        trained(accelerator)
        accelerator.save_state(FOLDER / f"of{form}")
        accelerator = fsdp(form)
        accelerator.prepare(torch.nn.Linear(5, 4))
        with pytest.raises(StateError, match=r"is of shape \(3, 5\), and the model's is of shape \(4, 5\)"):
            accelerator.load_state(FOLDER / f"of{form}")
        accelerator = fsdp(form)
        model = accelerator.prepare(torch.nn.Linear(5, 3, bias=False))
        with pytest.raises(StateError, match="the file also has bias"):
            accelerator.load_state(FOLDER / f"of{form}")
        with pytest.raises(CallError, match=r"load_state\(assign=True\) with FSDP"):
            accelerator.load_state(FOLDER / f"of{form}", assign=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the optimizer is left out
            accelerator.load_state(FOLDER / f"of{form}", strict=False)
        other = accelerator.prepare(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1))
        assert other is accelerator._optimizers[0]
        with pytest.raises(StateError, match="the optimizer's state knows nothing of #0"):
            accelerator.load_state(FOLDER / f"of{form}", strict=False)
        assert model is accelerator._models[0]


def check_damage() -> None:
    accelerator = fsdp()
    trained(accelerator)
    folder = FOLDER / "damaged"
    accelerator.save_state(folder)
    shard, index = folder / "pytorch_model_fsdp_0" / "__1_0.distcp", folder / "optimizer_0" / ".metadata"
    whole_shard, whole_index = shard.read_bytes(), index.read_bytes()
    accelerator.wait_for_everyone()
    on_rank_0(accelerator, lambda: shard.write_bytes(whole_shard[:-9] + bytes(9)))
    with pytest.raises(StateError, match=r"the content of pytorch_model_fsdp_0/__1_0.distcp is not what was written"):
        accelerator.load_state(folder)
    # without nbaccel's manifest, as Accelerate leaves a checkpoint
    on_rank_0(accelerator, lambda: (folder / "nbaccel_checkpoint.json").unlink())
    on_rank_0(accelerator, lambda: shard.write_bytes(whole_shard[:-9]))
    with pytest.raises(StateError, match=r"__1_0.distcp is incomplete"):
        accelerator.load_state(folder)
    on_rank_0(accelerator, shard.unlink)
    with pytest.raises(StateError, match=r"__1_0.distcp is missing. All ranks must have written into this one folder"):
        accelerator.load_state(folder)
    on_rank_0(accelerator, lambda: shard.write_bytes(bytes(len(whole_shard))))
    with pytest.raises(StateError, match="pytorch_model_fsdp_0 cannot be read"):
        accelerator.load_state(folder)
    on_rank_0(accelerator, lambda: shard.write_bytes(whole_shard))
    for content, words in (
        (pickle.dumps(Runs()), r"holds an object of (posix|nt|os).system, and reading it could run any code"),
        (pickle.dumps({"a": 1}), "is no index of torch.distributed.checkpoint"),
        (whole_index[:40], "cannot be read"),
    ):
        on_rank_0(accelerator, lambda content=content: index.write_bytes(content))  # type: ignore[misc]
        with pytest.raises(StateError, match=words):
            accelerator.load_state(folder)
    on_rank_0(accelerator, index.unlink)
    with pytest.raises(StateError, match=r"optimizer_0 has no .metadata"):
        accelerator.load_state(folder)
    on_rank_0(accelerator, lambda: index.write_bytes(whole_index))
    accelerator.load_state(folder)
    assert not (FOLDER / "ran").exists()


class Runs:
    def __reduce__(self) -> Any:
        return os.system, (f"touch {FOLDER / 'ran'}",)


def check_objects_are_not_run() -> None:
    """In the values of a state, too."""
    accelerator = fsdp()
    _, optimizer = trained(accelerator)
    optimizer.param_groups[0]["note"] = Runs()
    accelerator.save_state(FOLDER / "foreign")
    with pytest.raises(StateError, match=r"holds an object of (posix|nt|os).system"):
        accelerator.load_state(FOLDER / "foreign")
    assert not (FOLDER / "ran").exists()
    accelerator.load_state(FOLDER / "foreign", load_kwargs={"weights_only": False})
    assert (FOLDER / "ran").exists()


def check_a_full_disk() -> None:
    for form in (SHARDED, FULL):
        accelerator = fsdp(form)
        model, _ = trained(accelerator)
        folder = FOLDER / f"disk{form}"
        accelerator.save_state(folder)
        before = whole(model)
        store = accelerator._checkpoints._store
        write, finish = store.write, store.finish

        def full(*_: Any) -> Any:
            raise OSError(28, "No space left on device")

        trained(accelerator)
        store.write = write if accelerator.is_main_process else full  # type: ignore[method-assign]
        with pytest.raises(StateError, match="No space left on device"):
            accelerator.save_state(folder)
        store.write, store.finish = write, full  # type: ignore[method-assign]
        with pytest.raises(StateError, match="No space left on device"):
            accelerator.save_state(folder)
        store.finish = finish  # type: ignore[method-assign]
        accelerator.wait_for_everyone()
        assert not list(folder.glob(".*"))
        assert not trouble_with(folder)
        with torch.no_grad():
            model.weight.mul_(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            accelerator._prepared.models[1:], accelerator._prepared.optimizers[1:] = [], []
            accelerator.load_state(folder)
        assert torch.equal(whole(model), before)


def check_numbered() -> None:
    project = ProjectConfiguration(str(FOLDER / "project"), automatic_checkpoint_naming=True, total_limit=2)
    accelerator = fsdp(project_config=project)
    model, _ = trained(accelerator)
    for _ in range(3):
        with torch.no_grad():
            model.weight.add_(1)
        saved = accelerator.save_state()
    assert saved.name == "checkpoint_2"
    assert sorted(path.name for path in saved.parent.iterdir()) == ["checkpoint_1", "checkpoint_2"]
    newest = whole(model)
    on_rank_0(accelerator, lambda: next(saved.glob("pytorch_model_fsdp_0/*.distcp")).write_bytes(b""))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        accelerator.load_state("latest")
    torch.testing.assert_close(whole(model), newest - 1)
    assert accelerator.save_iteration == 3


def check_the_form_can_change() -> None:
    """`state.fsdp_plugin.set_state_dict_type`, and a folder that has had the other form before."""
    accelerator = fsdp()
    model, optimizer = trained(accelerator)
    folder = FOLDER / "changed"
    accelerator.save_state(folder)
    plugin = accelerator.state.fsdp_plugin
    assert plugin.state_dict_type == SHARDED
    plugin.set_state_dict_type(FULL)
    accelerator.save_state(folder)
    assert (folder / "pytorch_model_fsdp.bin").is_file()
    assert not list(folder.rglob("*.distcp"))
    expected = whole(model), moments(model, optimizer)
    with torch.no_grad():
        model.weight.mul_(0)
    accelerator.load_state(folder)
    assert torch.equal(whole(model), expected[0])
    assert torch.equal(moments(model, optimizer), expected[1])
    assert Accelerator().state.fsdp_plugin is None


def check_nothing_is_made_up() -> None:
    """A state that is saved before the first step is as it was after it."""
    accelerator = fsdp()
    _, optimizer = trained(accelerator, steps=0)
    accelerator.save_state(FOLDER / "early")
    assert not optimizer.state
    straight = trained(accelerator, steps=2)
    other = fsdp()
    again = trained(other, steps=0)
    other.load_state(FOLDER / "early")
    assert not again[1].state
    for _ in range(2):
        other.backward(again[0](torch.ones(1, 5)).sum())
        again[1].step()
        again[1].zero_grad()
    assert torch.equal(whole(again[0]), whole(straight[0]))


def check_optimizers_of_several_models() -> None:
    """One optimizer of two models, and one model with two optimizers, of which the later one comes first."""
    for form in (SHARDED, FULL):
        accelerator = fsdp(form)

        def parts(accelerator: Any = accelerator) -> tuple[list[Any], list[Any]]:
            torch.manual_seed(5)
            models = [torch.nn.Linear(5, 3), torch.nn.Linear(3, 2)]
            both = torch.optim.Adam([*models[1].parameters(), models[0].weight], lr=0.1)
            one = torch.optim.Adam([{"params": [models[0].bias]}, {"params": []}], lr=0.2)
            made = accelerator.prepare(*models, both, one)
            return list(made[:2]), list(made[2:])

        models, optimizers = parts()
        accelerator.backward(models[1](models[0](torch.ones(1, 5))).sum())
        for optimizer in optimizers:
            optimizer.step()
        accelerator.save_state(FOLDER / f"several{form}")
        other = fsdp(form)
        fresh, others = parts(other)
        other.load_state(FOLDER / f"several{form}")
        assert torch.equal(whole(fresh[0]), whole(models[0]))
        for old, new, number in ((models[0].weight, fresh[0].weight, 0), (models[0].bias, fresh[0].bias, 1)):
            found, expected = others[number].state[new], optimizers[number].state[old]
            assert torch.equal(found["exp_avg"].full_tensor(), expected["exp_avg"].full_tensor())
        assert others[1].param_groups[0]["lr"] == 0.2


def check_save_model() -> None:
    accelerator = fsdp()
    model, _ = trained(accelerator, 40, 30)
    accelerator.save_model(model, FOLDER / "model", max_shard_size="3KB")
    accelerator.wait_for_everyone()
    assert len(list((FOLDER / "model").glob("model-*.safetensors"))) == 2
    own = torch.nn.Linear(40, 30)
    load_checkpoint_in_model(own, FOLDER / "model")
    assert torch.equal(own.weight, whole(model))
    assert accelerator.unwrap_model(model) is model
    full = accelerator.get_state_dict(model)
    assert set(full) == ({"weight", "bias"} if accelerator.is_main_process else set())


def check_accelerates_functions() -> None:
    for form in (SHARDED, FULL):
        accelerator = fsdp(form)
        model, optimizer = trained(accelerator)
        plugin, folder = accelerator.state.fsdp_plugin, FOLDER / f"steps{form}"
        for _ in range(2):  # the second time over the first
            save_fsdp_model(plugin, accelerator, model, folder)
            save_fsdp_optimizer(plugin, accelerator, optimizer, model, folder)
        names = {SHARDED: ["optimizer_0", "pytorch_model_fsdp_0"], FULL: ["optimizer.bin", "pytorch_model_fsdp.bin"]}
        assert sorted(path.name for path in folder.iterdir()) == names[form]
        other = fsdp(form)
        fresh = fsdp2_prepare_model(other, torch.nn.Linear(5, 3))
        second = other.prepare(torch.optim.Adam(fresh.parameters()))
        load_fsdp_model(None, other, fresh, folder)
        load_fsdp_optimizer(None, other, second, fresh, folder)
        assert torch.equal(whole(fresh), whole(model))
        assert torch.equal(moments(fresh, second), moments(model, optimizer))
        assert second.param_groups[0]["lr"] == 0.1
        with pytest.raises(CallError, match=r"has no model_1.safetensors or pytorch_model_1.bin, nor FSDP's"):
            load_fsdp_model(plugin, other, fresh, folder, 1)
        with pytest.raises(CallError, match=r"has no optimizer_1.bin or optimizer_1/"):
            load_fsdp_optimizer(plugin, other, second, fresh, folder, 1)
        with pytest.raises(PlanError, match="the same number of ranks alone"):
            save_fsdp_model(plugin, other, fresh, folder, use_dcp=False)
        full = accelerator.get_state_dict(model)
        with torch.no_grad():
            fresh.weight.mul_(0)
        assert fsdp2_load_full_state_dict(other, fresh, full) is fresh
        assert torch.equal(whole(fresh), whole(model))
    with pytest.raises(PlanError, match="does not use FSDP"):
        save_fsdp_model(None, Accelerator(), torch.nn.Linear(1, 1), FOLDER)


def check_adapters() -> None:
    """Of a PEFT model only what is trained is written, if that is asked for."""
    for form in (SHARDED, FULL):
        accelerator = fsdp(form)
        model, _ = trained(accelerator, steps=0)
        model.peft_config = {}
        model.weight.requires_grad_(False)
        folder, plugin = FOLDER / f"adapter{form}", accelerator.state.fsdp_plugin
        save_fsdp_model(plugin, accelerator, model, folder, adapter_only=True)
        bias = model.bias.full_tensor().detach()
        with torch.no_grad():
            model.weight.mul_(0), model.bias.mul_(0)
        load_fsdp_model(plugin, accelerator, model, folder, adapter_only=True)
        assert torch.equal(model.bias.full_tensor(), bias)
        assert not whole(model).any()


def check_merging_in_a_launch() -> None:
    accelerator = fsdp()
    model, _ = trained(accelerator)
    accelerator.save_state(FOLDER / "tomerge")
    merge_fsdp_weights(FOLDER / "tomerge", FOLDER / "merged")
    own = torch.nn.Linear(5, 3)
    load_checkpoint_in_model(own, FOLDER / "merged")
    assert torch.equal(own.weight, whole(model))
    with pytest.raises((CallError, StateError), match="there is no such folder"):
        merge_fsdp_weights(FOLDER / "nowhere", FOLDER / "merged")


def check_folders_of_machines_are_refused() -> None:
    accelerator = fsdp()
    model, _ = trained(accelerator)
    world = replace(accelerator._world, local_size=1)
    store = SpreadStore(True, accelerator._strategy, world, on_each_node=True)
    for use in (lambda: store.weights([model]), lambda: store.load_models(FOLDER, [model], {})):
        with pytest.raises(PlanError, match=r"save_on_each_node=True\) with FSDP on several machines"):
            use()
    runtime = replace(accelerator._runtime, world=world)
    accelerator._checkpoints = Checkpoints(
        runtime, accelerator._prepared, accelerator._accumulation, Numbering(on_each_node=True)
    )
    with pytest.raises(PlanError, match=r"save_on_each_node=True\) with FSDP on several machines"):
        accelerator.save_model(model, FOLDER / "each_node")


def main() -> None:
    torch.set_num_threads(1)
    faulthandler.dump_traceback_later(850, exit=True)
    PartialState()
    rank = PartialState().process_index
    found = {name: verdict(globals()[name]) for name in sys.argv[2:]}
    PartialState().destroy_process_group()
    (FOLDER / f"{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
