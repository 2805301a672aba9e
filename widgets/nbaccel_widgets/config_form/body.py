"""The middle of the form: tabs of rows, made when they are first opened, or the rows that a search has found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

import ipywidgets as widgets

from nbaccel.look import Html, quiet
from nbaccel_widgets.config_form.controls import Looks
from nbaccel_widgets.config_form.preview import HEADER
from nbaccel_widgets.config_form.reading import Picture, State
from nbaccel_widgets.config_form.rows import Row
from nbaccel_widgets.config_form.sections import PARAMETERS, Section, found, left_out, sections

_MOST_FOUND = 25


class Body:
    """Tabs and search results.

    Args:
        state: what the form shows at first.
        edited: called with a key and the text of its field.
        add: called with name and value of a new parameter; returns why it cannot be.

    Attributes:
        tabs: the tabs.
        results: what a search has found, in place of the tabs.
        adding: the fields for a new parameter.
    """

    def __init__(
        self,
        state: State,
        edited: Callable[[str, str], None],
        add: Callable[[str, str], str],
    ) -> None:
        self._looks, self._state, self._edited = Looks(), state, edited
        self._rows: dict[str, Row] = {}
        self._pages = [Page(section, self.row, self._looks) for section in sections()]
        self._only_given = False
        self._found: list[str] | None = None
        self.adding = Adding(add)
        self.tabs = widgets.Tab(children=[page.box for page in self._pages])
        self.tabs.selected_index = 0
        self.results = widgets.VBox(layout=widgets.Layout(display="none"))
        self.results.add_class("nba-rows")
        self.results.add_class("nba-results")
        self.box = widgets.VBox([self.tabs, self.results])
        self.tabs.observe(self._opened, names="selected_index")
        self._pages[-1].extra = (self.adding.box,)

    def row(self, key: str) -> Row:
        """The row of a key; made when it is first asked for."""
        if key not in self._rows:
            self._rows[key] = Row(key, self._state, self._looks, self._edited)
        else:
            self._rows[key].show(self._state)
        return self._rows[key]

    def open(self, title: str) -> None:
        """Open the tab of this name."""
        titles = [page.section.title for page in self._pages]
        self.tabs.selected_index = titles.index(title)

    def _opened(self, _: object) -> None:
        self.show(self._state)

    def find(self, words: str, *, only_given: bool) -> None:
        """Show what a search means in place of the tabs; no words: the tabs."""
        picture = self._state.picture
        self._only_given = only_given
        self._found = None
        if words.strip():
            keys = found(words, picture)
            self._found = [key for key in keys if picture.is_given(key)] if only_given else keys
        self.tabs.layout.display = "none" if self._found is not None else ""
        self.results.layout.display = "none" if self._found is None else ""
        if self._found is not None:
            rows = [self.row(key).box for key in self._found[:_MOST_FOUND]]
            self.results.children = [_header(self._looks), _html(_count(self._found), self._looks), *rows]
        self.show(self._state)

    def show(self, state: State) -> None:
        """Show what makes sense now, what the layers say of it, and the tabs' titles."""
        self._state = state
        for number, page in enumerate(self._pages):
            title = page.section.heading(state.picture)
            if self.tabs.get_title(number) != title:
                self.tabs.set_title(number, title)
        if self._found is None:
            self._page.show(state.picture, only_given=self._only_given)
        for key in self._visible():
            self._rows[key].show(state)

    @property
    def _page(self) -> Page:
        return self._pages[self.tabs.selected_index or 0]

    def _visible(self) -> Sequence[str]:
        """The keys whose rows can be seen now."""
        return self._page.keys if self._found is None else self._found[:_MOST_FOUND]


class Page:
    """The content of one tab."""

    def __init__(self, section: Section, row: Callable[[str], Row], looks: Looks) -> None:
        self.section, self._row, self._looks = section, row, looks
        self.keys: list[str] = []
        self.extra: tuple[widgets.Widget, ...] = ()
        self.box = widgets.VBox()
        self.box.add_class("nba-rows")
        self._head = _header(looks)
        self._groups: list[tuple[widgets.HTML, widgets.VBox]] = []
        self._aside = _html("", looks)

    def show(self, picture: Picture, *, only_given: bool) -> None:
        """Show the rows that make sense now; those that stay are left alone."""
        if not self.box.children:
            self._make()
        shown = [group.shown(picture, only_given=only_given) for group in self.section.groups]
        if self.section.title == PARAMETERS:
            shown = [picture.params()]
        for (heading, box), keys in zip(self._groups, shown, strict=True):
            rows = tuple(self._row(key).box for key in keys)
            if box.children != rows:
                box.children = rows
            heading.layout.display = "" if keys else "none"
        self.keys = [key for keys in shown for key in keys]
        self._aside.value = _aside(self._remark(picture, only_given=only_given))

    def _remark(self, picture: Picture, *, only_given: bool) -> str:
        if only_given:
            return "" if self.keys else "Nothing is set here."
        if self.section.title == PARAMETERS:
            return "" if self.keys else "No parameters yet: values that a training function or cell takes."
        return left_out(self.section, picture)

    def _make(self) -> None:
        titles = [group.title for group in self.section.groups] or [""]
        self._groups = [(_heading(title), widgets.VBox(layout=self._looks.layout)) for title in titles]
        parts = [part for heading, box in self._groups for part in ([heading] if heading.value else []) + [box]]
        self.box.children = [self._head, *parts, *self.extra, self._aside]


class Adding:
    """Fields for a new parameter."""

    def __init__(self, add: Callable[[str, str], str]) -> None:
        self._add = add
        self.name = widgets.Text(description="New parameter", placeholder="lr, or trainer.epochs")
        self.value = widgets.Text(description="Value (YAML)", placeholder="1e-3")
        self.button = widgets.Button(description="Add")
        self.said = widgets.HTML()
        self.box = widgets.Box([self.name, self.value, self.button, self.said])
        self.box.add_class("nba-bar")
        self.box.add_class("nba-aside")
        self.button.on_click(lambda _: self._pressed())

    def _pressed(self) -> None:
        why = self._add(self.name.value, self.value.value)
        self.said.value = f'<span role="alert" class="nba-bad">\N{BALLOT X} {escape(why)}</span>' if why else ""
        if not why:
            self.name.value = self.value.value = ""


def _html(content: str, looks: Looks) -> widgets.HTML:
    return widgets.HTML(content, layout=looks.layout, style=looks.html)


def _header(looks: Looks) -> widgets.HTML:
    html = _html(HEADER, looks)
    html.add_class("nba-top")
    return html


def _heading(title: str) -> widgets.HTML:
    return widgets.HTML(
        f'<div class="nba-heading" role="heading" aria-level="4">{escape(title)}</div>' if title else ""
    )


def _aside(text: str) -> Html:
    return Html(f'<div class="nba-aside">{quiet(text)}</div>') if text else Html("")


def _count(keys: Sequence[str]) -> Html:
    more = f"; the first {_MOST_FOUND} are shown" if len(keys) > _MOST_FOUND else ""
    words = f"{len(keys)} key{'' if len(keys) == 1 else 's'} found{more}." if keys else "Nothing found."
    return Html(f'<div class="nba-aside" role="status">{quiet(words)}</div>')
