"""The few files under a results root that are no results: what a running sweep says of itself, what it is asked, and its logs."""

import os
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


class Files(Protocol):
    """Files by their name under the root, such as `live/ablations.json`. An error is an OSError; FileNotFoundError where there is no such name."""

    url: str

    def read(self, name: str) -> bytes: ...
    def replace(self, name: str, content: bytes) -> None: ...
    def delete(self, name: str) -> None: ...
    def stat(self, name: str) -> Any | None: ...  # None if there is none, else with `modified` (seconds, in `now`'s clock) and `identity`
    def names(self, folder: str) -> list[str]: ...
    def now(self) -> float: ...


@dataclass(frozen=True)
class _Stat:
    size: int
    modified: float
    identity: str


class PlainFiles:
    """Stands in for the root's own store: files in a folder."""

    def __init__(self, root: str | Path) -> None:
        self.root, self.url = Path(root).absolute(), str(Path(root).absolute())

    def read(self, name: str) -> bytes:
        return (self.root / name).read_bytes()

    def replace(self, name: str, content: bytes) -> None:
        path = self.root / name
        path.parent.mkdir(exist_ok=True)
        aside = path.with_name(f".{uuid.uuid4().hex}")
        aside.write_bytes(content)
        os.replace(aside, path)

    def delete(self, name: str) -> None:
        (self.root / name).unlink(missing_ok=True)

    def stat(self, name: str) -> _Stat | None:
        try:
            found = os.stat(self.root / name)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return _Stat(found.st_size, found.st_mtime, f"{found.st_ino}-{found.st_size}-{found.st_mtime_ns}")

    def names(self, folder: str) -> list[str]:
        try:
            return sorted(os.listdir(self.root / folder))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def now(self) -> float:
        import time

        return time.time()
