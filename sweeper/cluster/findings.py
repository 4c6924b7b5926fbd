"""What a check of a cluster file found: a line, and a sentence."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, order=True)
class Finding:
    """One sentence about one line, counted from 1.

    An error makes the cluster fail, hang or stand open; advice does not. What is to fill in is a template's own placeholder: right in a
    template, and no cluster starts with it.
    """

    line: int
    message: str
    level: Literal["error", "advice", "to fill in"] = "error"

    def shown(self, path: Path) -> str:
        """Return it as compilers print: `cluster.yaml:12: provider.region is missing; …`."""
        return f"{path}:{self.line}: {'' if self.level == 'error' else f'{self.level}: '}{self.message}"


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings by line, each once."""
    return sorted(set(findings))
