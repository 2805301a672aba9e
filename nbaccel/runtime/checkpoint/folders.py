"""Folders of checkpoints: how they are numbered, made at once, mended after a crash, and thinned out.

A checkpoint comes into being beside its place, or, where there is a folder already, inside it:

    checkpoints/.checkpoint_3.unfinished/    becomes checkpoints/checkpoint_3 by one rename
    out/.unfinished/                         its files move to out/ once its manifest is there; a crash among the
                                             moves is mended by moving the rest
"""

from __future__ import annotations

import os
import re
import shutil
from contextlib import suppress
from pathlib import Path

from nbaccel.runtime.checkpoint.files import sync_folder
from nbaccel.runtime.checkpoint.manifest import FILE, read_manifest, trouble_with

HOME = "checkpoints"
"""Folder of numbered checkpoints, inside the project's."""
_NUMBERED = re.compile(r"checkpoint_(\d+)")
_LEFTOVER = re.compile(r"\.checkpoint_\d+\.(unfinished|deleted)")
_INSIDE = ".unfinished"


def numbered(home: Path) -> dict[int, Path]:
    """Checkpoints in a folder by their numbers, in order."""
    with suppress(OSError):
        found = {int(match[1]): path for path in home.iterdir() if (match := _NUMBERED.fullmatch(path.name))}
        return {number: found[number] for number in sorted(found)}
    return {}


def number_of(folder: Path) -> int | None:
    """The number in a checkpoint's name."""
    match = _NUMBERED.fullmatch(folder.name)
    return int(match[1]) if match else None


def clean(home: Path) -> None:
    """Remove what crashes have left among numbered checkpoints."""
    with suppress(FileNotFoundError):
        for path in list(home.iterdir()):
            if _LEFTOVER.fullmatch(path.name):
                shutil.rmtree(path)


def begin(target: Path) -> Path:
    """Make an empty folder in which a checkpoint can come into being.

    Args:
        target: where the checkpoint is to be.
    """
    mend(target)
    staging = target / _INSIDE if target.exists() else target.with_name(f".{target.name}.unfinished")
    if staging.exists():
        shutil.rmtree(staging)
    staging.mkdir(parents=True)
    return staging


def commit(staging: Path, target: Path) -> None:
    """Put a complete checkpoint, manifest included, into its place."""
    sync_folder(staging)
    if staging.parent != target:
        os.rename(staging, target)
        sync_folder(target.parent)
    else:
        mend(target)


def discard(staging: Path) -> None:
    """Give up a checkpoint that is not complete; one whose files are being moved is left to `mend`."""
    if not (staging / FILE).exists():
        shutil.rmtree(staging, ignore_errors=True)


def mend(target: Path) -> None:
    """Finish moving a checkpoint's files to where they belong, if a crash came among the moves."""
    staging = target / _INSIDE
    try:
        fresh = read_manifest(staging)
    except (OSError, ValueError):
        return
    if fresh is None:
        return
    stale = _files_of(target) - set(fresh.files)
    for name in fresh.files:
        if (staging / name).exists():  # else it was moved before the crash
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(staging / name, target / name)
    for name in stale:
        with suppress(FileNotFoundError):
            (target / name).unlink()
    for folder in {(target / name).parent for name in fresh.files} | {target}:
        sync_folder(folder)
    os.replace(staging / FILE, target / FILE)
    sync_folder(target)
    shutil.rmtree(staging)


def _files_of(target: Path) -> set[str]:
    """The files of the checkpoint that is there; others in the folder are the user's."""
    with suppress(OSError, ValueError):
        old = read_manifest(target)
        return set() if old is None else set(old.files)
    return set()


def thin_out(home: Path, limit: int) -> None:
    """Remove numbered checkpoints until `limit` complete ones are left, the newest always among them."""
    complete = [path for path in numbered(home).values() if not trouble_with(path, thorough=False)]
    kept = set(complete[-limit:])
    newest = number_of(complete[-1]) if complete else None
    for number, path in numbered(home).items():
        if path not in kept and newest is not None and number < newest:
            remove(path)


def remove(folder: Path) -> None:
    """Remove a checkpoint; a crash does not leave half of it under its name."""
    gone = folder.with_name(f".{folder.name}.deleted")
    if gone.exists():
        shutil.rmtree(gone)
    os.rename(folder, gone)
    shutil.rmtree(gone)
