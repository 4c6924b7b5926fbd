"""Files under a results root: created whole or not at all, never changed. The only place that a kind of storage is spoken to.

    store.json                                 format of the root, created once
    schemas/<table>-v<version>.json            the columns of every table version that was ever written here
    parts/<table>/<kk>/<part_key>.parquet      immutable; kk = first two characters of the key
    compacted/<table>/<generation>-<id>.parquet
    manifests/<generation>.json                what the compacted files hold; created once each, the highest counts
    sources/<stem>@<sha>.py                    the user's own models, attacks, data sets and spaces that trials here were made with
    quarantine/…                               damaged or foreign files that were moved away, same relative path
    .tmp/                                      files being written; without the suffix .parquet, so no glob reads them

A file is written to .tmp, synced and hard-linked to its name: a link fails if the name is taken, so the first writer wins and no reader sees half
a file. .tmp lies inside the root, not beside it, so that both are always on one file system and the parent folder need not be writable.
Works on local folders and NFS, without locks.
"""

import errno
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from sweeper.schemas import STORE_FORMAT, TABLES, Table

PARQUET_MAGIC = b"PAR1"
PART_KEY = re.compile(r"[a-z0-9][a-z0-9._-]{1,180}")
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}


class Folder:
    """A results root on a local or network file system."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, relative: str) -> Path:
        return self.root / relative

    def part_path(self, table: str, part_key: str) -> Path:
        """Return the file of a part. Raises ValueError for a key that could not be a file name everywhere."""
        if not PART_KEY.fullmatch(part_key):
            raise ValueError(
                f"part key must be 2 to 181 of a-z, 0-9, '.', '_' and '-', starting with a letter or digit, got {part_key!r} (table {table})"
            )
        return self.root / "parts" / table / part_key[:2] / f"{part_key}.parquet"

    def announce_schema(self, table: str, spec: Table) -> None:
        """Leave the columns of a table beside its files: for people, and so that an older program notices that it is older."""
        content = json.dumps({"table": table, "version": spec.version, "key": spec.key, "columns": spec.columns}, indent=1)
        self.create(self.path(f"schemas/{table}-v{spec.version}.json"), content.encode())

    def parts(self, table: str) -> Iterator[tuple[str, str]]:
        """Yield (part_key, path) of the files named like parts of this table, sorted by key."""
        top = os.path.join(self.root, "parts", table)  # strings, not Path: this runs for tens of thousands of files
        for kk in _names(top):
            for name in _names(os.path.join(top, kk)):
                if name.endswith(".parquet") and name[:2] == kk:
                    yield name[: -len(".parquet")], os.path.join(top, kk, name)

    def files(self, relative: str) -> list[Path]:
        """Return every file below a folder of the root, sorted; none if the folder does not exist."""
        return sorted(path for path in self.path(relative).rglob("*") if path.is_file())

    def make_folder(self) -> None:
        """Create the root and prove that it can be written to. Raises ValueError if not."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            probe = self._write_aside(b"")
            os.unlink(probe)
        except (PermissionError, NotADirectoryError, FileExistsError, FileNotFoundError) as error:
            raise ValueError(f"results root {self.root} is not writable: {error.strerror}") from error
        except OSError as error:
            if error.errno != errno.EROFS:
                raise
            raise ValueError(f"results root {self.root} is not writable: {error.strerror}") from error

    def create(self, path: Path, content: bytes) -> bool:
        """Create a file, whole and synced to disk, unless its name is taken.

        Returns:
            True if this call created it, False if it was there.

        Raises:
            OSError: If nothing could be written; for a full disk the message names the root and the bytes free and needed.
        """
        aside = self._write_aside(content)
        try:
            _make_synced(path.parent)
            try:
                os.link(aside, path)
            except FileExistsError:
                # NFS may lose the reply to a link that was made and then refuse the retry: the file is ours if it is the same file
                return os.path.samefile(aside, path)
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
        free = shutil.disk_usage(self.root).free
        reason = f"no space left for results root {self.root}: {free} bytes free, {needed} bytes needed; nothing half-written was left"
        return OSError(error.errno, reason)

    def quarantine(self, path: Path) -> Path:
        """Move a file of this root to quarantine/, keeping its relative path, and return where it lies now."""
        path = path if path.is_absolute() else self.root / path
        relative = os.path.relpath(path, self.root)
        if relative.startswith((os.pardir, "quarantine")):
            raise ValueError(f"quarantine takes a file under {self.root}, got {path}")
        if not path.is_file():
            raise FileNotFoundError(errno.ENOENT, "no such file to quarantine", str(path))
        target = self.root / "quarantine" / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            target = target.with_name(f"{target.name}.{uuid.uuid4().hex[:8]}")
        os.rename(path, target)
        return target

    def now(self) -> float:
        """Return the file system's time, seconds: file ages on a network drive are in its clock, not ours."""
        probe = self._write_aside(b"")
        try:
            return probe.stat().st_mtime
        finally:
            probe.unlink(missing_ok=True)

    def names(self, relative: str) -> list[str]:
        """Return the names in a folder of the root, sorted; none if the folder does not exist."""
        return _names(os.path.join(self.root, relative))


def open_root(root: str | Path, create: bool) -> Folder:
    """Return a results root. Raises ValueError if it is none, cannot be written to (with create), or is of a newer version than this program."""
    if "://" in str(root):
        raise ValueError(f"results root must be a folder on a local or network drive, got {root}")
    folder = Folder(Path(root).absolute())
    if folder.root.exists() and not folder.root.is_dir():
        raise ValueError(f"results root must be a folder, got the file {folder.root}")
    marker = folder.path("store.json")
    if create:
        folder.make_folder()
        if not marker.exists():
            folder.create(marker, json.dumps({"program": "sweeper", "format": STORE_FORMAT}).encode())
    if not marker.exists():
        raise ValueError(f"no results under {folder.root}: it has no store.json; `python -m sweeper run` makes one")
    try:
        found = int(json.loads(marker.read_text(encoding="utf-8"))["format"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{marker} is damaged or of another program: {error}") from error
    if found > STORE_FORMAT:
        raise ValueError(f"{marker} says format {found}, this program knows up to {STORE_FORMAT}; use a newer one")
    for name in folder.names("schemas"):
        table, _, version = name.removesuffix(".json").rpartition("-v")
        if table in TABLES and version.isdigit() and int(version) > TABLES[table].version:
            raise ValueError(
                f"{folder.path(f'schemas/{name}')}: table {table} was written here in version {version}, "
                f"this program knows up to {TABLES[table].version}; use a newer one"
            )
    return folder


def is_whole(path: str | Path, size: int | None = None) -> bool:
    """Say whether a Parquet file begins and ends as one, and has the expected size in bytes. Catches cut and overwritten files, not flipped bits."""
    try:
        with open(path, "rb", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            if end < 12 or (size is not None and end != size):
                return False
            file.seek(end - 8)
            tail = file.read(8)  # length of the footer, then the magic bytes
            return tail[4:] == PARQUET_MAGIC and int.from_bytes(tail[:4], "little") + 12 <= end
    except (FileNotFoundError, IsADirectoryError):
        return False


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []


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
