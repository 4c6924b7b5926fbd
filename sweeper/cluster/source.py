"""A cluster file as the rules see it: its lines, its values with their lines, and the versions it has to agree with."""

import importlib.metadata
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from sweeper.cluster.findings import Finding
from sweeper.cluster.located import Located
from sweeper.lookup import ROOT, nearest


@dataclass(frozen=True)
class Source:
    """One document of a file; `lines` are those of the whole file, so that a line's number is its index + 1."""

    path: Path
    lines: tuple[str, ...]
    root: Located

    def line_with(self, where: Located, fragment: str) -> int:
        """Return the line within a value on which fragment stands: folded commands run over several; else the value's first."""
        for line in range(where.line, min(where.last, len(self.lines)) + 1):
            if fragment in self.lines[line - 1]:
                return line
        return where.line


Rule = Callable[[Source], Iterator[Finding]]


def misspelt(where: Located, known: dict, named: str) -> Iterator[Finding]:
    """Yield the keys of a mapping, and of those below, that are not known; an empty table of keys knows all of them."""
    for entry in where.entries():
        yield from misspelt(entry, known, named)
    for key, value in where.items():
        if known and key not in known:
            yield Finding(where.line_of(key), f"unknown key {key!r} in {named}{nearest(key, known)}; nobody reads it, or the first node fails on it")
        elif known:
            yield from misspelt(value, known[key], f"{named}.{key}")


def to_edit(source: Source) -> Iterator[Finding]:
    """Yield what the shipped files leave to be filled in: words with EDIT, and addresses that belong to nobody."""
    for scalar in source.root.scalars():
        for word in re.findall(r"\S*EDIT\S*|^192\.0\.2\.\S*", scalar.text()):
            yield Finding(source.line_with(scalar, word), f"{word!r} is a placeholder", level="to fill in")


@cache
def pinned() -> dict[str, str]:
    """Return the versions that a cluster must have: Ray's as installed here, torch's of constraints.txt or else as installed, and Python's.

    Ray refuses a driver of another Ray or another minor version of Python than the cluster's.
    """
    versions = {name: importlib.metadata.version(name).split("+")[0] for name in ("ray", "torch")}
    constraints = ROOT / "constraints.txt"
    if constraints.exists():
        versions |= dict(re.findall(r"^(torch)==([\w.]+)$", constraints.read_text(), re.MULTILINE))
    return versions | {"Python": f"{sys.version_info.major}.{sys.version_info.minor}"}


def words_of(command: str) -> list[str]:
    """Return a shell command's words, without quotes."""
    try:
        return shlex.split(command, comments=False)
    except ValueError:  # a lone quote; `bash -n` says so
        return command.split()
