"""Which modules FSDP gathers and frees as one: the units."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from torch import nn

from nbaccel.errors import CallError, nearest

Chooser = Callable[[nn.Module, str], bool]
"""Whether a module, with its name, is to be a unit."""


@dataclass(frozen=True)
class UnitPolicy:
    """How units are found. The whole model is always one, for what is in no other.

    Attributes:
        policy: `TRANSFORMER_BASED_WRAP`, `SIZE_BASED_WRAP`, `NO_WRAP`, or None: the layers that the model itself names
            in `_no_split_modules`, if it does.
        class_names: classes of layers that are units.
        min_num_params: parameters from which a module is a unit.
        chooser: the user's own function, which replaces all of these.
    """

    policy: str | None = None
    class_names: tuple[str, ...] = ()
    min_num_params: int = 100_000_000
    chooser: Chooser | None = field(default=None, compare=False)


def find_units(model: nn.Module, policy: UnitPolicy, ignored: frozenset[nn.Parameter]) -> list[nn.Module]:
    """Modules that become units beside the whole, inner ones first.

    A module that shares a parameter with another part of the model is none, so that the two stay tied.

    Raises:
        CallError: the policy names a class that the model does not have, or there are no names to go by.
    """
    found = _chosen(model, policy, ignored)
    uses = _owners(model)
    return [unit for unit in found if _is_self_contained(unit, uses)]


def _chosen(model: nn.Module, policy: UnitPolicy, ignored: frozenset[nn.Parameter]) -> list[nn.Module]:
    if policy.chooser is not None:
        return [part for name, part in _inner_first(model) if policy.chooser(part, name)]
    if policy.policy == "SIZE_BASED_WRAP":
        units: list[nn.Module] = []
        _by_size(model, policy.min_num_params, ignored, units)
        return [unit for unit in units if unit is not model]
    names = _layer_classes(model, policy)
    return [part for _, part in _inner_first(model) if type(part).__name__ in names]


def _inner_first(model: nn.Module) -> list[tuple[str, nn.Module]]:
    named = [(name, part) for name, part in model.named_modules() if name and _can_be_unit(part)]
    return sorted(named, key=lambda item: -item[0].count("."))


def _can_be_unit(module: nn.Module) -> bool:
    """Lists and mappings of modules have no forward pass before which they could be gathered."""
    return type(module).forward is not nn.Module.forward and any(True for _ in module.parameters())


def _layer_classes(model: nn.Module, policy: UnitPolicy) -> Sequence[str]:
    own = tuple(getattr(model, "_no_split_modules", None) or ())
    if policy.class_names:
        _check_classes(model, policy.class_names)
        return policy.class_names
    if policy.policy == "TRANSFORMER_BASED_WRAP" and not own:
        raise CallError(
            f"fsdp_auto_wrap_policy=TRANSFORMER_BASED_WRAP: {type(model).__name__} does not say which of its layers "
            "are units. Name their classes in fsdp_transformer_layer_cls_to_wrap; it has "
            f"{', '.join(_class_names(model))}."
        )
    return () if policy.policy == "NO_WRAP" else own


def _check_classes(model: nn.Module, names: Iterable[str]) -> None:
    known = _class_names(model)
    for name in names:
        if name not in known:
            meant = nearest(name, known)
            hint = f"Did you mean {meant}?" if meant else f"It has {', '.join(known)}."
            raise CallError(
                f"fsdp_transformer_layer_cls_to_wrap={name}: {type(model).__name__} has no layer of this class. {hint}"
            )


def _class_names(model: nn.Module) -> list[str]:
    return sorted({type(part).__name__ for part in model.modules()})


def _by_size(module: nn.Module, least: int, ignored: frozenset[nn.Parameter], units: list[nn.Module]) -> int:
    """Appends units of the size, inner ones first. Returns the number of parameters that are in none of them."""
    rest = sum(own.numel() for own in module.parameters(recurse=False) if own not in ignored)
    rest += sum(_by_size(child, least, ignored, units) for child in module.children() if child not in units)
    if rest >= least and rest and _can_be_unit(module):
        units.append(module)
        return 0
    return rest


def _owners(model: nn.Module) -> dict[nn.Parameter, set[nn.Module]]:
    owners: dict[nn.Parameter, set[nn.Module]] = {}
    for part in model.modules():
        for own in part.parameters(recurse=False):
            owners.setdefault(own, set()).add(part)
    return owners


def _is_self_contained(unit: nn.Module, owners: dict[nn.Parameter, set[nn.Module]]) -> bool:
    inside = set(unit.modules())
    return all(owners[parameter] <= inside for parameter in unit.parameters())


def ignored_parameters(model: nn.Module, ignored: Sequence[str | nn.Module]) -> frozenset[nn.Parameter]:
    """Parameters of the modules that are not to be sharded.

    Args:
        model: the whole.
        ignored: modules, their names, or regular expressions that match whole names.

    Raises:
        CallError: something names no module of the model.
    """
    found: set[nn.Parameter] = set()
    for wanted in ignored:
        parts = [part for name, part in model.named_modules() if _is_meant(name, part, wanted)]
        if not parts:
            shown = wanted if isinstance(wanted, str) else type(wanted).__name__
            names = ", ".join(name for name, _ in list(model.named_modules())[1:20])
            raise CallError(
                f"fsdp_ignored_modules={shown}: the model has no such module. Give names, or a pattern that matches "
                f"whole names, of: {names}."
            )
        found.update(parameter for part in parts for parameter in part.parameters())
    return frozenset(found)


def _is_meant(name: str, part: nn.Module, wanted: str | nn.Module) -> bool:
    if isinstance(wanted, nn.Module):
        return part is wanted
    return bool(name) and (name == wanted or re.fullmatch(wanted, name) is not None)
