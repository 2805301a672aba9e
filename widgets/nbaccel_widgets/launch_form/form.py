"""The launch form: a function's parameters and a few settings of the configuration, a button, the run, its history."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol

import ipywidgets as widgets

import nbaccel
from nbaccel.config import KEYS, Resolved, call_layer, resolve
from nbaccel.config.params import names_of
from nbaccel.errors import CallError, NbaccelError, StateError
from nbaccel.launch import Screen
from nbaccel.launch.job import Job
from nbaccel.look import bold, code, heading, in_mood, joined, quiet, region
from nbaccel.machine import Machine, probe
from nbaccel.plan import Plan, settle
from nbaccel_widgets.launch_form.call import Call, called
from nbaccel_widgets.launch_form.controls import (
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
from nbaccel_widgets.launch_form.parameters import NEEDED, Field, Parameter, leaves, parameters_of
from nbaccel_widgets.launch_form.past import Past
from nbaccel_widgets.launch_form.stage import Stage
from nbaccel_widgets.launch_form.values import WrittenError, fitting

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
        settings: keys of the configuration that are filled in already, such as `num_processes=2`.

    Attributes:
        controls: the control of each parameter, or of each part of one, by its dotted name.
        settings: the control of each key.
        button: launches.
        stage: shows the run that was launched last.
        status: the HTML beside it: what a launch would do, or why it cannot be.
        runs: the runs so far, the newest last.

    Raises:
        CallError: the function does not tell its parameters, or a key is unknown.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        keys: Iterable[str] = SHOWN_KEYS,
        *,
        machine: Machine | None = None,
        namespace: Mapping[str, Any] | None = None,
        submit: Submit | None = None,
        **settings: Any,
    ) -> None:
        self.function = function
        self.name = getattr(function, "__name__", type(function).__name__)
        self._submit: Submit = nbaccel.submit if submit is None else submit
        self._machine = probe() if machine is None else machine
        self._quiet = False
        self._before: list[dict[str, Any]] = []
        self._parameters = parameters_of(function)
        base = self._base()
        self.controls = _parameter_controls(self._parameters, base, _main() if namespace is None else namespace)
        self.settings = {name: KeyControl(KEYS[name], base) for name in _known((*keys, *settings))}
        self.button = widgets.Button(description="Launch", button_style="primary", icon="play")
        self.status = widgets.HTML(layout=widgets.Layout(flex="1 1 auto", width="auto", margin="0"))
        self.undo_button = small_button("Undo", "What was written before")
        self.defaults_button = small_button("Defaults", "Every field as it was in the beginning")
        self.stage = Stage()
        self._past = Past(self.use)
        super().__init__(children=self._laid_out())
        self._listen()
        for name, value in settings.items():
            self.settings[name].write(told_value(value))
        self._refresh()

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
        return self.call.code(self.name)

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
        call = self.call
        args, kwargs = call.values
        screen = OutputScreen()
        job = self._submit(self.function, args, kwargs=kwargs, screen=screen, **call.settings)
        told, line = self._told_parameters(), call.code(self.name)
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
            self._tell(wrong(str(error).partition("\n")[0]))

    # what is shown

    def _base(self) -> Resolved | None:
        """The configuration without this form; None if it contradicts itself."""
        try:
            return resolve(params=names_of(self.function))
        except NbaccelError:
            return None

    def _resolved(self) -> Resolved:
        return resolve(call_layer(self._written_settings(), lambda _: _FORM), params=names_of(self.function))

    def _written_settings(self) -> dict[str, Any]:
        return {name: control.written for name, control in self.settings.items() if control.is_touched}

    def _checked_settings(self) -> dict[str, Any]:
        written = self._written_settings()
        resolved = self._resolved()
        return {name: resolved.value(name) for name in written}

    def _told_parameters(self) -> dict[str, str]:
        return {name: shown(name, control.value()) for name, control in self.controls.items()}

    def _told_settings(self) -> dict[str, str]:
        resolved = self._resolved()
        names = (name for name in resolved.given() if name in KEYS)
        return {name: told_value(resolved.value(name)) for name in names if resolved.value(name) != KEYS[name].default}

    def _refresh(self, _: object = None) -> None:
        if self._quiet:
            return
        problems = [name for name, control in self.controls.items() if control.refresh()]
        try:
            base = resolve(params=names_of(self.function))
            problems += [name for name, control in self.settings.items() if control.refresh(base)]
            reason = self._reason(problems)
            plan = None if reason else settle(self._resolved(), self._machine)
        except NbaccelError as error:
            plan, reason = None, str(error).partition("\n")[0]
        self.button.disabled = plan is None
        self.button.tooltip = reason
        self.undo_button.disabled = not self._before
        self._say(plan, reason)

    def _reason(self, problems: Sequence[str]) -> str:
        """Why nothing can be launched now; empty if it can."""
        going = self._going()
        if going is not None:
            return f"Run {going.number} is going on; stop it, or wait for its end."
        return f"Not valid, see above: {', '.join(problems)}." if problems else ""

    def _say(self, plan: Plan | None, reason: str) -> None:
        if plan is None:
            going = self._going() is not None
            self._tell(in_mood(f"\N{BLACK RIGHT-POINTING TRIANGLE} {reason}", "accent") if going else wrong(reason))
            return
        line = self.code
        self._tell(joined([f"Would start {plan.describe()}", plain(code(line), _LINE_STYLE)]))

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


def _parameter_controls(
    parameters: Sequence[Parameter], base: Resolved | None, namespace: Mapping[str, Any]
) -> dict[str, ParameterControl]:
    made = {}
    for field in leaves(parameters):
        configured, place = _configured(field, base)
        made[field.name] = ParameterControl(configured, namespace, place)
    return made


def _configured(field: Field, base: Resolved | None) -> tuple[Field, str]:
    """A field with the value that the configuration's `params` have for it, if there is one, and where from."""
    key = f"params.{field.name}"
    if base is None or key not in base.chain:
        return field, ""
    try:
        value = fitting(base.value(key), field.hint, field.possible)
    except WrittenError:  # the launch will say it, with its place
        return field, ""
    return replace(field, default=value), base.origin(key).place


def _known(names: Iterable[str]) -> list[str]:
    for name in names:
        if name not in KEYS:
            raise CallError(f"{name!r} is no key of the configuration; `nbaccel config show --all` lists them.")
    return list(dict.fromkeys(names))


def _main() -> Mapping[str, Any]:
    import __main__

    return vars(__main__)
