"""What a fresh interpreter is told to import from."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

import nbaccel
from nbaccel.launch.interpreter import installed_path, is_installed


@pytest.mark.parametrize("folder", ["/home/me/.local/lib/python3.11/site-packages", "/usr/lib/python3/dist-packages"])
def test_a_kernel_that_is_installed_for_the_user_or_the_system_hands_its_packages_on(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [f"{folder}/ipykernel_launcher.py"])
    monkeypatch.setattr(sys, "path", ["", folder])
    assert folder in installed_path()
    assert is_installed(f"{folder}/transformers/__init__.py")


def test_the_files_beside_the_notebook_are_not_handed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", str(tmp_path), os.__file__.rpartition("/")[0]])
    assert str(tmp_path) not in installed_path()
    assert os.path.dirname(os.__file__) in installed_path()
    assert not is_installed(str(tmp_path / "random.py"))


def test_what_imports_skip_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "libraries").mkdir()
    monkeypatch.setattr(sys, "path", [tmp_path, b"bytes", None, str(tmp_path / "libraries")])
    assert installed_path()[0] == str(tmp_path / "libraries")
    assert all(isinstance(entry, str) for entry in installed_path())


def test_workers_find_the_nbaccel_of_the_kernel_before_any_other_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other" / "nbaccel").mkdir(parents=True)
    home = str(Path(nbaccel.__file__).parents[1])
    monkeypatch.chdir(home)
    monkeypatch.setattr(sys, "path", [home, str(tmp_path), str(tmp_path / "other")])
    assert installed_path() == [str(tmp_path), home, str(tmp_path / "other")]
