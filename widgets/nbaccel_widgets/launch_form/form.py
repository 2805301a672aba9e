"""The launch form: a function's parameters and a few settings of the configuration, a button, the run, its history."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import RLock
from typing import Any, Protocol

import ipywidgets as widgets

import nbaccel
from nbaccel.config import KEYS, Layer, Resolved, call_layer, resolve
from nbaccel.config.layers import PARAMS
from nbaccel.config.params import filled, names_of
from nbaccel.config.structured import as_mapping, split_config
from nbaccel.errors import CallError, NbaccelError, StateError
from nbaccel.launch import Screen
from nbaccel.launch.job import Job
from nbaccel.look import bold, code, heading, in_mood, joined, quiet, region
from nbaccel.machine import Machine, probe
from nbaccel.plan import Plan, settle
from nbaccel_widgets.launch_form.call import Call, called, name_of
from nbaccel_widgets.launch_form.configured import as_written, configured, places_of
from nbaccel_widgets.launch_form.controls import (
    NULL,
    Control,
    KeyControl,
    ParameterControl,
    plain,
    shown,
    small_button,
    told_value,
    wrong,
)
from nbaccel_widgets.launch_form.history import Run
from nbaccel_widgets.launch_form.output import OutputScreen
from nbaccel_widgets.launch_form.parameters import NEEDED, leaves, parameters_of
from nbaccel_widgets.launch_form.past import Past
from nbaccel_widgets.launch_form.stage import Stage
from nbaccel_widgets.launch_form.values import WrittenError

SHOWN_KEYS = ("num_processes", "mixed_precision", "gradient_accumulation_steps", "use_cpu", "seed", "timeout")
"""Keys of the configuration that a form shows if nothing else is said."""
_FORM = "this form"


class Submit(Protocol):
    """What starts a job: `nbaccel.submit`."""

    def __call__(
        self,
        function: Callable[..., Any],
        args: Sequence[Any],
        *,
        kwargs: Mapping[str, Any],
        screen: Screen,
        **settings: Any,
    ) -> Job: ...


class LaunchForm(widgets.VBox):
    """Launches a training function with parameters that are filled in, again and again, and keeps what came out.

    The run goes on in the background; the kernel stays free. One run at a time.

    Args:
        function: the training function; its annotations, defaults and docstring make the controls.
        keys: keys of the configuration to show beside its parameters.
        machine: what exists; left out: probed.
        namespace: the notebook's variables, which a parameter can be; left out: those of `__main__`.
        submit: starts a job; left out: `nbaccel.submit`.
        params: parameters that are filled in already, by name, as for `nbaccel.notebook_launcher`.
        config: the path of a configuration file, or an object that holds settings.
        settings: keys of the configuration that are filled in already, such as `num_processes=2`; None: not given.

    Attributes:
        controls: the control of each parameter, or of each part of one, by its dotted name.
        settings: the control of each key.
        button: launches.
        stage: shows the run that was launched last.
        status: the HTML beside it: what a launch would do, or why it cannot be.
        runs: the runs so far, the newest last.

    Raises:
        CallError: the function does not tell its parameters, or a key is unknown.
        ConfigError: what is to be filled in already is not valid.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        keys: Iterable[str] = SHOWN_KEYS,
        *,
        machine: Machine | None = None,
        namespace: Mapping[str, Any] | None = None,
        submit: Submit | None = None,
        params: Any = None,
        config: Any = None,
        **settings: Any,
    ) -> None:
        namespace = _main() if namespace is None else namespace
        self.function, self.name = function, name_of(function, namespace)
        self._submit: Submit = nbaccel.submit if submit is None else submit
        self._machine = probe() if machine is None else machine
        self._config = config
        self._lock, self._quiet = RLock(), False
        self._before: list[dict[str, Any]] = []
        self._own = parameters_of(function)
        base = self._base()
        self._parameters = configured(function, self._own, base)
        places, fields = places_of(self._own, self._parameters, base), leaves(self._parameters)
        self.controls = {one.name: ParameterControl(one, namespace, places[one.name]) for one in fields}
        self.settings = {name: KeyControl(KEYS[name], base) for name in _known((*keys, *settings))}
        self.button = widgets.Button(description="Launch", button_style="primary", icon="play")
        self.status = widgets.HTML(layout=widgets.Layout(flex="1 1 auto", width="auto", margin="0"))
        self.undo_button = small_button("Undo", "What was written before")
        self.defaults_button = small_button("Defaults", "Every field as it was in the beginning")
        self.stage = Stage()
        self._past = Past(self.use)
        super().__init__(children=self._laid_out())
        self._fill(settings, params)
        self._listen()
        self._refresh()

    def _fill(self, settings: Mapping[str, Any], params: Any) -> None:
        """What is written in the beginning."""
        for name, value in settings.items():
            if value is not None:
                self.settings[name].put(value)
        if params is None:
            return
        place = "the argument params="
        resolved = self._resolve(call_layer({PARAMS: as_mapping(params, place)}, lambda _: place))
        filled(self.function, (), {}, resolved)  # refuses what does not fit
        parameters = configured(self.function, self._own, resolved)
        places = places_of(self._own, parameters, resolved)
        for field in leaves(parameters):
            if places[field.name] == place:
                self.controls[field.name].put(as_written(field, resolved) if field.kind == "object" else field.default)

    # what is written

    @property
    def runs(self) -> list[Run]:
        return self._past.runs

    @property
    def call(self) -> Call:
        """The call that the form stands for. Raises WrittenError if a value is not valid."""
        values = {name: control.value() for name, control in self.controls.items()}
        return called(self._parameters, values, self._given(), self._checked_settings())

    @property
    def code(self) -> str:
        """The line of code that launches the same. Raises WrittenError if a value is not valid."""
        return self.call.code(self.name, self._config)

    def _given(self) -> frozenset[str]:
        """Names of the fields that are not left to their defaults."""
        controls = self.controls.items()
        return frozenset(name for name, one in controls if one.is_touched or one.field.default is NEEDED)

    @property
    def _every(self) -> dict[str, Control]:
        """All controls; a key of the configuration has a prefix, for a parameter may have its name."""
        return {**self.controls, **{f"{_FORM}:{name}": control for name, control in self.settings.items()}}

    @property
    def written(self) -> dict[str, Any]:
        """What all controls hold."""
        return {name: control.written for name, control in self._every.items()}

    def write(self, written: Mapping[str, Any]) -> None:
        """Fill the controls in; `undo` takes it back."""
        self._before.append(self.written)
        self._put(written)

    def use(self, run: Run) -> None:
        """Fill in what a run was launched with; `undo` takes it back."""
        self.write(run.written)

    def undo(self) -> None:
        """What was written before the last `use` or `clear`."""
        if self._before:
            self._put(self._before.pop())

    def clear(self) -> None:
        """Every control as it was in the beginning; `undo` takes it back."""
        self.write({name: control.untouched for name, control in self._every.items()})

    def _put(self, written: Mapping[str, Any]) -> None:
        with self._refreshed_once():
            for name, control in self._every.items():
                if name in written:
                    control.write(written[name])

    @contextmanager
    def _refreshed_once(self) -> Iterator[None]:
        with self._lock:
            self._quiet = True
            try:
                yield
            finally:
                self._quiet = False
                self._refresh()

    # launching

    def launch(self) -> Job:
        """Launch what is written; what the button does.

        Raises:
            StateError: a run is going on.
            WrittenError: a value is not valid. ConfigError, PlanError, CallError, ShipError: as `nbaccel.submit`.
        """
        going = self._going()
        if going is not None:
            raise StateError(f"run {going.number} is going on; stop it, or wait for its end.")
        self._refresh()  # the configuration may have changed since
        call = self.call
        args, kwargs = call.values
        screen = OutputScreen()
        config = {} if self._config is None else {"config": self._config}
        job = self._submit(self.function, args, kwargs=kwargs, screen=screen, **config, **call.settings)
        told, line = self._told_parameters(), call.code(self.name, self._config)
        self._past.add(Run(job, told, self._given(), self._told_settings(), self.written, line))
        self.stage.show(job, screen)
        self._refresh()
        job.add_done_callback(self._ended)
        return job

    def _going(self) -> Run | None:
        return next((run for run in reversed(self.runs) if not run.is_over), None)

    def _ended(self, job: Job) -> None:
        """Called from the job's thread."""
        self._past.finish(job)
        self._refresh()

    def _pressed(self, _: object) -> None:
        try:
            self.launch()
        except (NbaccelError, WrittenError) as error:
            self._tell(wrong(_in_a_line(error)))

    # what is shown

    def _base(self) -> Resolved | None:
        """The configuration without this form; None if it contradicts itself."""
        try:
            return self._resolve({})
        except NbaccelError:
            return None

    def _resolve(self, given: Layer) -> Resolved:
        below, file = split_config(self._config, "the argument config=")
        return resolve(given, below, config_file=file, params=names_of(self.function))

    def _resolved(self) -> Resolved:
        return self._resolve(call_layer(self._written_settings(), lambda _: _FORM))

    def _written_settings(self) -> dict[str, Any]:
        return {name: control.written for name, control in self.settings.items() if control.is_touched}

    def _checked_settings(self) -> dict[str, Any]:
        resolved = self._resolved()
        values = {name: resolved.value(name) for name in self._written_settings()}
        return {name: NULL if value is None else value for name, value in values.items()}

    def _told_parameters(self) -> dict[str, str]:
        return {name: shown(name, control.value()) for name, control in self.controls.items()}

    def _told_settings(self) -> dict[str, str]:
        resolved = self._resolved()
        names = (name for name in resolved.given() if name in KEYS)
        return {name: told_value(resolved.value(name)) for name in names if resolved.value(name) != KEYS[name].default}

    def _refresh(self, _: object = None) -> None:
        with self._lock:
            if self._quiet:
                return
            self._quiet = True
            try:
                plan, told = self._outlook()
            finally:
                self._quiet = False
            self.button.disabled = plan is None
            self.button.tooltip = told if plan is None else ""
            self.undo_button.disabled = not self._before
            self._say(plan, told)

    def _outlook(self) -> tuple[Plan | None, str]:
        """What a launch would do and the line of code that does the same; or None and why it cannot be."""
        problems, told = [], ""
        try:
            base = self._resolve({})
            self._follow(base)
            problems = [name for name, control in self.settings.items() if control.refresh(base)]
        except NbaccelError as error:
            told = _in_a_line(error)
        problems = [name for name, control in self.controls.items() if control.refresh()] + problems
        told = told or self._reason(problems)
        try:
            return (None, told) if told else (settle(self._resolved(), self._machine), self.code)
        except (NbaccelError, WrittenError) as error:
            return None, _in_a_line(error)

    def _follow(self, base: Resolved) -> None:
        """Controls that nobody has touched show what the configuration says now."""
        self._parameters = configured(self.function, self._own, base)
        places = places_of(self._own, self._parameters, base)
        for field in leaves(self._parameters):
            if field is not self.controls[field.name].field:
                self.controls[field.name].rest_on(field, places[field.name])
        for control in self.settings.values():
            control.rest_on(base)

    def _reason(self, problems: Sequence[str]) -> str:
        """Why nothing can be launched now; empty if it can."""
        going = self._going()
        if going is not None:
            return f"Run {going.number} is going on; stop it, or wait for its end."
        return f"Not valid, see above: {', '.join(problems)}." if problems else ""

    def _say(self, plan: Plan | None, told: str) -> None:
        if plan is None:
            going = self._going() is not None
            self._tell(in_mood(f"\N{BLACK RIGHT-POINTING TRIANGLE} {told}", "accent") if going else wrong(told))
        else:
            self._tell(joined([f"Would start {plan.describe()}", plain(code(told), _LINE_STYLE)]))

    def _tell(self, content: str) -> None:
        told = plain(content, _STATUS_STYLE)
        self.status.value = told.replace("<div", '<div role="status" aria-live="polite"', 1)

    def _laid_out(self) -> list[widgets.Widget]:
        title = region(heading(joined(["Launch ", code(f"{self.name}()")])))
        head = [widgets.HTML(title, layout=widgets.Layout(flex="1 1 auto")), self.undo_button, self.defaults_button]
        return [
            widgets.HBox(head, layout=widgets.Layout(align_items="center")),
            _section("Parameters" if self.controls else f"{self.name}() has no parameters"),
            _grid(self.controls.values()),
            _section("Workers and training"),
            _grid(self.settings.values()),
            widgets.HBox([self.button, self.status], layout=widgets.Layout(align_items="flex-start", margin="8px 0 0")),
            self.stage,
            self._past,
        ]

    def _listen(self) -> None:
        for control in self._every.values():
            control.widget.observe(self._refresh, names="value")
        self.button.on_click(self._pressed)
        self.undo_button.on_click(lambda _: self.undo())
        self.defaults_button.on_click(lambda _: self.clear())


# Heights are fixed, so that nothing moves while a text comes and goes.
_STATUS_STYLE = "height:3.6em;line-height:1.4;overflow:auto;padding-left:8px"
_LINE_STYLE = "overflow-wrap:anywhere"


def _section(title: str) -> widgets.HTML:
    return widgets.HTML(plain(bold(quiet(title)), "margin-top:4px"))


def _grid(controls: Iterable[Control]) -> widgets.GridBox:
    cells = [cell for control in controls for cell in (control.widget, control.note)]
    columns = widgets.Layout(
        grid_template_columns="minmax(20em,28em) minmax(0,1fr)", grid_gap="0 1em", align_items="center", width="100%"
    )
    return widgets.GridBox(cells, layout=columns)


def _in_a_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _known(names: Iterable[str]) -> list[str]:
    for name in names:
        if name not in KEYS:
            raise CallError(f"{name!r} is no key of the configuration; `nbaccel config show --all` lists them.")
    return list(dict.fromkeys(names))


def _main() -> Mapping[str, Any]:
    import __main__

    return vars(__main__)
