"""Loggers that know on which rank they are."""

from __future__ import annotations

import logging
import os
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any

import torch.distributed as dist

from nbaccel.plan import topology_of
from nbaccel.runtime.groups import default_group
from nbaccel.runtime.world import current_world

if TYPE_CHECKING:
    _Adapter = logging.LoggerAdapter[logging.Logger]
else:
    _Adapter = logging.LoggerAdapter


class MultiProcessAdapter(_Adapter):
    """A logger that speaks on the main process alone, unless it is asked otherwise.

    Each call takes, beside what Python's loggers take:

        main_process_only (True): False lets every rank speak.
        in_order (False): the ranks speak one after the other. All must make the call.

    It needs no `Accelerator` and no state object; without them the rank is what the launcher wrote.
    """

    def log(self, level: int, msg: object, *args: Any, **kwargs: Any) -> None:
        """Log at a level; see the class for what it takes."""
        main_process_only = kwargs.pop("main_process_only", True)
        in_order = kwargs.pop("in_order", False)
        if not self.isEnabledFor(level):
            return
        kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1  # the caller's line, not this one
        rank, size = _place()
        if in_order and not main_process_only and size > 1 and default_group() is not None:
            world = current_world()
            for turn in range(size):
                if turn == rank:
                    self._say(level, msg, args, kwargs)
                world.barrier()
        elif rank == 0 or not main_process_only:
            self._say(level, msg, args, kwargs)

    def _say(self, level: int, msg: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        kwargs["stacklevel"] += 1
        text, kwargs = self.process(msg, kwargs)  # type: ignore[assignment]  # it is a dict
        self.logger.log(level, text, *args, **kwargs)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Put the rank before the message."""
        return f"[RANK {_place()[0]}] {msg}", kwargs

    def warning_once(self, msg: object, *args: Any, **kwargs: Any) -> None:
        """A warning that is given only the first time that this logger is asked for it with these arguments."""
        key = (self.logger.name, str(msg), repr(args), repr(sorted(kwargs.items())))
        if key not in _Said.known:
            _Said.known.add(key)
            kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1
            self.log(logging.WARNING, msg, *args, **kwargs)


class _Said:
    known: set[tuple[str, str, str, str]] = set()  # noqa: RUF012 - shared by all loggers


def _place() -> tuple[int, int]:
    """Rank and number of processes."""
    if default_group() is not None:
        return dist.get_rank(), dist.get_world_size()
    told = topology_of(os.environ)
    return told.rank, told.world_size


def get_logger(name: str, log_level: str | None = None) -> MultiProcessAdapter:
    """A logger for code that runs on several ranks.

    Args:
        name: as for `logging.getLogger`.
        log_level: lowest level to let through, as `INFO`; left out: the variable ACCELERATE_LOG_LEVEL, else it stays.
            Other loggers keep theirs.

    Returns:
        A logger whose calls also take `main_process_only` and `in_order`; see `MultiProcessAdapter`.
    """
    logger = logging.getLogger(name)
    level = log_level or os.environ.get("ACCELERATE_LOG_LEVEL")
    if level:
        logger.setLevel(level.upper())
    return MultiProcessAdapter(logger, {})
