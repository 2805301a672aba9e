"""Companions: objects of the kernel of which workers hold copies, and what becomes of them on the way home.

The states of trained modules, optimizers and schedulers are copied into the kernel's own objects. A value that comes
home and is such a copy is referred to, so that the kernel's object keeps its identity and its ties.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from nbaccel.wire.attributes import Attributes, Noted, differing, note_on
from nbaccel.wire.tensors import is_sharded, load_module_state, module_state, named_tensors


class Reference(NamedTuple):
    """Names a companion, or a part of one.

    Attributes:
        kind: `modules`, `optimizers` or `schedulers`.
        number: its place among these.
        path: dotted name of a submodule or parameter inside it; empty for itself.
    """

    kind: str
    number: int
    path: str = ""


@dataclass(frozen=True)
class Companions:
    """What was met while a value was encoded, as the same objects on both sides.

    Attributes:
        definitions: functions and classes of the notebook, by the name that they have there.
        modules: torch modules that are no part of another one here.
        optimizers: torch optimizers.
        schedulers: learning-rate schedulers.
    """

    definitions: dict[str, object] = field(default_factory=dict)
    modules: list[Any] = field(default_factory=list)
    optimizers: list[Any] = field(default_factory=list)
    schedulers: list[Any] = field(default_factory=list)

    def __bool__(self) -> bool:
        """Whether there is anything whose state can come home."""
        return bool(self.modules or self.optimizers or self.schedulers)

    def at(self, reference: Reference) -> Any:
        """What a reference names."""
        found = getattr(self, reference.kind)[reference.number]
        for name in filter(None, reference.path.split(".")):
            found = getattr(found, name)
        return found

    def roots(self) -> Iterator[tuple[Reference, Any]]:
        """All whose state comes home, with their references."""
        for kind in _OUTLINES:
            for number, root in enumerate(getattr(self, kind)):
                yield Reference(kind, number), root


@dataclass(frozen=True)
class State:
    """State of one companion.

    Attributes:
        values: what `module_state` or the object's own `state_dict()` gave; None if it cannot come home.
        problem: why not.
        attributes: what was noted on a module and its parts (see `wire.attributes`).
        unfit: names of a module's parts that are not what the kernel has.
    """

    values: Mapping[str, Any] | None
    problem: str = ""
    attributes: Attributes = field(default_factory=dict)
    unfit: tuple[str, ...] = ()


@dataclass(frozen=True)
class States:
    """States of companions, each list in their order."""

    modules: list[State] = field(default_factory=list)
    optimizers: list[State] = field(default_factory=list)
    schedulers: list[State] = field(default_factory=list)

    def map(self, change: Callable[[State], State]) -> States:
        """The same with every state changed."""
        return States(
            *([change(state) for state in states] for states in (self.modules, self.optimizers, self.schedulers))
        )

    def load_into(self, companions: Companions) -> list[str]:
        """Copy the states into the kernel's objects. Returns what could not be copied, a sentence for each object."""
        problems = []
        for reference, root in companions.roots():
            states = getattr(self, reference.kind)
            if reference.number < len(states):
                problem = _load(reference.kind, root, states[reference.number])
                if problem:
                    problems.append(f"{type(root).__name__} {problem}")
        return problems


def _load(kind: str, root: Any, state: State) -> str:
    if state.values is None:
        return f"keeps its state from before the run: {state.problem}"
    if kind == "modules":
        unfit = load_module_state(root, state.values)
        if unfit:
            return f"changed its structure in the workers; not copied back: {_listed(sorted({*unfit, *state.unfit}))}"
        note_on(root, {part: noted for part, noted in state.attributes.items() if part not in state.unfit})
        others = "has other parts in the workers, of which at most the weights were copied back"
        return f"{others}: {_listed(state.unfit)}" if state.unfit else ""
    try:
        root.load_state_dict(state.values)
    except Exception as error:  # noqa: BLE001 - classes of users check their states in any way
        return f"changed in the workers; its state is not copied back: {error}"
    return ""


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _state_of(kind: str, root: Any) -> State:
    try:
        values = module_state(root) if kind == "modules" else root.state_dict()
    except Exception as error:  # noqa: BLE001 - as above; what else the run has made must still come home
        return State(None, f"{type(error).__name__}: {error}")
    if is_sharded(values):
        return State(None, "its tensors are shared out over the ranks")
    return State(values)


class Arrived:
    """Companions in the worker that has just received them.

    Remembers what they were like, so that after the run it is known which of them the kernel's own objects can stand
    for: a module with another structure than the kernel's must come home as a copy.
    """

    def __init__(self, companions: Companions) -> None:
        self.companions = companions
        self._outlines = _outlines(companions)
        self._parts = dict(_parts(companions))
        modules = ((reference, root) for reference, root in companions.roots() if reference.kind == "modules")
        self._modules = {reference: _ArrivedModule(root) for reference, root in modules}

    def states(self) -> States:
        """The states to be sent home."""
        states = States()
        for reference, root in self.companions.roots():
            state, module = _state_of(reference.kind, root), self._modules.get(reference)
            if module is not None:
                state = replace(state, attributes=module.noted.changed(root), unfit=module.replaced(root))
            getattr(states, reference.kind).append(state)
        return states

    def references(self) -> dict[int, Reference]:
        """What need not come home, by its id: the kernel has an object that is, or will be, equal."""
        fitting = {reference for reference, root in self.companions.roots() if self._fits(reference, root)}
        return {
            id(part): reference
            for reference, part in _parts(self.companions)
            if reference._replace(path="") in fitting and self._parts.get(reference) is part
        }

    def _fits(self, reference: Reference, root: Any) -> bool:
        module = self._modules.get(reference)
        same_outline = self._outlines[reference] == _OUTLINES[reference.kind](root)
        return same_outline and (module is None or not module.replaced(root))


class _ArrivedModule:
    """What the parts of a module were and what was noted on them when it arrived."""

    def __init__(self, root: Any) -> None:
        self._parts = dict(root.named_modules())
        self.noted = Noted(root)

    def replaced(self, root: Any) -> tuple[str, ...]:
        """Names of parts that are gone, new, or of another class.

        A part that has changed its own class is the same: that is how sharding works.
        """
        parts = dict(root.named_modules())
        names = self._parts.keys() | parts.keys()
        return tuple(sorted(name for name in names if not _is_kept(self._parts.get(name), parts.get(name))))


def _is_kept(before: Any, now: Any) -> bool:
    return before is now or type(before) is type(now) or _is_synchronized(before, now)


def _is_synchronized(before: Any, now: Any) -> bool:
    """Normalization over the batches of all ranks means nothing in one process."""
    return type(now).__name__ == "SyncBatchNorm" and type(before).__name__.startswith("BatchNorm")


def _parts(companions: Companions) -> Iterator[tuple[Reference, Any]]:
    for reference, root in companions.roots():
        yield reference, root
        if reference.kind == "modules":
            for name, part in (*root.named_modules(), *root.named_parameters()):
                if name:
                    yield reference._replace(path=name), part


def _outlines(companions: Companions) -> dict[Reference, object]:
    return {reference: _OUTLINES[reference.kind](root) for reference, root in companions.roots()}


_OUTLINES: dict[str, Callable[[Any], object]] = {
    "modules": lambda module: {name: tensor.shape for name, tensor in named_tensors(module).items()},
    "optimizers": lambda optimizer: [len(group["params"]) for group in optimizer.param_groups],
    "schedulers": lambda scheduler: None,
}
"""What must not have changed for the kernel's object to be able to take over the state, by kind."""

_WRAPPERS = {
    ("torch.nn.parallel.distributed", "DistributedDataParallel"): "module",
    ("torch.nn.parallel.data_parallel", "DataParallel"): "module",
    ("nbaccel.runtime.optimizer", "AcceleratedOptimizer"): "optimizer",
    ("nbaccel.runtime.scheduler", "AcceleratedScheduler"): "scheduler",
    ("nbaccel.runtime.data.prepared", "PreparedLoader"): "original",
    ("accelerate.optimizer", "AcceleratedOptimizer"): "optimizer",
    ("accelerate.scheduler", "AcceleratedScheduler"): "scheduler",
}


def unwrapped(value: Any) -> Any:
    """What a run put into a wrapper that means nothing outside its process group; other values as they are."""
    kind = type(value)
    attribute = _WRAPPERS.get((kind.__module__, kind.__qualname__))
    return value if attribute is None else unwrapped(getattr(value, attribute))


def settle_into(mine: object, theirs: object) -> object:
    """Take over an object from a worker that has kept its copy of mine: a module comes home in place.

    Returns the object that the name is to have: mine with the other's weights where both are modules of one class and
    one structure, so that it keeps its ties to optimizers; else theirs.
    """
    torch = sys.modules.get("torch")
    if torch is None or mine is theirs or not isinstance(mine, torch.nn.Module) or type(mine) is not type(theirs):
        return theirs
    if _OUTLINES["modules"](mine) != _OUTLINES["modules"](theirs):
        return theirs
    if _ArrivedModule(mine).replaced(theirs):
        return theirs
    load_module_state(mine, module_state(theirs))
    note_on(mine, copy.deepcopy(differing(mine, theirs)))  # what has come shares its memory with the weights
    return mine
