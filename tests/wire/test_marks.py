from __future__ import annotations

import itertools

from nbaccel.wire.marks import MarkSplitter, mark_bytes


def test_marks_are_found_however_the_bytes_are_cut() -> None:
    data = b"one" + mark_bytes("t0ken", 1) + b"two\x1b[31m" + mark_bytes("t0ken", 23) + b"\x1b"
    for first, second in itertools.combinations(range(len(data) + 1), 2):
        splitter = MarkSplitter("t0ken")
        items = [item for part in (data[:first], data[first:second], data[second:]) for item in splitter.feed(part)]
        marks = [item for item in items if isinstance(item, int)]
        assert marks == [1, 23]
        text = b"".join(item if isinstance(item, bytes) else b"|" for item in items) + splitter.flush()
        assert text == b"one|two\x1b[31m|\x1b"


def test_a_mark_of_another_launch_is_text() -> None:
    splitter = MarkSplitter("mine")
    other = mark_bytes("other", 1)
    assert b"".join(splitter.feed(other + b"x")) + splitter.flush() == other + b"x"


def test_plain_text_is_not_kept_back() -> None:
    assert MarkSplitter("t").feed(b"progress 50%\r") == [b"progress 50%\r"]
