"""What a cell shows of a flood."""

from __future__ import annotations

import random
import re
import time

import pytest

from nbaccel.launch.clip import HEAD_CHARACTERS, HEAD_LINES, TAIL_CHARACTERS, TAIL_LINES, Clip, collapse

ALL = 10**12


def terminal(text: str) -> list[str]:
    """The lines that a terminal shows, without colours; the last one up to its cursor and from there on."""
    lines, line, column = [], "", 0
    for item in re.findall(r"\x1b\[[0-9]*[mK]|.", text, re.DOTALL):
        if item == "\n":
            lines.append(line)
            line, column = "", 0
        elif item == "\r":
            column = 0
        elif item == "\x1b[K":
            line = line[:column]
        elif not item.startswith("\x1b["):
            line = line[:column] + item + line[column + 1 :]
            column += 1
    return [*lines, line[:column], line[column:]]


def shown(pieces: list[tuple[int, str]]) -> str:
    return "".join(text for _, text in pieces)


def test_little_text_passes_as_it_is() -> None:
    clip = Clip()
    assert clip.feed(1, "a\nb") == [(1, "a\nb")]
    assert clip.feed(2, "warning\n") == [(2, "warning\n")]
    assert clip.feed(1, "") == []
    assert clip.finish() == []
    assert (clip.overflowing, clip.left_out_lines, clip.left_out_characters, clip.last_line) == (False, 0, 0, "")


def test_of_a_flood_the_first_and_the_last_lines_are_shown() -> None:
    clip = Clip()
    head = shown([piece for number in range(10_000) for piece in clip.feed(1, f"line {number}\n")])
    tail = shown(clip.finish())
    assert head.splitlines() == [f"line {number}" for number in range(HEAD_LINES)]
    assert tail.splitlines() == [f"line {number}" for number in range(10_000 - TAIL_LINES, 10_000)]
    assert clip.overflowing
    assert clip.left_out_lines == 10_000 - HEAD_LINES - TAIL_LINES
    assert clip.left_out_characters == sum(len(f"line {number}\n") for number in range(HEAD_LINES, 10_000 - TAIL_LINES))


def test_one_piece_may_hold_the_beginning_and_the_end() -> None:
    clip = Clip(head_lines=2, tail_lines=3)
    assert clip.feed(1, "".join(f"{number}\n" for number in range(10))) == [(1, "0\n1\n")]
    assert clip.finish() == [(1, "7\n8\n9\n")]
    assert (clip.left_out_lines, clip.left_out_characters) == (5, 10)


def test_nothing_is_left_out_if_the_end_holds_all_that_did_not_fit() -> None:
    clip = Clip(head_lines=1, tail_lines=2)
    clip.feed(1, "a\nb\n")
    clip.feed(1, "c\n")
    assert clip.overflowing
    assert clip.finish() == [(1, "b\nc\n")]
    assert (clip.left_out_lines, clip.left_out_characters) == (0, 0)


def test_exactly_as_many_lines_as_fit_are_no_overflow() -> None:
    clip = Clip(head_lines=2)
    assert clip.feed(1, "a\nb\n") == [(1, "a\nb\n")]
    assert not clip.overflowing
    assert clip.feed(1, "c") == []
    assert clip.overflowing


def test_both_streams_keep_their_order_in_the_end() -> None:
    clip = Clip(head_lines=0, tail_lines=3)
    for number in range(3):
        clip.feed(1, f"out {number}\n")
        clip.feed(2, f"err {number}\n")
    assert clip.finish() == [(2, "err 1\n"), (1, "out 2\n"), (2, "err 2\n")]
    assert clip.finish() == []


def test_long_lines_fill_the_beginning_too_which_ends_with_a_line() -> None:
    clip = Clip(head_characters=10, tail_characters=10)
    assert clip.feed(1, "12345\n1234567\n12345\n") == [(1, "12345\n")]
    assert clip.finish() == [(1, "12345\n")]
    assert (clip.left_out_lines, clip.left_out_characters) == (1, 8)


@pytest.mark.parametrize("piece", [1, 1_000, 1 << 20])
def test_text_without_any_newline_is_bounded(piece: int) -> None:
    clip = Clip(head_characters=5_000, tail_characters=3_000)
    num_pieces = 10_000 // piece + 1
    head = shown([text for _ in range(num_pieces) for text in clip.feed(1, "x" * piece)])
    assert len(head) == 5_000
    assert len(shown(clip.finish())) == 3_000
    assert clip.left_out_characters == num_pieces * piece - 8_000


def test_a_line_that_is_too_long_is_not_cut_where_another_may_still_come_whole() -> None:
    clip = Clip(head_characters=10)
    assert clip.feed(1, "1234\n") == [(1, "1234\n")]
    assert clip.feed(1, "1234567890\n") == []
    assert clip.finish() == [(1, "1234567890\n")]


def test_states_of_a_bar_are_reduced_to_what_can_be_seen() -> None:
    assert collapse("a\nabcdef\rxy\nb") == "a\nxycdef\nb"
    assert collapse("abcdef\rxy\n", fresh=True) == "xycdef\n"
    assert collapse("\r 10%\r 20%\r 30%") == "\r 30%"
    assert collapse("\r 10%\r 20%\r 30%", fresh=True) == "\r 30%"
    assert collapse("one\r\ntwo\r\n") == "one\ntwo\n"
    assert collapse("10%\r20%\r", fresh=True) == "20%\r"
    assert collapse("Epoch 1\n\b\b\b\b\r 1/9\b\b\b\b\r 2/9") == "Epoch 1\n 2/9"


def test_an_open_line_keeps_its_cursors_place() -> None:
    assert collapse("abcdef\rwxyz\rxy", fresh=True) == "abcdef\rwxyz\rxy"
    assert terminal(collapse("abcdef\rxy", fresh=True)) == ["xy", "cdef"]
    assert collapse("more\rab\rcd") == "more\rcd"


def test_colours_take_no_room_and_an_erased_line_is_forgotten() -> None:
    red, end = "\x1b[31m", "\x1b[0m"
    assert collapse(f"\r{red}10%{end}\r{red}20%{end}\n") == f"\r{red}20%{end}\n"
    assert collapse("\rlong line\r\x1b[2Kshort\rother") == "\r\x1b[2Kshort\rother"
    assert collapse("\rlong line\r\x1b[Kab") == "\r\x1b[Kab"


def test_what_moves_the_cursor_up_stays() -> None:
    assert collapse("\r1\n\r10%\x1b[A\r2") == "\r1\n\r10%\x1b[A\r2"
    assert collapse("\rab\b\rc\b") == "\rab\rc\b"


def test_a_bars_updates_are_no_flood_however_many() -> None:
    clip = Clip()
    for number in range(100_000):
        assert clip.feed(2, f"\rstep {number:6}: loss 0.1234, 12.5 steps/s") != []
    assert not clip.overflowing
    clip = Clip()
    for number in range(100_000):  # this one returns at the end of its states
        clip.feed(2, f"step {number:6}: loss 0.1234, 12.5 steps/s\r")
    assert not clip.overflowing


def test_in_one_piece_a_bars_updates_are_one_state() -> None:
    clip = Clip()
    assert clip.feed(2, "".join(f"\r{number:6}" for number in range(100_000))) == [(2, "\r 99999")]


def test_a_bar_that_grows_counts_for_what_it_adds() -> None:
    clip = Clip(head_characters=10)
    assert clip.feed(1, "\r1234") == [(1, "\r1234")]
    assert clip.feed(1, "\r123456789") == [(1, "\r123456789")]
    assert clip.feed(1, "\r123") == [(1, "\r123")]
    assert clip.feed(1, "456789") == [(1, "456789")]
    assert clip.feed(1, "01") == [(1, "0")]
    assert clip.finish() == [(1, "1")]


def test_while_overflowing_a_bar_keeps_one_line_and_pushes_nothing_out() -> None:
    clip = Clip(head_lines=0, tail_characters=100)
    clip.feed(1, "important\n")
    for number in range(10_000):
        clip.feed(1, f"\r{number:4}/9999 steps")
    assert clip.last_line == "9999/9999 steps"
    clip.feed(1, "\n")
    assert clip.finish() == [(1, "important\n\r9999/9999 steps\n")]
    assert clip.left_out_lines == 0


def test_the_last_line_is_what_a_terminal_shows_of_it() -> None:
    clip = Clip(head_lines=0)
    clip.feed(1, "first\n")
    assert clip.last_line == "first"
    clip.feed(1, "\x1b[1mabcdef\x1b[0m\rxy")
    assert clip.last_line == "xycdef"
    clip.feed(2, "loss")
    clip.feed(2, " = 3\n\n  \n")
    assert clip.last_line == "loss = 3"


def test_a_terminal_shows_the_same_of_what_is_left() -> None:
    chance = random.Random(0)
    kinds = ["a", "bcd", "efghij", "\r", "\r\n", "\n", "\x1b[K", "\x1b[31m"]
    for number in range(2_000):
        rare = number % 2 / 2
        text = "".join(chance.choices(kinds, weights=[3, 3, 2, 5, 1, 1, rare, rare], k=30))
        size = chance.randint(1, 12)
        pieces = [text[start : start + size] for start in range(0, len(text), size)]
        passing, keeping = Clip(ALL, ALL), Clip(0, 0, ALL, ALL)
        passed = shown([out for piece in pieces for out in passing.feed(1, piece)])
        assert [out for piece in pieces for out in keeping.feed(1, piece)] == []
        assert terminal(passed) == terminal(text)
        assert terminal(shown(keeping.finish())) == terminal(text)


def test_every_line_is_shown_or_counted() -> None:
    chance = random.Random(1)
    for _ in range(300):
        clip = Clip(20, 300, 7, 100)
        pieces = ["".join(chance.choices(["a", "bcd", "\n"], k=chance.randint(0, 60))) for _ in range(30)]
        streams = [chance.choice([1, 2]) for _ in pieces]
        head = shown([piece for stream, text in zip(streams, pieces, strict=True) for piece in clip.feed(stream, text)])
        tail, everything = shown(clip.finish()), "".join(pieces)
        assert everything.startswith(head)
        assert everything.endswith(tail)
        assert len(head) + clip.left_out_characters + len(tail) == len(everything)
        assert (head + tail).count("\n") + clip.left_out_lines == everything.count("\n")
        assert head.count("\n") <= 20
        assert tail.count("\n") <= 7
        assert len(head) <= 300
        assert len(tail) <= 100


def test_the_limits_hold_for_large_pieces() -> None:
    clip = Clip()
    piece = ("x" * 7000 + "\n") * 40
    head = shown([text for _ in range(20) for text in clip.feed(1, piece)])
    tail = shown(clip.finish())
    assert HEAD_CHARACTERS - 7001 < len(head) <= HEAD_CHARACTERS
    assert TAIL_CHARACTERS - 7001 < len(tail) <= TAIL_CHARACTERS


@pytest.mark.parametrize(
    ("line", "head_lines"),
    [("loss 0.123\n", 0), ("loss 0.123\n", ALL), ("loss 0.123\r\n", 0), ("loss 0.123\r\n", ALL), ("\r 9%\r 10%\n", 0)],
)
def test_a_million_lines_a_second(line: str, head_lines: int) -> None:
    clip = Clip(head_lines, ALL)
    piece = line * ((256 << 10) // len(line))
    fastest_s = float("inf")
    for _ in range(5):  # the best of a few: other processes may need the machine meanwhile
        started = time.perf_counter()
        clip.feed(1, piece)
        fastest_s = min(fastest_s, time.perf_counter() - started)
    assert piece.count("\n") / fastest_s > 1_000_000
