"""All that is wrong in a configuration file, at once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nbaccel.config.check import checked, refuse_secret
from nbaccel.config.commands.look import File
from nbaccel.config.files import find
from nbaccel.config.files.find import shown
from nbaccel.config.files.read import FileLayer, read_layer
from nbaccel.config.files.write import settings_of_text
from nbaccel.config.layers import Layer, Setting, default_layer
from nbaccel.config.resolve import resolve_layers
from nbaccel.config.schema import KEYS
from nbaccel.config.sources import CONFIG_FILE
from nbaccel.errors import ConfigError, MissingExtraError


@dataclass(frozen=True)
class Report:
    """What was found in files.

    Attributes:
        files: the files that were looked at.
        problems: what stops a launch.
        warnings: what has no effect, or should not be there.
        notes: old words, and what is written today.
    """

    files: tuple[Path, ...]
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def is_valid(self) -> bool:
        """Whether there are no problems."""
        return not self.problems

    def __str__(self) -> str:
        names = ", ".join(map(shown, self.files))
        count = len(self.problems)
        verdict = f"{names}: {count or 'no'} problem{'' if count == 1 else 's'}"
        kinds = (("problem", self.problems), ("warning", self.warnings), ("note", self.notes))
        return "\n".join([*(f"{kind}: {text}" for kind, texts in kinds for text in texts), verdict])

    def __repr__(self) -> str:
        return str(self)


def validate(file: File | None = None, *, profile: str | None = None) -> Report:
    """Look for all problems of a file, its included files too; of the files in force if none is named.

    Args:
        file: the file; left out: those that a launch in this folder would read.
        profile: the overlay to look at, too; left out: the one that these choose.

    Raises:
        ConfigError: there is no such profile, or no file at all.
    """
    layers = _files_in_force() if file is None else [(Path(os.path.expanduser(file)), "file")]
    found = [_looked_at(path, layer) for path, layer in layers]
    overlay = profile or (_chosen_profile(found) if file is None else None)
    if overlay is not None:
        path = find.profile_file(Path.cwd(), overlay, "the flag --profile" if profile else "the key `profile`")
        at = sum(layer == "file" for _, layer in layers)  # a named file is above it, the project's below
        found.insert(at, _looked_at(path, "project"))
    if not found:
        raise ConfigError("no file", "asked for", "FILE; there is neither a project file nor one of yours")
    wrong, effects = _as_a_whole([one.legal for one in found])
    return Report(
        tuple(one.path for one in found),
        tuple(dict.fromkeys([*(text for one in found for text in one.problems), *wrong])),
        (*(text for one in found for text in one.secrets), *effects),
        tuple(text for one in found for text in one.notes),
    )


def _files_in_force() -> list[tuple[Path, str]]:
    """The files without the overlay, the highest layer first."""
    named = os.environ.get(CONFIG_FILE)
    files = [(find.project_file(Path.cwd()), "project"), (find.user_file(os.environ), "user")]
    return [
        *([(Path(os.path.expanduser(named)), "file")] if named else []),
        *((path, layer) for path, layer in files if os.path.lexists(path)),
    ]


@dataclass(frozen=True)
class _LookedAt:
    """One file, taken apart.

    Attributes:
        path: the file.
        legal: its legal settings.
        problems: what is wrong with the others.
        secrets: warnings of those that it holds.
        notes: old words.
    """

    path: Path
    legal: Layer
    problems: tuple[str, ...]
    secrets: tuple[str, ...]
    notes: tuple[str, ...]


def _looked_at(path: Path, layer: str) -> _LookedAt:
    try:
        read = read_layer(path, layer)
        problems = [str(problem) for problem in read.unknown]
    except ConfigError as error:
        read, problems = _without_reading(path, layer), [str(error)]
    wrong = {key: _problem(key, setting) for key, setting in read.settings.items()}
    return _LookedAt(
        path,
        {key: setting for key, setting in read.settings.items() if not wrong[key]},
        tuple(dict.fromkeys([*problems, *filter(None, wrong.values())])),
        tuple(filter(None, (_secret(key, setting) for key, setting in read.settings.items()))),
        tuple(map(str, read.notes)),
    )


def _without_reading(path: Path, layer: str) -> FileLayer:
    """What a file says of which one thing cannot be read, as far as it can be taken apart."""
    try:
        return FileLayer(path, settings_of_text(path, layer))
    except ConfigError:
        return FileLayer(path)


def _problem(key: str, setting: Setting) -> str:
    try:
        checked(key, setting.value, f"in {setting.place}")
    except ConfigError as error:
        return str(error)
    return ""


def _secret(key: str, setting: Setting) -> str:
    try:
        refuse_secret(key, setting.value, setting.place)
    except ConfigError as error:
        return f"{setting.place}: {key} is a secret, which files should not hold. Use {error.possible}."
    return ""


def _chosen_profile(found: Sequence[_LookedAt]) -> str | None:
    variable = os.environ.get(KEYS["profile"].env)
    by_file = next((one.legal["profile"].value for one in found if "profile" in one.legal), None)
    return variable or (None if by_file is None else str(by_file))


def _as_a_whole(layers: Sequence[Layer]) -> tuple[list[str], list[str]]:
    """What only shows where all keys are known: names in `${...}`, and keys without an effect."""
    try:
        resolved = resolve_layers((*layers, default_layer()))
    except MissingExtraError as error:
        return [str(error)], []
    except ConfigError as error:
        key = error.written.partition("=")[0]
        others = [{name: held for name, held in layer.items() if name != key} for layer in layers]
        wrong, effects = _as_a_whole(others) if others != list(layers) else ([], [])
        return [str(error), *wrong], effects
    effects_of = ((resolved.origin(key).place, key, resolved.explain(key).effect) for key in resolved.given())
    return [], [f"{place}: {key} {effect}" for place, key, effect in effects_of if effect]
