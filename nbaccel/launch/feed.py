"""A job's feed: everything that its ranks print and draw, kept whole, and cut to what a cell can show."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from nbaccel.launch.board import Board
from nbaccel.launch.clip import Clip
from nbaccel.launch.events import Backlog, Bar, Event, Flood, Lasting, Metrics, Note, Question, Rich, Text
from nbaccel.launch.log import Log, LogFolder
from nbaccel.launch.output import Policy
from nbaccel.wire.messages import Ask, Point, Shown

_FLOOD_NEWS_S = 0.5
LASTING_S = 2.0
"""A run that has taken so long is no short one."""


class Feed:
    """Takes what ranks print in one thread, hands out what is to be seen in another.

    Attributes:
        board: what the run is at.
    """

    def __init__(self, policy: Policy, number: int, ranks: Sequence[int] = (0,)) -> None:
        self.board = Board(ranks)
        self._policy = policy
        self._folder = LogFolder(number)
        self._logs: dict[int, Log] = {}
        self._clip = Clip()
        self._backlog = Backlog()
        self._told_flood = 0.0
        self._closed = False
        self._late: Callable[[Event], None] | None = None
        self._began_s: float | None = None
        self._lasts = False

    # called by the thread that reads from the workers

    def text(self, rank: int, stream: int, text: str, now: float) -> None:
        if self._closed:
            self._put_late(stream, text if rank == 0 else f"[{rank}] {text}")
            return
        self.log(rank).append(stream, text)
        self._show(self._policy.feed(rank, stream, text, now))

    def rich(self, rank: int, shown: Shown, now: float) -> None:
        self._show([Rich(rank, shown)] if self._closed else self._policy.rich(rank, shown, now))

    def bar(self, rank: int, fields: Mapping[str, object]) -> None:
        bar = Bar(rank, fields)
        self.board.take(bar)
        self._put(bar)

    def metrics(self, rank: int, points: tuple[Point, ...]) -> None:
        """Numbers that a rank has logged, one at least."""
        self.board.take(Metrics(rank, points))

    def ask(self, rank: int, question: Ask) -> None:
        self._put(Question(rank, question.number, question.prompt, question.password))

    def note(self, text: str) -> None:
        """Say something about the run itself."""
        self._put(Note(text))

    def tick(self, now: float) -> None:
        """Show what has waited long enough."""
        self._show(self._policy.tick(now))
        self._began_s = now if self._began_s is None else self._began_s
        if not self._lasts and now - self._began_s >= LASTING_S:
            self._lasts = True
            self._put(Lasting())
        if self._clip.left_out_characters and now - self._told_flood > _FLOOD_NEWS_S:
            self._told_flood = now
            self._tell_flood(over=False)

    def close(self) -> None:
        """Show what is left; nothing more comes, except late words of what the run left behind in the workers."""
        self._show(self._policy.finish())
        if self._clip.left_out_characters:
            self._tell_flood(over=True)
        for stream, text in self._clip.finish():
            self._put(Text(stream, text))
        for log in self._logs.values():
            log.close()
        self._closed, self._clip = True, Clip()

    def end(self) -> None:
        """After `close`: whoever shows it need not wait for more."""
        self._backlog.put(None)

    def show_late(self, how: Callable[[Event], None]) -> None:
        """What a session's workers print after the end is shown by `how`, in the thread that reads from them."""
        self._late = how

    def has_room(self) -> bool:
        return self._backlog.has_room()

    def log(self, rank: int) -> Log:
        """All text of a rank."""
        if rank not in self._logs:
            self._logs[rank] = Log(self._folder, rank)
        return self._logs[rank]

    def tail(self, rank: int, characters: int) -> str:
        """The last that a rank has printed; from any thread."""
        log = self._logs.get(rank)
        return "" if log is None else log.tail(characters)

    # called by whoever shows it

    def next_event(self, is_over: Callable[[], bool]) -> Event | None:
        """Waits for the next thing to be seen; None at the end."""
        return self._backlog.get(is_over)

    def _show(self, pieces: Sequence[tuple[int, str] | Rich]) -> None:
        for piece in pieces:
            if isinstance(piece, Rich):
                self._put(piece)
                continue
            for stream, text in self._clip.feed(*piece):
                self._put(Text(stream, text))
        if self._clip.overflowing:
            self._policy = self._policy.in_flood()

    def _put_late(self, stream: int, text: str) -> None:
        """What the run has left behind may go on printing for ever: its beginning is enough."""
        if self._clip.overflowing:
            return
        for piece in self._clip.feed(stream, text):
            self._put(Text(*piece))
        if self._clip.overflowing:
            self._put(Note("what its workers go on printing after its end is left out from here on."))

    def _put(self, event: Event) -> None:
        if not self._closed:
            self._backlog.put(event)
        elif self._late is not None:
            self._late(event)

    def _tell_flood(self, *, over: bool) -> None:
        for log in self._logs.values():
            log.to_disk()
        self._put(Flood(self._clip.left_out_lines, self._clip.last_line, self._folder.path, over))
