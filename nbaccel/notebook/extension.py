"""`%load_ext nbaccel`: registers the magic and warms the zygote in the background. Light: the rest is loaded on use."""

from __future__ import annotations

import sys
import threading
from contextlib import suppress
from typing import Any

_MAGIC = "accelerate"


def load_ipython_extension(shell: Any) -> None:
    """Called by `%load_ext nbaccel`; calling it again changes nothing."""
    _unhook(shell)
    shell.register_magic_function(_Magic(shell), "line_cell", _MAGIC)
    shell.debugger = _Debugger(shell)
    shell.events.register("post_run_cell", _Follower(shell))
    shell.set_custom_completer(_complete)
    _offer_words(shell)
    threading.Thread(target=_warm, name="nbaccel-warm", daemon=True).start()


def unload_ipython_extension(shell: Any) -> None:
    """Called by `%unload_ext nbaccel`: takes the magic away, ends the session and lets the zygote go."""
    _unhook(shell)
    for kind in ("line", "cell"):
        shell.magics_manager.magics[kind].pop(_MAGIC, None)
    from nbaccel.launch import zygote

    session = _session()
    if session is not None:
        session.close()
    running = zygote.current()
    if running is not None:
        running.stop()


class _Magic:
    """The magic's function; its documentation, shown by `%%accelerate?`, is made when it is asked for."""

    __name__ = _MAGIC

    def __init__(self, shell: Any) -> None:
        self._shell = shell

    def __call__(self, line: str, cell: str | None = None) -> Any:
        if cell is None:
            from nbaccel.notebook.commands import run_line

            return run_line(self._shell, line)
        from nbaccel.notebook.magics import run_cell

        return run_cell(self._shell, line, cell)

    @property
    def __doc__(self) -> str:  # type: ignore[override]
        from nbaccel.notebook.flags import help_text

        return help_text()


class _Debugger:
    """What `%debug` opens: after an error in a worker, the debugger where the frames are, or where they went."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell

    def __call__(self, force: bool = False) -> None:
        errors = sys.modules.get("nbaccel.errors")
        error = getattr(sys, "last_value", None)
        if errors is None or not isinstance(error, errors.WorkerError):
            type(self._shell).debugger(self._shell, force=force)
        elif _session() is not None and error.of_session:
            from nbaccel.notebook.commands import debug_rank

            debug_rank(self._shell, error.rank)
        else:
            print(
                f"The error was raised on rank {error.rank}, in a worker that is gone, and its frames with it. To look "
                "at them, run the cell in a session (%accelerate start) and then %debug, or in the kernel itself: "
                "%%accelerate -n 1 --start-method inline."
            )


class _Follower:
    """After each cell: lets the zygote import what the kernel has imported, and the session let go of what is gone.

    Attributes:
        failed: numbers of the cells that ended with an error.
    """

    def __init__(self, shell: Any) -> None:
        self._seen = 0
        self.failed: set[int] = set()

    def __call__(self, result: Any = None) -> None:
        if result is not None and not result.success and result.execution_count is not None:
            self.failed.add(result.execution_count)
        session = _session()
        if session is not None:
            session.let_go()
        if len(sys.modules) == self._seen:
            return
        self._seen = len(sys.modules)
        threading.Thread(target=_follow, name="nbaccel-follow", daemon=True).start()


def _session() -> Any:
    """The running session; nothing is imported to find out that there is none."""
    sessions = sys.modules.get("nbaccel.notebook.session")
    return sessions.current() if sessions is not None else None


def _complete(_completer: object, text: str) -> list[str]:
    """Names that live in the session's workers."""
    session = _session()
    return sorted(name for name in session.names if name.startswith(text)) if session is not None else []


def _offer_words(shell: Any) -> None:
    """Completes the magic's lines, and keeps other completers from them; IPython below 8.6 has another place for it."""
    completer = shell.Completer
    try:
        from IPython.core.completer import SimpleCompletion, context_matcher
    except ImportError:
        completer.magic_arg_matchers.append(lambda _line: _words(shell, completer.text_until_cursor))
        return

    @context_matcher(identifier="nbaccel.accelerate")  # type: ignore[untyped-decorator]
    def match(context: Any) -> dict[str, Any]:
        words = [SimpleCompletion(text=word) for word in _words(shell, context.text_until_cursor)]
        return {"completions": words, "suppress": True, "ordered": True}

    completer.custom_matchers.append(match)


def _words(shell: Any, before: str) -> list[str]:
    """What can stand at the cursor on a line of the magic."""
    if _MAGIC not in before:
        return []
    from nbaccel.notebook.completing import Known, complete

    def known() -> Known:
        session = _session()
        names = sorted(name for name in shell.user_ns if name not in shell.user_ns_hidden and name[0] != "_")
        functions = [name for name in names if callable(shell.user_ns[name])]
        workers = sorted(session.names) if session is not None else []
        return Known(names, functions, workers, session.ranks if session is not None else ())

    return complete(before, known) or []


def _unhook(shell: Any) -> None:
    for callback in list(shell.events.callbacks["post_run_cell"]):
        if isinstance(callback, _Follower):
            shell.events.unregister("post_run_cell", callback)
    if isinstance(shell.__dict__.get("debugger"), _Debugger):
        del shell.debugger
    completer = shell.Completer
    for matchers in (getattr(completer, name, None) for name in ("custom_matchers", "matchers", "magic_arg_matchers")):
        if isinstance(matchers, list):
            matchers[:] = [one for one in matchers if not _is_ours(one)]


def _is_ours(matcher: Any) -> bool:
    return getattr(matcher, "__func__", None) is _complete or getattr(matcher, "__module__", "") == __name__


def _warm() -> None:
    from nbaccel import launch
    from nbaccel.launch import call, oneshot  # noqa: F401 - the first launch should not wait for these imports

    launch.warm()


def _follow() -> None:
    from nbaccel.launch import zygote

    running = zygote.current()
    if running is not None:
        with suppress(OSError):  # it has just died: the next launch starts another
            running.follow(sys.modules)
