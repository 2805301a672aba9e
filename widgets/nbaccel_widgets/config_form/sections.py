"""Which keys stand under which tab, under which heading, and when they are shown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from nbaccel.config import COMMON, KEYS, Key
from nbaccel.config.layers import PARAMS
from nbaccel_widgets.config_form.reading import Picture

PARAMETERS = "Parameters"
"""The tab of the user's own parameters."""

_TABS = {
    "Machines": ("Machines", "MPI", "TPU", "SageMaker"),
    "Running": ("Start", "Output"),
    "Training": ("Training", "FP8", "Compilation"),
    "Parallel": ("DDP", "FSDP", "Parallelism", "DeepSpeed", "Megatron-LM"),
    "Data": ("Data",),
    "Project": ("Project",),
}
"""Tabs and the groups of the schema in them; a group that is not named here stands in the last one."""

_NOT_SHARDED = ("None", "NO", "MULTI_CPU", "MULTI_GPU", "MULTI_XPU", "MULTI_NPU", "MULTI_MLU", "MULTI_HPU")
_ONLY_WITH = {
    "ddp_config": ("distributed_type", _NOT_SHARDED),
    "grad_scaler_config": ("mixed_precision", ("fp16",)),
    "autocast_config": ("mixed_precision", ("bf16", "fp16")),
}
"""Sections that act only with some values of a key, beyond what the schema's `needs` says."""


@dataclass(frozen=True)
class Group:
    """Keys under one heading.

    Attributes:
        title: the heading, empty for none.
        keys: their names.
    """

    title: str
    keys: tuple[str, ...]

    def shown(self, picture: Picture, *, only_given: bool) -> list[str]:
        """The keys that make sense now, or that somebody has set."""
        given = [key for key in self.keys if picture.is_given(key)]
        if only_given:
            return given
        return [key for key in self.keys if key in given or makes_sense(key, picture)]


@dataclass(frozen=True)
class Section:
    """What one tab holds."""

    title: str
    groups: tuple[Group, ...]

    @property
    def keys(self) -> list[str]:
        return [key for group in self.groups for key in group.keys]

    def heading(self, picture: Picture) -> str:
        """The tab's title, with the number of keys that somebody has set."""
        keys = picture.params() if self.title == PARAMETERS else self.keys
        count = sum(map(picture.is_given, keys))
        return f"{self.title} ({count})" if count else self.title


def makes_sense(key: str, picture: Picture) -> bool:
    """Whether a key would have an effect if it was set."""
    if picture.obstacle(key):
        return False
    other, words = _ONLY_WITH.get(KEYS[key].section, ("", ()))
    return not other or str(picture.value(other)) in words


def left_out(section: Section, picture: Picture) -> str:
    """What of a section is not shown for now, and what would bring it; empty if nothing is left out."""
    reasons: dict[str, None] = {}
    for group in section.groups:
        if not group.shown(picture, only_given=False):
            reasons[f"{group.title} ({_condition(KEYS[group.keys[0]])})"] = None
    return f"Not shown, for it would have no effect: {', '.join(reasons)}." if reasons else ""


def _condition(key: Key) -> str:
    other, words = key.needs or _ONLY_WITH.get(key.section, ("", ()))
    return f"with {other} {' or '.join(word for word in words if word != 'None')}"


def sections() -> Sequence[Section]:
    """All tabs, the most needed first."""
    grouped = {name: title for title, names in _TABS.items() for name in names}
    last = list(_TABS)[-1]
    by_tab: dict[str, list[Key]] = {title: [] for title in _TABS}
    for key in KEYS.values():
        if key.name != PARAMS:
            by_tab[grouped.get(key.group, last)].append(key)
    made = [Section(title, tuple(_groups(title, keys))) for title, keys in by_tab.items()]
    return (Section("Common", (Group("", COMMON),)), *made, Section(PARAMETERS, ()))


def _groups(tab: str, keys: list[Key]) -> Iterable[Group]:
    """Keys of one section of the file, or of one group of its top level, under one heading; in the tab's order."""
    order = _TABS[tab]
    place = {name: number for number, name in enumerate(order)}
    keys = sorted(keys, key=lambda key: (place.get(key.group, len(order)), key.section))
    for (group, section), held in groupby(keys, key=lambda key: (key.group, key.section)):
        title = section or ("" if group == tab else group)
        yield Group(title, tuple(key.name for key in held))


def label_of(key: str) -> str:
    """What a key is called where all are mixed; a section is left out where the key's own name begins with it."""
    known = KEYS.get(key)
    if known is None or not known.section:
        return key.removeprefix(f"{PARAMS}.")
    return known.short_name if known.short_name.startswith(known.section.removesuffix("_config")) else key


def found(words: str, picture: Picture) -> list[str]:
    """The keys that a search means: all words stand in its name, text, variable, flags or values; the best first."""
    wanted = words.lower().replace("-", "_").split()
    keys = [key for key in (*KEYS, *picture.params()) if key != PARAMS]
    hits = [key for key in keys if all(word in _searched(key) for word in wanted)]
    return sorted(hits, key=lambda key: not all(word in key.lower() for word in wanted))


def _searched(key: str) -> str:
    known = KEYS.get(key)
    if known is None:
        return key.lower()
    text = (key, known.text, known.env, *known.flags, known.possible, known.group)
    return " ".join(text).lower().replace("-", "_")
