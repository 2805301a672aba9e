"""Saves and loads the whole state of a training, so that a crash at any moment leaves the last complete one."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from nbaccel.config.snapshot import FILE as CONFIGURATION
from nbaccel.config.snapshot import snapshot
from nbaccel.errors import CallError, StateError
from nbaccel.runtime.accumulation import Accumulation
from nbaccel.runtime.build import Runtime
from nbaccel.runtime.checkpoint import folders
from nbaccel.runtime.checkpoint.agreement import Aside, each_alone, explained, together
from nbaccel.runtime.checkpoint.background import Background
from nbaccel.runtime.checkpoint.files import Record, write_checked
from nbaccel.runtime.checkpoint.hooks import Hooks
from nbaccel.runtime.checkpoint.manifest import Manifest, read_manifest, records_beside, trouble_with, versions
from nbaccel.runtime.checkpoint.staging import Staging
from nbaccel.runtime.checkpoint.states import States
from nbaccel.runtime.checkpoint.store import Part, Store, StoreMaker
from nbaccel.runtime.preparation import Preparation
from nbaccel.runtime.unwrap import extract_model_from_parallel
from nbaccel.runtime.world import World

LATEST = "latest"
_SAVING = "saving the state"
_MODEL_OPTIONS = ("strict", "assign")


@dataclass
class Numbering:
    """Where checkpoints go.

    Attributes:
        project_dir: folder whose `checkpoints/checkpoint_<n>` are the numbered ones; None for none.
        automatic: number them.
        limit: how many numbered ones are kept, None for all.
        iteration: number of the next one, unless there is a later one already.
        on_each_node: write what all processes have on each machine, for folders that machines do not share.
    """

    project_dir: str | None = None
    automatic: bool = False
    limit: int | None = None
    iteration: int = 0
    on_each_node: bool = False

    @property
    def home(self) -> Path | None:
        """The folder of numbered checkpoints."""
        return None if self.project_dir is None else Path(self.project_dir).expanduser() / folders.HOME


class Checkpoints:
    """Saves and loads the state of one `Accelerator`. All ranks call `save`, `load` and `wait` together.

    Args:
        runtime: the parts of the training.
        prepared: the objects of the training.
        accumulation: counts micro-batches.
        numbering: where checkpoints go.
        store: makes what turns models and optimizers into files; is told whether this process writes what all have.
            Left out: as the strategy needs it.

    Attributes:
        before_saving: called with the models, their weights and the folder; weights that a hook takes out of the list
            are not written, files that it writes into the folder become part of the checkpoint.
        before_loading: called with the models and the folder; models that a hook takes out of the list are left alone.
        numbering: where checkpoints go.
    """

    def __init__(
        self,
        runtime: Runtime,
        prepared: Preparation,
        accumulation: Accumulation,
        numbering: Numbering,
        store: StoreMaker | None = None,
    ) -> None:
        self._runtime, self._prepared, self.numbering = runtime, prepared, numbering
        world = runtime.world
        self._keeps = world.local_rank == 0 if numbering.on_each_node else world.rank == 0
        self._store = store(self._keeps) if store else store_for(runtime, numbering.on_each_node, self._keeps)
        self._states = States(runtime, prepared, accumulation)
        self._accumulation = accumulation
        self._staging, self._background, self._aside = Staging(), Background(), Aside()
        self._configuration = ""
        self.before_saving, self.before_loading = Hooks(), Hooks()

    @property
    def _world(self) -> World:
        return self._runtime.world

    @property
    def keeps(self) -> bool:
        """Whether this process writes what all have."""
        return self._keeps

    def check_nodes(self) -> None:
        """Raises PlanError if each machine is to have the models whole, and they are spread over all machines."""
        self._store.check_nodes()

    @property
    def custom(self) -> list[Any]:
        """Registered objects."""
        return self._states.custom

    def register(self, *objects: Any) -> None:
        """Save and load these, too. Raises CallError for one without `state_dict` and `load_state_dict`."""
        self._states.register(objects)

    def _models(self) -> list[nn.Module]:
        """The user's own modules: names in files and what hooks get do not depend on what is around them."""
        return [extract_model_from_parallel(model, keep_torch_compile=False) for model in self._prepared.models]

    # Saving

    def save(
        self,
        folder: str | os.PathLike[str] | None = None,
        safe: bool = True,
        *,
        asynchronous: bool = False,
    ) -> Path:
        """Write the state, so that it is there completely or not at all.

        Args:
            folder: where; None for the next numbered checkpoint. One that is there is replaced, other files in it
                stay.
            safe: safetensors for models.
            asynchronous: return as soon as all is copied to CPU memory; the next `save`, `load` or `wait` waits for
                the rest, and raises its error.

        Returns:
            The checkpoint's folder.

        Raises:
            StateError: it could not be written; earlier checkpoints are as they were.
            CallError: neither a folder nor a place for numbered ones is known.
        """
        self.wait()
        target, staging = together(lambda: self._begin(folder), self._world, _SAVING)[self._node]
        world = self._aside.of(self._world) if asynchronous else self._world
        with self._discarding(staging):
            weights = each_alone(lambda: self._weights(staging), self._world, _SAVING)
            parts = each_alone(lambda: self._collect(weights, safe, asynchronous), self._world, _SAVING)
        step, counts = self._accumulation.step, self._states.counts()

        def write() -> None:
            with self._discarding(staging):
                self._write(parts, staging, target, step, counts, world)

        if asynchronous:
            self._background.start(write)
        else:
            write()
        return target

    def wait(self) -> None:
        """Wait until the state that is being saved is on the disk. Raises StateError if it could not be written."""
        self._background.wait()

    @property
    def is_saving(self) -> bool:
        """Whether a state is being written in the background."""
        return self._background.is_busy

    @property
    def _node(self) -> int:
        """The rank that manages the folders that this rank sees."""
        world = self._world
        return world.rank - world.local_rank if self.numbering.on_each_node else 0

    def _begin(self, folder: str | os.PathLike[str] | None) -> tuple[Path, Path]:
        if not self._keeps:
            return Path(), Path()
        with explained(_SAVING):
            target = self._target(folder)
            if target.is_file():
                raise CallError(f"save_state({str(target)!r}): there is a file of this name. Give another folder.")
            return target, folders.begin(target)

    def _target(self, folder: str | os.PathLike[str] | None) -> Path:
        numbering, home = self.numbering, self.numbering.home
        if folder is not None and not numbering.automatic:
            return Path(folder).expanduser().absolute()
        if home is None or not numbering.automatic:
            raise CallError(
                "save_state() knows no folder. Give one: save_state('folder'); or let nbaccel number them: "
                "Accelerator(project_config=ProjectConfiguration('project', automatic_checkpoint_naming=True))."
            )
        home.mkdir(parents=True, exist_ok=True)
        folders.clean(home)
        number = max([numbering.iteration, *(known + 1 for known in folders.numbered(home))])
        return (home / f"checkpoint_{number}").absolute()

    @contextmanager
    def _discarding(self, staging: Path) -> Iterator[None]:
        """What could not be finished is removed: it may be what fills the disk."""
        try:
            yield
        except BaseException:
            if self._keeps:
                folders.discard(staging)
            raise

    def _weights(self, staging: Path) -> list[Any]:
        """What hooks, which may fail on one rank, leave of all weights."""
        models = self._models()
        weights = self._store.weights(models)
        if not staging.is_dir():
            raise StateError(
                f"this machine does not see {staging}, which rank {self._node} has made. Save into a folder that all "
                "machines share, or on each machine: ProjectConfiguration(save_on_each_node=True)."
            )
        self.before_saving(models, weights, str(staging))
        return weights

    def _collect(self, weights: list[Any], safe: bool, copied: bool) -> list[Part]:
        if not self._prepared._gradients.sync_gradients:
            warnings.warn(
                "the state is saved in the middle of an accumulation window; the gradients so far are not part of it. "
                "Save where accelerator.sync_gradients is true.",
                stacklevel=4,
            )
        of_store = self._store.collect(weights, self._prepared.models, self._prepared.optimizers, safe)
        parts = [*of_store, *self._states.parts(self._keeps)]
        return self._staging.copies_of(parts) if copied else parts

    def _write(
        self, parts: Sequence[Part], staging: Path, target: Path, step: int, counts: Mapping[str, int], world: World
    ) -> None:
        def write() -> tuple[int, dict[str, Record]]:
            with explained(_SAVING):
                return self._node, self._store.write(staging, parts)

        def finish() -> None:
            if self._keeps:
                records = {
                    name: record for node, some in written if node == self._node for name, record in some.items()
                }
                with explained(_SAVING):
                    records = self._store.finish(staging, parts, records)
                    self._commit(staging, target, records, step, counts)

        written = together(write, world, _SAVING)
        together(finish, world, _SAVING)
        number = folders.number_of(target)
        if self.numbering.automatic and number is not None:
            self.numbering.iteration = number + 1

    def _commit(
        self, staging: Path, target: Path, records: dict[str, Record], step: int, counts: Mapping[str, int]
    ) -> None:
        if not self._configuration:
            self._configuration = snapshot(self._runtime.resolved)
        text = self._configuration.encode()
        records[CONFIGURATION] = write_checked(staging / CONFIGURATION, lambda stream: stream.write(text))
        records |= records_beside(staging, records)
        when = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        Manifest(records, self._world.size, step, counts, when, versions()).write(staging)
        folders.commit(staging, target)
        if self.numbering.automatic and self.numbering.limit is not None:
            folders.thin_out(target.parent, self.numbering.limit)

    # Loading

    def load(
        self,
        folder: str | os.PathLike[str] | None = None,
        load_kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Path:
        """Continue from a saved state, of nbaccel or of Accelerate.

        Args:
            folder: a checkpoint; None or `latest` for the newest complete one of the project.
            load_kwargs: arguments of `torch.load`; by default it reads plain values and tensors alone, and runs
                nothing that a file asks for.
            options: `strict` and `assign`, as for `Module.load_state_dict`.

        Returns:
            The folder that was loaded.

        Raises:
            StateError: the checkpoint is incomplete, damaged, or of another training.
            CallError: there is no such folder, or an argument is unknown.
        """
        _refuse_unknown(options)
        self.wait()
        found = together(lambda: self._find(folder), self._world, "loading the state")[self._node]
        load = dict(load_kwargs or {})
        if "map_location" in options:
            load["map_location"] = options.pop("map_location")
        each_alone(lambda: self._load(found, load, options), self._world, "loading the state")
        number = folders.number_of(found)
        if number is not None:
            self.numbering.iteration = max(self.numbering.iteration, number + 1)
        return found

    def _find(self, folder: str | os.PathLike[str] | None) -> Path:
        if not self._keeps:
            return Path()
        if folder is None or os.fspath(folder) == LATEST:
            return self._latest()
        found = Path(folder).expanduser().absolute()
        if not found.is_dir():
            raise CallError(f"load_state({os.fspath(folder)!r}): there is no such folder.{self._known()}")
        folders.mend(found)
        if trouble := trouble_with(found):
            raise StateError(f"{found} is no complete checkpoint: {trouble}.{self._known()}")
        return found

    def _latest(self) -> Path:
        home = self.numbering.home
        if home is None:
            raise CallError(
                "load_state() without a folder looks for the newest checkpoint of the project, and there is none. "
                "Give a folder, or Accelerator(project_dir='project')."
            )
        for path in reversed(folders.numbered(home).values()):
            folders.mend(path)
            trouble = trouble_with(path)
            if not trouble:
                return path.absolute()
            warnings.warn(f"{path} is left out, it is no complete checkpoint: {trouble}.", stacklevel=2)
        raise StateError(f"there is no complete checkpoint in {home}. Train from the start, or give another folder.")

    def _known(self) -> str:
        home = self.numbering.home
        names = [] if home is None else [path.name for path in folders.numbered(home).values()]
        return f" Possible in {home}: {', '.join(names)}." if names else " Give the folder of another one."

    def _load(self, folder: Path, load: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        prepared = self._prepared
        models = self._models()
        self.before_loading(models, str(folder))
        self._check(folder, len(models))
        self._store.load_models(folder, models, load, **options)
        self._store.load_optimizers(folder, prepared.models, prepared.optimizers, load)
        self._states.load_shared(folder, load)
        manifest = read_manifest(folder)
        if manifest is not None and self._keeps:
            self._tell_unused(folder, manifest)
        size = len(list(folder.glob("random_states_*.pkl"))) if manifest is None else manifest.world_size
        self._states.load_own(folder, load, size == self._world.size, manifest is not None)

    def _tell_unused(self, folder: Path, manifest: Manifest) -> None:
        counts = self._states.counts()
        left = {kind: count - counts.get(kind, 0) for kind, count in manifest.objects.items()}
        if unused := [f"{count} of the {kind}" for kind, count in left.items() if count > 0]:
            warnings.warn(f"{', '.join(unused)} in {folder} are not in this training, and are left out.", stacklevel=2)

    def _check(self, folder: Path, num_models: int) -> None:
        """Raises StateError before anything is changed."""
        missing = self._store.missing(folder, num_models, len(self._prepared.optimizers))
        if missing := missing or self._states.missing(folder):
            counts = ", ".join(f"{count} {kind}" for kind, count in self._states.counts().items() if count)
            raise StateError(
                f"{folder} has no {missing}, and this training has {counts}. Prepare and register the same objects "
                "in the same order as when it was saved, before load_state()."
            )


def store_for(runtime: Runtime, on_each_node: bool, keeps: bool) -> Store:
    """What turns the models and optimizers of a strategy into files."""
    if not runtime.strategy.spreads:
        return Store(keeps)
    from nbaccel.runtime.checkpoint.spread_store import SpreadStore  # slow to import, and rarely needed

    return SpreadStore(keeps, runtime.strategy, runtime.world, on_each_node)


def _refuse_unknown(options: Mapping[str, Any]) -> None:
    for name in options:
        if name not in (*_MODEL_OPTIONS, "map_location"):
            possible = ", ".join([*_MODEL_OPTIONS, "map_location"])
            raise CallError(f"load_state({name}=...): there is no such argument. Possible: {possible}.")
