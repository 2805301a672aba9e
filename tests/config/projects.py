"""A project folder of a test's own, with everything that the configuration is read from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nbaccel.config import Layer, Resolved, call_layer, resolve
from nbaccel.errors import NbaccelError


@dataclass(frozen=True)
class Project:
    """A working folder, and a folder of its own for Hugging Face's files.

    Attributes:
        folder: where the project's files lie.
        hub: what HF_HOME names.
    """

    folder: Path
    hub: Path

    def write(self, name: str, content: str | bytes) -> Path:
        """Write a file of the project, with its folders."""
        return _written(self.folder / name, content)

    def write_user(self, content: str, name: str = "default_config.yaml") -> Path:
        """Write the user's own file."""
        return _written(self.hub / "accelerate" / name, content)

    def resolve(
        self,
        *layers: Layer,
        environ: Mapping[str, str] | None = None,
        config_file: str | os.PathLike[str] | None = None,
        params: tuple[str, ...] = (),
    ) -> Resolved:
        """What the configuration is here, with these variables and no others."""
        variables = {"HF_HOME": str(self.hub), **(environ or {})}
        return resolve(*layers, environ=variables, folder=self.folder, config_file=config_file, params=params)

    def values(self, content: str | bytes, name: str = "named.yaml") -> dict[str, object]:
        """What a file alone sets, by key."""
        resolved = self.resolve(config_file=self.write(name, content))
        return {key: resolved.value(key) for key in resolved.given()}

    def error(self, content: str | bytes, name: str = "named.yaml") -> NbaccelError:
        """What is said about a file that cannot be used."""
        return error_of(self, config_file=self.write(name, content))


def error_of(project: Project, *layers: Layer, **given: object) -> NbaccelError:
    """What is said about a configuration that cannot be used."""
    try:
        resolved = project.resolve(*layers, **given)  # type: ignore[arg-type]
    except NbaccelError as error:
        return error
    raise AssertionError(f"no error: {[(key, resolved.value(key)) for key in resolved.given()]}")


def given(layer: str, **values: object) -> Layer:
    """A layer of the caller's; `__` in a name stands for a dot."""
    return call_layer({name.replace("__", "."): value for name, value in values.items()}, layer=layer)


def _written(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path
