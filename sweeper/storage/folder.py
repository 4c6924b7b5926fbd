"""A results root: what lies in it under which name.

store.json                                 format of the root, created once
schemas/<table>-v<version>.json            the columns of every table version that was ever written here
parts/<table>/<kk>/<part_key>.parquet      immutable; kk = first two characters of the key
compacted/<table>/<generation>-<id>.parquet
manifests/<generation>.json                what the compacted files hold; created once each, the highest counts
artifacts/<kind>/<kk>/<key>.safetensors    see artifacts.py
sources/<stem>@<sha>.py                    the user's own models, attacks, data sets and spaces that trials here were made with
logs/<sweep>/<trial_id>.log
live/<sweep>.json, stop/<sweep>.json       what a running sweep says of itself, and is asked, replaced while it runs
quarantine/…                               damaged or foreign files that were moved away, same relative path
.tmp/                                      files being written; without the suffix .parquet, so no glob reads them
"""

import errno
import json
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

from sweeper.schemas import STORE_FORMAT, TABLES, Table
from sweeper.storage.local import LocalStore
from sweeper.storage.store import Store

MARKER = "store.json"
PART_KEY = re.compile(r"[a-z0-9][a-z0-9._-]{1,180}")
Root = str | Path | Store  # a folder, a URL such as s3://bucket/prefix, or a store that is open already


def open_store(root: Root) -> Store:
    """Return what keeps a root's files; nothing is read or written. Raises ValueError for a kind of storage that is not known."""
    if not isinstance(root, str | Path):
        return root
    if "://" in str(root):
        from sweeper.storage.objects import ObjectStore  # imports pyarrow

        return ObjectStore(str(root))
    return LocalStore(root)


def is_root(root: Root) -> bool:
    """Say whether there are results: whether a sweep ever wrote there."""
    return open_store(root).stat(MARKER) is not None


class Folder:
    """The names under a results root."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def part_name(self, table: str, part_key: str) -> str:
        """Return the file of a part. Raises ValueError for a key that could not be a file name everywhere."""
        if not PART_KEY.fullmatch(part_key):
            raise ValueError(
                f"part key must be 2 to 181 of a-z, 0-9, '.', '_' and '-', starting with a letter or digit, got {part_key!r} (table {table})"
            )
        return f"parts/{table}/{part_key[:2]}/{part_key}.parquet"

    def announce_schema(self, table: str, spec: Table) -> None:
        """Leave the columns of a table beside its files: for people, and so that an older program notices that it is older."""
        content = json.dumps({"table": table, "version": spec.version, "key": spec.key, "columns": spec.columns}, indent=1)
        self.store.create(f"schemas/{table}-v{spec.version}.json", content.encode())

    def parts(self, table: str) -> Iterator[tuple[str, str]]:
        """Yield (part_key, name) of the files named like parts of this table, sorted by key."""
        top = f"parts/{table}"
        for path in self.store.files(top):
            kk, slash, name = path[len(top) + 1 :].partition("/")
            if slash and name.endswith(".parquet") and name[:2] == kk and "/" not in name:
                yield name[: -len(".parquet")], path

    def quarantine(self, name: str) -> str:
        """Move a file of this root to quarantine/, keeping its relative path, and return its name now."""
        local = self.store.local_path("")
        relative = os.path.relpath(name, local) if local is not None and os.path.isabs(name) else name
        if relative.startswith((os.pardir, "quarantine")):
            raise ValueError(f"quarantine takes a file under {self.store.url}, got {name}")
        if self.store.stat(relative) is None:
            raise FileNotFoundError(errno.ENOENT, "no such file to quarantine", self.store.shown(relative))
        target = f"quarantine/{relative}"
        if self.store.stat(target) is not None:
            target += f".{uuid.uuid4().hex[:8]}"
        self.store.move(relative, target)
        return target


def open_root(root: Root, create: bool) -> Folder:
    """Return a results root. Raises ValueError if it is none, cannot be written to (with create), or is of a newer version than this program."""
    store = open_store(root)
    store.check()
    if create:
        store.prepare()
        if store.stat(MARKER) is None:
            store.create(MARKER, json.dumps({"program": "sweeper", "format": STORE_FORMAT}).encode())
    try:
        marker = store.read(MARKER)
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"no results under {store.url}: it has no {MARKER}; `python -m sweeper run` makes one") from None
    try:
        found = int(json.loads(marker)["format"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{store.shown(MARKER)} is damaged or of another program: {error}") from error
    if found > STORE_FORMAT:
        raise ValueError(f"{store.shown(MARKER)} says format {found}, this program knows up to {STORE_FORMAT}; use a newer one")
    for name in store.names("schemas"):
        table, _, version = name.removesuffix(".json").rpartition("-v")
        if table in TABLES and version.isdigit() and int(version) > TABLES[table].version:
            raise ValueError(
                f"{store.shown(f'schemas/{name}')}: table {table} was written here in version {version}, "
                f"this program knows up to {TABLES[table].version}; use a newer one"
            )
    return Folder(store)
