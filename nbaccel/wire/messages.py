"""Every message that travels between the kernel, the zygote and the workers.

    kernel -> zygote   Fork, Preload
    kernel -> worker   Start, RunFunction, RunCell, Exit
    worker -> kernel   Shown, Done, Failed

Text does not travel as messages: the kernel reads the workers' stdout and stderr pipes. What must keep its place
between lines of text carries a `mark`: the worker writes the same mark into its pipes (see `wire.marks`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from nbaccel.wire.parcel import Parcel


@dataclass(frozen=True)
class Fork:
    """Fork one worker; four descriptors come along: channel, stdout, stderr, status pipe.

    Attributes:
        command: what to execute in it, with `{channel}`, `{stdout}` and `{stderr}` in place of the numbers that these
            descriptors have there; empty for a worker that is ready as it is.
    """

    command: tuple[str, ...] = ()


@dataclass(frozen=True)
class Preload:
    """Import these modules while idle, so that later workers find them imported."""

    modules: tuple[str, ...]


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
        serves_store: true for the rank that holds the rendezvous store; its listening socket comes along.
        world_size: number of ranks, for the store.
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
    serves_store: bool = False


@dataclass(frozen=True)
class Start:
    """First message to a worker; the store's listening socket comes along for the rank that serves it."""

    spec: WorkerSpec


@dataclass(frozen=True)
class RunFunction:
    """Call a function; the parcel holds `(function, args, kwargs)`. Its file descriptor comes along if it has one.

    Attributes:
        parcel: the call.
        wants_value: whether this rank must send the returned value.
        wants_models: whether this rank must send the state of the modules that came with the call.
    """

    parcel: Parcel
    wants_value: bool
    wants_models: bool


@dataclass(frozen=True)
class RunCell:
    """Run a cell in the worker's IPython shell; the parcel holds the names that it uses.

    Attributes:
        parcel: a mapping of names to values.
        source: the cell, padded so that its lines have the numbers of the cell in the notebook.
        execution_count: the number of the cell in the notebook.
        outputs: names whose values this rank must send back.
        wants_models: whether this rank must send the state of the modules that came with the names.
    """

    parcel: Parcel
    source: str
    execution_count: int
    outputs: tuple[str, ...]
    wants_models: bool


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
class Done:
    """The code ended well. The parcel holds an `Outcome`; its file descriptor comes along if it has one."""

    mark: int
    parcel: Parcel | None


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
    """

    mark: int
    type_name: str
    message: str
    traceback: tuple[str, ...]
    time_s: float
    exception: Parcel | None
    distributed: bool
    interrupted: bool
