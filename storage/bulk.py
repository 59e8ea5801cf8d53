"""Many rows with one statement, on hot paths: compiled once, bound as tuples.

Twice as fast as executing with dictionaries, where SQLAlchemy works each row's parameters out anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Dialect

Statement = sa.Insert | sa.Update


def execute_many(connection: Connection, statement: Statement, rows: Sequence[dict[str, Any]]) -> None:
    """Run ``statement`` (a module's constant: it is compiled once per dialect) for each of ``rows``, which share their (two or more) keys.

    Values go through the types of their columns.
    """
    if not rows:
        return
    text, pick, converters = _compiled(connection.dialect, statement, tuple(rows[0]))
    if converters:
        rows = [{**row, **{name: convert(row[name]) for name, convert in converters}} for row in rows]
    connection.exec_driver_sql(text, [pick(row) for row in rows])


@lru_cache(maxsize=64)
def _compiled(dialect: Dialect, statement: Statement, names: tuple[str, ...]) -> tuple[str, Callable[[dict[str, Any]], Any], tuple[tuple[str, Callable[[Any], Any]], ...]]:
    compiled = statement.compile(dialect=dialect, column_keys=list(names))
    order = compiled.positiontup
    assert order is not None, "both drivers bind by position"
    converters = [(name, bind.type.dialect_impl(dialect).bind_processor(dialect)) for name, bind in compiled.binds.items()]
    return str(compiled), itemgetter(*order), tuple((name, convert) for name, convert in converters if convert is not None)
