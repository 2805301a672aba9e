"""The configuration form: one control per key of the schema, and beside it, live, which layer wins."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from html import escape

import ipywidgets as widgets

from nbaccel.config import Resolved, Setting, call_layer, resolve
from nbaccel.config.schema import COMMON, KEYS, Key
from nbaccel.errors import ConfigError, PlanError
from nbaccel.machine import Machine, probe
from nbaccel.plan import Plan, decide

_MUTED = "color:var(--jp-ui-font-color2,inherit)"
_WRONG = "color:var(--jp-error-color1,#d9413c)"
_CODE = "font-family:var(--jp-code-font-family,monospace)"
# Heights are fixed, so that nothing moves while a text comes and goes.
_NOTE = '<div title="{}" style="height:2.6em;line-height:1.3;overflow:auto">{}</div>'
_SUMMARY = '<div role="status" aria-live="polite" style="height:4.2em;line-height:1.4;overflow:auto">{}</div>'


class ConfigForm(widgets.VBox):
    """Edits this notebook's layer of the configuration.

    A control shows the value that the lower layers give; a text field is empty and shows it as its placeholder.
    What differs from that is a setting of this form.

    Args:
        machine: what exists; left out: probed.
        environ: environment to read; left out: `os.environ` as it is now.

    Attributes:
        controls: the control of each key.
        notes: beside each control, the HTML that says which layer wins.
        summary: the HTML below that says what a launch would do.
    """

    def __init__(self, machine: Machine | None = None, environ: Mapping[str, str] | None = None) -> None:
        self._machine = probe() if machine is None else machine
        self._environ = dict(os.environ if environ is None else environ)
        self.controls = {key.name: _control(key, self._inherited(key.name)) for key in map(KEYS.__getitem__, COMMON)}
        self._untouched = {name: control.value for name, control in self.controls.items()}
        self.notes = {name: widgets.HTML(layout=widgets.Layout(margin="2px 0")) for name in COMMON}
        self.summary = widgets.HTML(layout=widgets.Layout(width="auto"))
        cells = [cell for name in COMMON for cell in (self.controls[name], self.notes[name])]
        columns = widgets.Layout(grid_template_columns="26em minmax(0,1fr)", grid_gap="0 1em", align_items="center")
        super().__init__(children=[widgets.GridBox(cells, layout=columns), self.summary])
        self._refresh()
        for control in self.controls.values():
            control.observe(self._refresh, names="value")

    @property
    def values(self) -> dict[str, object]:
        """The edited settings by key, checked; one that is not valid stays as it was written."""
        written = self._written()
        outcomes = {name: self._resolve_alone(name, written) for name in written}
        return {
            name: written[name] if isinstance(outcome, ConfigError) else getattr(outcome.config, name)
            for name, outcome in outcomes.items()
        }

    @property
    def line(self) -> str:
        """The `%%accelerate` line that the edited settings amount to."""
        flags = (part for name, value in self._written().items() for part in _flag(KEYS[name], value))
        return " ".join(["%%accelerate", *flags])

    def _written(self) -> dict[str, object]:
        now = {name: control.value for name, control in self.controls.items()}
        now = {name: value.strip() if isinstance(value, str) else value for name, value in now.items()}
        return {name: value for name, value in now.items() if value not in ("", self._untouched[name])}

    def _inherited(self, name: str) -> object:
        outcome = self._resolve_alone(name, written={})
        return None if isinstance(outcome, ConfigError) else getattr(outcome.config, name)

    def _resolve_alone(self, name: str, written: Mapping[str, object]) -> Resolved | ConfigError:
        """Resolves one key as if nobody had touched the others, so that every field shows its own error."""
        variable = KEYS[name].env
        environ = {variable: self._environ[variable]} if variable in self._environ else {}
        try:
            return resolve(_notebook_layer({key: written[key] for key in written if key == name}), environ=environ)
        except ConfigError as error:
            return error

    def _refresh(self, _: object = None) -> None:
        written = self._written()
        outcomes = {name: self._resolve_alone(name, written) for name in COMMON}
        for name, outcome in outcomes.items():
            self.notes[name].value = _NOTE.format(escape(KEYS[name].text), _explain(KEYS[name], outcome))
        wrong = [name for name, outcome in outcomes.items() if isinstance(outcome, ConfigError)]
        self.summary.value = _SUMMARY.format(f"{self._preview(wrong)}<br>{_span(_CODE, self.line)}")

    def _preview(self, wrong: Sequence[str]) -> str:
        if wrong:
            return _span(_WRONG, f"\N{BALLOT X} Not valid, see above: {', '.join(wrong)}.")
        try:
            config = resolve(_notebook_layer(self._written()), environ=self._environ).config
            return escape(f"\N{CHECK MARK} {_describe(decide(config, self._machine))}")
        except PlanError as error:
            return _span(_WRONG, f"\N{BALLOT X} {error}")


def _control(key: Key, inherited: object) -> widgets.ValueWidget:
    looks = {
        "description": key.name,
        "style": {"description_width": "15em"},
        "layout": widgets.Layout(width="100%"),
    }
    if key.is_switch:
        return widgets.Checkbox(value=bool(inherited), **looks)
    if key.choices:
        return widgets.Dropdown(options=key.choices, value=inherited, **looks)
    return widgets.Text(placeholder=_shown(inherited), continuous_update=False, **looks)


def _notebook_layer(values: Mapping[str, object]) -> Mapping[str, Setting]:
    return call_layer(values, place=lambda _: "this form", layer="notebook")


def _explain(key: Key, outcome: Resolved | ConfigError) -> str:
    if isinstance(outcome, ConfigError):
        return _span(_WRONG, f"\N{BALLOT X} {outcome}")
    winner, *shadowed = outcome.chain[key.name]
    parts = [f"<b>{escape(_shown(getattr(outcome.config, key.name)))}</b> from {_origin(winner)}"]
    parts += [f"<s>{escape(_shown(setting.value))}</s> from {_origin(setting)}" for setting in shadowed]
    return f"{', '.join(parts)}<br>{_span(_MUTED, key.text)}"


def _origin(setting: Setting) -> str:
    return escape(setting.place if setting.layer == "default" else f"{setting.place} ({setting.layer})")


def _describe(plan: Plan) -> str:
    workers = f"{plan.local_world_size} worker{'s' if plan.local_world_size > 1 else ''}"
    threads = f"{plan.threads_per_worker} thread{'s' if plan.threads_per_worker > 1 else ''} each"
    here = f" here, {plan.world_size} over all machines" if plan.world_size > plan.local_world_size else ""
    return f"Would start {workers}{here}, by {plan.launcher}, on {plan.device}, {threads}."


def _flag(key: Key, value: object) -> Iterator[str]:
    if key.is_switch:
        yield key.flags[0] if value else f"--no-{key.flags[0][2:]}"
    else:
        yield key.flags[0]
        yield shlex.quote(str(value))


def _span(style: str, text: str) -> str:
    return f'<span style="{style}">{escape(text)}</span>'


def _shown(value: object) -> str:
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "true" if value else "false"
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
