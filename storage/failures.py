"""What a database driver's error means to a person: the one place that reads driver errors."""

from __future__ import annotations

import sqlite3

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from core.errors import StorageError

_FREE_SPACE = "Free some space (or lift the quota), then start again: what was acknowledged before is kept"
_SQLITE = {
    sqlite3.SQLITE_BUSY: ("locked by another process", "Stop the other process that writes to it, or give it time; a backup tool should copy with `sqlite3 FILE .backup`"),
    sqlite3.SQLITE_LOCKED: ("locked by another process", "Stop the other process that writes to it, or give it time"),
    sqlite3.SQLITE_READONLY: ("read-only", "Give the user who runs the bot write permission on the file and on its directory"),
    sqlite3.SQLITE_PERM: ("no permission", "Give the user who runs the bot write permission on the file and on its directory"),
    sqlite3.SQLITE_CANTOPEN: ("cannot be opened", "Check that the directory exists and may be written, or set [storage] url to another file"),
    sqlite3.SQLITE_NOTADB: ("not an SQLite database", "Move that file away, or set [storage] url to another file"),
    sqlite3.SQLITE_CORRUPT: ("damaged", "Restore a backup, or save what is left with `sqlite3 FILE .recover`"),
    sqlite3.SQLITE_FULL: ("the disk is full", _FREE_SPACE),
    sqlite3.SQLITE_IOERR: ("the disk refuses to read or write (full, quota, file-size limit or defect)", _FREE_SPACE),
}
_POSTGRES = {
    "28": ("the server refuses the log-in", "Check user and password in [storage] url"),
    "3D": ("the server has no such database", "Create it with `createdb NAME`, or check the name in [storage] url"),
    "42501": ("no permission", "Grant the user CREATE and USAGE on the schema"),
    "25006": ("read-only", "Use the primary server, not a replica"),
    "53100": ("the disk is full", _FREE_SPACE),
    "53300": ("the server has no free connection", "Raise max_connections or stop other clients"),
    "55P03": ("locked by another process", "Find it in pg_stat_activity"),
    "57": ("the server is shutting down or not ready", "Wait for it, or look at its log"),
    "40P01": ("locked by another process", "Find it in pg_stat_activity"),
}


def sqlite_code(error: BaseException) -> int | None:
    """Primary SQLite result code (its low byte) behind ``error``, or None."""
    original = error.orig if isinstance(error, DBAPIError) else error
    code = getattr(original, "sqlite_errorcode", None)
    return code & 0xFF if isinstance(code, int) else None


def is_locked(error: BaseException) -> bool:
    """True when another process holds the lock and trying again may help."""
    return sqlite_code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) or _sqlstate(error) in ("55P03", "40P01", "40001")


def concerns_database(error: BaseException) -> bool:
    """True when the whole database is unusable (full, locked, read-only, lost), False when it refused one write only."""
    if sqlite_code(error) in _SQLITE:
        return True
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    state = _sqlstate(error)
    return bool(state) and any(state.startswith(prefix) for prefix in (*_POSTGRES, "08"))


def explain(url: str, error: BaseException) -> StorageError:
    """``error`` as a StorageError of one line. Never shows values of a statement: they may be members' words."""
    known = _SQLITE.get(sqlite_code(error) or -1)
    state = _sqlstate(error)
    for prefix in sorted(_POSTGRES, key=len, reverse=True):
        if known is None and state.startswith(prefix):
            known = _POSTGRES[prefix]
    if known is None and (isinstance(error, OSError) or state.startswith("08") or (isinstance(error, DBAPIError) and error.connection_invalidated)):
        known = ("the server cannot be reached", "Check that it runs, and host and port in [storage] url")
    if known is None:
        original = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
        kind = type(original).__name__
        known = (f"a statement was refused ({kind})", "This is a defect of the program or of the data: report it with the log")
    return StorageError(url, *known)


def _sqlstate(error: BaseException) -> str:
    original = error.orig if isinstance(error, DBAPIError) else error
    state = getattr(original, "sqlstate", None)
    return state if isinstance(state, str) else ""


DATABASE_ERRORS = (SQLAlchemyError, sqlite3.Error, OSError)
"""What drivers raise: to be passed to :func:`explain`."""
