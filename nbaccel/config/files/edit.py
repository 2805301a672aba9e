"""Changes in the text of a YAML or JSON file that leave everything else in it as it is, to the letter.

ruamel.yaml's round trip is not used for this: it spells untouched values anew (`null` becomes empty, `True` `true`),
indents anew, drops comments above `---`, and puts a new key of a section behind the next section's comment. PyYAML's
nodes know where they stand, so a change is cut into the text there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import yaml

Path = Sequence[str]
"""The names on the way to a value, outermost first, as the file spells them."""

_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_COMMENT_LINE = re.compile(r"(?P<indent> *)(?P<comment>#[^\n\r]*)?")
_DEEPER = re.compile(r"^ +(?=#)", re.MULTILINE)
_COMMENT = re.compile(r"[ \t]+#[^\n\r]*")
_ANCHOR = re.compile(r"&[^\s,\[\]{}]+")
_COLON = re.compile(r"\s*:")
_EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")
_UNFIT = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")
"""What JSON may hold as it is and YAML, as which it is read, may not."""

_MERGE = "tag:yaml.org,2002:merge"
_STEP = 2


class Edited(Protocol):
    """A text that can be changed; each change is a new one."""

    @property
    def text(self) -> str:
        """The text as it is now."""

    def has(self, path: Path) -> bool:
        """Whether the text itself holds this path; what an anchor brings in does not count."""

    def with_value(self, path: Path, value: object, comment: str = "") -> Edited:
        """Put a plain value there. Mappings on the way are made; `comment` stands behind a new YAML line."""

    def with_name(self, path: Path, name: str) -> Edited:
        """Call the last part of an existing path otherwise."""

    def without(self, path: Path) -> Edited:
        """Remove an existing path, and mappings that this leaves empty."""

    def comment(self, path: Path) -> str:
        """The comment behind an existing path's value, with the space before it."""


def edited(text: str, is_json: bool) -> Edited:
    """A text, ready to be changed. `is_json`: what an empty text is to become."""
    if not text.strip():
        return JsonText(text) if is_json else YamlText(text)
    if not text.lstrip().startswith("{"):
        return YamlText(text)
    try:
        json.loads(text)
    except ValueError:
        return YamlText(text)
    return JsonText(text)


@dataclass(frozen=True)
class JsonText:
    """JSON, which has neither comments nor anchors: it is read, changed and written with its own indent."""

    text: str

    def has(self, path: Path) -> bool:
        held: Any = self._data()
        for name in path:
            if not isinstance(held, dict) or name not in held:
                return False
            held = held[name]
        return True

    def with_value(self, path: Path, value: object, comment: str = "") -> JsonText:
        data = held = self._data()
        for name in path[:-1]:
            if not isinstance(held.get(name), dict):
                held[name] = {}
            held = held[name]
        held[path[-1]] = value
        return self._with(data)

    def with_name(self, path: Path, name: str) -> JsonText:
        data = self._data()
        holder = _below(data, path[:-1])
        entries = [(name if held == path[-1] else held, value) for held, value in holder.items()]
        holder.clear()
        holder.update(entries)
        return self._with(data)

    def without(self, path: Path) -> JsonText:
        data = self._data()
        holders = [_below(data, path[:depth]) for depth in range(len(path))]
        for name, holder in zip(reversed(path), reversed(holders), strict=True):
            del holder[name]
            if holder:
                break
        return self._with(data)

    def comment(self, path: Path) -> str:
        return ""

    def _data(self) -> dict[str, Any]:
        data: dict[str, Any] = json.loads(self.text) if self.text.strip() else {}
        return data

    def _with(self, data: dict[str, Any]) -> JsonText:
        indent = re.match(r"\s*\{\s*?\n([ \t]+)", self.text)
        end = self.text[len(self.text.rstrip()) :] if self.text.strip() else "\n"
        text = json.dumps(data, indent=indent[1] if indent else _STEP, ensure_ascii=False)
        return JsonText(_UNFIT.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + end)


def _below(data: Any, path: Path) -> Any:
    for name in path:
        data = data[name]
    return data


class _Alias(yaml.ScalarNode):
    """A mention of an anchor, at its own place."""


class _Loader(yaml.SafeLoader):
    """Makes nodes that do not follow anchors: a change is about what stands at a place."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.get_event()
            return _Alias("", f"*{event.anchor}", event.start_mark, event.end_mark)
        return super().compose_node(parent, index)


@lru_cache(maxsize=16)
def _composed(text: str) -> yaml.Node | None:
    """The nodes of a text, which nobody changes; several questions about one text compose it once."""
    return yaml.compose(text, Loader=_Loader)


@dataclass(frozen=True)
class _Entry:
    """A name and its value in a mapping."""

    name: yaml.Node
    value: yaml.Node
    holder: yaml.MappingNode


@dataclass(frozen=True)
class YamlText:
    """YAML, into which changes are cut."""

    text: str

    def has(self, path: Path) -> bool:
        return self._entry(path) is not None

    def with_value(self, path: Path, value: object, comment: str = "") -> YamlText:
        entry = self._entry(path)
        if entry is not None:
            return self._replaced(entry, value)
        depth = max(depth for depth in range(len(path)) if depth == 0 or self._entry(path[:depth]) is not None)
        name, *deeper = path[depth:]
        for inner in reversed(deeper):
            value = {inner: value}
        if depth == 0:
            return self._added_to_root(name, value, comment)
        outer = self._entry(path[:depth])
        assert outer is not None, "this depth was chosen because there is one"
        return self._added(outer, name, value, comment)

    def with_name(self, path: Path, name: str) -> YamlText:
        entry = self._existing(path)
        new = json.dumps(name) if entry.name.style == '"' else _inline(name)  # type: ignore[attr-defined]
        return self._cut(_start(entry.name), _end(self.text, entry.name), new)

    def without(self, path: Path) -> YamlText:
        entry = self._existing(path)
        if len(path) > 1 and len(entry.holder.value) == 1:
            return self.without(path[:-1])
        if entry.holder.flow_style:
            return self._without_in_line(entry)
        start, end = self._line_start(_start(entry.name)), self._line_end(_end(self.text, entry.value))
        indent = entry.name.start_mark.column
        behind = self._behind_comments(end, indent)
        # comments that were the entry's own move to its place: one that stays indented could fall into a text above
        return self._cut(start, behind, _DEEPER.sub(" " * indent, self.text[end:behind]))

    def comment(self, path: Path) -> str:
        found = _COMMENT.match(self.text, _end(self.text, self._existing(path).value))
        return found[0] if found else ""

    # where things are

    def _root(self) -> yaml.Node | None:
        return _composed(self.text)

    def _entry(self, path: Path) -> _Entry | None:
        holder, entry = self._root(), None
        for name in path:
            if not isinstance(holder, yaml.MappingNode):
                return None
            entry = next((_Entry(key, value, holder) for key, value in holder.value if _is_named(key, name)), None)
            if entry is None:
                return None
            holder = entry.value
        return entry

    def _existing(self, path: Path) -> _Entry:
        entry = self._entry(path)
        assert entry is not None, "callers ask `has` first"
        return entry

    def _line_start(self, position: int) -> int:
        ends = [found.end() for found in _BREAK.finditer(self.text, 0, position)]
        return ends[-1] if ends else 0

    def _line_end(self, position: int) -> int:
        """Behind the break of the line."""
        found = _BREAK.search(self.text, position)
        return found.end() if found else len(self.text)

    def _break(self) -> str:
        found = _BREAK.search(self.text)
        return found[0] if found else "\n"

    # changes

    def _cut(self, start: int, end: int, new: str) -> YamlText:
        return YamlText(self.text[:start] + new + self.text[end:])

    def _replaced(self, entry: _Entry, value: object) -> YamlText:
        start, end = self._behind_anchor(entry), _end(self.text, entry.value)
        new = _inline(value)
        if _is_block(entry.value):
            return self._in_place_of_block(entry, new)
        if not _COLON.match(self.text, _end(self.text, entry.name)):  # `{a, b}` is short for `{a: null, b: null}`
            return self._cut(start, end, f": {new}")
        return self._cut(start, end, new if self.text[start - 1] in " \t\n" else f" {new}")

    def _in_place_of_block(self, entry: _Entry, new: str) -> YamlText:
        """The lines of a list or mapping go; the line of its name, with its comment, stays."""
        anchor = _ANCHOR.match(self.text, _start(entry.value))
        head = anchor.end() if anchor else self._behind_colon(entry)
        line_end = _BREAK.search(self.text, head)
        last = _BREAK.search(self.text, _end(self.text, entry.value))
        assert line_end is not None, "a block begins on a line of its own"
        rest = self.text[head : line_end.start()]
        return self._cut(head, last.start() if last else len(self.text), f" {new}{rest}")

    def _behind_anchor(self, entry: _Entry) -> int:
        anchor = _ANCHOR.match(self.text, _start(entry.value))
        if anchor is None:
            return _start(entry.value)
        spaces = re.compile(r"[ \t]*").match(self.text, anchor.end())
        return min(spaces.end() if spaces else anchor.end(), max(anchor.end(), _end(self.text, entry.value)))

    def _behind_colon(self, entry: _Entry) -> int:
        colon = _COLON.match(self.text, _end(self.text, entry.name))
        assert colon is not None, "a block's name has a colon"
        return colon.end()

    def _added_to_root(self, name: str, value: object, comment: str) -> YamlText:
        root = self._root()
        if isinstance(root, yaml.MappingNode):
            return self._added_to(root, name, value, comment)
        if root is None:
            return self._with_lines(len(self.text), _lines(name, value, 0, _STEP, comment))
        emptied = self._cut(_start(root), _end(self.text, root), "")  # a lone `null`
        return emptied._with_lines(emptied._line_end(_start(root)), _lines(name, value, 0, _STEP, comment))

    def _added(self, outer: _Entry, name: str, value: object, comment: str) -> YamlText:
        held = outer.value
        if isinstance(held, yaml.MappingNode) and held.value:
            return self._added_to(held, name, value, comment)
        if outer.holder.flow_style:
            return self._replaced(outer, {name: value})
        merged = held.value if isinstance(held, _Alias) else None
        head = self._behind_anchor(outer)
        emptied = self._cut(len(self.text[:head].rstrip(" \t")), _end(self.text, held), "")
        step = self._step()
        indent = outer.name.start_mark.column + step
        lines = [f"{' ' * indent}<<: {merged}"] if merged else []
        return emptied._with_lines(
            emptied._line_end(_end(self.text, outer.name)), [*lines, *_lines(name, value, indent, step, comment)]
        )

    def _added_to(self, holder: yaml.MappingNode, name: str, value: object, comment: str) -> YamlText:
        if holder.flow_style:
            return self._added_in_line(holder, name, value)
        indent = holder.value[0][0].start_mark.column
        position = self._behind_comments(self._line_end(_end(self.text, holder)), indent)
        return self._with_lines(position, _lines(name, value, indent, self._step(), comment))

    def _added_in_line(self, holder: yaml.MappingNode, name: str, value: object) -> YamlText:
        if not holder.value:
            return self._cut(_end(self.text, holder) - 1, _end(self.text, holder), f"{_inline({name: value})[1:]}")
        first, last = holder.value[0][0], holder.value[-1][1]
        key = json.dumps(name) if first.style == '"' else _inline(name)
        position = _end(self.text, last)
        return self._cut(position, position, f", {key}: {_inline(value)}")

    def _without_in_line(self, entry: _Entry) -> YamlText:
        values = entry.holder.value
        number = next(number for number, (name, _) in enumerate(values) if name is entry.name)
        if number > 0:
            return self._cut(_end(self.text, values[number - 1][1]), _end(self.text, entry.value), "")
        end = _start(values[1][0]) if len(values) > 1 else _end(self.text, entry.value)
        return self._cut(_start(entry.name), end, "")

    def _behind_comments(self, position: int, indent: int) -> int:
        """Comment lines that are indented more than what comes next belong to what came before."""
        reached = position
        while reached < len(self.text):
            line = _COMMENT_LINE.match(self.text, reached)
            assert line is not None, "this matches any line"
            end = self._line_end(reached)
            is_empty = not self.text[reached:end].strip()
            if not is_empty and not (line["comment"] and len(line["indent"]) > indent):
                break
            reached = end
            position = position if is_empty else end
        return position

    def _with_lines(self, position: int, lines: Sequence[str]) -> YamlText:
        end = self._break()
        first = "" if position == 0 or self.text[position - 1] in "\n\r\x85\u2028\u2029" else end
        return self._cut(position, position, first + "".join(line + end for line in lines))

    def _step(self) -> int:
        """The file's own indent."""
        root = self._root()
        if isinstance(root, yaml.MappingNode):
            for name, value in root.value:
                if isinstance(value, yaml.MappingNode) and _is_block(value):
                    column: int = value.value[0][0].start_mark.column - name.start_mark.column
                    return column
        return _STEP


def _is_named(node: yaml.Node, name: str) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag != _MERGE and node.value == name


def _is_block(node: yaml.Node) -> bool:
    return isinstance(node, yaml.CollectionNode) and not node.flow_style and bool(node.value)


def _start(node: yaml.Node) -> int:
    index: int = node.start_mark.index
    return index


def _end(text: str, node: yaml.Node) -> int:
    """Behind the node's last character; PyYAML's end of a block lies behind the comments that follow it."""
    if _is_block(node):
        last = node.value[-1]
        return _end(text, last[1] if isinstance(last, tuple) else last)
    end: int = node.end_mark.index
    if isinstance(node, yaml.ScalarNode) and node.style in ("|", ">"):
        return max(_start(node) + 1, len(text[:end].rstrip()))
    return end


def _lines(name: str, value: object, indent: int, step: int, comment: str = "") -> list[str]:
    """A new entry of a block."""
    head = f"{' ' * indent}{_inline(name)}:"
    if isinstance(value, Mapping) and value:
        inner = [_lines(name, held, indent + step, step, comment) for name, held in value.items()]
        return [head, *(line for lines in inner for line in lines)]
    return [f"{head} {_inline(value)}{comment}"]


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text_node(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """A text in a line; quoted also where only this package's reader would see a number."""
    style = "'" if _EXPONENT.fullmatch(text) else '"' if not text.isprintable() else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _text_node)


def _inline(value: object) -> str:
    """A value in one line, as it may stand anywhere; the brackets make sure of the latter."""
    text = yaml.dump(
        [value], Dumper=_Dumper, default_flow_style=True, width=float("inf"), allow_unicode=True, sort_keys=False
    )
    return text.strip()[1:-1]
