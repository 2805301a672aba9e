"""Layers in, one checked configuration out, each value with its origin."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from nbaccel.config.explain import Explanation, explanation
from nbaccel.config.files.legacy import Note
from nbaccel.config.interpolate import interpolated, nested, open_settings, port_for
from nbaccel.config.layers import PARAMS, Layer, Setting
from nbaccel.config.notebook import NOTEBOOK
from nbaccel.config.reconcile import reconciled
from nbaccel.config.schema import KEYS, SECTIONS, RunConfig
from nbaccel.config.secrets import is_secret, masked
from nbaccel.config.sources import read_sources
from nbaccel.errors import ConfigError, nearest

Chain = Mapping[str, tuple[Setting, ...]]


@dataclass(frozen=True)
class Once:
    """What is decided once for a run, not by each of its workers anew.

    Attributes:
        run: the name of the run's folder; empty: the time.
        free_port: the port that `${free_port}` stands for; None: one that is free, if something names it.
    """

    run: str = ""
    free_port: int | None = None


_NOTHING = Once()


@dataclass(frozen=True)
class Resolved:
    """A configuration and where each of its values came from.

    Attributes:
        config: the merged values, checked.
        chain: for each key (dotted) the settings of all layers that hold it, the winner first.
        notes: what is old in the files that were read.
        files: these files, the highest layer first.
        dotenv: variables of the project's `.env` file.
        run_dir: the folder of this run, which need not exist; `${run_dir}` stands for it.
        free_port: the port that `${free_port}` stands for, None where nothing names it.
    """

    config: RunConfig
    chain: Chain
    notes: tuple[Note, ...] = ()
    files: tuple[Path, ...] = ()
    dotenv: Mapping[str, str] = field(default_factory=dict)
    run_dir: str = ""
    free_port: int | None = None

    def value(self, key: str) -> Any:
        """The value of a key by its dotted name. Raises ConfigError for a key that does not exist."""
        if key == PARAMS or key.startswith(f"{PARAMS}."):
            return _below(self.config.params, key.split(".")[1:])
        self._settings(key)
        value: Any = self.config
        for part in key.split("."):
            value = getattr(value, part)
        return value

    def origin(self, key: str) -> Setting:
        """The setting that won. Raises ConfigError for a key that does not exist."""
        return self._settings(key)[0]

    def given(self) -> list[str]:
        """The keys that somebody has set."""
        return [key for key, settings in self.chain.items() if settings[0].layer != "default"]

    def with_setting(self, key: str, value: object, place: str) -> Any:
        """What a key's value would be, checked, if this was given too. Raises ConfigError if that is not valid."""
        chain = {**self.chain, key: (Setting(value, "call", place), *self._settings(key))}
        return _made(chain, self.once).value(key)

    def with_settings(self, values: Mapping[str, object], place: Callable[[str], str]) -> Resolved:
        """The configuration if the caller gave these, too. Raises ConfigError if one is not valid."""
        given = {key: Setting(value, "call", place(key)) for key, value in values.items()}
        layers = [given, *({key: chain[depth]} for key, chain in self.chain.items() for depth in range(len(chain)))]
        chain = merged(layers) if given else self.chain
        made = _made(chain, self.once)
        return replace(self, config=made.config, chain=chain, run_dir=made.run_dir, free_port=made.free_port)

    def explain(self, key: str) -> Explanation:
        """Which value a key has, why, what it shadows, and whether it has an effect; prints as text and as a table.

        Args:
            key: its dotted name; the last part alone is enough where there is one such key.

        Raises:
            ConfigError: there is no such key.
        """
        name = _full_name(key, self.chain)
        return explanation(name, masked(name, self.value(name)), self._settings(name), self.value)

    def diff(self, other: Resolved) -> Mapping[str, tuple[Any, Any]]:
        """The keys whose values differ, with both values: this one's, the other's; secrets masked."""
        keys = [*self.chain, *(key for key in other.chain if key not in self.chain)]
        values = {key: (_value_or_none(self, key), _value_or_none(other, key)) for key in keys}
        return {key: (masked(key, a), masked(key, b)) for key, (a, b) in values.items() if a != b}

    @property
    def once(self) -> Once:
        """What was decided once, and stays whatever is given beside."""
        return Once(os.path.basename(self.run_dir), self.free_port)

    def _settings(self, key: str) -> tuple[Setting, ...]:
        if key not in self.chain:
            raise unknown_key(key, "asked for")
        return self.chain[key]


def resolve(
    *layers: Layer,
    environ: Mapping[str, str] | None = None,
    folder: str | os.PathLike[str] | None = None,
    config_file: str | os.PathLike[str] | None = None,
    params: Iterable[str] = (),
) -> Resolved:
    """Merge all layers: those given here, the notebook's, the environment, the files, the defaults.

    Args:
        layers: what the caller gives, highest first (`call_layer(...)`).
        environ: the environment to read; left out: `os.environ`. Never written.
        folder: where the search for the project file begins; left out: the working folder.
        config_file: the named file; left out: the one that ACCELERATE_CONFIG_FILE names.
        params: names of parameters that the user's own variables may set.

    Raises:
        ConfigError: a key is unknown or the value that won is not valid; names it, its place and what is possible.
    """
    given = os.environ if environ is None else environ
    for layer in (*layers, NOTEBOOK.layer()):
        for name, setting in layer.items():
            if name not in KEYS and not name.startswith(f"{PARAMS}."):
                raise unknown_key(name, setting.place)
    start = Path.cwd() if folder is None else Path(folder)
    sources = read_sources(layers, given, start, config_file, frozenset(params))
    if sources.unknown:
        raise sources.unknown[0]
    chain = merged((*layers, *sources.layers))
    made = _made(chain, _NOTHING)
    return replace(made, notes=sources.notes, files=sources.files, dotenv=sources.dotenv)


def resolve_layers(layers: Iterable[Layer], once: Once = _NOTHING) -> Resolved:
    """Merge these layers alone, highest first; nothing else is read.

    Args:
        layers: the layers.
        once: what the run has decided already.

    Raises:
        ConfigError: as `resolve`.
    """
    return _made(merged(layers), once)


def merged(layers: Iterable[Layer]) -> Chain:
    """The settings of all layers by key, the winner first."""
    chain: dict[str, tuple[Setting, ...]] = {}
    inside: dict[str, str] = {}  # a parameter's mapping -> the first key in it
    for layer in layers:
        for name, setting in layer.items():
            holder = _shadowed_by(name, chain, inside) if name.startswith(f"{PARAMS}.") else name
            chain[holder] = (*chain.get(holder, ()), setting)
    return reconciled(chain)


def _shadowed_by(name: str, chain: Chain, inside: dict[str, str]) -> str:
    """The key whose chain a parameter joins: its own, unless a higher layer gave a value in place of its mapping."""
    parts = name.split(".")
    outer = [".".join(parts[:end]) for end in range(2, len(parts))]
    holder = next((mapping for mapping in outer if mapping in chain), None) or inside.get(name, name)
    for mapping in outer:
        inside.setdefault(mapping, name)
    return holder


def stays_known(resolved: Resolved, name: str) -> bool:
    """Whether a key's value is a secret that the next run in this place finds by itself, so that no file need name it.

    Args:
        resolved: the configuration.
        name: the key's dotted name.
    """
    layer = resolved.origin(name).layer
    return is_secret(name) and (layer in ("project", "user") or (layer == "environment" and name in KEYS))


def unknown_key(key: str, place: str) -> ConfigError:
    short = {known.short_name: known.name for known in KEYS.values()}
    meant = short.get(key.rpartition(".")[2]) or nearest(key, KEYS, cutoff=0.75) or nearest(key, (*KEYS, *SECTIONS))
    return ConfigError(f"the key {key!r}", place, "the schema's keys (`nbaccel config show --all` lists them)", meant)


def _full_name(key: str, chain: Chain) -> str:
    if key in chain:
        return key
    same = [name for name in chain if name.rpartition(".")[2] == key]
    if len(same) == 1:
        return same[0]
    if same:
        raise ConfigError(f"the key {key!r}", "asked for", f"one of {', '.join(same)}")
    raise unknown_key(key, "asked for")


def _made(chain: Chain, once: Once) -> Resolved:
    """The configuration that the winners of a chain make up, checked."""
    winners = {name: settings[0] for name, settings in chain.items()}
    values = {
        name: setting.value
        for name, setting in winners.items()
        if setting.layer != "default" and not _means_default(name, setting)
    }
    run_dir = _run_dir(values, once.run)
    open_ones = open_settings(winners)
    free_port = once.free_port or port_for(open_ones)
    values |= interpolated(open_ones, winners, run_dir, free_port)
    try:
        config = RunConfig.model_validate(nested(values))
    except ValidationError as error:
        name = _key_at(error.errors()[0]["loc"])
        raise wrong_value(name, chain[name][0], values.get(name)) from None
    return Resolved(config, chain, run_dir=config.run_dir or run_dir, free_port=free_port)


def _means_default(name: str, setting: Setting) -> bool:
    """Null stands for the default where it is no value of its own."""
    return setting.value is None and name in KEYS and not KEYS[name].is_nullable


def _run_dir(values: Mapping[str, object], run: str) -> str:
    return os.path.join(str(values.get("project_dir") or "."), "runs", run or time.strftime("%Y-%m-%d_%H-%M-%S"))


def _key_at(location: tuple[str | int, ...]) -> str:
    """The key at a place of pydantic's; what follows it tells which branch of a union failed."""
    parts = [str(part) for part in location]
    return ".".join(parts[:2]) if ".".join(parts[:2]) in KEYS else parts[0]


def wrong_value(key: str, setting: Setting, value: object = None) -> ConfigError:
    described = KEYS[key]
    written = setting.value if value is None else value
    meant = nearest(written, described.choices)
    return ConfigError(f"{key}={masked(key, written)!r}", f"from {setting.place}", described.possible, meant)


def _below(params: Mapping[str, Any], parts: list[str]) -> Any:
    value: Any = params
    for part in parts:
        value = value[part]
    return value


def _value_or_none(resolved: Resolved, key: str) -> Any:
    return resolved.value(key) if key in resolved.chain else None
