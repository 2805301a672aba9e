"""`%load_ext nbaccel`: registers the magic and warms the zygote in the background. Light: the rest is loaded on use."""

from __future__ import annotations

import sys
import threading
from contextlib import suppress
from typing import Any

_MAGIC = "accelerate"


def load_ipython_extension(shell: Any) -> None:
    """Called by `%load_ext nbaccel`; calling it again changes nothing."""
    shell.register_magic_function(_Magic(shell), "line_cell", _MAGIC)
    _unfollow(shell)
    shell.events.register("post_run_cell", _Follower())
    threading.Thread(target=_warm, name="nbaccel-warm", daemon=True).start()


def unload_ipython_extension(shell: Any) -> None:
    """Called by `%unload_ext nbaccel`: takes the magic away and lets the zygote go."""
    _unfollow(shell)
    for kind in ("line", "cell"):
        shell.magics_manager.magics[kind].pop(_MAGIC, None)
    from nbaccel.launch import zygote

    running = zygote.current()
    if running is not None:
        running.stop()


class _Magic:
    """The magic's function; its documentation, shown by `%%accelerate?`, is made when it is asked for."""

    __name__ = _MAGIC

    def __init__(self, shell: Any) -> None:
        self._shell = shell

    def __call__(self, line: str, cell: str | None = None) -> None:
        from nbaccel.notebook.magics import describe_run, run_cell

        if cell is None:
            describe_run(self._shell, line)
        else:
            run_cell(self._shell, line, cell)

    @property
    def __doc__(self) -> str:  # type: ignore[override]
        from nbaccel.notebook.flags import parser

        return parser().format_help()


class _Follower:
    """After each cell: lets the zygote import what the kernel has imported, so that workers find it there."""

    def __init__(self) -> None:
        self._seen = 0

    def __call__(self, _result: object = None) -> None:
        if len(sys.modules) == self._seen:
            return
        self._seen = len(sys.modules)
        threading.Thread(target=_follow, name="nbaccel-follow", daemon=True).start()


def _unfollow(shell: Any) -> None:
    for callback in list(shell.events.callbacks["post_run_cell"]):
        if isinstance(callback, _Follower):
            shell.events.unregister("post_run_cell", callback)


def _warm() -> None:
    from nbaccel import launch
    from nbaccel.launch import call, job  # noqa: F401 - the first launch should not wait for these imports

    launch.warm()


def _follow() -> None:
    from nbaccel.launch import zygote

    running = zygote.current()
    if running is not None:
        with suppress(OSError):  # it has just died: the next launch starts another
            running.follow(sys.modules)
