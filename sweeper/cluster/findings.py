"""What a check of a cluster file found: a line, and a sentence."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, order=True)
class Finding:
    """One sentence about one line, counted from 1. An error makes the cluster fail, hang or stand open; advice does not."""

    line: int
    message: str
    is_advice: bool = False

    def shown(self, path: Path) -> str:
        """Return it as compilers print: `cluster.yaml:12: provider.region is missing; …`."""
        return f"{path}:{self.line}: {'advice: ' if self.is_advice else ''}{self.message}"


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings by line, each once."""
    return sorted(set(findings))
