"""Every message that travels between the kernel, the zygote and the workers.

    kernel -> zygote   Fork, Preload, TellLeftOut
    zygote -> kernel   LeftOut
    kernel -> worker   Start, RunFunction, RunCell, Reply, Regroup, Exit
    worker -> kernel   Shown, Progress, Metrics, Ask, Done, Failed, Regrouped
    kernel -> monitor  Unblock, Examine
    monitor -> kernel  Waiting, Examined

The monitor is a thread of the worker with a channel of its own: it answers while the worker runs the user's code.
Text does not travel as messages: the kernel reads the workers' stdout and stderr pipes. What must keep its place
between lines of text carries a `mark`: the worker writes the same mark into its pipes (see `wire.marks`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from nbaccel.wire.parcel import Parcel

LAST = 0
"""The mark of a message that ends a run: all text that is in the pipes by then comes before it."""


@dataclass(frozen=True)
class Fork:
    """Fork one worker; the descriptors of `launch.process.WorkerEnds` come along, and the pipe for its status.

    Attributes:
        command: what to execute in it, with `{ends}` in place of the numbers that the descriptors have there;
            empty for a worker that is ready as it is.
    """

    command: tuple[str, ...] = ()


@dataclass(frozen=True)
class Preload:
    """Import these modules while idle, so that later workers find them imported.

    Attributes:
        modules: in the order in which the kernel imported them.
        environ: the kernel's environment: many a library reads its settings from it at its import, never again.
    """

    modules: tuple[str, ...]
    environ: dict[str, str]


@dataclass(frozen=True)
class TellLeftOut:
    """Asks the zygote which modules it does not import ahead."""


@dataclass(frozen=True)
class LeftOut:
    """Modules that are not imported ahead, and why: `device`, `threads`, `fails`, `crashes`."""

    modules: Mapping[str, str]


@dataclass(frozen=True)
class RandomState:
    """States of the kernel's generators; None where the kernel has not imported the library.

    Attributes:
        python: `random.getstate()`.
        numpy: `numpy.random.get_state()`.
        torch: `torch.get_rng_state()` as bytes; None also when nobody seeded or used it since the start.
        fresh: seed for each generator that has no state here; drawn anew for every launch, the same on all ranks.
    """

    python: tuple[object, ...]
    numpy: tuple[object, ...] | None
    torch: bytes | None
    fresh: int


@dataclass(frozen=True)
class WorkerSpec:
    """What one worker must know before it runs anything.

    Attributes:
        rank: its rank.
        environ: its whole environment.
        cwd: the kernel's working folder.
        sys_path: the kernel's `sys.path`.
        argv: the kernel's `sys.argv`.
        threads: threads for torch's CPU operators.
        seed: seeds all generators when given; otherwise `random` is restored.
        random: the kernel's generators.
        marker: token of this launch's marks.
        colors: name of IPython's colour scheme for tracebacks; empty for plain ones.
        world_size: number of ranks, for the store.
        hang_after_s: seconds in a collective after which the kernel is told; None for never.
        stays: true for a worker that runs more than one call.
    """

    rank: int
    world_size: int
    environ: Mapping[str, str]
    cwd: str
    sys_path: tuple[str, ...]
    argv: tuple[str, ...]
    threads: int
    seed: int | None
    random: RandomState
    marker: str
    colors: str = ""
    hang_after_s: float | None = None
    stays: bool = False


@dataclass(frozen=True)
class Start:
    """First message to a worker; the store's listening socket comes along for the rank that serves it."""

    spec: WorkerSpec


@dataclass(frozen=True)
class RunFunction:
    """Call a function; the parcel holds `(function, args, kwargs, names)`. Its descriptors come along.

    Attributes:
        parcel: the call.
        wants_value: whether this rank must send the returned value.
        wants_models: whether this rank must send the state of the modules that came with the call.
        keep: names that stay as they are where this worker has them, though the parcel holds them too.
        number: of the run in its session.
        all_ranks: whether all ranks of the process group run it.
    """

    parcel: Parcel
    wants_value: bool
    wants_models: bool
    keep: frozenset[str] = frozenset()
    number: int = 0
    all_ranks: bool = True


@dataclass(frozen=True)
class RunCell:
    """Run a cell in the worker's IPython shell; the parcel holds the names that it uses.

    Attributes:
        parcel: a mapping of names to values.
        source: the cell, padded so that its lines have the numbers of the cell in the notebook.
        execution_count: the number of the cell in the notebook.
        outputs: names whose values this rank must send back.
        wants_models: whether this rank must send the state of the modules that came with the names.
        keep: as for `RunFunction`.
        number: as for `RunFunction`.
        all_ranks: as for `RunFunction`.
    """

    parcel: Parcel
    source: str
    execution_count: int
    outputs: tuple[str, ...]
    wants_models: bool
    keep: frozenset[str] = frozenset()
    number: int = 0
    all_ranks: bool = True


@dataclass(frozen=True)
class Reply:
    """The answer to an `Ask`.

    Attributes:
        number: of the question.
        text: what was typed; None when nobody can be asked.
        problem: why not.
    """

    number: int
    text: str | None
    problem: str = ""


@dataclass(frozen=True)
class Regroup:
    """After an interrupt: leave the process group and form it anew where the store now is.

    The store's listening socket comes along for the rank that serves it.

    Attributes:
        host: of the new rendezvous store.
        port: of the new rendezvous store.
        again: whether all ranks had a process group, so that a new one is to be formed.
    """

    host: str
    port: int
    again: bool


@dataclass(frozen=True)
class Exit:
    """End the process; nothing more will come."""


@dataclass(frozen=True)
class Shown:
    """Rich output: a display, an update of one, a cleared output, or the value of a cell's last expression.

    Attributes:
        kind: `display`, `update`, `clear` or `result`.
        mark: place among the text.
        data: mime bundle.
        metadata: of the bundle.
        transient: display ids and the like.
        wait: for `clear`: only when the next output comes.
    """

    kind: str
    mark: int
    data: Mapping[str, object] = field(default_factory=dict)
    metadata: Mapping[str, object] = field(default_factory=dict)
    transient: Mapping[str, object] = field(default_factory=dict)
    wait: bool = False


@dataclass(frozen=True)
class Progress:
    """State of a progress bar of `nbaccel.tqdm`: plain values by name (see `runtime.progress`)."""

    mark: int
    fields: Mapping[str, object]


class Point(NamedTuple):
    """Numbers that were logged together; a tuple, since there may be thousands a second.

    Attributes:
        step: where.
        time_s: monotonic time.
        values: numbers by the names of their metrics.
    """

    step: float
    time_s: float
    values: Mapping[str, float]


@dataclass(frozen=True)
class Metrics:
    """What training code has logged since the last such message (see `runtime.tracking.reporting`)."""

    mark: int
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Ask:
    """`input()` was called: the user is to be asked.

    Attributes:
        mark: place among the text.
        number: of the question, from 1.
        prompt: what to ask.
        password: whether the answer must not be seen.
    """

    mark: int
    number: int
    prompt: str
    password: bool


@dataclass(frozen=True)
class Names:
    """What a run changed in a worker's namespace and process group.

    Attributes:
        bound: names that are bound to another object than before.
        unbound: names that are gone.
        group: backend of the default process group and how many collectives it has seen; None without one, an empty
            backend where one has left its traces in the store.
        arrived: whether the names that came with the run are there.
    """

    bound: tuple[str, ...] = ()
    unbound: tuple[str, ...] = ()
    group: tuple[str, int] | None = None
    arrived: bool = True


@dataclass(frozen=True)
class Done:
    """The code ended well. The parcel holds what is to come home; its descriptors come along."""

    mark: int
    parcel: Parcel | None
    names: Names = Names()


@dataclass(frozen=True)
class Failed:
    """The code raised.

    Attributes:
        mark: place among the text.
        type_name: class of the exception.
        message: `str(exception)`.
        traceback: lines to show.
        time_s: monotonic time of the failure.
        exception: parcel with the exception itself, None if it could not be encoded.
        distributed: true for an error of torch.distributed, which often only follows from another rank's failure.
        interrupted: true for a KeyboardInterrupt.
        names: what the code changed before it failed.
        place: the line of the user's code that ran last: `line 5:  time.sleep(600)`.
    """

    mark: int
    type_name: str
    message: str
    traceback: tuple[str, ...]
    time_s: float
    exception: Parcel | None
    distributed: bool
    interrupted: bool
    names: Names = Names()
    place: str = ""


@dataclass(frozen=True)
class Regrouped:
    """The answer to `Regroup`: the process group is as it should be, or what went wrong."""

    mark: int
    problem: str = ""


@dataclass(frozen=True)
class Unblock:
    """The user has interrupted: free the main thread if it waits for other ranks in C code."""


@dataclass(frozen=True)
class Examine:
    """Asks which collectives this rank has reached."""


@dataclass(frozen=True)
class Collective:
    """A collective operation of a process group.

    Attributes:
        name: what it does (`all_reduce`).
        number: its sequence number in the group, from 1.
        group: name of the group.
        waited_s: seconds since it was called.
        shapes: of its inputs.
    """

    name: str
    number: int
    group: str
    waited_s: float
    shapes: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class Waiting:
    """This rank has waited in a collective for longer than `hang_after`."""

    collective: Collective


@dataclass(frozen=True)
class Examined:
    """The answer to `Examine`.

    Attributes:
        waits: collectives that have been called and not completed.
        completed: number of the last completed collective by group name.
        sources: lines of the cells that the main thread is in, by the file names in their code.
    """

    waits: tuple[Collective, ...]
    completed: Mapping[str, int]
    sources: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
