"""The ledger of a session: what is sent, what is kept, what is replaced. Each story is one row of a table."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from nbaccel.launch.ledger import Ledger, Sending

BOTH = (0, 1)


class Thing:
    """Something that the kernel's names can be bound to."""


@dataclass
class Notebook:
    """A kernel's names beside the ledger of a session of two ranks."""

    ledger: Ledger = field(default_factory=lambda: Ledger(BOTH))
    names: dict[str, object] = field(default_factory=dict)

    def cell(self, *used: str, ranks: tuple[int, ...] = BOTH, needs: frozenset[str] = frozenset()) -> Sending:
        """A cell that uses these names runs on these ranks; what is sent needs others."""
        sending = self.ledger.to_send(used, self.names, ranks)
        self.ledger.note_sent(sending, self.names, needs, ranks)
        return sending


Step = Callable[[Notebook], object]


def binds(*names: str) -> Step:
    """The kernel binds names to objects that it has not had before."""
    return lambda notebook: notebook.names.update({name: Thing() for name in names})


def forgets(name: str) -> Step:
    """The kernel deletes a name."""
    return lambda notebook: notebook.names.pop(name)


def runs(*used: str, ranks: tuple[int, ...] = BOTH, needs: str = "") -> Step:
    """A cell that uses these names runs; `needs` is what these need in turn."""
    return lambda notebook: notebook.cell(*used, ranks=ranks, needs=frozenset(needs.split()))


def worker_binds(rank: int, *names: str) -> Step:
    """A rank binds names itself."""
    return lambda notebook: notebook.ledger.note_bound(rank, names, ())


def worker_deletes(rank: int, *names: str) -> Step:
    """A rank deletes names."""
    return lambda notebook: notebook.ledger.note_bound(rank, (), names)


def comes_home(*names: str) -> Step:
    """Names are pulled: the kernel's objects and the workers' are the same from now on."""

    def pull(notebook: Notebook) -> None:
        values: dict[str, object] = {name: Thing() for name in names}
        notebook.names.update(values)
        notebook.ledger.note_same(values)

    return pull


def loses(rank: int, *names: str, keep: str = "") -> Step:
    """What was last sent to a rank did not arrive; `keep` is what it was to keep if it had it."""
    return lambda notebook: notebook.ledger.note_lost(rank, names, keep.split())


def prunes(notebook: Notebook) -> None:
    notebook.ledger.prune(notebook.names)


@dataclass(frozen=True)
class Story:
    """What has happened, the names that a cell uses then, and what must travel."""

    title: str
    steps: tuple[Step, ...]
    used: str
    ranks: tuple[int, ...] = BOTH
    sends: str = ""
    keeps: str = ""
    replaces: str = ""


STORIES = (
    # lacking names
    Story("a name that ranks lack is sent", (binds("x"),), "x", sends="x", keeps="x"),
    Story("a name that the kernel lacks too is not", (), "x"),
    Story("a name that the cell does not use is not", (binds("x", "y"),), "x", sends="x", keeps="x"),
    Story("names go in the order of their use", (binds("x", "y"),), "y x", sends="y x", keeps="x y"),
    Story("a name that is used twice goes once", (binds("x"),), "x x", sends="x", keeps="x"),
    Story("what one rank of those asked lacks is sent", (binds("x"), runs("x", ranks=(0,))), "x", sends="x", keeps="x"),
    Story("what another rank lacks does not count", (binds("x"), runs("x", ranks=(0,))), "x", ranks=(0,)),
    Story("a name that only the workers have is theirs", (worker_binds(0, "x"), worker_binds(1, "x")), "x"),
    Story(
        "the rank that bound a name keeps it when another lacks it",
        (worker_binds(0, "x"), binds("x")), "x", sends="x", keeps="x",
    ),
    Story(
        "a name that a rank has deleted is sent again, and kept by the other",
        (binds("x"), runs("x"), worker_deletes(1, "x")), "x", sends="x", keeps="x",
    ),
    Story("a deletion on another rank does not", (binds("x"), runs("x"), worker_deletes(1, "x")), "x", ranks=(0,)),
    # sent names
    Story("what was sent is not sent again", (binds("x"), runs("x")), "x"),
    Story("a name that is bound to another object is sent again", (binds("x"), runs("x"), binds("x")), "x", sends="x"),
    Story("once", (binds("x"), runs("x"), binds("x"), runs("x")), "x"),
    Story("it goes to ranks that lack it too", (binds("x"), runs("x", ranks=(0,)), binds("x")), "x", sends="x"),
    Story("a name that the kernel has deleted is not sent", (binds("x"), runs("x"), forgets("x")), "x"),
    Story(
        "a name that the kernel deleted and bound again is sent",
        (binds("x"), runs("x"), forgets("x"), prunes, binds("x")), "x", sends="x",
    ),
    # names that the workers have bound themselves
    Story("what a worker has bound anew is its own", (binds("x"), runs("x"), worker_binds(0, "x")), "x"),
    Story(
        "it is replaced when the kernel binds the name anew, and that is told",
        (binds("x"), runs("x"), worker_binds(0, "x"), binds("x")), "x", sends="x", replaces="x",
    ),
    Story(
        "it is told once",
        (binds("x"), runs("x"), worker_binds(0, "x"), binds("x"), runs("x"), binds("x")), "x", sends="x",
    ),
    Story(
        "a name that a rank kept as its own is told when it is replaced",
        (worker_binds(0, "x"), binds("x"), runs("x"), binds("x")), "x", sends="x", replaces="x",
    ),
    Story(
        "only what was theirs is told",
        (binds("x", "y"), runs("x", "y"), worker_binds(1, "y"), binds("x", "y")), "x y", sends="x y", replaces="y",
    ),
    # names that came home
    Story("what came home is the same on both sides", (worker_binds(0, "x"), comes_home("x")), "x", ranks=(0,)),
    Story(
        "after that nobody's own is replaced",
        (binds("x"), runs("x"), worker_binds(0, "x"), comes_home("x"), binds("x")), "x", sends="x",
    ),
    Story(
        "a worker may make it its own again",
        (binds("x"), runs("x"), comes_home("x"), worker_binds(0, "x"), binds("x")), "x", sends="x", replaces="x",
    ),
    # needs
    Story("what a sent name needs is there with it", (binds("f", "g"), runs("f", "g", needs="g")), "f"),
    Story(
        "a need that is bound anew is sent when the name is used",
        (binds("f", "g"), runs("f", "g", needs="g"), binds("g")), "f", sends="g",
    ),
    Story(
        "needs of needs are followed",
        (binds("f", "g", "x"), runs("x"), runs("g", needs="x"), runs("f", needs="g"), binds("x")), "f", sends="x",
    ),
    Story(
        "needs that go in circles end",
        (binds("f", "g"), runs("f", "g", needs="f g"), binds("g")), "f", sends="g",
    ),
    Story(
        "a need that a worker deleted is sent",
        (binds("f", "g"), runs("f", "g", needs="g"), worker_deletes(0, "g")), "f", sends="g", keeps="g",
    ),
    Story(
        "what an earlier object needed does not count",
        (binds("f", "g"), runs("f", "g", needs="g"), binds("f", "g")), "f", sends="f",
    ),
    Story(
        "needs outlive a way home",
        (binds("f", "g"), runs("f", "g", needs="g"), comes_home("f"), binds("g")), "f", sends="g",
    ),
    Story(
        "a need that the kernel has no more is not sent",
        (binds("f", "g"), runs("f", "g", needs="g"), worker_deletes(0, "g"), forgets("g")), "f",
    ),
    # what got lost on the way
    Story("what a rank did not get is sent again", (binds("x"), runs("x"), loses(1, "x", keep="x")), "x",
          sends="x", keeps="x"),
    Story("the rank that got it needs nothing", (binds("x"), runs("x"), loses(1, "x", keep="x")), "x", ranks=(0,)),
    Story(
        "a newer object that got lost is sent again, over the older one",
        (binds("x"), runs("x"), binds("x"), runs("x"), loses(0, "x")), "x", sends="x",
    ),
    # pruning
    Story("pruning changes nothing of what is the same", (binds("x"), runs("x"), prunes), "x"),
    Story("what was pruned is sent again", (binds("x"), runs("x"), binds("x"), prunes), "x", sends="x"),
    Story(
        "and told if it was theirs",
        (binds("x"), runs("x"), worker_binds(0, "x"), binds("x"), prunes), "x", sends="x", replaces="x",
    ),
)  # fmt: skip


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.title)
def test_a_story_ends_as_the_rules_say(story: Story) -> None:
    notebook = Notebook()
    for step in story.steps:
        step(notebook)
    expected = Sending(tuple(story.sends.split()), frozenset(story.keeps.split()), tuple(story.replaces.split()))
    assert notebook.ledger.to_send(story.used.split(), notebook.names, story.ranks) == expected


def test_an_equal_object_is_another_one() -> None:
    notebook = Notebook(names={"x": [1]})
    notebook.cell("x")
    notebook.names["x"] = [1]
    assert notebook.cell("x").names == ("x",)


def test_none_in_place_of_an_object_that_is_gone_is_another_one() -> None:
    notebook = Notebook(names={"x": Thing()})
    notebook.cell("x")
    notebook.names["x"] = None
    gc.collect()
    prunes(notebook)
    assert notebook.cell("x").names == ("x",)


def test_a_change_inside_an_object_is_not_seen() -> None:
    box = [1]
    notebook = Notebook(names={"x": box})
    notebook.cell("x")
    box.append(2)
    assert notebook.cell("x").names == ()


def test_deciding_changes_nothing() -> None:
    notebook = Notebook(names={"x": Thing()})
    first, second = (notebook.ledger.to_send(["x"], notebook.names, BOTH) for _ in range(2))
    assert first == second
    assert notebook.ledger.there() == set()


def test_it_knows_who_has_what() -> None:
    notebook = Notebook(names={"x": Thing()})
    notebook.cell("x", ranks=(0,))
    notebook.ledger.note_bound(1, ("mine",), ())
    assert notebook.ledger.there() == {"x", "mine"}
    assert [notebook.ledger.has(rank, "x") for rank in BOTH] == [True, False]
    notebook.ledger.note_bound(0, (), ("x",))
    assert notebook.ledger.there() == {"mine"}


def test_a_name_that_was_bound_and_deleted_on_different_ranks_is_there_on_one() -> None:
    ledger = Ledger(BOTH)
    ledger.note_bound(0, ("x",), ())
    ledger.note_bound(1, (), ("x",))
    assert [ledger.has(rank, "x") for rank in BOTH] == [True, False]


def test_what_was_sent_is_not_kept_alive() -> None:
    notebook = Notebook(names={"x": Thing()})
    notebook.cell("x")
    watched = weakref.ref(notebook.names["x"])
    del notebook.names["x"]
    gc.collect()
    assert watched() is None


@pytest.mark.parametrize("rebound", [True, False], ids=["bound anew", "deleted"])
def test_pruning_lets_go_of_what_the_names_no_longer_are(rebound: bool) -> None:
    notebook = Notebook(names={"x": [Thing()]})  # a list knows no weak references: the ledger holds it
    notebook.cell("x")
    watched = weakref.ref(notebook.names["x"][0])  # type: ignore[index]
    notebook.names = {"x": [Thing()]} if rebound else {}
    gc.collect()
    assert watched() is not None
    prunes(notebook)
    gc.collect()
    assert watched() is None


def test_pruning_lets_go_of_what_came_home() -> None:
    notebook = Notebook()
    values = {"x": [Thing()]}
    watched = weakref.ref(values["x"][0])
    notebook.ledger.note_same(values)
    del values
    prunes(notebook)
    gc.collect()
    assert watched() is None
