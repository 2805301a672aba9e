"""Reads all layers that are not given by the caller: notebook, environment, files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from nbaccel.config.dotenv import read_dotenv
from nbaccel.config.files import find
from nbaccel.config.files.legacy import Note
from nbaccel.config.files.read import FileLayer, read_layer
from nbaccel.config.layers import PARAMS, Layer, Setting, default_layer, environment_layer, params_layer
from nbaccel.config.notebook import NOTEBOOK
from nbaccel.errors import ConfigError

CONFIG_FILE = "ACCELERATE_CONFIG_FILE"


@dataclass(frozen=True)
class Sources:
    """The layers below the caller's, highest first.

    Attributes:
        layers: their settings.
        unknown: the errors for keys of files that nobody knows.
        notes: what is old in files.
        files: the files that were read.
        dotenv: variables of the project's `.env` file that the environment does not set.
    """

    layers: tuple[Layer, ...]
    unknown: tuple[ConfigError, ...] = ()
    notes: tuple[Note, ...] = ()
    files: tuple[Path, ...] = ()
    dotenv: Mapping[str, str] = field(default_factory=dict)


def read_sources(
    above: tuple[Layer, ...],
    environ: Mapping[str, str],
    folder: Path,
    config_file: str | os.PathLike[str] | None = None,
    params: frozenset[str] = frozenset(),
) -> Sources:
    """Read everything below the caller's layers.

    Args:
        above: the caller's layers, highest first; one of them may choose the profile.
        environ: variables.
        folder: where the search for the project file begins.
        config_file: the named file; left out: the one that ACCELERATE_CONFIG_FILE names.
        params: parameters that a function takes, which the user's own variables may set.

    Raises:
        ConfigError: a file cannot be read, a profile does not exist, a variable is misspelt.
    """
    dotenv = {name: held for name, held in read_dotenv(folder).items() if not environ.get(name)}
    variables = {**environ, **{name: value for name, (value, _) in dotenv.items()}}
    origin = partial(_origin, dotenv)
    environment = environment_layer(variables, origin)
    named = _named_file(config_file, variables, folder)
    project = _existing(find.project_file(folder), "project")
    user = _existing(find.user_file(variables), "user")
    choosing = (*above, NOTEBOOK.layer(), environment, *(file.settings for file in (*named, *project, *user)))
    files = [*named, *_profile(folder, choosing), *project, *user]
    holders = (*above, NOTEBOOK.layer(), *(file.settings for file in files))
    own = params_layer(params.union(*map(_params_of, holders)), variables, origin)
    return Sources(
        layers=(NOTEBOOK.layer(), {**own, **environment}, *(file.settings for file in files), default_layer()),
        unknown=tuple(problem for file in files for problem in file.unknown),
        notes=tuple(note for file in files for note in file.notes),
        files=tuple(file.path for file in files),
        dotenv={name: value for name, (value, _) in dotenv.items()},
    )


def _params_of(layer: Layer) -> set[str]:
    return {name.partition(".")[2] for name in layer if name.startswith(f"{PARAMS}.")}


def _origin(dotenv: Mapping[str, tuple[str, str]], name: str) -> str:
    return f"the variable {name} in {dotenv[name][1]}" if name in dotenv else f"the variable {name}"


def _named_file(
    given: str | os.PathLike[str] | None, variables: Mapping[str, str], folder: Path
) -> tuple[FileLayer, ...]:
    name = given or variables.get(CONFIG_FILE)
    if not name:
        return ()
    return (read_layer(folder / os.path.expanduser(os.fspath(name)), "file"),)


def _existing(path: Path, layer: str) -> tuple[FileLayer, ...]:
    return (read_layer(path, layer),) if os.path.lexists(path) else ()


def _profile(folder: Path, higher: tuple[Mapping[str, Setting], ...]) -> tuple[FileLayer, ...]:
    chosen = next((layer["profile"] for layer in higher if "profile" in layer), None)
    if chosen is None or chosen.value is None:
        return ()
    return (read_layer(find.profile_file(folder, str(chosen.value), chosen.place), "project"),)
