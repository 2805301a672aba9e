"""Accelerate's four functions that save and load one model or optimizer of FSDP, in its layout."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from torch import nn

from nbaccel.errors import CallError, PlanError
from nbaccel.runtime.checkpoint.agreement import each_alone, explained, together
from nbaccel.runtime.checkpoint.files import sync_folder
from nbaccel.runtime.checkpoint.formats import lacks_model, lacks_optimizer
from nbaccel.runtime.unwrap import extract_model_from_parallel
from nbaccel.runtime.world import World

if TYPE_CHECKING:
    from nbaccel.runtime.checkpoint.spread_store import Make, SpreadStore

Result = TypeVar("Result")
_SAVING, _LOADING = "saving with FSDP", "loading with FSDP"
_STAGING = ".fsdp.unfinished"


def save_fsdp_model(
    fsdp_plugin: Any,
    accelerator: Any,
    model: nn.Module,
    output_dir: str | os.PathLike[str],
    model_index: int = 0,
    adapter_only: bool = False,
    use_dcp: bool = True,
) -> None:
    """Write a model's weights into a folder; all processes call it. `save_state` does more, and all at once.

    Args:
        fsdp_plugin: says the form, whole or in shards; None: as configured.
        accelerator: has prepared the model.
        model: a prepared model.
        output_dir: the folder.
        model_index: number of the model in the names of files.
        adapter_only: of a PEFT model, the weights that are trained.
        use_dcp: must be true.

    Raises:
        PlanError: `use_dcp=False`, or the accelerator does not use FSDP.
        StateError: it could not be written.
    """
    store, world = _store(accelerator, "save_fsdp_model", use_dcp)
    own, shards = _own(model), _in_shards(fsdp_plugin, accelerator)
    state = accelerator._strategy.model_state(own, not shards)
    if adapter_only and _is_peft(own):
        trained = {name for name, parameter in own.named_parameters() if parameter.requires_grad}
        state = {name: value for name, value in state.items() if name in trained}
    _write(store, world, Path(output_dir), store.of_model(model_index, state, shards))


def save_fsdp_optimizer(
    fsdp_plugin: Any,
    accelerator: Any,
    optimizer: Any,
    model: nn.Module,
    output_dir: str | os.PathLike[str],
    optimizer_index: int = 0,
    use_dcp: bool = True,
) -> None:
    """Write an optimizer's state; arguments and errors as of `save_fsdp_model`."""
    store, world = _store(accelerator, "save_fsdp_optimizer", use_dcp)
    make = store.of_optimizer(optimizer_index, [_own(model)], optimizer, _in_shards(fsdp_plugin, accelerator))
    _write(store, world, Path(output_dir), make)


def load_fsdp_model(
    fsdp_plugin: Any,
    accelerator: Any,
    model: nn.Module,
    input_dir: str | os.PathLike[str],
    model_index: int = 0,
    adapter_only: bool = False,
    use_dcp: bool = True,
) -> None:
    """Fill a model from a folder, whichever form its weights have there; all processes call it.

    Args:
        fsdp_plugin: not needed; the folder shows the form.
        accelerator: has prepared the model.
        model: a prepared model.
        input_dir: the folder.
        model_index: number of the model in the names of files.
        adapter_only: the folder may hold a part of the weights.
        use_dcp: must be true.

    Raises:
        PlanError: `use_dcp=False`, or the accelerator does not use FSDP.
        CallError: there are no weights in the folder.
        StateError: they are damaged, or those of another model.
    """
    store, world = _store(accelerator, "load_fsdp_model", use_dcp)
    own, folder = _own(model), Path(input_dir)
    strict = not (adapter_only and _is_peft(own))
    each_alone(lambda: _need(folder, lacks_model(folder, model_index)), world, _LOADING)
    store.load_model(folder, model_index, own, {}, strict)


def load_fsdp_optimizer(
    fsdp_plugin: Any,
    accelerator: Any,
    optimizer: Any,
    model: nn.Module,
    input_dir: str | os.PathLike[str],
    optimizer_index: int = 0,
    adapter_only: bool = False,
    use_dcp: bool = True,
) -> None:
    """Fill an optimizer from a folder; arguments and errors as of `load_fsdp_model`."""
    store, world = _store(accelerator, "load_fsdp_optimizer", use_dcp)
    folder = Path(input_dir)
    each_alone(lambda: _need(folder, lacks_optimizer(folder, optimizer_index)), world, _LOADING)
    store.load_optimizer(folder, optimizer_index, [_own(model)], optimizer, {})


def fsdp2_load_full_state_dict(
    accelerator: Any, model: nn.Module, full_sd: Mapping[str, Any], cpu_offload: bool = False
) -> nn.Module:
    """Fill a model from whole weights, of which rank 0's count; all processes call it.

    Args:
        accelerator: has prepared the model.
        model: a prepared model.
        full_sd: names and tensors; ranks other than 0 may have none.
        cpu_offload: not needed; the model knows where its parts are.

    Returns:
        The model.

    Raises:
        CallError: on all ranks, if names or shapes differ.
    """
    accelerator._strategy.load_model_state(_own(model), full_sd)
    return model


def fsdp2_prepare_model(accelerator: Any, model: nn.Module) -> nn.Module:
    """What `accelerator.prepare_model(model)` does."""
    prepared: nn.Module = accelerator.prepare_model(model)
    return prepared


def _store(accelerator: Any, name: str, use_dcp: bool) -> tuple[SpreadStore, World]:
    strategy, world = accelerator._strategy, accelerator._world
    if not use_dcp:
        raise PlanError(
            f"{name}(use_dcp=False)",
            "each rank's own file could be read by the same number of ranks alone.",
            "Leave it out: ranks talk to each other only to share out the work, and each writes its part by itself.",
        )
    if not strategy.spreads:
        raise PlanError(
            f"{name}()", "this Accelerator does not use FSDP.", "Use accelerator.save_state and load_state."
        )
    from nbaccel.runtime.checkpoint.spread_store import SpreadStore  # slow to import, and rarely needed

    return SpreadStore(world.rank == 0, strategy, world), world


def _own(model: nn.Module) -> nn.Module:
    return extract_model_from_parallel(model, keep_torch_compile=False)


def _in_shards(plugin: Any, accelerator: Any) -> bool:
    word = getattr(plugin, "state_dict_word", None)
    return bool(accelerator._strategy.saves_shards if word is None else word == "SHARDED_STATE_DICT")


def _is_peft(model: nn.Module) -> bool:
    return hasattr(model, "peft_config")


def _need(folder: Path, lacking: str) -> None:
    if lacking:
        raise CallError(f"{folder} has no {lacking}. Give the folder that save_fsdp_model or save_state has filled.")


def _write(store: SpreadStore, world: World, folder: Path, make: Make) -> None:
    """Write files beside their places, and move them there once all ranks have written theirs."""
    parts = each_alone(lambda: [*make()], world, _SAVING)
    staging = folder / _STAGING

    def begin() -> None:
        if world.rank == 0:
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir(parents=True)

    def finish() -> None:
        if world.rank == 0:
            records = {name: record for some in written for name, record in some.items()}
            store.finish(staging, parts, records)
            for path in sorted(staging.iterdir()):
                _move(path, folder / path.name)
            staging.rmdir()
            sync_folder(folder)

    each_alone(partial(_explaining, begin), world, _SAVING)
    written = together(partial(_explaining, lambda: store.write(staging, parts)), world, _SAVING)
    each_alone(partial(_explaining, finish), world, _SAVING)


def _explaining(work: Callable[[], Result]) -> Result:
    with explained(_SAVING):
        return work()


def _move(path: Path, target: Path) -> None:
    """Put a file or a folder into its place, for what is there; never half of it."""
    if target.is_dir():
        former = target.with_name(f".{target.name}.deleted")
        shutil.rmtree(former, ignore_errors=True)
        os.rename(target, former)
        os.rename(path, target)
        shutil.rmtree(former)
    else:
        os.replace(path, target)
