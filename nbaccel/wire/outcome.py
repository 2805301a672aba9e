"""What a run sends home: its value, and the states of what came along with the call."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from nbaccel.wire.codec import Apart, Encoded, can_encode, encode
from nbaccel.wire.companions import Arrived, State, States
from nbaccel.wire.culprit import find_culprit


@dataclass(frozen=True)
class Outcome:
    """A run's value and the states of its companions.

    Module states are copied into the kernel's modules and dropped, optimizer states live on in its optimizers, and
    the value may be kept for ever: each lies in a file of its own, so that none keeps the memory of the others.
    """

    value: Any
    states: States = field(default_factory=States)

    def __reduce__(self) -> Any:
        lasting = Apart((self.states.optimizers, self.states.schedulers))
        return _outcome, (Apart(self.states.modules), lasting, Apart(self.value))


def _outcome(modules: list[State], lasting: tuple[list[State], list[State]], value: Any) -> Outcome:
    return Outcome(value, States(modules, *lasting))


def encode_outcome(value: Any, path: str, arrived: Arrived, *, wants_models: bool) -> Encoded:
    """Encode what a run made.

    Args:
        value: what it gave back.
        path: what the user calls that ("the value returned by train()").
        arrived: what came along with the call.
        wants_models: whether states are asked for; what comes home in place is then not copied into the value.

    Raises:
        ShipError: the value cannot be sent. A state that cannot is left out, and the kernel told.
    """
    references = arrived.references() if wants_models else {}
    outcome = Outcome(value, arrived.states() if wants_models else States())
    try:
        return encode(outcome, home=True, companions=references)
    except Exception as error:
        if can_encode(value, home=True) is not None:
            raise find_culprit(value, path, error, home=True) from error
    outcome = replace(outcome, states=outcome.states.map(_only_if_sendable))
    return encode(outcome, home=True, companions=references)


def _only_if_sendable(state: State) -> State:
    error = can_encode(state, home=True)
    return state if error is None else State(None, f"{type(error).__name__}: {error}")
