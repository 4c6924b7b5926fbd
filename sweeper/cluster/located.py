"""YAML that remembers on which line each value stands."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from sweeper.cluster.findings import Finding

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C where PyYAML has it: a tenth of the time


@dataclass(frozen=True)
class Located:
    """A value of a YAML file with its first and last line, from 1; what is missing stands on the line of what should hold it.

    `value` is a scalar, a dict of Located or a list of Located. `shared` says that it came through an alias or merge.
    """

    value: Any
    line: int
    last: int
    is_missing: bool = False
    key_lines: dict[str, int] = field(default_factory=dict)

    def __getitem__(self, key: str | int) -> "Located":
        if isinstance(self.value, dict) and key in self.value:
            return self.value[key]
        if isinstance(self.value, list) and isinstance(key, int) and key < len(self.value):
            return self.value[key]
        return Located(None, self.line, self.line, is_missing=True)

    def at(self, *keys: str | int) -> "Located":
        """Return what stands under keys, one after the other; a missing one has the line of the deepest that is there."""
        found = self
        for key in keys:
            found = found[key]
        return found

    def items(self) -> Iterator[tuple[str, "Located"]]:
        """Iterate over a mapping's keys and values; over nothing if it is none."""
        yield from self.value.items() if isinstance(self.value, dict) else ()

    def entries(self) -> list["Located"]:
        """Return a list's entries; none if it is no list."""
        return self.value if isinstance(self.value, list) else []

    def line_of(self, key: str) -> int:
        """Return the line on which a mapping's key stands."""
        return self.key_lines.get(key, self.line)

    def text(self) -> str:
        """Return a scalar as text; an empty one if there is none."""
        return "" if self.value is None or isinstance(self.value, dict | list) else str(self.value)

    def number(self) -> float | None:
        """Return a number, or None."""
        return self.value if isinstance(self.value, int | float) and not isinstance(self.value, bool) else None

    def plain(self) -> Any:
        """Return the value without lines, as yaml.safe_load would."""
        if isinstance(self.value, dict):
            return {key: value.plain() for key, value in self.value.items()}
        return [entry.plain() for entry in self.value] if isinstance(self.value, list) else self.value

    def scalars(self) -> Iterator["Located"]:
        """Iterate over every scalar below, in the order of the file."""
        if isinstance(self.value, dict | list):
            for child in self.value.values() if isinstance(self.value, dict) else self.value:
                yield from child.scalars()
        else:
            yield self


def read_yaml(text: str) -> tuple[list[Located], list[Finding]]:
    """Return the documents of a YAML text, and the keys that stand twice in one mapping.

    Raises:
        yaml.YAMLError: If it is no YAML.
    """
    loader, documents, twice = _Loader(text), [], []
    while loader.check_node():
        documents.append(_located(loader, loader.get_node(), twice))
    return documents, twice


def _located(loader: Any, node: Any, twice: list[Finding], within: tuple[Any, ...] = ()) -> Located:
    line, last = node.start_mark.line + 1, node.end_mark.line + 1
    if any(node is outer for outer in within):
        raise yaml.MarkedYAMLError(problem="an alias stands within what it names", problem_mark=node.start_mark)
    within = (*within, node)
    if isinstance(node, yaml.MappingNode):
        value, lines = {}, {}
        _note_twice(node, twice)
        loader.flatten_mapping(node)
        for key_node, value_node in node.value:
            key = str(loader.construct_object(key_node))
            value[key], lines[key] = _located(loader, value_node, twice, within), key_node.start_mark.line + 1
        return Located(value, line, last, key_lines=lines)
    if isinstance(node, yaml.SequenceNode):
        return Located([_located(loader, child, twice, within) for child in node.value], line, last)
    return Located(loader.construct_object(node), line, last)


def _note_twice(node: yaml.MappingNode, twice: list[Finding]) -> None:
    seen: dict[str, int] = {}
    for key_node, _ in node.value:
        line = key_node.start_mark.line + 1
        if key_node.value in seen and key_node.value != "<<":
            twice.append(Finding(line, f"{key_node.value!r} stands here a second time, after line {seen[key_node.value]}; only the last one counts"))
        seen[key_node.value] = line
