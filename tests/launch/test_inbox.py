"""The inbox of a team's thread."""

from __future__ import annotations

import select

from nbaccel.launch.inbox import Inbox


def is_readable(inbox: Inbox[int]) -> bool:
    poll = select.poll()
    poll.register(inbox.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def test_its_descriptor_tells_that_something_has_come() -> None:
    inbox: Inbox[int] = Inbox()
    assert not is_readable(inbox)
    assert inbox.put(1)
    assert inbox.put(2)
    assert is_readable(inbox)
    inbox.clear_signal()
    assert [inbox.take(), inbox.take(), inbox.take()] == [1, 2, None]
    assert not is_readable(inbox)
    inbox.close()


def test_what_nobody_took_comes_back_and_nothing_more_goes_in() -> None:
    inbox: Inbox[int] = Inbox()
    inbox.put(1)
    assert inbox.close() == [1]
    assert not inbox.put(2)
