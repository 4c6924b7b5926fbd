"""Read a shell script as far as the rules need it: how a program is called, and which variables it gets."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from sweeper.cluster.source import words_of

_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
_KEYWORDS = ("if", "then", "else", "do", "{", "(", "!")


@dataclass(frozen=True)
class Call:
    """The first call of a program: the variables exported to it, and the words of its command before and behind its name."""

    exported: dict[str, str] = field(default_factory=dict)
    before: list[str] = field(default_factory=list)
    behind: list[str] = field(default_factory=list)


def call_of(script: str, *program: str) -> Call:
    """Return how script calls program, such as "ray", "start"; one without words behind it if it does not.

    Exported is what `export` names, and what stands before the program in its own command; a plain assignment stays within the shell.
    """
    own: dict[str, str] = {}
    exported: dict[str, str] = {}
    for segment in re.split(r"\n|;|&&|\|\|", script.replace("\\\n", " ")):
        words = words_of(segment)
        while words and words[0] in _KEYWORDS:
            words = words[1:]
        for place in range(len(words)):
            if tuple(words[place : place + len(program)]) == program:
                return Call(exported | _assigned(words[:place]), words[:place], words[place + len(program) :])
        if words[:1] == ["export"]:
            own |= _assigned(words[1:])
            exported |= {name: own.get(name, "") for name in (word.partition("=")[0] for word in words[1:])}
        elif words and all(_ASSIGNMENT.match(word) for word in words):
            own |= _assigned(words)
            exported |= {name: value for name, value in own.items() if name in exported}
    return Call(exported)


def options_of(words: list[str]) -> dict[str, str]:
    """Return long options with their values, given as `--name=value` or `--name value`."""
    options = {}
    for place, word in enumerate(words):
        if word.startswith("--"):
            name, _, value = word[2:].partition("=")
            following = words[place + 1] if place + 1 < len(words) and not words[place + 1].startswith("-") else ""
            options[name] = value or following
    return options


def without_comments(lines: Iterable[str]) -> str:
    """Return a script's lines without what stands behind a # that no quotes enclose."""
    return "\n".join(_uncommented(line) for line in lines)


def _uncommented(line: str) -> str:
    for found in re.finditer(r"(?:^|\s)#", line):
        before = line[: found.start()]
        if before.count('"') % 2 == 0 and before.count("'") % 2 == 0:
            return before
    return line


def _assigned(words: list[str]) -> dict[str, str]:
    return {name: value for name, _, value in (word.partition("=") for word in words if _ASSIGNMENT.match(word))}
