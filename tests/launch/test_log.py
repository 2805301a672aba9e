"""Where a rank's text goes."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from nbaccel.launch.log import MEMORY_CHARACTERS, MOST_FOLDERS, Log, LogFolder


@pytest.fixture
def folder(tmp_path: Path) -> LogFolder:
    return LogFolder(7, tmp_path)


def pid_of_the_dead() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def test_little_text_stays_in_memory(folder: LogFolder, tmp_path: Path) -> None:
    log = Log(folder, 0)
    log.append(1, "out\n")
    log.append(2, "err\n")
    assert log.text() == "out\nerr\n"
    assert (log.tail(4), log.tail(0), log.tail(100)) == ("err\n", "", "out\nerr\n")
    log.close()
    assert (log.path, folder.path, list(tmp_path.iterdir())) == (None, None, [])


def test_much_text_goes_into_a_file_that_holds_the_whole(folder: LogFolder, tmp_path: Path) -> None:
    log = Log(folder, 3)
    pieces = [f"{number} wörter\n" * 5_000 for number in range(10)]
    for piece in pieces:
        log.append(1, piece)
    assert log.path is not None
    assert log.path.parent == folder.path
    assert re.fullmatch(
        rf"nbaccel-{os.getuid()}/\d{{8}}-\d{{6}}-{os.getpid()}-7/rank-3\.log", str(log.path.relative_to(tmp_path))
    )
    assert log.text() == log.path.read_text() == "".join(pieces)
    assert log.tail(9) == "9 wörter\n"
    log.close()
    assert log.text() == "".join(pieces)


def test_the_limit_is_exact(folder: LogFolder) -> None:
    log = Log(folder, 0)
    log.append(1, "x" * MEMORY_CHARACTERS)
    assert log.path is None
    log.append(1, "x")
    assert log.path is not None
    assert log.path.stat().st_size == MEMORY_CHARACTERS + 1
    log.close()


def test_a_file_can_be_read_while_it_grows(folder: LogFolder) -> None:
    log = Log(folder, 0, memory_characters=0)
    log.append(1, "a")
    assert log.text() == "a"
    log.append(1, "b")
    assert log.text() == "ab"
    log.close()


def test_after_it_was_closed_a_log_takes_no_more_text(folder: LogFolder) -> None:
    log = Log(folder, 0)
    log.append(1, "a")
    log.close()
    log.append(1, "b")
    log.close()
    assert log.text() == "a"


def test_what_is_no_unicode_is_spelled_out(folder: LogFolder) -> None:
    log = Log(folder, 0, memory_characters=0)
    log.append(1, "a\udcffb")
    log.close()
    assert log.text() == "a\\udcffb"


def test_only_this_user_may_look_into_the_folder(folder: LogFolder) -> None:
    path = folder.make()
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert folder.make() == path


def test_the_folder_lies_among_the_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert LogFolder(1).make().parent.parent == tmp_path


@pytest.mark.parametrize("trap", ["link", "dangling link", "file", "open to all"])
def test_a_folder_that_is_not_safe_is_left_alone(trap: str, tmp_path: Path) -> None:
    expected = tmp_path / f"nbaccel-{os.getuid()}"
    elsewhere = tmp_path / "elsewhere"
    if trap == "file":
        expected.write_text("")
    elif trap == "open to all":
        expected.mkdir()
        expected.chmod(0o777)
    else:
        expected.symlink_to(elsewhere)
    if trap == "link":
        elsewhere.mkdir(mode=0o700)
    path = LogFolder(1, tmp_path).make()
    assert path.parent.name.startswith(f"{expected.name}-")
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert LogFolder(2, tmp_path).make().parent == path.parent
    assert not elsewhere.exists() or list(elsewhere.iterdir()) == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder to somebody else")
def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    expected = tmp_path / f"nbaccel-{os.getuid()}"
    expected.mkdir(mode=0o700)
    os.chown(expected, 12345, -1)
    assert LogFolder(1, tmp_path).make().parent != expected


def test_old_folders_are_removed_but_none_of_a_living_process(tmp_path: Path) -> None:
    home = LogFolder(0, tmp_path).make().parent
    dead = pid_of_the_dead()
    for number in range(30):
        (home / f"20240101-0000{number:02}-{dead}-1").mkdir()
        (home / f"20240101-0000{number:02}-{dead}-1" / "rank-0.log").write_text("old")
    living = home / f"20230101-000000-{os.getppid()}-1"
    foreign = home / "notes"
    living.mkdir()
    foreign.mkdir()
    newest = LogFolder(1, tmp_path).make()
    left = {path.name for path in home.iterdir()}
    assert {living.name, foreign.name, newest.name} <= left
    assert len(left - {living.name, foreign.name}) == MOST_FOLDERS
    assert f"20240101-000029-{dead}-1" in left


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no disk that is always full")
def test_a_full_disk_ends_the_log_not_the_run(folder: LogFolder) -> None:
    (folder.make() / "rank-0.log").symlink_to("/dev/full")
    log = Log(folder, 0, memory_characters=3)
    log.append(1, "abc")
    log.append(1, "def")
    assert log.problem is not None
    assert log.problem.startswith("the text of rank 0 is not kept any further: ")
    assert "No space left" in log.problem
    log.append(1, "ghi")
    assert (log.text(), log.path) == ("abc", None)
    log.close()


def test_a_disk_that_fills_up_later_leaves_what_was_written(folder: LogFolder) -> None:
    code = (
        "import resource, sys; from pathlib import Path; from nbaccel.launch.log import Log, LogFolder\n"
        "log = Log(LogFolder(1, Path(sys.argv[1])), 0, memory_characters=0)\n"
        "log.append(1, 'a' * 500)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "log.append(1, 'b' * 1000); log.append(1, 'c'); log.close()\n"
        "assert log.problem is not None and 'too large' in log.problem, log.problem\n"
        "assert log.text() == 'a' * 500 + 'b' * 500\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code, str(folder.make())], check=True)


def test_a_folder_that_cannot_be_made_ends_the_log_not_the_run(tmp_path: Path) -> None:
    log = Log(LogFolder(1, tmp_path / "missing"), 5, memory_characters=0)
    log.append(1, "a")
    assert log.problem is not None
    assert "rank 5" in log.problem
    assert log.text() == ""


def test_a_short_text_goes_to_disk_when_it_is_asked_to(tmp_path: Path) -> None:
    log = Log(LogFolder(1, tmp_path), 0)
    log.append(1, "short\n")
    log.to_disk()
    log.to_disk()
    log.append(1, "more\n")
    log.close()
    assert log.path is not None
    assert log.path.read_text() == log.text() == "short\nmore\n"
