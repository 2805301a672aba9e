from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from projects import Project

from nbaccel.config import NOTEBOOK


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """An empty project, which is the working folder too."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return Project(folder, tmp_path / "hub")


@pytest.fixture(autouse=True)
def empty_notebook() -> Iterator[None]:
    """The notebook's layer is one of the process: each test leaves it as it was."""
    assert not NOTEBOOK.layer()
    yield
    while NOTEBOOK.undo():
        pass
