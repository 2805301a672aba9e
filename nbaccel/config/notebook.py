"""This notebook's own layer: what `%accelerate set` and the form put there; it lives as long as the kernel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from nbaccel.config.layers import Layer, Setting


@dataclass
class NotebookLayer:
    """Settings of this notebook, with undo."""

    _settings: dict[str, Setting] = field(default_factory=dict)
    _before: list[dict[str, Setting]] = field(default_factory=list)

    def layer(self) -> Layer:
        """The settings as they are now."""
        return dict(self._settings)

    def update(self, values: Mapping[str, object], place: str) -> None:
        """Set keys (dotted), as one step of undo. They are checked where they are resolved."""
        self._before.append(dict(self._settings))
        self._settings |= {name: Setting(value, "notebook", place) for name, value in values.items()}

    def unset(self, *names: str) -> None:
        """Forget keys, or all of them, as one step of undo."""
        self._before.append(dict(self._settings))
        for name in names or list(self._settings):
            self._settings.pop(name, None)

    def replace(self, settings: Layer) -> None:
        """Put other settings in place of all of them, as one step of undo."""
        self._before.append(dict(self._settings))
        self._settings = dict(settings)

    def undo(self) -> bool:
        """Take the last step back. Returns False if there is none."""
        if not self._before:
            return False
        self._settings = self._before.pop()
        return True


NOTEBOOK = NotebookLayer()
"""The layer of this process."""
