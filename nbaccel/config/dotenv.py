"""The project's `.env` file: variables that only this project has."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

from nbaccel.config.files.find import DOTENV, project_folder, shown
from nbaccel.config.files.parse import read_text
from nbaccel.config.secrets import masked_line
from nbaccel.errors import ConfigFileError


def read_dotenv(start: Path) -> Mapping[str, tuple[str, str]]:
    """The variables of the `.env` file in the project's folder, each with its place; empty without a file.

    Args:
        start: the working folder; without a project file, the `.env` there.

    Raises:
        ConfigFileError: a line is no assignment.
    """
    path = (project_folder(start) or start) / DOTENV
    if not path.is_file():
        return {}
    from dotenv.parser import parse_stream

    name, found = shown(path), {}
    for binding in parse_stream(io.StringIO(read_text(path, name))):
        written = binding.original.string
        blank = written[: len(written) - len(written.lstrip())]
        place = f"{name}:{binding.original.line + blank.count(chr(10))}"
        if binding.error or "\0" in written or (binding.key is not None and binding.value is None):
            line = masked_line(written.strip())
            raise ConfigFileError(place, "this is no assignment", "Write NAME=value.", line)
        if binding.key is not None and binding.value is not None:
            found[binding.key] = (binding.value, place)
    return found
