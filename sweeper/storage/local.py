"""A results root in a folder, on a local disk or a network drive (NFS), without locks.

A file is written to .tmp, synced and hard-linked to its name: a link fails if the name is taken, so the first writer wins and no reader sees half
a file. .tmp lies inside the root, not beside it, so that both are always on one file system and the parent folder need not be writable.
"""

import errno
import os
import shutil
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from sweeper.storage.store import Stat

PARQUET_MAGIC = b"PAR1"
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}


class LocalStore:
    """Files under a folder."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).absolute()
        self.url = str(self.root)

    def check(self) -> None:
        if self.root.exists() and not self.root.is_dir():
            raise ValueError(f"results root must be a folder, got the file {self.root}")

    def prepare(self) -> None:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            os.unlink(self._write_aside(b""))
        except (PermissionError, NotADirectoryError, FileExistsError, FileNotFoundError) as error:
            raise ValueError(f"results root {self.root} is not writable: {error.strerror}") from error
        except OSError as error:
            if error.errno != errno.EROFS:
                raise
            raise ValueError(f"results root {self.root} is not writable: {error.strerror}") from error

    def shown(self, name: str) -> str:
        return os.path.join(self.url, name)

    def local_path(self, name: str) -> Path:
        return self.root / name

    def read(self, name: str) -> bytes:
        return self.local_path(name).read_bytes()

    def create(self, name: str, content: bytes) -> bool:
        aside, path = self._write_aside(content), self.local_path(name)
        try:
            _make_synced(path.parent)
            try:
                os.link(aside, path)
            except FileExistsError:
                # NFS may lose the reply to a link that was made and then refuse the retry: the file is ours if it is the same file
                with suppress(FileNotFoundError):  # it was there, and is gone again: a claim that was given back
                    return os.path.samefile(aside, path)
                return False
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                if path.exists():
                    return False
                os.rename(aside, path)  # last writer wins here; both are whole and hold the same rows
            _sync_folder(path.parent)
            return True
        except OSError as error:
            raise self._explain(error, len(content)) from error
        finally:
            aside.unlink(missing_ok=True)

    def replace(self, name: str, content: bytes) -> None:
        aside, path = self._write_aside(content), self.local_path(name)
        try:
            _make_synced(path.parent)
            os.replace(aside, path)
        except OSError as error:
            raise self._explain(error, len(content)) from error
        finally:
            aside.unlink(missing_ok=True)

    def delete(self, name: str) -> None:
        self.local_path(name).unlink(missing_ok=True)

    def move(self, name: str, target: str) -> None:
        self.local_path(target).parent.mkdir(parents=True, exist_ok=True)
        os.rename(self.local_path(name), self.local_path(target))

    def stat(self, name: str) -> Stat | None:
        try:
            found = os.stat(os.path.join(self.url, name))
        except (FileNotFoundError, NotADirectoryError):
            return None
        return Stat(found.st_size, found.st_mtime, f"{found.st_ino}-{found.st_size}-{found.st_mtime_ns}")

    def names(self, folder: str) -> list[str]:
        try:
            return sorted(os.listdir(os.path.join(self.url, folder)))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def files(self, folder: str) -> list[str]:
        found, waiting = [], [folder]
        while waiting:  # strings, not Path: this runs for tens of thousands of files
            inside = waiting.pop()
            try:
                with os.scandir(os.path.join(self.url, inside)) as entries:
                    for entry in entries:
                        (waiting if entry.is_dir() else found).append(f"{inside}/{entry.name}")
            except (FileNotFoundError, NotADirectoryError):
                continue
        return sorted(found)

    def is_whole(self, name: str, size: int | None = None) -> bool:
        try:
            with open(os.path.join(self.url, name), "rb", buffering=0) as file:
                end = file.seek(0, os.SEEK_END)
                if end < 12 or (size is not None and end != size):
                    return False
                file.seek(end - 8)
                tail = file.read(8)  # length of the footer, then the magic bytes
                return tail[4:] == PARQUET_MAGIC and int.from_bytes(tail[:4], "little") + 12 <= end
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return False

    def now(self) -> float:
        """Return the file system's time: file ages on a network drive are in its clock, not ours."""
        probe = self._write_aside(b"")
        try:
            return probe.stat().st_mtime
        finally:
            probe.unlink(missing_ok=True)

    def free_bytes(self) -> int:
        place = self.root
        while not place.exists():
            place = place.parent
        return shutil.disk_usage(place).free

    def arrow(self) -> Any:
        import pyarrow.fs

        return pyarrow.fs.SubTreeFileSystem(self.url, pyarrow.fs.LocalFileSystem())

    def _write_aside(self, content: bytes) -> Path:
        aside = self.root / ".tmp" / uuid.uuid4().hex
        try:
            aside.parent.mkdir(exist_ok=True)
            with open(aside, "xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            aside.unlink(missing_ok=True)
            raise self._explain(error, len(content)) from error
        return aside

    def _explain(self, error: OSError, needed: int) -> OSError:
        if error.errno not in _NO_SPACE:
            return error
        assert error.errno is not None
        reason = f"no space left for results root {self.root}: {self.free_bytes()} bytes free, {needed} bytes needed; nothing half-written was left"
        return OSError(error.errno, reason)


def _make_synced(folder: Path) -> None:
    """Create a folder so that its name survives a power cut."""
    if not folder.is_dir():
        _make_synced(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems cannot sync a folder
            raise
    finally:
        os.close(descriptor)
