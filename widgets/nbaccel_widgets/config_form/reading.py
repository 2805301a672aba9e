"""All layers as they are now, with changes that are not written yet, and what they come to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nbaccel.config import KEYS, LAYERS, NOTEBOOK, Layer, Resolved, Setting, default_layer, environment_layer
from nbaccel.config.check import checked
from nbaccel.config.explain import unmet
from nbaccel.config.files import find
from nbaccel.config.files.read import FileLayer, read_layer
from nbaccel.config.interpolate import has_interpolation
from nbaccel.config.layers import PARAMS
from nbaccel.config.resolve import Chain, merged, resolve_layers
from nbaccel.config.sources import Sources, read_sources
from nbaccel.errors import ConfigError, NbaccelError

_FILES_FROM = 2
"""Number of `Sources.layers` above the files': notebook and environment."""


@dataclass(frozen=True)
class Place:
    """Where the form reads.

    Attributes:
        environ: variables.
        folder: where the search for the project file begins.
        above: layers over the notebook's: arguments of the constructor and of the call, highest first.
        config_file: the named file, None for the one that ACCELERATE_CONFIG_FILE names.
    """

    environ: Mapping[str, str]
    folder: Path
    above: tuple[Layer, ...] = ()
    config_file: Path | None = None


@dataclass(frozen=True)
class Picture:
    """What all layers say together.

    Attributes:
        layers: their settings, highest first.
        edited: the number of the layer that is edited.
        chain: for each key the settings that hold it, the winner first.
        problems: for keys whose winner is not valid, why.
        trouble: why something cannot be read, or the whole is not valid; empty if all is well.
        resolved: the configuration, None while something is not valid.
    """

    layers: tuple[Layer, ...]
    edited: int
    chain: Chain
    problems: Mapping[str, str] = field(default_factory=dict)
    trouble: str = ""
    resolved: Resolved | None = None

    def own(self, key: str) -> Setting | None:
        """What the edited layer says."""
        return self.layers[self.edited].get(key)

    def below(self, key: str) -> Setting | None:
        """What would be said if the edited layer, and those above it, said nothing."""
        return next((layer[key] for layer in self.layers[self.edited + 1 :] if key in layer), None)

    def value(self, key: str) -> Any:
        """The value in force, as far as it is known."""
        if self.resolved is not None:
            return self.resolved.value(key)
        setting = self.chain[key][0]
        if key in self.problems or setting.layer == "default" or has_interpolation(setting.value):
            return KEYS[key].default if key in KEYS else setting.value
        return checked(key, setting.value, setting.place)

    def is_given(self, key: str) -> bool:
        """Whether somebody has set the key."""
        return key in self.chain and self.chain[key][0].layer != "default"

    def obstacle(self, key: str) -> str:
        """Why a key has no effect as things are; empty if it has one."""
        return unmet(KEYS[key], self.value) if key in KEYS else ""

    def params(self) -> list[str]:
        """The user's own parameters, by their keys."""
        return [key for key in self.chain if key.startswith(f"{PARAMS}.")]


@dataclass(frozen=True)
class State:
    """All that a row shows.

    Attributes:
        picture: what the layers say.
        changed: keys of the edited layer that differ from what was kept.
        wrong: for keys whose fields hold something that is not valid: what, and why.
    """

    picture: Picture
    changed: Set[str] = frozenset()
    wrong: Mapping[str, tuple[str, str]] = field(default_factory=dict)


def take_picture(place: Place, layer: str, path: Path | None, pending: Callable[[Layer], Layer]) -> Picture:
    """Read all layers.

    Args:
        place: where.
        layer: the layer that is edited: `notebook`, `project`, `user` or `file`.
        path: its file, None for the notebook, or where another file is not named yet.
        pending: changes what that layer says by what is not written yet.
    """
    named = path if layer == "file" and path is not None and path.is_file() else place.config_file
    trouble = ""
    try:
        sources = read_sources(place.above, place.environ, place.folder, named)
        trouble = "\n".join(map(str, sources.unknown))
    except NbaccelError as error:
        sources, trouble = _readable(place), str(error)
    layers = [*place.above, *sources.layers]
    edited = len(place.above)
    if layer != "notebook":
        edited += _FILES_FROM if path is None else _number_of(layer, path, sources, place)
        if path is None or not _is_read(path, sources):
            layers.insert(edited, {})
    layers[edited] = pending(layers[edited])
    return _picture(tuple(layers), edited, trouble)


def _picture(layers: tuple[Layer, ...], edited: int, trouble: str) -> Picture:
    try:
        resolved = resolve_layers(layers)
    except NbaccelError as error:
        chain = merged(layers)
        problems = dict(_problems(chain))
        return Picture(layers, edited, chain, problems, trouble or ("" if problems else str(error)))
    return Picture(layers, edited, resolved.chain, {}, trouble, resolved)


def _problems(chain: Chain) -> Iterator[tuple[str, str]]:
    for key, (winner, *_) in chain.items():
        if winner.layer == "default":
            continue
        try:
            checked(key, winner.value, f"from {winner.place}")
        except ConfigError as error:
            yield key, str(error)


def _is_read(path: Path, sources: Sources) -> bool:
    return any(_is_same(path, file) for file in sources.files)


def _is_same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve()


def _number_of(layer: str, path: Path, sources: Sources, place: Place) -> int:
    """The number of a file's layer among those of the sources, or the one that it would have."""
    for number, file in enumerate(sources.files):
        if _is_same(file, path):
            return _FILES_FROM + number
    if layer == "file":
        return _FILES_FROM
    default = len(sources.layers) - 1
    has_user = layer == "project" and _is_read(find.user_file(place.environ), sources)
    return default - 1 if has_user else default


def _readable(place: Place) -> Sources:
    """What is left where something cannot be read: each source by itself."""
    environment: Layer = {}
    with suppress(NbaccelError):
        environment = environment_layer(place.environ)
    files = [
        *_readable_file(find.project_file(place.folder), "project"),
        *_readable_file(find.user_file(place.environ), "user"),
    ]
    layers = (NOTEBOOK.layer(), environment, *(file.settings for file in files), default_layer())
    return Sources(layers, files=tuple(file.path for file in files))


def _readable_file(path: Path, layer: str) -> Iterator[FileLayer]:
    if path.exists():
        with suppress(NbaccelError):
            yield read_layer(path, layer)


COLUMNS = {"constructor": "argument"} | {layer: layer for layer in LAYERS[1:]}
"""The layers, highest first, and what the form calls them."""
