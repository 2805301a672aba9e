"""`Session`: workers that stay, for functions, cells and names, as an object and behind the magics."""

from __future__ import annotations

import html
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from nbaccel import launch
from nbaccel.config import Resolved
from nbaccel.errors import CallError, LaunchError, PlanError, StateError, name_ranks, nearest
from nbaccel.launch.call import Call, Wish, cell_call, check_callable, function_call
from nbaccel.launch.doctor import Report
from nbaccel.launch.job import Job, results_of
from nbaccel.launch.ledger import Sending
from nbaccel.launch.output import policy_for
from nbaccel.launch.session import LiveSession
from nbaccel.machine import probe
from nbaccel.notebook.launcher import filled_in_session, resolve_call
from nbaccel.notebook.screen import cell_number, current_shell, origin_screen_for, screen_for
from nbaccel.notebook.status import Status
from nbaccel.plan import Plan, settle
from nbaccel.wire.codec import needs_of
from nbaccel.wire.companions import settle_into

Made = tuple[Call, Sending, frozenset[str]]
"""A call, the names that come along, and what these need."""


class Session:
    """Workers that keep their variables and their process group from one call to the next.

    Use it as a context manager, or call `close()`. `%accelerate start` makes one that `%%accelerate` cells run in.

    Attributes:
        ranks: numbers of its workers.
    """

    def __init__(self, num_processes: int | None = None, **settings: Any) -> None:
        """Start the workers and wait until they are ready.

        Args:
            num_processes: how many; left out: as for `notebook_launcher`.
            settings: any other key of the configuration, such as `mixed_precision="bf16"` or `seed=1`; `params` fills
                in the parameters of the functions that it runs.

        Raises:
            ConfigError: a setting is not valid. PlanError: this machine cannot do it.
            LaunchError: the workers could not be started. StateError: called inside a worker.
        """
        self._begin(resolve_call(num_processes=num_processes, **settings))

    @classmethod
    def of(cls, resolved: Resolved) -> Session:
        """A session of a configuration that is resolved already."""
        session = cls.__new__(cls)
        session._begin(resolved)
        return session

    def _begin(self, resolved: Resolved) -> None:
        launch.refuse_inside_worker(os.environ)
        self._shell = current_shell()
        plan = settle(resolved, probe(self._shell))
        try:
            self._start(resolved, plan)
        except LaunchError:  # the zygote died since the last launch: the next one is as good
            self._start(resolved, plan)

    def _start(self, resolved: Resolved, plan: Plan) -> None:
        self._live = _started(resolved, plan, screen_for(self._shell).colors)
        self.ranks = self._live.ranks
        try:
            self._wait_until_ready()
        except BaseException:
            self.close()
            raise

    def _wait_until_ready(self) -> None:
        self._follow(self._submit(self._cell("", (), (), self.ranks), "start", self.ranks, counted=False))

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # functions

    def run(
        self,
        function: Callable[..., Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        ranks: int | Iterable[int] | None = None,
        return_all: bool = False,
    ) -> Any:
        """Run a function on the session's workers and return what its first rank returns.

        Args:
            function: the function; names of the notebook that it uses are sent where the workers lack them.
            args: its positional arguments.
            kwargs: its keyword arguments.
            ranks: on which ranks; left out: on all.
            return_all: return the values of all these ranks, a list by rank.

        Raises:
            ConfigError, CallError, ShipError, RunError: as `notebook_launcher`. StateError: the session has ended.
        """
        job = self._function_job(function, args, kwargs or {}, self.chosen(ranks), return_all)
        self._follow(job)
        return job.result()

    def submit(
        self,
        function: Callable[..., Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        ranks: int | Iterable[int] | None = None,
        return_all: bool = False,
    ) -> Job:
        """Like `run`, but returns a handle at once; the output still goes to the cell that called it."""
        job = self._function_job(function, args, kwargs or {}, self.chosen(ranks), return_all)
        launch.follow_in_background(job, origin_screen_for(self._shell, self.resolved.config.monitor))
        return job

    def _function_job(
        self, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any], ranks: tuple[int, ...], return_all: bool
    ) -> Job:
        kwargs = filled_in_session(function, args, kwargs, self.resolved)
        check_callable(function, args, kwargs)
        used = needs_of((function, args, kwargs))
        sending, needs = self._sending(used, ranks)
        names = self._values(sending)
        wish = Wish(ranks[0], return_all, self._live.resolved.config.sync_models)
        call = function_call(function, args, kwargs, wish, names)
        name = f"{getattr(function, '__name__', type(function).__name__)}()"
        select = lambda values: results_of(values, return_all=True) if return_all else values.get(ranks[0])  # noqa: E731
        return self._submit((call, sending, needs), name, ranks, select=select)

    # cells

    def cell_job(
        self,
        source: str,
        used: Iterable[str],
        outputs: Sequence[str] = (),
        *,
        ranks: tuple[int, ...],
        output: str | None = None,
        timeout: float | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> Job:
        """Start a cell on the workers.

        Args:
            source: the cell.
            used: names of the notebook that it uses.
            outputs: names to bring back from the first rank; the job's result.
            ranks: on which ranks.
            output: whose text is shown; left out: as the session's.
            timeout: seconds after which it is stopped; left out: as the session's.
            extra: values that this cell alone finds, by name, whatever the notebook calls so.
        """
        name = f"cell [{cell_number(self._shell)}]"
        return self._submit(
            self._cell(source, used, outputs, ranks, extra=extra),
            name,
            ranks,
            output=output,
            timeout=timeout,
            select=lambda values: self._adopt(values.get(ranks[0]) or {}),
        )

    def _cell(
        self,
        source: str,
        used: Iterable[str],
        outputs: Sequence[str],
        ranks: tuple[int, ...],
        *,
        all_values: bool = False,
        extra: Mapping[str, Any] | None = None,
    ) -> Made:
        extra = extra or {}
        sending, needs = self._sending([name for name in used if name not in extra], ranks)
        wish = Wish(ranks[0], all_values, self._live.resolved.config.sync_models)
        names = {**self._values(sending), **extra}
        call = cell_call(
            source, names, outputs, wish, execution_count=cell_number(self._shell), here=lambda: None, by_name=True
        )
        return call, sending, needs

    # names

    def push(self, *names: str, ranks: int | Iterable[int] | None = None, **values: Any) -> None:
        """Send names of the notebook to the workers, whatever they have; `x=value` binds `x` there and not here.

        Raises:
            CallError: a name is not defined in the notebook. ShipError: a value cannot be sent.
        """
        chosen = self.chosen(ranks)
        namespace = self._namespace()
        for name in names:
            if name not in namespace:
                raise CallError(f"the notebook has no name {name!r}{_hint(name, namespace)}.")
        sent = {name: namespace[name] for name in names}
        needed, needs = self._sending(needs_of((sent, values)) - {*names, *values}, chosen)
        call = cell_call(
            "",
            {**self._values(needed), **sent, **values},
            (),
            Wish(chosen[0], sync_models=False),
            execution_count=0,
            here=lambda: None,
            by_name=True,
        )
        forced = Sending((*needed.names, *names), needed.keep, ())
        self._follow(self._submit((call, forced, needs), "push", chosen, counted=False))
        for rank in chosen:
            self._live.ledger.note_bound(rank, values, ())

    def pull(self, *names: str, ranks: int | Iterable[int] | None = None) -> dict[int, dict[str, Any]]:
        """The values of workers' names, by rank.

        Raises:
            CallError: a rank has no such name. ShipError: a value cannot be sent.
        """
        chosen = self.chosen(ranks)
        ledger = self._live.ledger
        for name in names:
            lacking = [rank for rank in chosen if not ledger.has(rank, name)]
            if lacking:
                raise CallError(
                    f"{name_ranks(lacking)} {_have(lacking)} no name {name!r}{_hint(name, ledger.there())}."
                )
        job = self._submit(self._cell("", (), names, chosen, all_values=True), "pull", chosen, counted=False)
        self._follow(job)
        return job.values()

    def __getitem__(self, name: str) -> dict[int, Any]:
        """The value that a name has on each rank. Raises KeyError where some rank has no such name."""
        try:
            return {rank: values[name] for rank, values in self.pull(name).items()}
        except CallError as error:
            raise KeyError(str(error)) from None

    def __setitem__(self, name: str, value: Any) -> None:
        """Bind a name on every rank."""
        self.push(**{name: value})

    def bring_home(self, *names: str, rank: int | None = None) -> dict[str, Any]:
        """Bind a rank's names in the notebook. Trained models come home in place, as the objects that they are there.

        Raises:
            CallError: the rank has no such name. ShipError: a value cannot be sent.
        """
        chosen = self.ranks[0] if rank is None else rank
        values = self._adopt(self.pull(*names, ranks=chosen)[chosen])
        self._namespace().update(values)  # type: ignore[attr-defined]
        return values

    def _adopt(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """What came home under names of the notebook; from now on both sides have the same under them."""
        namespace = self._namespace()
        settled = {name: settle_into(namespace.get(name), value) for name, value in values.items()}
        self._live.ledger.note_same(settled)
        return settled

    @property
    def names(self) -> set[str]:
        """Names that live in the workers."""
        return self._live.ledger.there()

    def let_go(self) -> None:
        """After a cell of the notebook: nothing that its names no longer are is kept alive for comparison."""
        self._live.ledger.prune(self._namespace())

    # the workers

    def status(self) -> Status:
        """What each rank is and does, as a table."""
        return Status.of(self._live)

    def stacks(self) -> Report:
        """What each rank does just now: its stack, and who waits for whom in which collective."""
        return self._live.report()

    def restart(self) -> None:
        """End the workers and start fresh ones; their variables are gone."""
        self._live.restart()
        self._wait_until_ready()

    def close(self) -> None:
        """End the workers; what runs in them is stopped. Calling it again does nothing."""
        self._live.close()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._live.closed

    @property
    def resolved(self) -> Resolved:
        """The configuration that the session was started with."""
        return self._live.resolved

    def is_same(self, resolved: Resolved, plan: Plan) -> bool:
        """Whether workers that were started with these would be like the session's own."""
        own = self._live
        return (own.plan, own.resolved.config, own.resolved.dotenv) == (plan, resolved.config, resolved.dotenv)

    def chosen(self, ranks: int | Iterable[int] | None) -> tuple[int, ...]:
        """Ranks that were asked for. Raises CallError for one that the session does not have, or for none."""
        if ranks is None:
            return self.ranks
        wanted = (ranks,) if isinstance(ranks, int) else tuple(sorted(set(ranks)))
        if not wanted or not set(wanted) <= set(self.ranks):
            raise CallError(f"ranks={ranks!r}: the session has {name_ranks(self.ranks)}.")
        return wanted

    def __repr__(self) -> str:
        state = "closed" if self.closed else "running"
        return f"<Session of {len(self.ranks)} workers on {self._live.plan.device}, {state}>"

    def _repr_html_(self) -> str:
        return (
            f"<div><b>Session</b>: {html.escape(self._live.plan.describe())}{', closed' if self.closed else ''}</div>"
        )

    # within

    def _namespace(self) -> Mapping[str, Any]:
        if self._shell is not None:
            return self._shell.user_ns
        import __main__

        return __main__.__dict__

    def _values(self, sending: Sending) -> dict[str, Any]:
        namespace = self._namespace()
        return {name: namespace[name] for name in sending.names}

    def _sending(self, used: Iterable[str], ranks: tuple[int, ...]) -> tuple[Sending, frozenset[str]]:
        """What must travel for these names, and what that needs in turn."""
        ledger, namespace = self._live.ledger, self._namespace()
        wanted = dict.fromkeys(used)
        while True:
            sending = ledger.to_send(wanted, namespace, ranks)
            needs = needs_of(self._values(sending)) if sending.names else frozenset()
            more = [name for name in sorted(needs) if name in namespace and name not in wanted]
            if not more:
                return sending, needs
            wanted |= dict.fromkeys(more)

    def _submit(self, made: Made, name: str, ranks: tuple[int, ...], **options: Any) -> Job:
        call, sending, needs = made
        config = self._live.resolved.config
        select = options.get("select") or (lambda values: values)
        policy = policy_for(options.get("output") or config.output, main=ranks[0])
        job = Job(name, ranks, policy, keeps=True, counted=options.get("counted", True), select=select)
        for replaced in sending.replaced:
            job.feed.note(
                f"`{replaced}`, which workers had bound themselves, is replaced by the notebook's newer value."
            )
        heavy = launch.report(call)
        if heavy:
            job.feed.note(heavy)
        late = origin_screen_for(self._shell)
        job.feed.show_late(lambda event: launch.show(event, job, late))
        self._live.ledger.note_sent(sending, self._namespace(), needs, ranks)
        timeout_s = (options.get("timeout") or config.timeout) if job.number else None  # not for nbaccel's own
        self._live.submit(job, call, sending, timeout_s)
        return job

    def _follow(self, job: Job) -> None:
        launch.follow(job, screen_for(self._shell, self.resolved.config.monitor))


def _started(resolved: Resolved, plan: Plan, colors: str) -> LiveSession:
    if plan.launcher == "inline":
        raise PlanError("a session with start_method='inline'", "it needs worker processes.", "Use zygote or spawn.")
    if plan.rendezvous is not None:
        raise PlanError("a session over several machines", "sessions live on one machine.", "Use notebook_launcher.")
    return LiveSession(plan, resolved, colors)


def _hint(name: str, possible: Iterable[str]) -> str:
    meant = nearest(name, possible)
    return f" (did you mean {meant!r}?)" if meant else ""


def _have(ranks: Sequence[int]) -> str:
    return "has" if len(ranks) == 1 else "have"


class _Current:
    """The session that `%%accelerate` cells run in."""

    session: Session | None = None


def current() -> Session | None:
    """The session that `%accelerate start` has started, None if there is none or it was closed."""
    if _Current.session is not None and _Current.session.closed:
        _Current.session = None
    return _Current.session


def start(resolved: Resolved) -> Session:
    """Start the session that `%%accelerate` cells run in. Raises StateError if there is one."""
    if current() is not None:
        raise StateError(
            "a session is running already; %accelerate restart starts it afresh, %accelerate stop ends it."
        )
    _Current.session = Session.of(resolved)
    return _Current.session


def stop() -> None:
    """End the session of `%accelerate start`. Raises StateError if there is none."""
    running().close()
    _Current.session = None


def running() -> Session:
    """The session of `%accelerate start`. Raises StateError if there is none."""
    session = current()
    if session is None:
        raise StateError("no session is running; %accelerate start -n 2 starts one.")
    return session
