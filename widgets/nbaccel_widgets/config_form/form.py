"""The form as a whole: its parts, and what happens at an edit."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from nbaccel.config import NOTEBOOK, Table, call_layer, table
from nbaccel.config.commands import keys_to_show
from nbaccel.config.files import find
from nbaccel.config.files.write import UNSET
from nbaccel.config.layers import PARAMS
from nbaccel.config.sources import CONFIG_FILE
from nbaccel.errors import ConfigError
from nbaccel.machine import Machine, probe
from nbaccel_widgets.config_form.body import Body
from nbaccel_widgets.config_form.editing import Edits, FileEdits, NoFile, NotebookEdits
from nbaccel_widgets.config_form.foot import Foot
from nbaccel_widgets.config_form.head import ANOTHER, Head
from nbaccel_widgets.config_form.outlook import outlook
from nbaccel_widgets.config_form.reading import Picture, Place, State, take_picture
from nbaccel_widgets.config_form.rows import Row
from nbaccel_widgets.config_form.style import STYLE
from nbaccel_widgets.config_form.words import value_of

File = str | os.PathLike[str]


class ConfigForm(widgets.VBox):
    """Edits one layer of the configuration, and shows beside each key which layer wins.

    An empty field sets nothing: the layers below hold. Changes of this notebook's layer count at once; those of a file
    are shown as a diff and wait for `Save`.

    Args:
        machine: what exists; left out: probed.
        environ: environment to read; left out: `os.environ`, anew at each edit.
        folder: where the search for the project file begins; left out: the working folder, anew at each edit.
        config_file: a file over the project's, as `--config-file` names it.
        call: settings of a call that is being prepared, by key; shown in the column `call`.
        arguments: arguments of `Accelerator(...)`, by key; shown in the column `argument`.

    Attributes:
        picture: what all layers say now.
        edits: the changes of the layer that is edited.
        head, body, foot: the parts of the form, with their controls.
    """

    def __init__(
        self,
        machine: Machine | None = None,
        environ: Mapping[str, str] | None = None,
        *,
        folder: File | None = None,
        config_file: File | None = None,
        call: Mapping[str, object] | None = None,
        arguments: Mapping[str, object] | None = None,
    ) -> None:
        self._machine = probe() if machine is None else machine
        self._environ, self._folder = environ, folder
        self._config_file = None if config_file is None else Path(config_file).expanduser()
        self._above = (call_layer(arguments or {}, layer="constructor"), call_layer(call or {}))
        self._notebook = NotebookEdits()
        self._files: dict[tuple[str, Path], FileEdits] = {}
        self._wrong: dict[str, tuple[str, str]] = {}
        self.edits: Edits = self._notebook
        self.picture = self._taken()
        self._fresh: Picture | None = None
        self.head = Head(self._targets(), str(config_file or ""), self._choose, self._show)
        self.body = Body(State(self.picture), self.edit, self._add_parameter)
        self.foot = Foot(
            save=self.save, revert=self.revert, undo=self.undo, take_over=self.take_over, refresh=self.refresh
        )
        parts = [
            widgets.HTML(STYLE, layout=widgets.Layout(display="none")),
            self.head.box,
            self.body.box,
            self.foot.box,
        ]
        super().__init__(children=parts)
        self.add_class("nba")
        self.add_class("nba-form")
        self.head.search.observe(lambda _: self._search(), names="value")
        self.head.only_given.observe(lambda _: self._search(), names="value")
        self._show()

    def row(self, key: str) -> Row:
        """The row of a key, wherever it is shown."""
        return self.body.row(key)

    @property
    def values(self) -> dict[str, object]:
        """What the edited layer says, by key, with changes that are not saved yet."""
        return {key: setting.value for key, setting in self.picture.layers[self.picture.edited].items()}

    @property
    def wrong(self) -> dict[str, str]:
        """Keys whose fields hold something that is not valid, and why."""
        return {key: why for key, (_, why) in self._wrong.items()}

    # what people do

    def edit(self, key: str, text: str) -> None:
        """Set a key in the edited layer, or forget it there if the text is empty."""
        self._wrong.pop(key, None)
        try:
            why = self._put(key, value_of(key, text))
        except ConfigError as error:
            why = _brief(error)
        if why:
            self._wrong[key] = (text, why)
        self._show()
        self.foot.say("" if text.strip() or why else self._still(key))

    def _still(self, key: str) -> str:
        """Why the edited file says something about a key that has been taken out of it; empty if it does not."""
        own = self.picture.own(key)
        return f"{key} comes from an included file, {own.place}: change it there, or set it here." if own else ""

    def _put(self, key: str, value: object) -> str:
        """Change the layer. Returns why the whole would not be valid then; it is as it was in this case."""
        if value is UNSET and self.picture.own(key) is None:
            return ""
        if not self.edits.set(key, value):
            return ""
        picture = self._taken()
        if picture.trouble and not self.picture.trouble:
            self.edits.undo()
            if not self._taken().trouble:
                return picture.trouble
            self.edits.set(key, value)  # something else is to blame
        self._fresh = picture
        return ""

    def _add_parameter(self, name: str, text: str) -> str:
        """Set a parameter of the user's own. Returns why that cannot be, else nothing."""
        name = name.strip().removeprefix(f"{PARAMS}.")
        if not name or not all(part.isidentifier() for part in name.split(".")):
            return f"{name!r} is no name. Possible: letters, digits and _, with dots between."
        key = f"{PARAMS}.{name}"
        self.edit(key, text.strip() or "null")
        why = self._wrong.pop(key, None)
        return why[1] if why else ""

    def undo(self) -> None:
        """Take the last change of the edited layer back; what is wrong in a field goes first."""
        done = bool(self._wrong.popitem()) if self._wrong else self.edits.undo()
        self._show()
        self.foot.say("Undone." if done else "There is nothing to undo.")

    def revert(self) -> None:
        """Take all changes of the edited layer back; `undo` brings them again."""
        self._wrong.clear()
        self.edits.revert()
        self._show()
        self.foot.say(f"{self.edits.name} is as it was.")

    def save(self) -> None:
        """Write the changes into the file; wrong values stand in the way."""
        if self._wrong:
            self.foot.say(f"Not saved: correct {', '.join(self._wrong)} first.", "bad")
            return
        try:
            said = self.edits.save()
        except ConfigError as error:
            self.foot.say(f"Not saved: {error}", "bad")
            return
        self._show()
        self.foot.say(" ".join(said), "good")

    def take_over(self) -> None:
        """Add what is set for this notebook to the changes of the file; secrets stay out of files."""
        settings = NOTEBOOK.layer()
        refused = [key for key, setting in settings.items() if not self._takes(key, setting.value)]
        self._show()
        count = len(settings) - len(refused)
        left = f" Left out: {', '.join(refused)}." if refused else ""
        self.foot.say(f"{count} key{'' if count == 1 else 's'} taken over, not saved yet.{left}")

    def _takes(self, key: str, value: object) -> bool:
        try:
            self.edits.set(key, value)
        except ConfigError:
            return False
        return True

    def refresh(self) -> None:
        """Read environment, files and this notebook's layer anew."""
        self._show()
        self.foot.say("Read anew.")

    def _choose(self, layer: str, written: str) -> None:
        """Edit another layer."""
        self._wrong.clear()
        self.edits = self._edits_of(layer, written)
        self._show()
        is_named = layer == "file" and self._environment().get(CONFIG_FILE) != written.strip()
        remark = f"It counts where it is named: by --config-file, or by {CONFIG_FILE}." if is_named else ""
        self.foot.say("Which file? Its path stands beside." if isinstance(self.edits, NoFile) else remark)

    def _edits_of(self, layer: str, written: str) -> Edits:
        if layer == "notebook":
            return self._notebook
        path = self._path(layer, written)
        return NoFile() if path is None else self._files.setdefault((layer, path), FileEdits(layer, path))

    def _search(self) -> None:
        self.body.find(self.head.search.value, only_given=self.head.only_given.value)

    # what is shown

    def _taken(self) -> Picture:
        place = Place(self._environment(), self._start(), self._above, self._config_file)
        return take_picture(place, self.edits.layer, self.edits.path, self.edits.pending)

    def _environment(self) -> Mapping[str, str]:
        return os.environ if self._environ is None else self._environ

    def _start(self) -> Path:
        return Path.cwd() if self._folder is None else Path(self._folder)

    def _targets(self) -> Sequence[tuple[str, str]]:
        project, user = find.project_file(self._start()), find.user_file(self._environment())
        return (
            ("this notebook (counts at once)", "notebook"),
            (f"project file {find.shown(project)}", "project"),
            (f"user file {find.shown(user)}", "user"),
            ("another file", ANOTHER),
        )

    def _path(self, layer: str, written: str) -> Path | None:
        if layer == "project":
            return find.project_file(self._start())
        if layer == "user":
            return find.user_file(self._environment())
        text = written.strip()
        return self._start() / Path(text).expanduser() if text else self._config_file

    def _show(self) -> None:
        self.picture, self._fresh = self._fresh or self._taken(), None
        self.head.show(outlook(self.picture, self._machine, self.head.model()))
        self.body.show(State(self.picture, self.edits.changed(), dict(self._wrong)))
        self.foot.show(self.edits, self.picture.layers[self.picture.edited])

    # where no widget can be shown

    def __repr__(self) -> str:
        return str(self._table())

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        bundle = super()._repr_mimebundle_(**kwargs)
        table_of_values = self._table()
        return {**bundle, "text/plain": str(table_of_values), "text/html": table_of_values._repr_html_()}

    def _table(self) -> Table:
        resolved = self.picture.resolved
        return Table(()) if resolved is None else table(resolved, keys_to_show(resolved))


def _brief(error: ConfigError) -> str:
    """An error at its field: where it was written need not be said."""
    return str(error).replace(f" ({error.place})", "", 1) if error.place else str(error)
