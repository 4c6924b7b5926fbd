"""Few large files instead of many small ones: manifests, compaction and the removal of what it replaced.

A compacted file holds the rows of many parts. The newest manifest lists the compacted files and, for each, the parts in it; readers take those files
and every part that is not listed. Manifests are created by number, never changed, and creating one fails if the number is taken: of two compactors
at once one loses, throws its files away and starts over. So a reader sees each row once, whatever runs beside it.

A compacted file that is damaged or gone does not count: its parts are read again if they still lie there, and are missing (to be made anew) if not.
"""

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from sweeper.schemas import TABLES
from sweeper.storage import Folder, Stat

if TYPE_CHECKING:
    from sweeper.results import Results

MAX_ROWS = 250_000  # per compacted file; files under half of it are merged with newer parts


@dataclass(frozen=True)
class CompactedFile:
    """One file of compacted/<table>/ and the keys of the parts whose rows it holds."""

    name: str
    rows: int
    bytes: int
    parts: tuple[str, ...]


@dataclass(frozen=True)
class Manifest:
    """What is compacted, in one generation. Generation 0 is the empty one that no file stands for."""

    generation: int = 0
    tables: dict[str, tuple[CompactedFile, ...]] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> "Manifest":
        """Raises ValueError (also as JSONDecodeError), KeyError or TypeError if the text is no manifest."""
        raw = json.loads(text)
        tables = {
            table: tuple(CompactedFile(f["name"], f["rows"], f["bytes"], tuple(f["parts"])) for f in files) for table, files in raw["tables"].items()
        }
        return cls(raw["generation"], tables)

    def to_json(self) -> bytes:
        return json.dumps(asdict(self)).encode()


@dataclass(frozen=True)
class Compacted:
    """What a compaction did: parts and bytes that went into how many files."""

    generation: int
    parts: int
    files: int
    bytes: int


@dataclass(frozen=True)
class Addition:
    """Rows of one table that come from elsewhere: a compacted file's content, its number of rows, and the keys of the parts that they stand for."""

    content: bytes
    rows: int
    parts: tuple[str, ...]


def manifest_name(generation: int) -> str:
    return f"manifests/{generation:08d}.json"


def generations(folder: Folder) -> list[int]:
    """Return the numbers of all manifests, ascending."""
    return [int(name[:-5]) for name in folder.store.names("manifests") if name.endswith(".json") and name[:-5].isdigit()]


def compact(results: "Results", max_rows: int = MAX_ROWS, attempts: int = 5) -> Compacted | None:
    """Merge parts into compacted files and commit a manifest; return what was done, None if nothing was.

    There is nothing to do if there are no parts, or if other compactors, who then have done it, won every one of the attempts. Nothing is deleted:
    `clean` does that, later. Readers and writers may run meanwhile.
    """
    for _ in range(attempts):
        base = newest(results.folder)  # before the manifest: what is committed from here on makes this attempt lose
        manifest = results.manifest()
        tables: dict[str, tuple[CompactedFile, ...]] = {}
        written: list[str] = []
        new: set[str] = set()
        parts = 0
        try:
            for table in TABLES:
                kept, made, count = _compact_table(results, manifest, table, max_rows, written)
                tables[table] = (*kept, *made)
                new |= {file.name for file in made}
                parts += count
            if not parts:
                return None
            generation = base + 1
            committed = results.folder.store.create(manifest_name(generation), Manifest(generation, tables).to_json())
        except BaseException:
            _discard(results.folder, written)
            raise
        if committed:
            return Compacted(generation, parts, len(written), sum(file.bytes for files in tables.values() for file in files if file.name in new))
        _discard(results.folder, written)
    return None


def newest(folder: Folder) -> int:
    """Return the number of the newest manifest, readable or not, 0 if there is none."""
    return max(generations(folder), default=0)


def add(results: "Results", additions: Mapping[str, Addition], base: int) -> bool:
    """Commit rows of several tables with one manifest, so that all of them show at once; False if another manifest was committed meanwhile.

    Readers take a part of one of these keys, should it be published meanwhile, for held already.

    Args:
        base: `newest` before anything was read of which the additions were made.
    """
    manifest, generation = results.manifest(), base + 1
    tables = {table: tuple(file for file, _ in results.compacted(table, manifest)) for table in TABLES}
    written: list[str] = []
    for table, addition in additions.items():
        name = f"{generation:08d}-{uuid.uuid4().hex[:12]}.parquet"
        written.append(f"compacted/{table}/{name}")
        results.folder.store.create(written[-1], addition.content)
        tables[table] += (CompactedFile(name, addition.rows, len(addition.content), addition.parts),)
    if results.folder.store.create(manifest_name(generation), Manifest(generation, tables).to_json()):
        return True
    _discard(results.folder, written)
    return False


def _compact_table(
    results: "Results", manifest: Manifest, table: str, max_rows: int, written: list[str]
) -> tuple[list[CompactedFile], list[CompactedFile], int]:
    """Return the compacted files that stay, those written now, and the number of parts taken in. Appends the new paths to written."""
    parts = results.uncovered(table, manifest)
    present = results.compacted(table, manifest)
    if not parts:
        return [file for file, _ in present], [], 0
    small = {path: file.parts for file, path in present if file.rows < max_rows // 2}
    held = small | {path: (key,) for key, path in parts.items()}  # file -> the parts whose rows it holds
    rows = results.count_rows(table, list(held))  # damaged files are named and left out
    if rows.keys().isdisjoint(parts.values()):
        return [file for file, _ in present], [], 0
    made: list[CompactedFile] = []
    taken: set[str] = set()
    for group in _pack(rows, max_rows):
        content, num_rows, used = results.merge(table, group)
        keys = tuple(sorted(key for path in used for key in held[path]))
        name = f"{manifest.generation + 1:08d}-{uuid.uuid4().hex[:12]}.parquet"
        written.append(f"compacted/{table}/{name}")
        results.folder.store.create(written[-1], content)
        made.append(CompactedFile(name, num_rows, len(content), keys))
        taken.update(used)
    kept = [file for file, path in results.compacted(table, manifest) if path not in taken]
    return kept, made, sum(path in taken for path in parts.values())


def _pack(rows: dict[str, int], max_rows: int) -> list[list[str]]:
    """Split files into consecutive groups of at most max_rows rows; a larger file is a group of its own."""
    groups: list[list[str]] = []
    filled = 0
    for path, count in rows.items():
        if not groups or filled + count > max_rows:
            groups.append([])
            filled = 0
        groups[-1].append(path)
        filled += count
    return groups


def clean(results: "Results", grace_seconds: float = 86_400.0) -> list[str]:
    """Delete what no reader can need any more and return those files' names.

    That is: parts that a manifest older than the grace period holds, compacted files and manifests that the newest such manifest and all later ones
    no longer name, and abandoned temporary files of that age. A reader that takes longer than the grace period may lose files under its hands.
    """
    if grace_seconds < 0:
        raise ValueError(f"grace_seconds must be at least 0, got {grace_seconds}")
    folder = results.folder
    oldest_kept = folder.store.now() - grace_seconds

    def is_old(name: str) -> bool:
        stat: Stat | None = folder.store.stat(name)  # None: another process was quicker
        return stat is not None and stat.modified <= oldest_kept

    doomed = [name for name in folder.store.files(".tmp") if is_old(name)]
    numbers = generations(folder)
    settled = max((number for number in numbers if is_old(manifest_name(number))), default=0)
    readable = {number: manifest for number in numbers if number >= settled and (manifest := results.load_manifest(number))}
    if settled in readable and numbers[-1] in readable:  # never delete by a manifest that cannot be read
        doomed += [manifest_name(number) for number in numbers if number < settled]
        for table in TABLES:
            doomed += _replaced(results, table, settled, list(readable.values()), is_old)
    _discard(folder, doomed)
    return doomed


def _replaced(results: "Results", table: str, settled: int, manifests: Sequence[Manifest], is_old: Callable[[str], bool]) -> list[str]:
    """Return the parts that the settled and the newest manifest both hold, and the old compacted files that no manifest from it on names."""
    safe = set.intersection(
        *(
            {key for file, _ in results.compacted(table, manifest) for key in file.parts}
            for manifest in manifests
            if manifest.generation == settled or manifest is manifests[-1]
        )
    )
    folder = results.folder
    named = {file.name for manifest in manifests for file in manifest.tables.get(table, ())}
    unnamed = [name for name in folder.store.files(f"compacted/{table}") if name.rpartition("/")[2] not in named and is_old(name)]
    return [name for key, name in folder.parts(table) if key in safe] + unnamed


def _discard(folder: Folder, names: Sequence[str]) -> None:
    for name in names:
        folder.store.delete(name)
