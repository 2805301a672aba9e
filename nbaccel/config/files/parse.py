"""The text of a YAML or JSON file as values that know their lines."""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from nbaccel.config.secrets import masked_line
from nbaccel.errors import ConfigFileError

_MOST_BYTES = 1_000_000
_MOST_VALUES = 20_000
_MOST_LEVELS = 40
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d{1,3}", re.ASCII)
_TAG = "tag:yaml.org,2002:"
_FORBIDDEN = re.compile("[^\t\n\r -~\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that no YAML may hold."""
_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_HALF = re.compile("[\ud800-\udfff]")
_PAIR = re.compile(r"(?<!\\)((?:\\\\)*)\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})")
_NAME_TAGS = frozenset(f"{_TAG}{kind}" for kind in ("str", "int", "float", "bool", "null", "timestamp", "value"))
_SHOWN_WIDTH = 120


@dataclass(frozen=True)
class Written:
    """A value of a file and where it stands.

    Attributes:
        value: a plain value, a list of plain values, or a mapping from names to written values.
        place: `path:line:column` of it.
        key_place: the same of the key that it belongs to.
    """

    value: Any
    place: str
    key_place: str = ""

    def plain(self) -> Any:
        """The value without places."""
        if isinstance(self.value, Mapping):
            return {name: inner.plain() for name, inner in self.value.items()}
        return self.value


def read_text(path: Path, shown: str) -> str:
    """The text of a file.

    Args:
        path: the file.
        shown: how it is called in errors.

    Raises:
        ConfigFileError: it cannot be read, is too large, or is no text in UTF-8.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except IsADirectoryError:
        raise ConfigFileError(shown, "this is a folder", "Name a file of YAML or JSON.") from None
    except FileNotFoundError:
        raise ConfigFileError(shown, "there is no such file", "Check its path.") from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigFileError(shown, f"it cannot be read: {reason}", "Check who may read it.") from None
    except ValueError as error:  # a null character in the path
        raise ConfigFileError(repr(shown), f"this is no path: {error}", "Check its path.") from None
    if len(content) > _MOST_BYTES:
        raise ConfigFileError(shown, "it is larger than 1 MB", "A configuration is a few lines of YAML or JSON.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        column = error.start - content.rfind(b"\n", 0, error.start)
        byte = content[error.start]
        raise ConfigFileError(
            f"{shown}:{line}:{column}", f"the byte 0x{byte:02x} is no UTF-8", "Save the file in UTF-8."
        ) from None


def parse(text: str, shown: str) -> dict[str, Written]:
    """A file's top level.

    Args:
        text: its text; JSON if it begins with a brace and is JSON, else YAML.
        shown: how the file is called in errors.

    Raises:
        ConfigFileError: the text is not well formed, holds a name twice, or is no mapping.
    """
    return _Reader(text, shown).top_level()


class _Reader:
    def __init__(self, text: str, shown: str) -> None:
        self._text, self._shown = text, shown
        self._lines = text.splitlines()
        self._count = 0
        self._make = yaml.constructor.SafeConstructor()

    def top_level(self) -> dict[str, Written]:
        text = self._as_yaml()
        try:
            self._refuse_depth(text)
            node = yaml.compose(text, Loader=_Loader)
        except yaml.MarkedYAMLError as error:
            raise self._malformed(error) from None
        except yaml.YAMLError:
            raise self._unreadable() from None
        if node is None or node.tag == f"{_TAG}null":
            return {}
        if not isinstance(node, yaml.MappingNode):
            raise self._wrong(node, "the file is no mapping", "Write `key: value` lines.")
        found: dict[str, Written] = self._mapping(node, ()).value
        return found

    def _refuse_depth(self, text: str) -> None:
        """Look at the nesting before nodes are made of it: libyaml's composer calls itself, without a limit."""
        depth = 0
        for event in yaml.parse(text, Loader=_Loader):
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                if depth > _MOST_LEVELS:
                    raise self._too_deep(self._place(event))
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1

    def _as_yaml(self) -> str:
        """JSON is YAML but for tabs between values, and for characters that are written as two escapes."""
        if not self._text.lstrip().startswith(("{", "[")):
            return self._text
        try:
            json.loads(self._text)
        except (ValueError, RecursionError):
            return self._text
        return _PAIR.sub(_one_escape, self._text.replace("\t", " "))

    def _value(self, node: yaml.Node, above: tuple[yaml.Node, ...]) -> Written:
        self._count += 1
        if self._count > _MOST_VALUES:
            raise self._wrong(node, f"more than {_MOST_VALUES:,} values", "Do anchors repeat each other?")
        if node in above:
            raise self._wrong(node, "this value contains itself", "Remove the alias that leads back here.")
        if len(above) > _MOST_LEVELS:
            raise self._too_deep(self._place(node))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, above)
        if isinstance(node, yaml.SequenceNode):
            if node.tag != f"{_TAG}seq":
                raise self._foreign(node)
            items = [self._value(item, (*above, node)).plain() for item in node.value]
            return Written(items, self._place(node))
        assert isinstance(node, yaml.ScalarNode), "a node is a mapping, a sequence or a scalar"
        return Written(self._scalar(node), self._place(node))

    def _mapping(self, node: yaml.MappingNode, above: tuple[yaml.Node, ...]) -> Written:
        found: dict[str, Written] = {}
        merged: dict[str, Written] = {}
        first: dict[str, yaml.Node] = {}
        if node.tag != f"{_TAG}map":
            raise self._foreign(node)
        for name_node, value_node in node.value:
            if name_node.tag == f"{_TAG}merge":
                merged = {**self._merged(value_node, (*above, node)), **merged}
                continue
            if not isinstance(name_node, yaml.ScalarNode):
                raise self._wrong(name_node, "this is no name for a key", "A key is a word.")
            if name_node.tag not in _NAME_TAGS:
                raise self._foreign(name_node)
            name = str(name_node.value)
            if name in first:
                line = first[name].start_mark.line + 1
                raise self._wrong(name_node, f"the key {name!r} is here twice, first in line {line}", "Keep one.")
            first[name] = name_node
            written = self._value(value_node, (*above, node))
            found[name] = Written(written.value, written.place, self._place(name_node))
        return Written({**merged, **found}, self._place(node))

    def _merged(self, node: yaml.Node, above: tuple[yaml.Node, ...]) -> dict[str, Written]:
        parts = node.value if isinstance(node, yaml.SequenceNode) else [node]
        merged: dict[str, Written] = {}
        for part in parts:
            if not isinstance(part, yaml.MappingNode):
                raise self._wrong(part, "<< merges mappings only", "Name an anchor of a mapping.")
            merged = {**self._value(part, above).value, **merged}
        return merged

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        kind = node.tag.removeprefix(_TAG)
        if kind == "str" and not node.style and _EXPONENT.fullmatch(node.value):
            return float(node.value)  # 1e-4 is a number to everybody but YAML 1.1
        if _HALF.search(node.value):
            raise self._wrong(node, "half a character", "Write both of its escapes.")
        if kind in ("timestamp", "str", "value") or (kind in ("int", "float") and ":" in node.value):
            return node.value  # 12:30 is 750 to YAML 1.1 alone
        if kind not in ("int", "float", "bool", "null"):
            raise self._foreign(node)
        try:
            return self._make.construct_object(node, deep=True)
        except (ValueError, LookupError, yaml.YAMLError):  # a tag that the text does not fit
            problem = f"{reprlib.repr(node.value)} is no {kind}"
            raise self._wrong(node, problem, "Put a text into quotes.") from None

    def _place(self, node: Any) -> str:
        mark = node.start_mark
        return f"{self._shown}:{mark.line + 1}:{mark.column + 1}"

    def _wrong(self, node: yaml.Node, problem: str, remedy: str) -> ConfigFileError:
        mark = node.start_mark
        return ConfigFileError(self._place(node), problem, remedy, self._excerpt(mark.line, mark.column))

    def _foreign(self, node: yaml.Node) -> ConfigFileError:
        return self._wrong(node, f"the tag {node.tag!r} is not read from files", "Write a plain value.")

    def _too_deep(self, place: str) -> ConfigFileError:
        return ConfigFileError(
            place, f"more than {_MOST_LEVELS} levels of nesting", "A configuration has two or three."
        )

    def _malformed(self, error: yaml.MarkedYAMLError) -> ConfigFileError:
        mark = error.problem_mark or error.context_mark
        problem = str(error.problem or error.context or "it is not well formed")
        if problem.startswith("but ") and error.context:
            problem = f"{error.context}, {problem}"
        line, column = (mark.line, mark.column) if mark is not None else (0, 0)
        written = self._lines[line] if line < len(self._lines) else ""
        remedy = "Correct this line."
        if "${" in written:
            remedy = "Put ${...} into quotes."
        if "\t" in _indent(written) or written[column : column + 1] == "\t":
            problem, remedy = "a tab stands where YAML wants spaces", "Use spaces."
            column = written.index("\t")
        return ConfigFileError(f"{self._shown}:{line + 1}:{column + 1}", problem, remedy, self._excerpt(line, column))

    def _unreadable(self) -> ConfigFileError:
        """The error for a character that no YAML may hold."""
        found = _FORBIDDEN.search(self._text)
        assert found, "libyaml and PyYAML refuse no other characters"
        above = _BREAK.split(self._text[: found.start()])
        place = f"{self._shown}:{len(above)}:{len(above[-1]) + 1}"
        return ConfigFileError(place, f"the character {found[0]!r} is not allowed", "Remove it.")

    def _excerpt(self, line: int, column: int) -> str:
        """The line with a mark below the column; of a long line what is around it, and never a secret."""
        if line >= len(self._lines):
            return ""
        written = masked_line(self._lines[line].replace("\t", "\N{RIGHTWARDS ARROW}"))
        start = max(0, min(column, len(written)) - _SHOWN_WIDTH // 2) if len(written) > _SHOWN_WIDTH else 0
        shown = written[start : start + _SHOWN_WIDTH]
        return f"    {shown}\n    {' ' * min(column - start, len(shown))}^"


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]


def _one_escape(found: re.Match[str]) -> str:
    high, low = int(found[2], 16), int(found[3], 16)
    return f"{found[1]}\\U{0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00):08x}"
