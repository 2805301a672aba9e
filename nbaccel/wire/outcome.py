"""What a run sends home: its value, and the states of what came along with the call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from nbaccel.errors import ShipError
from nbaccel.wire.attributes import Attributes
from nbaccel.wire.codec import Apart, Encoded, can_encode, encode
from nbaccel.wire.companions import Arrived, Reference, State, States
from nbaccel.wire.culprit import find_culprit
from nbaccel.wire.tensors import is_sharded, named_tensors


@dataclass(frozen=True)
class Outcome:
    """A run's value and the states of its companions.

    Module states are copied into the kernel's modules and dropped; optimizer states and what was noted on modules live
    on in the kernel's objects, and the value may be kept for ever. Each lies in a file of its own, so that none keeps
    the memory of the others.
    """

    value: Any
    states: States = field(default_factory=States)

    def __reduce__(self) -> Any:
        noted = [state.attributes for state in self.states.modules]
        modules = [replace(state, attributes={}) for state in self.states.modules]
        lasting = Apart((self.states.optimizers, self.states.schedulers))
        return _outcome, (Apart(modules), Apart(noted), lasting, Apart(self.value))


def _outcome(
    modules: list[State], noted: list[Attributes], lasting: tuple[list[State], list[State]], value: Any
) -> Outcome:
    modules = [replace(state, attributes=one) for state, one in zip(modules, noted, strict=True)]
    return Outcome(value, States(modules, *lasting))


def encode_outcome(
    value: Any, path: str, arrived: Arrived, *, wants_models: bool, whole: Callable[[Any], Any] | None = None
) -> Encoded:
    """Encode what a run made.

    Args:
        value: what it gave back.
        path: what the user calls that ("the value returned by train()").
        arrived: what came along with the call.
        wants_models: whether states are asked for; what comes home in place is then not copied into the value.
        whole: joins the parts of a tensor that is spread over the ranks; None if they cannot be joined now.

    Raises:
        ShipError: the value cannot be sent. A state that cannot is left out, and the kernel told.
    """
    references = _references(arrived) if wants_models else {}
    outcome = Outcome(value, _states(arrived, whole) if wants_models else States())
    try:
        return encode(outcome, home=True, companions=references)
    except ShipError as error:  # of a sharded tensor, which knows no name for where it was met
        raise ShipError(f"a part of {path}", error.type_name, error.reason, error.remedy) from None
    except Exception as error:
        if can_encode(value, home=True, companions=references) is not None:
            raise find_culprit(value, path, error, home=True) from error
    outcome = replace(outcome, states=outcome.states.map(_only_if_sendable))
    return encode(outcome, home=True, companions=references)


def _references(arrived: Arrived) -> dict[int, Reference]:
    """As the companions give them, and the parameters that sharding has put in place of those that arrived."""
    references = dict(arrived.references())
    for reference, root in arrived.companions.roots():
        if reference.kind == "modules" and id(root) in references:
            spread = {name: one for name, one in root.named_parameters() if is_sharded(one)}
            references |= {id(one): reference._replace(path=name) for name, one in spread.items()}
    return references


def _states(arrived: Arrived, whole: Callable[[Any], Any] | None) -> States:
    """States of the companions, those that are spread over the ranks in whole."""
    states = arrived.states()
    if whole is None:
        return states
    for reference, root in arrived.companions.roots():
        known = getattr(states, reference.kind)
        if known[reference.number].values is None:
            values = _whole_values(reference.kind, root, whole)
            if values is not None:
                known[reference.number] = replace(known[reference.number], values=values, problem="")
    return states


def _whole_values(kind: str, root: Any, whole: Callable[[Any], Any]) -> Mapping[str, Any] | None:
    """None for what is not spread."""
    if kind == "modules":
        tensors = named_tensors(root)
        if not is_sharded(tensors):
            return None
        full = {name: whole(one) if is_sharded(one) else one.detach().cpu() for name, one in tensors.items()}
        return {"tensors": full, "training": [part.training for part in root.modules()]}
    state = root.state_dict()
    return _joined(state, whole) if is_sharded(state) else None


def _joined(value: Any, whole: Callable[[Any], Any]) -> Any:
    if isinstance(value, Mapping):
        return {name: _joined(part, whole) for name, part in value.items()}
    if isinstance(value, list):
        return [_joined(part, whole) for part in value]
    return whole(value) if is_sharded(value) else value


def _only_if_sendable(state: State) -> State:
    error = can_encode(state.values, home=True)
    return state if error is None else State(None, f"{type(error).__name__}: {error}")
