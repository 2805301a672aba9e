"""What is edited: this notebook's layer, at once, or a file, whose changes wait until they are saved."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import yaml

from nbaccel.config import NOTEBOOK, Layer, Setting
from nbaccel.config.check import checked, refuse_secret
from nbaccel.config.commands import Changed
from nbaccel.config.commands.change import for_accelerate
from nbaccel.config.files.find import shown
from nbaccel.config.files.read import FileLayer, read_layer
from nbaccel.config.files.write import UNSET, Unset, changed_text, is_same, write_changes
from nbaccel.config.interpolate import nested
from nbaccel.config.layers import flattened
from nbaccel.config.secrets import masked
from nbaccel.errors import ConfigFileError
from nbaccel_widgets.config_form.words import apart

PLACE = "the configuration form"
"""Where a value was set, as `%accelerate why` says it."""

Value = object | Unset


class Edits(Protocol):
    """Changes of one layer, with undo."""

    @property
    def layer(self) -> str:
        """Its name: `notebook`, `project`, `user` or `file`."""

    @property
    def path(self) -> Path | None:
        """Its file."""

    @property
    def name(self) -> str:
        """What people call it."""

    @property
    def is_pending(self) -> bool:
        """Whether there are changes that are not written yet."""

    def pending(self, held: Layer) -> Layer:
        """What the layer says with the changes, given what it says without."""

    def changed(self) -> set[str]:
        """The keys that say something else than when they were last kept."""

    def set(self, key: str, value: Value) -> bool:
        """Set a key, or with UNSET forget it. Returns whether that changes anything.

        Raises:
            ConfigError: there cannot be such a value.
        """

    def undo(self) -> bool:
        """Take the last change back. Returns False if there is none."""

    def revert(self) -> None:
        """Take all changes back, as one change."""

    def diff(self) -> list[str]:
        """The changes as lines of a unified diff of YAML, secrets masked. Raises ConfigError if they cannot be kept."""

    def save(self) -> list[str]:
        """Keep the changes. Returns what is worth knowing about it. Raises ConfigError if that fails."""


class NotebookEdits:
    """This notebook's layer: a change counts at once, and nothing needs to be saved."""

    layer, path, name = "notebook", None, "this notebook"
    is_pending = False

    def __init__(self) -> None:
        self._opened = NOTEBOOK.layer()

    def pending(self, held: Layer) -> Layer:
        return held

    def changed(self) -> set[str]:
        now = NOTEBOOK.layer()
        return {key for key in {**now, **self._opened} if not is_same(_said(now, key), _said(self._opened, key))}

    def set(self, key: str, value: Value) -> bool:
        before = NOTEBOOK.layer()
        now = {name: setting for name, setting in before.items() if not _gives_way(name, key)}
        if value is not UNSET:
            checked(key, value, PLACE)
            now |= {name: Setting(inner, self.layer, PLACE) for name, inner in flattened(key, value)}
        if is_same(_values(now), _values(before)):
            return False
        NOTEBOOK.replace(now)
        return True

    def undo(self) -> bool:
        return NOTEBOOK.undo()

    def revert(self) -> None:
        NOTEBOOK.replace(self._opened)

    def diff(self) -> list[str]:
        before, now = (_as_yaml(layer).splitlines() for layer in (self._opened, NOTEBOOK.layer()))
        names = ("this notebook, when the form was opened", "this notebook, now")
        return list(difflib.unified_diff(before, now, *names, n=2, lineterm=""))

    def save(self) -> list[str]:
        return ["Nothing to save: what is set for this notebook counts at once, until its kernel ends."]


def _gives_way(name: str, key: str) -> bool:
    """Whether what stands for one key goes when another is set: itself, what is in it, what it is in."""
    return name == key or name.startswith(f"{key}.") or key.startswith(f"{name}.")


def _said(layer: Layer, key: str) -> object:
    return layer[key].value if key in layer else UNSET


def _values(layer: Layer) -> dict[str, object]:
    return {key: setting.value for key, setting in layer.items()}


def _as_yaml(layer: Layer) -> str:
    values = {key: _plain(masked(key, _typed(key, setting.value))) for key, setting in apart(layer).items()}
    return yaml.safe_dump(nested(values), sort_keys=False, allow_unicode=True) if values else ""


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


class NoFile:
    """A file that is not named yet: it says nothing, and nothing of it can be changed."""

    layer, path, name = "file", None, "another file"
    is_pending = False

    def pending(self, held: Layer) -> Layer:
        return held

    def changed(self) -> set[str]:
        return set()

    def set(self, key: str, value: Value) -> bool:
        raise ConfigFileError(self.name, "nobody has said which", "Write its path into the field File first.")

    def undo(self) -> bool:
        return False

    def revert(self) -> None:
        pass

    def diff(self) -> list[str]:
        return []

    def save(self) -> list[str]:
        return ["Nothing to save: the file is not named yet."]


class FileEdits:
    """Changes of a file, kept here until they are saved.

    Args:
        layer: `project`, `user` or `file`.
        path: the file, which need not exist.
    """

    def __init__(self, layer: str, path: Path) -> None:
        self.layer, self.path = layer, path
        self._changes: dict[str, Value] = {}
        self._before: list[dict[str, Value]] = []

    @property
    def name(self) -> str:
        return shown(self.path)

    @property
    def is_pending(self) -> bool:
        return bool(self._changes)

    def pending(self, held: Layer) -> Layer:
        place = f"{self.name} (not saved yet)"
        told = {key: setting for name, said in held.items() for key, setting in self._left(name, said)}
        for key, value in self._changes.items():
            if value is not UNSET:
                told[key] = Setting(value, self.layer, place)
        return told

    def _left(self, key: str, setting: Setting) -> Iterator[tuple[str, Setting]]:
        """What the changes leave of a setting; where they remove it, an included file may still say something."""
        changes = [value for changed, value in self._changes.items() if _gives_way(key, changed)]
        if not changes:
            yield key, setting
        elif all(value is UNSET for value in changes) and key in (included := self._read().included):
            yield key, included[key]

    def changed(self) -> set[str]:
        return set(self._changes)

    def set(self, key: str, value: Value) -> bool:
        changes = {name: held for name, held in self._changes.items() if not _gives_way(name, key)}
        file = self._read()
        held = file.settings
        if value is UNSET:
            is_own = key in held and held[key] is not file.included.get(key)
            changes |= {key: UNSET} if is_own else {}
        else:
            place = f"for {self.name}"
            typed = checked(key, value, place)
            refuse_secret(key, value, place)
            if key not in held or not is_same(_typed(key, held[key].value), typed):
                changes |= dict(flattened(key, value))
        return self._put(changes)

    def _put(self, changes: dict[str, Value]) -> bool:
        if is_same(changes, self._changes):
            return False
        self._before.append(self._changes)
        self._changes = changes
        return True

    def _read(self) -> FileLayer:
        return read_layer(self.path, self.layer) if self.path.exists() else FileLayer(self.path)

    def undo(self) -> bool:
        if not self._before:
            return False
        self._changes = self._before.pop()
        return True

    def revert(self) -> None:
        self._put({})

    def diff(self) -> list[str]:
        return Changed(self.path, *changed_text(self.path, self._changes)).diff if self._changes else []

    def save(self) -> list[str]:
        before, after = write_changes(self.path, self._changes)
        remarks = for_accelerate(self.path, [key for key, value in self._changes.items() if value is not UNSET])
        self._changes, self._before = {}, []
        return [f"Saved {self.name}." if before != after else f"{self.name} said all this already.", *remarks]


def _typed(key: str, value: object) -> object:
    """A value as the schema understands it, or as it is where it does not."""
    try:
        return checked(key, value, "")
    except ValueError:
        return value
