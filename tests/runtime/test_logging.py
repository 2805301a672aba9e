"""Loggers on one process; on several, see `utils_checks.py`."""

from __future__ import annotations

import logging

import pytest

from nbaccel.logging import MultiProcessAdapter, get_logger


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return f"tests.{request.node.name}"


def test_loggers_need_no_state(name: str, caplog: pytest.LogCaptureFixture) -> None:
    logger = get_logger(name, "debug")
    assert isinstance(logger, MultiProcessAdapter)
    logger.debug("one %s", 1)
    logger.error("two", main_process_only=False, in_order=True)
    assert caplog.messages == ["[RANK 0] one 1", "[RANK 0] two"]
    assert {record.funcName for record in caplog.records} == {"test_loggers_need_no_state"}


def test_ranks_are_those_of_the_launcher(
    name: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    logger = get_logger(name, "INFO")
    logger.info("not here")
    logger.info("here", main_process_only=False)
    assert caplog.messages == ["[RANK 1] here"]


def test_warnings_can_be_given_once(name: str, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        get_logger(name).warning_once("careful")
        get_logger(name).warning_once("careful", main_process_only=False)
    assert caplog.messages == ["[RANK 0] careful"] * 2
    assert caplog.records[0].funcName == "test_warnings_can_be_given_once"  # Accelerate: warning_once


def test_levels(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger().level
    monkeypatch.setenv("ACCELERATE_LOG_LEVEL", "warning")
    assert get_logger(name).logger.level == logging.WARNING
    assert get_logger(name, "DEBUG").logger.level == logging.DEBUG
    monkeypatch.delenv("ACCELERATE_LOG_LEVEL")
    assert get_logger(f"{name}.other").logger.level == logging.NOTSET
    assert logging.getLogger().level == root
