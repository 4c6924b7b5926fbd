"""What a results root is made of: files by relative name, created whole or not at all. Where they lie is the store's business.

Names are relative and use "/": `parts/scores/ab/ab12.parquet`. `local.py` keeps them in a folder, `objects.py` in a bucket, `sweeper.cluster.root`
brings them through Ray to the node that has the folder. A store travels with the work, so each can be pickled.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class Stat:
    """A file's size in bytes, when it was written (seconds, in the clock of whatever keeps it), and what changes whenever it is written anew."""

    size: int
    modified: float
    identity: str


class Store(Protocol):
    """Files under one root. An error is an OSError that says where and why; FileNotFoundError where a name is asked for that is not there."""

    url: str  # as people write it: an absolute path, or s3://bucket/prefix

    def check(self) -> None:
        """Raise ValueError if what lies at the root is none and cannot become one, such as a file in a folder's place."""
        ...

    def prepare(self) -> None:
        """Make the root if it is not there and prove that it can be written to. Raises ValueError if not."""
        ...

    def shown(self, name: str) -> str:
        """Return where a file lies, for people."""
        ...

    def local_path(self, name: str) -> Path | None:
        """Return the file's path where it lies in a folder of this machine, else None."""
        ...

    def read(self, name: str) -> bytes: ...

    def create(self, name: str, content: bytes) -> bool:
        """Write a file, whole and durable, unless its name is taken; say whether this call created it."""
        ...

    def replace(self, name: str, content: bytes) -> None:
        """Write a file, whole, whatever was there; the last writer wins."""
        ...

    def delete(self, name: str) -> None:
        """Delete a file; one that is gone already is none to complain of."""
        ...

    def move(self, name: str, target: str) -> None:
        """Give a file another name."""
        ...

    def stat(self, name: str) -> Stat | None:
        """Return what is known of a file, None if there is none."""
        ...

    def names(self, folder: str) -> list[str]:
        """Return the names of files and folders directly in a folder, sorted, without the folder's own; none if it does not exist."""
        ...

    def files(self, folder: str) -> list[str]:
        """Return the names of all files below a folder, sorted; none if it does not exist."""
        ...

    def is_whole(self, name: str, size: int | None = None) -> bool:
        """Say whether a Parquet file begins and ends as one, and has the expected size in bytes; False if it is not there.

        Catches cut and overwritten files, not flipped bits. A store whose writes cannot be cut short may go by the size alone.
        """
        ...

    def now(self) -> float:
        """Return the time in the clock that `Stat.modified` is in, seconds."""
        ...

    def free_bytes(self) -> int | None:
        """Return how much more fits, None where there is no telling."""
        ...

    def arrow(self) -> Any:
        """Return a pyarrow file system whose paths are this store's names, None if there is none: then files are read whole."""
        ...
