"""Rows to Parquet bytes, Parquet files to rows, always by the declared schema. The only module that knows pyarrow.

Nothing is inferred: a column of nothing but None would become Arrow's null type, and a dataset without a schema takes its first file's columns and
silently drops those added later.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.fs
import pyarrow.parquet as pq

from sweeper.schemas import TABLES, Table, check_column, find_table

if TYPE_CHECKING:
    from sweeper.storage import Store

ROW_GROUP_ROWS = 16_384  # a filter on the sort columns then skips most of a 200,000-row file
Where = Mapping[str, object]  # column -> value, or list of values of which any will do; None is a missing value

_FORMAT = ds.ParquetFileFormat()
_TYPES = {
    "string": pa.string(),
    "binary": pa.binary(),
    "int8": pa.int8(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
    "timestamp": pa.timestamp("us", tz="UTC"),
}


def file_system(store: "Store") -> pyarrow.fs.FileSystem:
    """Return the files of a results root for Arrow, which reads some columns of each and no more; through a store that cannot do that, whole."""
    return store.arrow() or pyarrow.fs.PyFileSystem(_Whole(store))


class Unreadable(Exception):
    """One of several files is damaged or foreign; which one, what_is_wrong tells."""


class NewerVersion(ValueError):
    """A file was written by a newer version of this program; reading on would drop columns."""


def schema(table: str) -> pa.Schema:
    """Return the declared columns of a table."""
    spec = TABLES[table]
    return pa.schema([(name, _type(spec.type_of(name))) for name in spec.columns])


def to_arrow(table: str, rows: Iterable[Mapping[str, object]]) -> pa.Table:
    """Return rows in the declared schema, schema_version filled in.

    Raises:
        ValueError: For an unknown column (names the nearest), a missing or ill-typed value, or two rows with one key.
    """
    spec = find_table(table)
    rows = [dict(row) | {"schema_version": spec.version} for row in rows]
    for name in dict.fromkeys(name for row in rows for name in row):
        check_column(table, name)
    columns = [_column(table, spec, name, [row.get(name) for row in rows]) for name in spec.columns]
    data = pa.table(columns, schema=schema(table))
    if first_repeat(data, spec.key):
        raise ValueError(f"two of these {data.num_rows} rows of {table} have the same {', '.join(spec.key)}")
    return data


def _column(table: str, spec: Table, name: str, values: list[object]) -> pa.Array:
    if not spec.is_nullable(name) and any(value is None for value in values):
        raise ValueError(f"{table}.{name} must have a value in every row, got none in row {values.index(None)}")
    for value in values:
        if isinstance(value, datetime) and value.tzinfo is None:
            raise ValueError(f"{table}.{name} takes times with a time zone, got {value!r}")
    try:
        return pa.array(values, _type(spec.type_of(name)))
    except (pa.ArrowException, OverflowError, TypeError) as error:
        raise ValueError(f"{table}.{name} takes {spec.type_of(name)}, got {values[0]!r:.80}: {error}") from error


def encode(table: str, data: pa.Table, *, is_compacted: bool = False) -> bytes:
    """Return a Parquet file with the table's name and version in its footer; sorted, compressed and with statistics if compacted.

    A part of ten rows is opened twice as fast without dictionaries, statistics, compression and Arrow's own copy of the schema, and takes the same
    two blocks on disk.
    """
    options: dict[str, Any] = {"compression": "none", "use_dictionary": False, "write_statistics": False, "store_schema": False}
    if is_compacted:
        data = data.sort_by([(name, "ascending") for name in TABLES[table].sort])
        options = {"compression": "zstd"}
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, data.schema, **options) as writer:
        writer.add_key_value_metadata({"table": table, "schema_version": str(TABLES[table].version)})
        writer.write_table(data, row_group_size=ROW_GROUP_ROWS)
    return sink.getvalue().to_pybytes()


def dataset(table: str, files: pyarrow.fs.FileSystem, paths: Sequence[str]) -> ds.Dataset:
    """Return files as one lazily read dataset in the declared schema; columns that older files lack are null."""
    if not paths:
        return ds.InMemoryDataset(schema(table).empty_table())
    fragments = [_FORMAT.make_fragment(path, files) for path in paths]
    return ds.FileSystemDataset(fragments, schema(table), _FORMAT, files)


def scan(table: str, files: pyarrow.fs.FileSystem, paths: Sequence[str], columns: Sequence[str], where: Where | None = None) -> pa.Table:
    """Return rows of the files. The column __filename is the file a row comes from.

    Raises:
        Unreadable: If a file is damaged, foreign, gone, or of a newer version.
    """
    if not paths:
        names = [pa.field("__filename", pa.string()), *schema(table)]
        return pa.schema(names).empty_table().select(columns)
    try:
        data = dataset(table, files, paths).to_table(columns=[*dict.fromkeys((*columns, "schema_version"))], filter=_filter(table, where))
    except (pa.ArrowException, OSError) as error:
        raise Unreadable(str(error)) from error
    versions = data["schema_version"]
    if versions.null_count or max(versions.unique().to_pylist(), default=0) > TABLES[table].version:
        raise Unreadable("rows of another program or of a newer version")
    return data.select(columns)


def narrowed(data: pa.Table, columns: Sequence[str] | None = None, where: Where | None = None) -> pa.Table:
    """Return some columns and rows of a table that is read already; for 100 rows thirty times as quick as an expression."""
    kept, mask = data if columns is None else data.select(columns), None
    for name, wanted in (where or {}).items():
        values = list(wanted) if isinstance(wanted, (list, tuple, set, frozenset)) else [wanted]
        is_wanted = pc.call_function("is_in", [data[name]], pc.SetLookupOptions(pa.array(values, data[name].type)))
        mask = is_wanted if mask is None else pc.call_function("and", [mask, is_wanted])
    return kept if mask is None else kept.filter(mask)


def what_is_wrong(table: str, files: pyarrow.fs.FileSystem, path: str, *, deep: bool = False) -> str | None:
    """Say why a file is no good as a file of this table, None if it is. deep: read all of it, not only the footer.

    Raises:
        NewerVersion: If the file holds this table in a newer version than we know.
    """
    try:
        footer = pq.read_metadata(path, filesystem=files).metadata or {}
        if footer.get(b"table") != table.encode():
            return f"foreign: not written as a file of table {table}"
        version = int(footer[b"schema_version"])
        if version <= TABLES[table].version:
            if deep:
                scan(table, files, [path], list(TABLES[table].columns))
            return None
    except (pa.ArrowException, OSError, ValueError, KeyError, Unreadable) as error:
        return f"damaged: {str(error).splitlines()[0]}"
    known = TABLES[table].version
    raise NewerVersion(f"{path} holds table {table} in version {version}, this program knows up to {known}; use a newer one")


def semi_join(data: pa.Table, other: pa.Table, column: str) -> pa.Table:
    """Return the rows whose value in the column is in the other table's."""
    return data.filter(pc.call_function("is_in", [data[column]], pc.SetLookupOptions(other[column].combine_chunks())))


def anti_join(data: pa.Table, other: pa.Table, key: Sequence[str]) -> pa.Table:
    """Return the rows whose key is not among the other table's."""
    place = "__place"
    numbered = data.select(list(key)).append_column(place, pa.array(range(data.num_rows), pa.int64()))  # Arrow joins no lists
    left = numbered.join(other.select(list(key)), list(key), join_type="left anti")
    return data.take(left[place].combine_chunks().sort())


def count_values(data: pa.Table, column: str) -> dict[object, int]:
    """Return how often each value of a column occurs."""
    return {row["values"]: row["counts"] for row in data[column].value_counts().to_pylist()}


def first_repeat(data: pa.Table, key: Sequence[str]) -> dict[str, object] | None:
    """Return a key that more than one row has, None if every row has its own."""
    counts = data.group_by(list(key)).aggregate([([], "count_all")])
    if counts.num_rows == data.num_rows:
        return None
    return counts.filter(pc.field("count_all") > 1).select(list(key)).slice(0, 1).to_pylist()[0]


def _type(name: str) -> pa.DataType:
    return pa.list_(_TYPES[name[5:-1]]) if name.startswith("list<") else _TYPES[name]


def _filter(table: str, where: Where | None) -> ds.Expression | None:
    combined = None
    for name, wanted in (where or {}).items():
        values = list(wanted) if isinstance(wanted, (list, tuple, set, frozenset)) else [wanted]
        known = [value for value in values if value is not None]
        condition = ds.field(name).isin(pa.array(known, schema(table).field(name).type))  # typed: no values at all are of no type else
        if None in values:
            condition = condition | ds.field(name).is_null()
        combined = condition if combined is None else combined & condition
    return combined


class _Whole(pyarrow.fs.FileSystemHandler):
    """Files that can be read as a whole only, for Arrow."""

    def __init__(self, store: "Store") -> None:
        self.store = store

    def get_type_name(self) -> str:
        return "whole"

    def open_input_file(self, path: str) -> pa.NativeFile:
        return pa.BufferReader(self.store.read(path))

    open_input_stream = open_input_file

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: list[str]) -> list[pyarrow.fs.FileInfo]:
        found = [(path, self.store.stat(path)) for path in paths]
        kinds = pyarrow.fs.FileType
        return [pyarrow.fs.FileInfo(path, kinds.File, size=stat.size) if stat else pyarrow.fs.FileInfo(path, kinds.NotFound) for path, stat in found]

    def _refuse(self, *_: object) -> Any:
        raise NotImplementedError("Arrow only reads here")

    get_file_info_selector = create_dir = delete_dir = delete_dir_contents = delete_root_dir_contents = _refuse
    delete_file = move = copy_file = open_output_stream = open_append_stream = _refuse
