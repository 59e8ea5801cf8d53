"""Opening the database: URL, settings, migrations and errors that tell a person what to do. All SQL of one dialect alone lives here."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, Connection, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from core.errors import StorageError
from storage.failures import DATABASE_ERRORS, explain
from storage.group_commit import GroupCommit
from storage.migrations import migrate
from storage.models import messages

Clock = Callable[[], datetime]
BUSY_TIMEOUT = 10.0
"""Seconds that a statement waits for the lock of another process."""

_DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "sqlite+aiosqlite": "sqlite+aiosqlite",
    "postgresql": "postgresql+asyncpg",
    "postgres": "postgresql+asyncpg",
    "postgresql+asyncpg": "postgresql+asyncpg",
}
_WRITER_LOCK = 0x646F756A6965
"""Key of the PostgreSQL advisory lock that lets one process write (or migrate) at a time: "doujie" in ASCII."""


def utc_now() -> datetime:
    return datetime.now(UTC)


class Database:
    """An open database: one writer for all (:attr:`writer`), several readers (:meth:`read`). Made by :func:`open_database`."""

    def __init__(self, url: str, writer_engine: AsyncEngine, reader_engine: AsyncEngine, now: Clock, patience: float) -> None:
        self.url, self.now = url, now
        self._writer_engine, self._reader_engine = writer_engine, reader_engine
        self.writer = GroupCommit(writer_engine, url, patience=patience)

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A connection that reads what is committed; each statement sees the newest state. Raises StorageError."""
        try:
            async with self._reader_engine.connect() as connection:
                yield connection
        except DATABASE_ERRORS as error:
            raise explain(self.url, error) from error

    async def scrub(self, *, vacuum: bool) -> None:
        """Make erased texts vanish from the files too, not only from the tables.

        Erased cells are overwritten when they are freed (``secure_delete``); this empties the write-ahead log, and with ``vacuum`` rebuilds the whole file
        (about a second per 100 MB, while writers wait). PostgreSQL's own autovacuum reuses the space; with ``vacuum`` it is asked to do so now.
        """
        await self.writer.chore(partial(self._scrub, vacuum))

    async def _scrub(self, vacuum: bool) -> None:
        async with self._reader_engine.connect() as connection:
            if connection.dialect.name != "sqlite":
                if vacuum:
                    await connection.exec_driver_sql("VACUUM")
                return
            await connection.exec_driver_sql("PRAGMA query_only = OFF")
            try:
                if vacuum:
                    await connection.exec_driver_sql("VACUUM")
                await connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
            finally:
                await connection.exec_driver_sql("PRAGMA query_only = ON")

    async def close(self) -> None:
        """Write what waits and close. Idempotent."""
        await self.writer.close()
        await self._reader_engine.dispose()
        await self._writer_engine.dispose()


async def open_database(url: str, *, now: Clock = utc_now, busy_timeout: float = BUSY_TIMEOUT, patience: float = 30.0) -> Database:
    """Open, create or migrate the database at ``url`` (``sqlite:///FILE`` or ``postgresql://...``).

    ``busy_timeout``: seconds that one statement waits for a lock; ``patience``: seconds that a write is tried again for after that. Raises :class:`core.errors.StorageError`.
    """
    address = _address(url)
    shown = address.set(drivername=address.get_backend_name()).render_as_string(hide_password=True)
    if address.get_backend_name() == "sqlite":
        _prepare_file(address, shown)
    writer_engine, reader_engine = _engines(address, busy_timeout)
    try:
        async with writer_engine.begin() as connection:
            await connection.run_sync(migrate, shown)
    except (StorageError, *DATABASE_ERRORS) as error:
        await reader_engine.dispose()
        await writer_engine.dispose()
        raise error if isinstance(error, StorageError) else explain(shown, error) from error
    return Database(shown, writer_engine, reader_engine, now, patience)


@cache
def insert_new(dialect: str, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
    """INSERT that leaves rows alone which are there already (by any unique key)."""
    if dialect == "postgresql":
        return postgresql.insert(table).on_conflict_do_nothing()
    return sqlite.insert(table).on_conflict_do_nothing()


def upsert(dialect: str, table: sa.Table, keys: list[str], update: list[str], *, only_higher: str = "") -> sqlite.Insert | postgresql.Insert:
    """INSERT that overwrites the columns ``update`` where a row with the same ``keys`` is there already; ``only_higher``: only where this column grows by it."""
    insert = postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)
    grows = insert.excluded[only_higher] > table.c[only_higher] if only_higher else None
    return insert.on_conflict_do_update(index_elements=keys, set_={name: insert.excluded[name] for name in update}, where=grows)


@cache
def stored_among(dialect: str, *conditions: sa.ColumnElement[bool]) -> sa.Select[str, str, str]:
    """Which messages of a list are stored (and meet ``conditions``): rows (platform, chat id, message id) that may repeat.

    The list is bound as ``keys``, a JSON array of such triples: one statement for any number of conversations, compiled once.
    """
    keys = sa.bindparam("keys", type_=sa.Text())
    if dialect == "postgresql":
        wanted: Any = sa.func.jsonb_array_elements(sa.cast(keys, postgresql.JSONB)).table_valued("value").alias("wanted")
        parts = [wanted.c.value.op("->>")(sa.literal_column(str(index))) for index in range(3)]
    else:
        wanted = sa.func.json_each(keys).table_valued("value").alias("wanted")
        parts = [sa.func.json_extract(wanted.c.value, sa.literal_column(f"'$[{index}]'")) for index in range(3)]
    columns = (messages.c.platform, messages.c.chat_id, messages.c.message_id)
    here = [column == part for column, part in zip(columns, parts, strict=True)]
    return sa.select(*columns).select_from(wanted.join(messages, sa.and_(*here))).where(*conditions)


def _address(url: str) -> URL:
    try:
        address = make_url(url)
    except (ArgumentError, ValueError):  # ValueError: a port that is no number, mostly a piece of a password
        remedy = "Write sqlite:///FILE (four slashes for an absolute path) or postgresql://USER:PASSWORD@HOST/NAME, with %40 for an @ in the password"
        raise _misconfigured("[storage] url", "not a database URL", remedy) from None
    if "@" in (address.host or ""):  # the end of a password, which must be shown nowhere
        raise _misconfigured("[storage] url", "two @ in it", "Write %40 for an @ in the password")
    driver = _DRIVERS.get(address.drivername)
    shown = address.render_as_string(hide_password=True)
    if driver is None:
        raise _misconfigured(shown, "no such kind of database here", "Write sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME")
    if driver.startswith("sqlite") and address.database in (None, "", ":memory:"):
        raise _misconfigured(shown, "a database in memory would lose what was acknowledged", "Name a file: sqlite:///FILE")
    return address.set(drivername=driver)


def _prepare_file(address: URL, shown: str) -> None:
    """Look at path and rights before SQLite does: its own messages do not tell them apart. A new file is readable by its owner alone: it holds members' words."""
    path = Path(str(address.database))
    if path.name.startswith("file:") or str(path).startswith("file:"):
        raise _misconfigured(shown, "SQLite's file: form is not supported", "Write sqlite:///FILE")
    if not path.parent.is_dir():
        raise _misconfigured(shown, f"the directory {path.parent} does not exist", f"Create it with `mkdir -p {path.parent}`, or set [storage] url")
    if path.is_dir():
        raise _misconfigured(shown, f"{path} is a directory", "Name a file in it")
    if not os.access(path.parent, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise StorageError(shown, "read-only", f"Give the user who runs the bot write permission on {path} and on its directory")
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        raise StorageError(shown, error.strerror or "cannot be created", "Check the disk, or set [storage] url to another file") from error


def _misconfigured(url: str, problem: str, remedy: str) -> StorageError:
    error = StorageError(url, problem, remedy)
    error.exit_code = 2
    return error


def _engines(address: URL, busy_timeout: float) -> tuple[AsyncEngine, AsyncEngine]:
    """The writer's engine and the readers'. Values of statements never show in errors or logs."""
    common: dict[str, Any] = {"hide_parameters": True, "json_serializer": partial(json.dumps, ensure_ascii=False, separators=(",", ":"))}
    try:
        if address.get_backend_name() == "sqlite":
            common["connect_args"] = {"timeout": busy_timeout}
            writer = create_async_engine(address, pool_size=1, max_overflow=0, **common)
            reader = create_async_engine(address, pool_size=4, isolation_level="AUTOCOMMIT", pool_reset_on_return=None, **common)
            event.listen(writer.sync_engine, "connect", partial(_set_up_sqlite, query_only=False))
            event.listen(writer.sync_engine, "begin", _begin_immediate)
            event.listen(reader.sync_engine, "connect", partial(_set_up_sqlite, query_only=True))
        else:
            writer = create_async_engine(address, pool_size=1, max_overflow=0, pool_pre_ping=True, **common)
            event.listen(writer.sync_engine, "begin", _begin_alone)
            reader = create_async_engine(address, pool_size=4, isolation_level="AUTOCOMMIT", pool_pre_ping=True, **common)
    except ImportError as error:
        raise _misconfigured(address.render_as_string(hide_password=True), f"the driver is not installed ({error.name})", "Install it: pip install 'doujie[postgres]'") from error
    return writer, reader


def _set_up_sqlite(connection: Any, _record: object, *, query_only: bool) -> None:
    """Settings of each new connection.

    WAL with ``synchronous = NORMAL`` hands each commit to the operating system before it returns: it survives the death of the
    process (kill -9); a power cut may take the last commits, never the file.
    """
    connection.isolation_level = None  # transactions are begun by hand: IMMEDIATE, see below
    cursor = connection.cursor()
    try:
        for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON", "secure_delete = ON", "cache_size = -16000", "journal_size_limit = 67108864"):
            cursor.execute(f"PRAGMA {pragma}")
        if query_only:
            cursor.execute("PRAGMA query_only = ON")
    finally:
        cursor.close()


def _begin_immediate(connection: Connection) -> None:
    """Take the write lock at once: a transaction that reads first and writes later could find the database changed in between and would fail without waiting."""
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _begin_alone(connection: Connection) -> None:
    """What BEGIN IMMEDIATE does in SQLite: one process writes at a time, so what a transaction has read holds until it ends."""
    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_WRITER_LOCK)))


SQLITE_VERSION_NEEDED = (3, 35, 0)
if sqlite3.sqlite_version_info < SQLITE_VERSION_NEEDED:
    raise StorageError("sqlite", f"SQLite {sqlite3.sqlite_version} is too old for RETURNING", "Use a Python that is built with SQLite 3.35 or newer")
