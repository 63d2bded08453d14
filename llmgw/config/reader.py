"""YAML text -> plain data in which every scalar is text, and where each value stood.

Scalars keep their spelling: whether `010`, `1:30`, `no` or `0.15` is meant as a number is for
the field to say, not for YAML 1.1. Everything that is wrong with the text itself ends here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import yaml

from llmgw.config.expand import Unexpandable, expand
from llmgw.config.problems import HIDDEN, Path, Place, Problems, shown_scalar

Data = str | list["Data"] | dict[str, "Data"] | None

TEXT_MAX = 4 << 20  # characters; ten thousand tenants with two keys each are 2 MB
DEPTH_MAX = 32  # the tree needs 9
NODES_MAX = 500_000  # an alias counts at each use, so a bomb of nested aliases ends here

SCALARS = frozenset(
    f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "timestamp", "value")
)
NULL = "tag:yaml.org,2002:null"
MERGE = "tag:yaml.org,2002:merge"
# The two forms of PyYAML's complaints, and the words that they quote.
EXPECTED_BUT = re.compile(r"(?:did not find )?expected (.+?),? but (?:found|got) (.+)")
QUOTED = re.compile(r"'([^']*)'")
CONTAINERS = frozenset({"tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"})


class _Loader(yaml.SafeLoader):
    """Composes nodes and nothing more; refuses a depth that would exhaust the interpreter's stack."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.depth >= DEPTH_MAX:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, f"more than {DEPTH_MAX} levels", mark)
        self.depth += 1
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node


@dataclass(slots=True)
class Document:
    data: dict[str, Data]
    places: dict[Path, Place]
    problems: Problems


def read(text: str, *, source: str, environ: Mapping[str, str]) -> Document:
    """Reports what it finds into the document's problems; the data then lacks those values."""
    places: dict[Path, Place] = {(): Place(1, "nothing")}
    document = Document({}, places, Problems(source, places))
    root = _compose(text, document.problems)
    if isinstance(root, yaml.MappingNode):
        walk = _Walk(environ, document)
        document.data = walk.mapping(root, ())
    elif not document.problems.found:
        found = {yaml.SequenceNode: "a list", yaml.ScalarNode: "text"}.get(type(root), "nothing")
        document.problems.add((), "a mapping of sections: providers, models, tenants, ...", found=found)
    return document


def _compose(text: str, problems: Problems) -> yaml.Node | None:
    if len(text) > TEXT_MAX:
        problems.add((), f"at most {TEXT_MAX} characters", found=f"{len(text)} characters")
        return None
    try:
        loader = _Loader(text.removeprefix("\ufeff"))
        try:
            return loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        problems.add(
            (), "text without control characters", found=f"U+{ord_of(error.character):04X}", line=line
        )
    except yaml.MarkedYAMLError as error:
        _report_syntax(error, text, problems)
    return None


def is_text(word: str) -> bool:
    """Not empty, and without half a character: YAML can spell a lone surrogate, which UTF-8 cannot."""
    return bool(word) and not any("\ud800" <= character <= "\udfff" for character in word)


def ord_of(character: int | str | bytes) -> int:
    return character if isinstance(character, int) else ord(character)


def _report_syntax(error: yaml.MarkedYAMLError, text: str, problems: Problems) -> None:
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else 1
    what = QUOTED.sub(_shown_token, error.problem or error.context or "broken text")
    got = EXPECTED_BUT.fullmatch(what)
    expected, found = got.groups() if got else ("well-formed YAML, one document", what)
    if any("${" in broken for broken in text.splitlines()[line - 1 : line]):
        expected += ', with "${NAME}" in quotes'
    problems.add((), expected, found=found.removeprefix("found ").removeprefix("but found "), line=line)


def _shown_token(match: re.Match[str]) -> str:
    """A quoted word that is neither a <token> nor a character may be a credential behind a "*" or "&"."""
    return match[0] if match[1].startswith("<") or len(match[1]) <= 2 else HIDDEN


@dataclass(slots=True)
class _Walk:
    """Node by node into plain data; the path to a node is where a message will point."""

    environ: Mapping[str, str]
    document: Document
    nodes: int = 0
    open: set[int] = field(default_factory=set)

    def value(self, node: yaml.Node, path: Path) -> Data:
        self.nodes += 1
        if self.nodes > NODES_MAX:
            self._report(node, (), f"at most {NODES_MAX} values, aliases counted at each use", "more")
            return None
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node, path)
        if id(node) in self.open:
            self._report(node, path, "a value that does not contain itself", "an alias to its own container")
            return None
        if node.tag not in CONTAINERS:
            self._report(node, path, "a value without a tag", "a tag")
            return None
        self.open.add(id(node))
        try:
            return (
                self.mapping(node, path) if isinstance(node, yaml.MappingNode) else self.sequence(node, path)
            )
        finally:
            self.open.remove(id(node))

    def scalar(self, node: yaml.ScalarNode, path: Path) -> str | None:
        if node.tag == NULL:
            self._place(node, path, "nothing")
            return None
        one_line = node.start_mark.line == node.end_mark.line
        self._place(node, path, shown_scalar(path, node.value) if one_line else "text of several lines")
        if node.tag not in SCALARS:
            self._report(node, path, "a value without a tag", "a tag")
            return None
        try:
            return expand(node.value, self.environ)
        except Unexpandable as error:
            self.document.problems.add(path, error.expected, found=error.found)
            return None

    def sequence(self, node: yaml.Node, path: Path) -> list[Data]:
        self._place(node, path, "a list")
        return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]

    def mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Data]:
        self._place(node, path, "a mapping")
        data: dict[str, Data] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            key = self._key(key_node, path)
            if key is None:
                continue
            line = key_node.start_mark.line + 1
            if key in data:
                found = f"the key a second time (first on line {lines[key]})"
                self._report(key_node, (*path, key), "each key once", found, aside=True)
                continue
            lines[key] = line
            data[key] = self.value(value_node, (*path, key))
            self._move_to_key((*path, key), line)
        return data

    def _key(self, node: yaml.Node, path: Path) -> str | None:
        if not isinstance(node, yaml.ScalarNode) or node.tag == MERGE or not is_text(node.value):
            found = "a merge key" if node.tag == MERGE else "a key that is no word"
            self._report(node, path, "keys that are plain words", found, aside=True)
            return None
        return str(node.value)

    def _move_to_key(self, path: Path, line: int) -> None:
        """A mistake is shown on its key's line, also where the value begins further down or is an alias."""
        place = self.document.places.get(path)
        if place is not None:
            self.document.places[path] = Place(line, place.found)

    def _place(self, node: yaml.Node, path: Path, found: str) -> None:
        self.document.places[path] = Place(node.start_mark.line + 1, found)

    def _report(self, node: yaml.Node, path: Path, expected: str, found: str, *, aside: bool = False) -> None:
        line = node.start_mark.line + 1
        self.document.problems.add(path, expected, found=found, line=line, aside=aside)
