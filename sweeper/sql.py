"""SQL over the tables: DuckDB in memory, one read-only view per table. The only module that knows duckdb."""

import math
import re
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from sweeper.schemas import NEEDS_FINISHED_TRIAL, TABLES

if TYPE_CHECKING:
    from sweeper.results import Results


def query(results: "Results", statement: str, *, include_unfinished: bool = False) -> tuple[list[str], list[tuple[object, ...]]]:
    """Return the column names and the rows of a statement, in values that JSON knows.

    Tables without rows are there, empty and typed. Scores, distances, latents, strips and epochs of trials that are not completed
    are left out unless include_unfinished.
    NaN and infinities become None, times ISO 8601 text. The statement sees the tables only: it can neither read nor write any file.

    Raises:
        ValueError: With DuckDB's message, if the statement is wrong.
    """
    import duckdb  # here, so that ranking does not wait for it

    # a table that is not named is not looked for on disk; `trials` decides what the others show
    named = [table for table in TABLES if table == "trials" or re.search(rf"\b{table}\b", statement, re.IGNORECASE)]
    while True:
        try:
            return _answer(results, statement, named, include_unfinished)
        except (duckdb.ParserException, duckdb.BinderException, duckdb.CatalogException) as error:
            raise ValueError(f"query: {error}") from error
        except duckdb.Error as error:  # a file that is damaged inside, perhaps
            if not any([results.leave_out_damaged(table) for table in named]):
                raise ValueError(f"query: {error}") from error


def _answer(results: "Results", statement: str, named: list[str], include_unfinished: bool) -> tuple[list[str], list[tuple[object, ...]]]:
    import duckdb

    with duckdb.connect(":memory:", config={"enable_external_access": "false"}) as connection:
        connection.execute("set TimeZone = 'UTC'")
        for table in TABLES:
            connection.register(f"_{table}", results.dataset(table) if table in named else results.empty(table))
            is_filtered = table in NEEDS_FINISHED_TRIAL and not include_unfinished
            condition = " where trial_id in (select trial_id from _trials)" if is_filtered else ""
            connection.execute(f"create view {table} as select * from _{table}{condition}")
        connection.execute("set lock_configuration = true")
        answer = connection.sql(statement)
        if answer is None:  # a statement without rows, such as SET
            return [], []
        found = answer.to_arrow_table()
    columns = [[_plain(value) for value in column.to_pylist()] for column in found.columns]
    return found.column_names, list(zip(*columns, strict=True))


def _plain(value: object) -> object:
    """Return a value as JSON has it."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return str(value)
