"""The worker's IPython shell: cells, magics, `display` and plots work in it; what they show leaves as messages."""

from __future__ import annotations

import sys
import traceback
import types
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

from IPython.core.autocall import ExitAutocall
from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from traitlets import default
from traitlets.config import Config

Show = Callable[..., None]
_WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


class _Publisher(DisplayPublisher):
    show: Show | None = None

    def publish(
        self,
        data: Any,
        metadata: Any = None,
        source: Any = None,
        *,
        transient: Any = None,
        update: Any = False,
        **_: Any,
    ) -> None:
        if self.show is not None:
            kind = "update" if update else "display"
            self.show(kind, data=_without_widgets(data), metadata=metadata or {}, transient=transient or {})

    def clear_output(self, wait: bool = False) -> None:
        if self.show is not None:
            self.show("clear", wait=wait)


class _Hook(DisplayHook):
    """Shows the value of a cell's last expression; the number before it is the kernel's to write."""

    show: Show | None = None

    def write_output_prompt(self) -> None:
        pass

    def write_format_data(self, format_dict: Any, md_dict: Any = None) -> None:
        if self.show is not None:
            self.show("result", data=_without_widgets(format_dict), metadata=md_dict or {})


def _without_widgets(data: Any) -> Any:
    """A widget that was made in a worker has no model in the kernel: the notebook would show an error in its place."""
    return {kind: content for kind, content in data.items() if kind != _WIDGET_VIEW}


class _Exit(ExitAutocall):
    """`exit` and `quit` end what runs, as in a script."""

    def __call__(self, code: object = None) -> NoReturn:
        raise SystemExit(code)


class WorkerShell(InteractiveShell):
    """A shell without history, prompt or terminal, whose cells' errors are left to the kernel to show."""

    def init_virtualenv(self) -> None:
        """Modules come from where the kernel's do: VIRTUAL_ENV may name another environment, with another torch."""

    def showtraceback(self, *args: Any, running_compiled_code: bool = False, **kwargs: Any) -> None:
        """A cell's own error is the kernel's to show; one of a display or a callback is shown, and the cell goes on."""
        if not running_compiled_code and not isinstance(sys.exc_info()[1], SystemExit):
            super().showtraceback(*args, running_compiled_code=running_compiled_code, **kwargs)

    def showsyntaxerror(self, *args: Any, **kwargs: Any) -> None:
        pass

    @default("exiter")  # type: ignore[untyped-decorator]
    def _exiter_default(self) -> ExitAutocall:
        return _Exit(self)

    def connect(self, show: Show) -> None:
        """From now on, what is shown goes to `show(kind, data=, metadata=, transient=, wait=)`."""
        self.display_pub.show = show
        self.displayhook.show = show

    def remember(self, error: BaseException) -> None:
        """Let `%debug` find the frames of an error."""
        trace = user_frames(error)
        sys.last_type, sys.last_value, sys.last_traceback = type(error), error, trace
        sys.last_exc = error  # type: ignore[attr-defined]  # where Python 3.12 and IPython look first
        self.InteractiveTB.tb = trace

    def traceback_of(self, error: BaseException, colors: str) -> tuple[str, ...]:
        """The lines that IPython would show for an error."""
        self._use_colors(colors)
        kind, trace = type(error), user_frames(error)
        if isinstance(error, SyntaxError) and trace is None:
            return tuple(self.SyntaxTB.structured_traceback(kind, error, []))
        return tuple(self.InteractiveTB.structured_traceback(kind, error, trace, tb_offset=0))

    def _use_colors(self, colors: str) -> None:
        if str(getattr(self, "colors", "")).lower() == colors.lower():
            return
        try:
            self.set_trait("colors", colors)
        except Exception:  # noqa: BLE001 - a theme that only the kernel knows; traitlets raises its own classes
            self.set_trait("colors", "nocolor")


def user_frames(error: BaseException) -> types.TracebackType | None:
    """The part of an error's traceback that is the user's: without nbaccel's and IPython's frames on top."""
    trace = error.__traceback__
    while trace is not None and _is_machinery(trace.tb_frame.f_globals.get("__name__", "")):
        trace = trace.tb_next
    return trace or error.__traceback__


def last_place(error: BaseException) -> str:
    """The innermost line of the notebook's code that an error passed through, with its source."""
    found = ""
    for frame in traceback.extract_tb(user_frames(error)):
        if frame.filename.startswith("<ipython-input-") or "ipykernel_" in frame.filename or not found:
            found = f"line {frame.lineno}:  {frame.line}"
    return found


def _is_machinery(module: str) -> bool:
    return module.startswith(("nbaccel.worker", "IPython.core", "contextlib"))


def _show_help(shell: WorkerShell, data: Any, *_: Any, **__: Any) -> None:
    """What `name?` would show in a pager goes to the cell."""
    shell.display_pub.publish(data if isinstance(data, dict) else {"text/plain": data})


def make_shell() -> WorkerShell:
    """The shell of this process, on a fresh `__main__`; made once, in the zygote, and inherited by its workers."""
    if not WorkerShell.initialized():
        sys.modules["__main__"] = types.ModuleType("__main__")
        _make_on_main()
    shell: WorkerShell = WorkerShell.instance()
    return shell


def make_shell_of_kernel() -> None:
    """In a copy of the kernel: its shell gives way to a worker's, on the kernel's own names."""
    if InteractiveShell.initialized():
        type(InteractiveShell.instance()).clear_instance()
    _make_on_main()
    inline = sys.modules.get("matplotlib_inline.backend_inline")
    if inline is not None:  # it draws at the end of the kernel's cells, and has been told so once
        WorkerShell.instance().events.register("post_execute", inline.flush_figures)


def _make_on_main() -> None:
    config = Config()
    config.HistoryManager.enabled = False
    config.HistoryAccessor.enabled = False
    made = WorkerShell.instance(
        config=config,
        user_module=sys.modules["__main__"],
        display_pub_class=_Publisher,
        displayhook_class=_Hook,
        colors="nocolor",
    )
    made.set_hook("show_in_pager", _show_help)
    # what IPython says to somebody who sits at a terminal
    warnings.filterwarnings("ignore", "To exit: use", UserWarning, append=True)
    sys.displayhook = sys.__displayhook__
    for prompt in ("ps1", "ps2", "ps3"):  # libraries take them for somebody who types
        if hasattr(sys, prompt):
            delattr(sys, prompt)
