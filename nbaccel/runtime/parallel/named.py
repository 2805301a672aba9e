"""States of optimizers by the names of parameters: these stay when the number of ranks or the sharding changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from nbaccel.errors import StateError

Names = list[list[str]]
"""Names of parameters, by parameter group."""


def names_of(models: Sequence[nn.Module], optimizer: Any, number: int) -> Names:
    """What an optimizer's parameters are called: as in the one model that has all of them.

    Names of parameters that are spread over several models begin with the model's number; one of no model is `#` and
    its place.

    Args:
        models: the user's own modules.
        optimizer: has `param_groups`.
        number: its place among the optimizers; the model of this number is asked first.
    """
    tables = [{id(parameter): name for name, parameter in model.named_parameters()} for model in models]
    wanted = [[id(parameter) for parameter in group["params"]] for group in optimizer.param_groups]
    for table in [*tables[number : number + 1], *tables]:
        if all(one in table for group in wanted for one in group):
            return [[table[one] for one in group] for group in wanted]
    joined = {one: f"{place}.{name}" for place, table in enumerate(tables) for one, name in table.items()}
    places = {one: place for place, one in enumerate(one for group in wanted for one in group)}
    return [[joined.get(one, f"#{places[one]}") for one in group] for group in wanted]


def is_named(state: Mapping[str, Any]) -> bool:
    """Whether a state calls parameters by names, not by numbers."""
    return any(isinstance(one, str) for group in state.get("param_groups", ()) for one in group["params"])


def by_name(state: Mapping[str, Any], names: Names) -> dict[str, Any]:
    """The state of an optimizer, with names for its numbers.

    Args:
        state: as from `Optimizer.state_dict`.
        names: as from `names_of`.
    """
    called = {
        number: name
        for group, some in zip(state["param_groups"], names, strict=True)
        for number, name in zip(group["params"], some, strict=True)
    }
    groups = [{**group, "params": some} for group, some in zip(state["param_groups"], names, strict=True)]
    return {"state": {called[number]: values for number, values in state["state"].items()}, "param_groups": groups}


def by_number(state: Mapping[str, Any], names: Names) -> dict[str, Any]:
    """The reverse of `by_name`, for groups that may stand in another order.

    Args:
        state: as from `by_name`; one that has numbers is returned as it is.
        names: those of the optimizer that is to be filled.

    Raises:
        StateError: it belongs to other parameters.
    """
    if not is_named(state):
        return dict(state)
    home = {name: group for group in state["param_groups"] for name in group["params"]}
    absent = [name for some in names for name in some if name not in home]
    if absent:
        more = f" and {len(absent) - 3} more" if len(absent) > 3 else ""
        raise StateError(
            f"the optimizer's state knows nothing of {', '.join(absent[:3])}{more}. Give the optimizer the parameters "
            "that it had when this was written."
        )
    numbers: dict[str, int] = {}
    groups = []
    for place, some in enumerate(names):
        group = home[some[0]] if some else state["param_groups"][place]
        for name in some:
            numbers[name] = len(numbers)
        groups.append({**group, "params": [numbers[name] for name in some]})
    known = {numbers[name]: values for name, values in state.get("state", {}).items() if name in numbers}
    return {"state": known, "param_groups": groups}
