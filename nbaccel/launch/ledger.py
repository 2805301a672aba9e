"""A session's ledger: which names its workers have, what the kernel has sent them, and what must be sent again. Pure.

The rules: a name that a cell uses and its ranks lack is sent. A name that was sent is sent again when the kernel has
bound it to another object since; changes inside the same object need a push. What a rank has bound itself is its own:
over a name that was sent it is replaced only when the kernel binds that anew later, and never silently; over one that
was never sent it stays.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass


def _reference(value: object) -> Callable[[], object]:
    """A reference that does not keep large things alive; numbers, text and built-in containers know no such thing."""
    try:
        reference = weakref.ref(value)
    except TypeError:
        return lambda: value
    # a dead reference gives None, which is what the kernel's name may be bound to by now
    return lambda: _gone if (found := reference()) is None else found


def _gone() -> object:
    """In place of a reference to something that the kernel's name no longer is."""
    return _gone


@dataclass
class _Entry:
    """What is known of a name that was sent.

    Attributes:
        kernels: the kernel's object when both sides were last the same.
        needs: names that it cannot do without.
        is_theirs: whether a worker has bound the name anew since.
    """

    kernels: Callable[[], object]
    needs: frozenset[str]
    is_theirs: bool = False


@dataclass(frozen=True)
class Sending:
    """What has to travel before a cell can run.

    Attributes:
        names: names to send.
        keep: those of them that a rank keeps if it has them.
        replaced: those that workers have bound themselves and that the kernel has bound anew since.
    """

    names: tuple[str, ...]
    keep: frozenset[str]
    replaced: tuple[str, ...]


class Ledger:
    """One session's ledger."""

    def __init__(self, ranks: Iterable[int]) -> None:
        self._there: dict[int, set[str]] = {rank: set() for rank in ranks}
        self._sent: dict[str, _Entry] = {}

    def to_send(self, used: Iterable[str], namespace: Mapping[str, object], ranks: Sequence[int]) -> Sending:
        """Decide what to send.

        Args:
            used: names that the cell uses, and that what is sent along needs.
            namespace: the kernel's names.
            ranks: where the cell runs.
        """
        send: list[str] = []
        keep: set[str] = set()
        replaced: list[str] = []
        for name in self._with_needs(used, namespace):
            entry = self._sent.get(name)
            if entry is not None and entry.kernels() is not namespace[name]:
                send.append(name)
                if entry.is_theirs:
                    replaced.append(name)
            elif any(name not in self._there[rank] for rank in ranks):
                send.append(name)
                keep.add(name)
        return Sending(tuple(send), frozenset(keep), tuple(replaced))

    def _with_needs(self, used: Iterable[str], namespace: Mapping[str, object]) -> list[str]:
        found: dict[str, None] = {}
        waiting = list(used)
        while waiting:
            name = waiting.pop(0)
            if name in found or name not in namespace:
                continue
            found[name] = None
            entry = self._sent.get(name)
            if entry is not None and entry.kernels() is namespace[name]:
                waiting += sorted(entry.needs)
        return list(found)

    def note_sent(
        self, sending: Sending, namespace: Mapping[str, object], needs: frozenset[str], ranks: Sequence[int]
    ) -> None:
        """These names are on their way."""
        for name in sending.names:
            held = [rank for rank in ranks if name in self._there[rank]] if name in sending.keep else []
            self._sent[name] = _Entry(_reference(namespace[name]), needs - {name}, is_theirs=bool(held))
            for rank in ranks:
                self._there[rank].add(name)

    def note_lost(self, rank: int, names: Iterable[str], keep: Collection[str]) -> None:
        """These names did not arrive at a rank: those that it was to keep if it had them it lacks or still has, of the
        others it may have an older object."""
        for name in names:
            if name in keep:
                self._there[rank].discard(name)
            elif name in self._sent:
                self._sent[name].kernels = _gone

    def note_same(self, names: Mapping[str, object]) -> None:
        """After a pull or a push: the kernel's objects and the workers' are the same."""
        for name, value in names.items():
            needs = self._sent[name].needs if name in self._sent else frozenset()
            self._sent[name] = _Entry(_reference(value), needs)

    def note_bound(self, rank: int, bound: Iterable[str], unbound: Iterable[str]) -> None:
        """What a run has changed in a rank's namespace."""
        for name in bound:
            self._there[rank].add(name)
            if name in self._sent:
                self._sent[name].is_theirs = True
        self._there[rank].difference_update(unbound)

    def there(self) -> set[str]:
        """Names that some rank has."""
        return set().union(*self._there.values())

    def has(self, rank: int, name: str) -> bool:
        return name in self._there[rank]

    def prune(self, namespace: Mapping[str, object]) -> None:
        """Let go of what the kernel's names no longer are, so that the ledger keeps nothing alive."""
        for name, entry in self._sent.items():
            if entry.kernels() is not namespace.get(name, _gone):
                entry.kernels = _gone
