"""The results store: tables of immutable Parquet files under one root.

A row is published once, as part of a file named by its keys: publishing again does nothing, so a trial that is run again after a crash cannot make
a row appear twice, and no file is ever changed. Columns: `schemas.py`. How files lie and come to be: `storage/`. What is in them:
`parquet.py`. Few large files instead of many: `compaction.py`. SQL: `sql.py`.

    results = Results("results", create=True)
    results.publish("scores", part_key, rows)                      # list of dicts
    results.read("scores", ["trial_id", "accuracy"], {"threat": "adaptive"}).to_pylist()

Without this package: until `clean` or `merge` has run, `parts/<table>/*/*.parquet` are all rows of a table. Afterwards it is the files that the
newest file in manifests/ lists, and the parts that it does not list.
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from sweeper import compaction, parquet, sql
from sweeper.compaction import CompactedFile, Manifest
from sweeper.schemas import NEEDS_FINISHED_TRIAL, TABLES, check_column, find_table
from sweeper.storage import Folder, Root, open_root

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as ds
    from pyarrow.fs import FileSystem


class Readable(Protocol):
    """What rows are read from: a results root, or a part of one."""

    def read(self, table: str, columns: Sequence[str] | None = None, where: parquet.Where | None = None) -> "pa.Table": ...


@dataclass(frozen=True)
class Problem:
    """A file under the results root that cannot be read as what its place says: its name there, and where that lies."""

    name: str
    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class Results:
    """The tables under one results root.

    Args:
        root: A folder, local or on a network drive, a URL such as s3://bucket/prefix, or an open store.
        create: Make the root if it is not there, and check that it can be written to. Without it nothing is written before the first publish.
        on_problem: Called once for each damaged or foreign file that reading leaves out; they are also kept in `skipped`.

    Raises:
        ValueError: If there is no store, it cannot be written to (with create), or it was written by a newer version of this program.
    """

    def __init__(self, root: Root, *, create: bool = False, on_problem: Callable[[Problem], None] | None = None) -> None:
        self.folder: Folder = open_root(root, create)
        self.store = self.folder.store
        self.root = self.store.url
        self.skipped: list[Problem] = []
        self._on_problem = on_problem
        self._damaged: dict[str, str] = {}  # name -> what the file looked like when it was found damaged
        self._manifest = Manifest()
        self._announced: set[str] = set()

    # Writing

    def publish(self, table: str, part_key: str, rows: Iterable[Mapping[str, object]]) -> bool:
        """Store rows as one part; return False, changing nothing, if that part is stored already.

        Columns left out are null. schema_version is filled in here.

        Raises:
            ValueError: For an unknown column (names the nearest), a missing or ill-typed value, or two rows with one key.
            OSError: If the disk is full: names the root and the bytes free and needed. No reader sees anything of the part then.
        """
        data = parquet.to_arrow(table, rows)
        name = self.folder.part_name(table, part_key)
        if self.has(table, part_key):
            return False
        if table not in self._announced:
            self.folder.announce_schema(table, TABLES[table])
            self._announced.add(table)
        content = parquet.encode(table, data)
        if self.store.create(name, content):
            return True
        if self._is_usable(name):  # another writer was quicker
            return False
        self._report(name, "damaged; moved to quarantine/ and written anew")
        with contextlib.suppress(FileNotFoundError):  # moved by another writer
            self.folder.quarantine(name)
        return self.store.create(name, content)

    def quarantine(self, name: str) -> str:
        """Move a damaged or foreign file out of the tables' way; return where it lies now. What it held counts as never stored."""
        return self.store.shown(self.folder.quarantine(name))

    def compact(self, *, min_parts: int = 1, max_rows: int = compaction.MAX_ROWS) -> compaction.Compacted | None:
        """Merge the parts into few large files; None if there are fewer than min_parts. Deletes nothing. See compaction.compact."""
        if sum(len(self.uncovered(table, self.manifest())) for table in TABLES) < max(1, min_parts):
            return None
        return compaction.compact(self, max_rows)

    def clean(self, grace_seconds: float = 86_400.0) -> list[str]:
        """Delete what compaction replaced more than grace_seconds ago, and old temporary files. See compaction.clean."""
        return compaction.clean(self, grace_seconds)

    # What is stored

    def stored(self, table: str) -> set[str]:
        """Return the keys of the parts that are stored. A part whose file is cut short does not count."""
        find_table(table)
        covered = self._covered(table, self.manifest())
        return covered | {key for key, path in self.folder.parts(table) if key not in covered and self._is_usable(path)}

    def has(self, table: str, part_key: str) -> bool:
        """Say whether one part is stored."""
        find_table(table)
        return self._is_usable(self.folder.part_name(table, part_key)) or part_key in self._covered(table, self.manifest())

    def manifest(self) -> Manifest:
        """Return the newest manifest that can be read."""
        for generation in reversed(compaction.generations(self.folder)):
            if found := self.load_manifest(generation):
                return found
        return Manifest()

    def load_manifest(self, generation: int) -> Manifest | None:
        """Return one manifest, None (and a problem) if it is damaged or was just deleted."""
        if generation == self._manifest.generation:
            return self._manifest
        name = compaction.manifest_name(generation)
        try:
            self._manifest = Manifest.parse(self.store.read(name).decode())
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            self._report(name, "not a manifest: damaged or foreign")
            return None
        return self._manifest

    def compacted(self, table: str, manifest: Manifest) -> list[tuple[CompactedFile, str]]:
        """Return the compacted files of a table that are there as the manifest describes them, each with its name in the root."""
        found = []
        for file in manifest.tables.get(table, ()):
            name = f"compacted/{table}/{file.name}"
            if self._is_usable(name, file.bytes):
                found.append((file, name))
            else:
                self._report(name, f"damaged or gone; it holds {file.rows} rows of {table}")
        return found

    def uncovered(self, table: str, manifest: Manifest) -> dict[str, str]:
        """Return part key -> file of the parts that no compacted file holds."""
        covered = self._covered(table, manifest)
        return {key: path for key, path in self.folder.parts(table) if key not in covered and not self._is_damaged(path)}

    def files(self, table: str) -> list[str]:
        """Return the files that make up a table now: compacted ones, and parts that those do not hold."""
        manifest = self.manifest()  # before the parts: one published meanwhile is then read as a part
        return [path for _, path in self.compacted(table, manifest)] + list(self.uncovered(table, manifest).values())

    # The user's own files

    def keep_sources(self, sources: Mapping[str, str]) -> None:
        """Store the text of the user's own files, by canonical name (`file:STEM@SHA`): their trials can then be made again from this root alone."""
        for name, text in sources.items():
            self.store.create(f"sources/{name.removeprefix('file:')}.py", text.encode())

    def kept_sources(self) -> dict[str, str]:
        """Return the stored texts by canonical name; one that is no longer what its name says is left out and reported."""
        found: dict[str, str] = {}
        for name in self.store.files("sources"):
            text, stem = self.store.read(name), name.removeprefix("sources/").removesuffix(".py")
            if stem.rpartition("@")[2] == hashlib.sha256(text).hexdigest()[:16]:
                found[f"file:{stem}"] = text.decode()
            else:
                self._report(name, "not the file that its name says: changed or damaged")
        return found

    # Reading

    def read(
        self, table: str, columns: Sequence[str] | None = None, where: parquet.Where | None = None, *, include_unfinished: bool = False
    ) -> "pa.Table":
        """Return a table, or some columns and rows of it, in the declared types.

        Rows of scores, distances, latents, strips and epochs show once their trial is completed (has its row in `trials`), unless include_unfinished.
        Damaged and foreign files are left out and reported, see on_problem.

        Args:
            table: Name of the table.
            columns: Names of the columns, all by default.
            where: Column -> value or list of values; None stands for a missing value.

        Raises:
            ValueError: For unknown names, for files of a newer version (names file and versions), and if a row is there twice (names the files).
        """
        spec = find_table(table)
        columns = list(columns) if columns is not None else list(spec.columns)
        for name in (*columns, *(where or ())):
            check_column(table, name)
        data, paths = self._load(table, [*dict.fromkeys((*columns, *spec.key))], where)
        self._assert_unique(table, data, paths)
        if table in NEEDS_FINISHED_TRIAL and not include_unfinished:
            finished, _ = self._load("trials", ["trial_id"], None)
            data = parquet.semi_join(data, finished, "trial_id")
        return data.select(columns)

    def read_all(self, table: str) -> tuple["pa.Table", set[str]]:
        """Return a table's rows, also those of unfinished trials, and the keys of the parts that these are of: of no other, and of all of them."""
        manifest = self.manifest()
        held = {path: file.parts for file, path in self.compacted(table, manifest)}
        held |= {path: (key,) for key, path in self.uncovered(table, manifest).items()}
        data, used = self._load(table, list(find_table(table).columns), None, list(held))
        self._assert_unique(table, data, used)
        return data, {key for path in used for key in held[path]}

    def read_parts(
        self, table: str, part_keys: Sequence[str], columns: Sequence[str] | None = None, where: parquet.Where | None = None
    ) -> "pa.Table":
        """Return the rows of some parts, opening these files and no others; of the whole table where one of them is no longer a file of its own.

        Rows of a trial that is not completed are among them.
        """
        paths = [self.folder.part_name(table, key) for key in part_keys]
        if not all(self._is_usable(path) for path in paths):
            return self.read(table, columns, where, include_unfinished=True)
        columns = list(columns) if columns is not None else list(find_table(table).columns)
        data, _ = self._load(table, columns, where, paths)
        return data.select(columns)

    def query(self, statement: str, *, include_unfinished: bool = False) -> tuple[list[str], list[tuple[object, ...]]]:
        """Return column names and rows of a DuckDB statement over the tables. See sql.query."""
        return sql.query(self, statement, include_unfinished=include_unfinished)

    def dataset(self, table: str) -> "ds.Dataset":
        """Return a table as one lazily read dataset. Keeps the promises of `read` but one: it has the rows of unfinished trials."""
        keys, paths = self._load(table, list(find_table(table).key), None)
        self._assert_unique(table, keys, paths)
        return parquet.dataset(table, self._files, paths)

    def leave_out_damaged(self, table: str) -> bool:
        """Read all of a table's files to find those damaged inside; report them, leave them out, and say whether there are any."""
        return self._leave_out([p for path in self.files(table) if (p := self._examine(table, path, deep=True))])

    def problems(self) -> list[Problem]:
        """Return every damaged, foreign or misplaced file among the tables' files. Reads each whole: 10,000 parts take about 20 s."""
        found: list[Problem] = []
        for name in self.store.files("parts"):
            table, *rest = name.removeprefix("parts/").split("/")
            if rest and rest[-1].startswith("."):  # a network drive's placeholder for a file deleted while open
                continue
            if table not in TABLES or len(rest) != 2 or rest[0] != rest[1][:2] or not rest[1].endswith(".parquet"):
                found.append(self._problem(name, "foreign: not named as a part of a table"))
            else:
                found += self._problem_of(table, name)
        for table, files in self.manifest().tables.items():
            for file in files:
                found += self._problem_of(table, f"compacted/{table}/{file.name}", file.bytes)
        return found

    def _problem_of(self, table: str, name: str, size: int | None = None) -> list[Problem]:
        try:
            problem = self._examine(table, name, size, deep=True)
        except parquet.NewerVersion as error:
            return [self._problem(name, str(error))]
        return [problem] if problem else []

    def _problem(self, name: str, reason: str) -> Problem:
        return Problem(name, self.store.shown(name), reason)

    def empty(self, table: str) -> "pa.Table":
        """Return a table's columns without rows."""
        return parquet.schema(table).empty_table()

    # For compaction

    def count_rows(self, table: str, paths: list[str]) -> dict[str, int]:
        """Return the number of rows of each readable file, in the order given."""
        data, used = self._load(table, ["__filename"], None, paths)
        counts = parquet.count_values(data, "__filename")
        return {path: counts.get(path, 0) for path in used}

    def merge(self, table: str, paths: list[str]) -> tuple[bytes, int, list[str]]:
        """Return the readable ones of some files as one sorted Parquet file, its number of rows, and which files are in it."""
        data, used = self._load(table, list(TABLES[table].columns), None, paths)
        self._assert_unique(table, data, used)
        return parquet.encode(table, data, is_compacted=True), data.num_rows, used

    # Inside

    def _load(self, table: str, columns: list[str], where: parquet.Where | None, paths: list[str] | None = None) -> tuple["pa.Table", list[str]]:
        """Return the rows of the readable files and these files' paths. Raises ValueError for a file of a newer version."""
        given, is_second_look = paths, False
        while True:
            paths = [p for p in given if not self._is_damaged(p)] if given is not None else self.files(table)
            try:
                return parquet.scan(table, self._files, paths, columns, where), paths
            except parquet.Unreadable as error:
                reason = str(error)
            there = [path for path in paths if self.store.stat(path) is not None]
            if len(there) < len(paths):  # cleaned away meanwhile: a newer manifest holds its rows
                given = None if given is None else there
                continue
            if not is_second_look and self.store.local_path("") is None:  # what was kept in memory of it is dropped now
                is_second_look = True
                continue
            for deep in (False, True):  # what is wrong? most is seen in the footers, the rest by reading every file
                if self._leave_out([p for path in paths if (p := self._examine(table, path, deep=deep))]):
                    break
            else:
                raise OSError(f"table {table} under {self.root} cannot be read: {reason}")

    def _examine(self, table: str, path: str, size: int | None = None, *, deep: bool = False) -> Problem | None:
        """Say what is wrong with one file, None if nothing is. Raises ValueError if it is of a newer version."""
        if self.store.stat(path) is None:
            return self._problem(path, "gone")
        if not self.store.is_whole(path, size):
            return self._problem(path, "torn or foreign: not a whole Parquet file")
        reason = parquet.what_is_wrong(table, self._files, path, deep=deep)
        return self._problem(path, reason) if reason else None

    def _leave_out(self, problems: list[Problem]) -> bool:
        for problem in problems:
            self._damaged[problem.name] = self._identity(problem.name)
            self._report(problem.name, problem.reason)
        return bool(problems)

    def _report(self, name: str, reason: str) -> None:
        problem = self._problem(name, reason)
        if all(known.name != name for known in self.skipped):
            self.skipped.append(problem)
            if self._on_problem:
                self._on_problem(problem)

    def _is_damaged(self, path: str) -> bool:
        return path in self._damaged and self._damaged[path] == self._identity(path)

    def _is_usable(self, path: str, size: int | None = None) -> bool:
        return self.store.is_whole(path, size) and not self._is_damaged(path)

    def _covered(self, table: str, manifest: Manifest) -> set[str]:
        return {key for file, _ in self.compacted(table, manifest) for key in file.parts}

    def _assert_unique(self, table: str, data: "pa.Table", paths: list[str]) -> None:
        twice = parquet.first_repeat(data, TABLES[table].key)
        if twice:
            files = parquet.scan(table, self._files, paths, ["__filename"], twice)["__filename"].to_pylist()
            raise ValueError(f"table {table} has a row twice, {twice}, in {' and '.join(sorted({self.store.shown(file) for file in files}))}")

    @cached_property
    def _files(self) -> "FileSystem":
        return parquet.file_system(self.store)

    def _identity(self, name: str) -> str:
        stat = self.store.stat(name)
        return stat.identity if stat else ""
