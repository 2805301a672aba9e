"""The pure parts of a launch: order, output, stopping, environment."""

from __future__ import annotations

import signal
from dataclasses import dataclass

from nbaccel.config import call_layer, resolve
from nbaccel.launch import events
from nbaccel.launch.clip import HEAD_LINES
from nbaccel.launch.environment import worker_environ
from nbaccel.launch.events import Rich, Text
from nbaccel.launch.feed import Feed
from nbaccel.launch.order import PATIENCE_S, Order
from nbaccel.launch.output import HOLD_S, LONGEST_HOLD_S, policy_for
from nbaccel.launch.stopping import INTERRUPT, NOW, Escalation, Pressing
from nbaccel.plan import Plan, Rendezvous
from nbaccel.wire.marks import mark_bytes
from nbaccel.wire.messages import Shown


@dataclass(frozen=True)
class Note:
    mark: int


def test_a_message_waits_for_its_mark_and_text_for_its_message() -> None:
    order = Order("t")
    assert order.text(1, b"print 1\n" + mark_bytes("t", 1) + b"print 2\n") == [Text(1, "print 1\n")]
    assert order.text(2, mark_bytes("t", 1)) == []
    assert order.message(Note(1), 0.0) == [Note(1), Text(1, "print 2\n")]


def test_a_message_that_comes_first_waits_for_both_streams() -> None:
    order = Order("t")
    assert order.message(Note(1), 0.0) == []
    assert order.text(1, b"a" + mark_bytes("t", 1)) == [Text(1, "a")]
    assert order.text(2, b"b" + mark_bytes("t", 1)) == [Text(2, "b"), Note(1)]


def test_a_swallowed_mark_holds_nothing_up_for_long() -> None:
    order = Order("t")
    order.message(Note(1), 0.0)
    assert order.expire(PATIENCE_S / 2) == []
    assert order.expire(PATIENCE_S) == [Note(1)]
    assert order.text(1, mark_bytes("t", 2) + b"x") == []
    assert order.text(2, mark_bytes("t", 2)) == []
    assert order.message(Note(2), 1.0) == [Note(2), Text(1, "x")]


def test_at_the_end_everything_comes_out() -> None:
    order = Order("t")
    order.text(1, "héllo".encode()[:2] + b"")
    order.text(1, "héllo".encode()[2:] + mark_bytes("t", 1) + b"last\x1b")
    assert order.finish() == [Text(1, "last"), Text(1, "\x1b")]


def shown(pieces: list[tuple[int, str] | Rich]) -> str:
    return "".join(f"<{piece.rank}>" if isinstance(piece, Rich) else piece[1] for piece in pieces)


def test_main_shows_rank_0_alone() -> None:
    policy = policy_for("main")
    assert policy.feed(0, 1, "a\n", 0.0) == [(1, "a\n")]
    assert policy.feed(1, 1, "b\n", 0.0) + policy.finish() == []


def test_all_labels_the_lines_of_the_others() -> None:
    policy = policy_for("all", "<{}>".format)
    assert policy.feed(1, 2, "a\nb", 0.0) == [(2, "<1>a\n")]
    assert policy.feed(1, 2, "c\n", 0.0) == [(2, "<1>bc\n")]
    policy.feed(2, 1, "rest", 0.0)
    assert policy.finish() == [(1, "<2>rest\n")]


def test_auto_shows_of_the_others_what_differs() -> None:
    policy = policy_for("auto")
    out = policy.feed(1, 1, "same\nmine 1\n", 0.0)
    out += policy.feed(0, 1, "same\nmine 0\n", 0.1)
    out += policy.tick(0.1)
    out += policy.tick(HOLD_S)
    assert shown(out) == "same\nmine 0\n"
    assert shown(policy.tick(0.1 + HOLD_S)) == "[1] mine 1\n"


def test_auto_does_not_wait_for_ever_while_rank_0_goes_on() -> None:
    policy = policy_for("auto")
    policy.feed(1, 1, "mine 1\n", 0.0)
    policy.feed(0, 1, "mine 0\n", LONGEST_HOLD_S - 0.1)
    assert policy.tick(LONGEST_HOLD_S - 0.1) == []
    assert shown(policy.tick(LONGEST_HOLD_S)) == "[1] mine 1\n"


def picture(data: str, kind: str = "display") -> Shown:
    return Shown(kind, 0, {"image/png": data})


def test_auto_shows_a_picture_that_all_ranks_draw_once() -> None:
    policy = policy_for("auto")
    out = (
        policy.feed(1, 1, "before\n", 0.0) + policy.rich(1, picture("same"), 0.0) + policy.rich(1, picture("mine"), 0.0)
    )
    out += policy.feed(0, 1, "before\n", 0.1) + policy.rich(0, picture("same"), 0.1)
    assert shown(out + policy.finish()) == "before\n<0>[1]\n<1>"


def test_other_ranks_can_neither_clear_the_cell_nor_lose_their_value() -> None:
    for mode in ("auto", "all", "main"):
        assert policy_for(mode).rich(1, picture("", "clear"), 0.0) == []
        assert shown(policy_for(mode).rich(1, picture("7", "result"), 0.0)) == "<1>"
    assert policy_for("main").rich(1, picture("mine"), 0.0) == []
    assert shown(policy_for("all").rich(1, picture("mine"), 0.0)) == "[1]\n<1>"


def test_auto_counts_equal_lines() -> None:
    policy = policy_for("auto")
    policy.feed(0, 1, "x\n", 0.0)
    policy.feed(1, 1, "x\nx\n", 0.0)
    assert shown(policy.finish()) == "[1] x\n"


def test_auto_keeps_only_the_last_state_of_a_progress_bar() -> None:
    policy = policy_for("auto")
    for percent in range(100):
        policy.feed(1, 2, f"\r{percent}%", 0.0)
    assert shown(policy.finish()) == "[1] 99%\n"


def test_an_equal_bar_of_another_rank_is_an_echo_however_it_was_cut() -> None:
    policy = policy_for("auto")
    policy.feed(0, 2, "\r 50%| [a]\r100%| [00:03, 16it/s]\n", 0.0)
    for piece in ("\r 50%| [b]", "\r100%| ", "[00:04, 12it/s]", "\n"):
        policy.feed(1, 2, piece, 0.0)
    assert policy.finish() == []


def test_what_is_left_behind_and_goes_on_printing_is_shown_up_to_a_bound() -> None:
    late: list[events.Event] = []
    feed = Feed(policy_for("main"), 0)
    feed.show_late(late.append)
    feed.close()
    for _ in range(HEAD_LINES // 50):
        feed.text(1, 1, "y\n" * 100, 0.0)
    *texts, note = late
    assert "".join(text.text for text in texts if isinstance(text, Text)).count("\n") == HEAD_LINES
    assert note == events.Note("what its workers go on printing after its end is left out from here on.")


def test_escalation_sends_each_signal_once() -> None:
    escalation = Escalation(10.0, INTERRUPT)
    assert escalation.due(10.0) == [signal.SIGINT]
    assert escalation.due(10.5) == []
    assert escalation.next_at() == 11.0
    assert escalation.due(20.0) == [signal.SIGTERM, signal.SIGKILL]
    assert escalation.next_at() is None


def test_pressing_one_run_leaves_the_others_alone_and_pressing_all_replaces_everything() -> None:
    pressing: Pressing[str] = Pressing()
    pressing.begin([0], INTERRUPT, "a", 0.0)
    pressing.begin([1], INTERRUPT, "b", 10.0)
    assert [(press.whom, number) for press, number in pressing.due(0.0)] == [("a", signal.SIGINT)]
    assert pressing.concerns("a")
    assert pressing.next_at() == 1.0
    pressing.end("a")
    assert not pressing.concerns("a")
    pressing.begin([0, 1], NOW, None, 11.0)
    assert pressing.concerns("a")
    assert [(press.ranks, number) for press, number in pressing.due(11.0)] == [(frozenset({0, 1}), signal.SIGKILL)]
    assert pressing.is_exhausted
    assert pressing.next_at() is None


def test_the_environment_of_a_worker() -> None:
    base = {"HOME": "/home/me", "HF_TOKEN": "secret", "ACCELERATE_GPU_IDS": "1,3"}
    plan = Plan("zygote", "cuda", 2, 2, threads_per_worker=3, visible_gpus="1,3")
    resolved = resolve(call_layer({"mixed_precision": "bf16"}), environ={})
    environ = worker_environ(base, plan, resolved, 1, ("127.0.0.1", 5), attempt=2)
    assert base["ACCELERATE_GPU_IDS"] == "1,3"
    assert environ.items() >= {
        "HF_TOKEN": "secret", "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "5", "OMP_NUM_THREADS": "3", "CUDA_VISIBLE_DEVICES": "1,3",
        "ACCELERATE_MIXED_PRECISION": "bf16", "TORCHELASTIC_RESTART_COUNT": "2", "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RUN_ID": "none",
    }.items()  # fmt: skip
    assert "ACCELERATE_GRADIENT_ACCUMULATION_STEPS" not in environ  # a default must not beat a constructor's argument
    assert "ACCELERATE_GPU_IDS" not in environ


def test_several_machines_meet_where_they_were_told() -> None:
    plan = Plan("zygote", "cpu", 4, 2, 1, rendezvous=Rendezvous("host", 1234))
    environ = worker_environ({}, plan, resolve(environ={}), 0, ("host", 1234), 0)
    assert environ["RANK"] == "2"
    assert environ["MASTER_ADDR"] == "host"
    assert "TORCHELASTIC_USE_AGENT_STORE" not in environ
    assert "GLOO_SOCKET_IFNAME" not in environ
    assert environ["ACCELERATE_USE_CPU"] == "true"
