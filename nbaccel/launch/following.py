"""Following a job: what it lets be seen goes to a screen, and its questions to the user."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from typing import Any, Protocol

from nbaccel.errors import RunInterrupted
from nbaccel.launch.events import Bar, Event, Flood, Lasting, Note, Question, Rich, Text
from nbaccel.launch.job import Job
from nbaccel.wire.messages import Reply, Shown


class Screen(Protocol):
    """Where a face shows what workers print and draw."""

    colors: str
    """IPython's colour scheme for tracebacks, empty for plain ones."""

    def begin(self, ranks: Sequence[int]) -> None:
        """A run begins on these ranks; the first one is shown as it is."""

    def watch(self, job: Job, *, lasts: bool) -> None:
        """Show more of a run than its output, if wanted: at its begin, and when it has proved to be no short one."""

    def text(self, stream: int, text: str) -> None:
        """Show text of standard output (1) or standard error (2)."""

    def rich(self, rank: int, shown: Shown) -> None:
        """Show rich output."""

    def bar(self, rank: int, fields: Any) -> None:
        """Show a progress bar's new state."""

    def note(self, text: str) -> None:
        """Tell the user something about the run itself."""

    def flood(self, news: Flood) -> None:
        """Tell how much text is left out, and where all of it is."""

    def ask(self, rank: int, prompt: str, *, password: bool) -> str:
        """Ask the user. Raises EOFError, or IPython's StdinNotImplementedError, where nobody can be asked."""

    def handle(self, job: Job) -> None:
        """Show the handle of a job in the background, in its place; again when it is over."""

    def end(self) -> None:
        """The run is over, well or not."""


def follow(job: Job, screen: Screen) -> dict[int, Any]:
    """Show what comes of a job until it is over; an interrupt stops the job, a second one kills it.

    Returns what each rank gave back. Raises what `Job.result` raises.
    """
    screen.begin(job.ranks)
    try:
        screen.watch(job, lasts=False)
        _show_all(job, screen)
    finally:
        if not job.done():
            job.stop()
        screen.end()
    return job.values()


def follow_in_background(job: Job, screen: Screen, take: Callable[[Any], object] = lambda result: None) -> None:
    """Show what comes of a job from a thread, and bring its results home when it is over.

    Args:
        job: the job.
        screen: where to show it; its error too, since nobody may ever ask for that.
        take: gets the result, if there is one.
    """
    screen.handle(job)
    threading.Thread(target=_follow_quietly, args=(job, screen, take), name="nbaccel-follow", daemon=True).start()


def _follow_quietly(job: Job, screen: Screen, take: Callable[[Any], object]) -> None:
    screen.begin(job.ranks)
    screen.watch(job, lasts=False)
    try:
        _show_until_end(job, screen)
        screen.end()
        error = _bring_home(job, take)
    finally:
        screen.handle(job)
    if error is not None:
        screen.text(2, "\n".join(_rendered(error)) + "\n")


def _bring_home(job: Job, take: Callable[[Any], object]) -> BaseException | None:
    """Returns what went wrong; None also for a job that was cancelled."""
    try:
        take(job.result())
    except CancelledError:
        return None
    except (Exception, RunInterrupted) as error:  # noqa: BLE001 - a result may refuse to come home in any way
        return error
    return None


def _rendered(error: BaseException) -> list[str]:
    render = getattr(error, "_render_traceback_", None)
    return render() if render is not None else [f"{type(error).__name__}: {error}"]


def _show_all(job: Job, screen: Screen) -> None:
    while True:
        try:
            return _show_until_end(job, screen)
        except KeyboardInterrupt:  # noqa: PERF203 - one try for each interrupt, not for each event
            job.stop()


def _show_until_end(job: Job, screen: Screen) -> None:
    while (event := job.next_event()) is not None:
        show(event, job, screen)


def show(event: Event, job: Job, screen: Screen) -> None:
    """Show one event."""
    if isinstance(event, Text):
        screen.text(event.stream, event.text)
    elif isinstance(event, Rich):
        screen.rich(event.rank, event.shown)
    elif isinstance(event, Bar):
        screen.bar(event.rank, event.fields)
    elif isinstance(event, Note):
        screen.note(event.text)
    elif isinstance(event, Flood):
        screen.flood(event)
    elif isinstance(event, Lasting):
        screen.watch(job, lasts=True)
    else:
        job.answer(event.rank, _asked(event, screen))


def _asked(question: Question, screen: Screen) -> Reply:
    try:
        return Reply(question.number, screen.ask(question.rank, question.prompt, password=question.password))
    except Exception as error:  # noqa: BLE001 - frontends refuse in their own ways
        return Reply(question.number, None, f"the notebook cannot be asked ({error}).")
