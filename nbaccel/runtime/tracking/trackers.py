"""The trackers of one run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nbaccel.errors import CallError, nearest
from nbaccel.runtime.tracking.base import GeneralTracker
from nbaccel.runtime.tracking.choosing import Chosen, choose
from nbaccel.runtime.tracking.plain import plain
from nbaccel.runtime.tracking.reporting import report

_PROJECT = "nbaccel"


class Trackers:
    """Hands what is logged to every tracker; on other than the main process, to those that want it there.

    Args:
        log_with: names, trackers, or None.
        logging_dir: folder for those that write files.
        is_main: whether this is the main process.
        project_name: name of the run, where `start` is not given one.

    Attributes:
        chosen: what `log_with` means.
        running: trackers that log now.

    Raises:
        CallError: an unknown name, or a tracker that needs a folder and has none.
        MissingExtraError: a package is not installed.
    """

    def __init__(
        self, log_with: Any, logging_dir: str | None = None, is_main: bool = True, project_name: str | None = None
    ) -> None:
        self._folder, self._is_main, self._name = logging_dir, is_main, project_name or _PROJECT
        self.chosen = choose(log_with, logging_dir)
        self._draws = any(getattr(one, "name", "") == "notebook" for one in self.chosen)
        self.running: list[Any] = []
        self._has_started = False

    def start(
        self,
        project_name: str | None = None,
        config: Mapping[str, Any] | None = None,
        init_kwargs: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Begin a run; one that is going on ends first.

        Args:
            project_name: its name.
            config: what it was started with.
            init_kwargs: further arguments of the trackers, by their names.

        Raises:
            CallError: arguments for a tracker that is not used.
            MissingExtraError: a package is not installed.
        """
        self.finish()
        arguments = dict(init_kwargs or {})
        self._refuse_others("init_trackers(init_kwargs=...)", arguments)
        mine = [one for one in self.chosen if self._is_main or not getattr(one, "main_process_only", True)]
        self._has_started = True
        self.running = [self._made(one, project_name or self._name, arguments) for one in mine]
        for tracker in self.running:
            if hasattr(tracker, "start"):
                tracker.start()
            if config is not None:
                tracker.store_init_configuration(plain(config))

    def _made(self, chosen: Chosen, name: str, arguments: Mapping[str, Mapping[str, Any]]) -> Any:
        if not isinstance(chosen, type):
            return chosen
        kind: Any = chosen
        place = [self._folder] if kind.requires_logging_directory else []
        return kind(name, *place, **arguments.get(kind.name, {}))

    def log(
        self,
        values: Mapping[str, Any],
        step: int | None = None,
        log_kwargs: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Log values; a run that nobody has begun begins now. Whoever watches the run hears of them,
        unless a tracker draws them in the notebook already.

        Args:
            values: numbers, tensors of one element, texts, or mappings of names to numbers.
            step: the step, None for the next one.
            log_kwargs: further arguments of the trackers' calls, by their names.

        Raises:
            CallError: arguments for a tracker that is not used.
        """
        if self._is_main and not self._draws:
            report(values, step)
        if not self.chosen:
            return
        if not self._has_started:
            self.start()
        arguments = dict(log_kwargs or {})
        if arguments:
            self._refuse_others("log(log_kwargs=...)", arguments)
        if not self.running:
            return
        known = plain(values)
        for tracker in self.running:
            tracker.log(known, step=step, **arguments.get(tracker.name, {}))

    def get(self, name: str, unwrap: bool = False) -> Any:
        """One tracker.

        Args:
            name: its name.
            unwrap: the library's own object instead.

        Returns:
            A silent one on processes that do not log.

        Raises:
            CallError: there is no such tracker in this run.
        """
        for tracker in self.running:
            if tracker.name == str(name):
                return tracker.tracker if unwrap else tracker
        if not self._is_main:
            return None if unwrap else GeneralTracker(_blank=True)
        names = [tracker.name for tracker in self.running]
        raise CallError(
            f"get_tracker({str(name)!r}): there is no such tracker. "
            + (f"Possible: {', '.join(names)}." if names else "Call init_trackers() first.")
        )

    def finish(self) -> None:
        """End the run: all that was logged is safe."""
        running, self.running, self._has_started = self.running, [], False
        for tracker in running:
            tracker.finish()

    def _refuse_others(self, call: str, arguments: Mapping[str, Any]) -> None:
        names = [one.name for one in self.chosen]
        for name in arguments:
            if str(name) not in names:
                meant = nearest(name, names)
                hint = f" Did you mean {meant!r}?" if meant else ""
                raise CallError(f"{call} names {name!r}, and log_with means {', '.join(names) or 'none'}.{hint}")
