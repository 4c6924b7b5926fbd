"""Copies of files from a results root that does not lie on this node: fetched once, whatever number of processes here want them.

Only files that never change belong here. They are kept in the temporary folder, so a node that goes takes them along.
"""

import fcntl
import hashlib
import os
import shutil
import tempfile
import uuid
from pathlib import Path

from sweeper.storage.store import Store


class NodeCache:
    """This node's copies of one root's files."""

    def __init__(self, store: Store) -> None:
        self.store = store
        name = hashlib.sha256(store.url.encode()).hexdigest()[:16]
        top = Path(tempfile.gettempdir()) / f"sweeper-{os.getuid()}"
        top.mkdir(mode=0o700, exist_ok=True)
        if top.stat().st_uid != os.getuid():
            raise PermissionError(f"{top} must be ours, it belongs to user {top.stat().st_uid}; remove it, or set TMPDIR")
        self.folder = top / name

    def read(self, name: str) -> bytes | None:
        """Return a file's content, from this node's copy or fetched and kept now; None if the root does not have it."""
        path = self._path(name)
        if path.exists():
            return path.read_bytes()
        path.parent.mkdir(exist_ok=True)
        with open(path.with_suffix(".lock"), "wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # released with the process, whatever ends it
            if path.exists():
                return path.read_bytes()
            try:
                content = self.store.read(name)
            except FileNotFoundError:
                return None
            if shutil.disk_usage(path.parent).free > 2 * len(content):
                aside = path.with_suffix(f".{uuid.uuid4().hex}")
                aside.write_bytes(content)
                aside.replace(path)
            return content

    def forget(self, name: str) -> None:
        """Drop this node's copy of a file."""
        self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self.folder / f"{hashlib.sha256(name.encode()).hexdigest()}.bin"
