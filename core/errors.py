"""Errors of doujie.

::

    DoujieError
    ├── ConfigError          a key of the config: section, key, value, remedy        (exit code 2)
    ├── InputError           a file or argument that a person gave                   (exit code 2)
    ├── StorageError         the database cannot be used: what, where, remedy        (exit code 1, or 2 when the config is at fault)
    ├── BackendError         a model back end failed at run time; the caller may use another
    └── SendError            a platform did not take a reply

Each carries its data as attributes; ``str()`` is one line that tells what, where and the remedy.
"""

from __future__ import annotations

from typing import Any


class DoujieError(Exception):
    """Root of all errors that doujie raises on purpose. They can be passed between processes."""

    exit_code = 1

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).__new__, (type(self), *self.args), self.__dict__


class ConfigError(DoujieError):
    """A value of the config cannot be used."""

    exit_code = 2

    def __init__(self, section: str, key: str, value: object, problem: str, remedy: str, source: str = "config") -> None:
        self.section, self.key, self.value, self.problem, self.remedy, self.source = section, key, value, problem, remedy, source
        shown = "" if value is None else f" = {str(value)[:80]!r}"
        place = " ".join(part for part in (f"[{section}]" if section else "", f"{key}{shown}") if part)
        super().__init__(": ".join(part for part in (source, place, f"{problem}. {remedy}") if part))


class InputError(DoujieError):
    """A file or argument given by a person cannot be used."""

    exit_code = 2

    def __init__(self, what: str, problem: str, remedy: str) -> None:
        self.what, self.problem, self.remedy = what, problem, remedy
        super().__init__(f"{what}: {problem}. {remedy}")


class StorageError(DoujieError):
    """The database cannot be used."""

    def __init__(self, url: str, problem: str, remedy: str) -> None:
        self.url, self.problem, self.remedy = url, problem, remedy
        super().__init__(f"database {url}: {problem}. {remedy}")


class BackendError(DoujieError):
    """A model back end failed. ``retry_after`` in seconds where the server named one."""

    def __init__(self, backend: str, problem: str, retry_after: float | None = None) -> None:
        self.backend, self.problem, self.retry_after = backend, problem, retry_after
        super().__init__(f"back end {backend}: {problem}")


class SendError(DoujieError):
    """A platform did not take a reply. ``permanent``: trying again is useless. ``retry_after`` in seconds."""

    def __init__(self, platform: str, problem: str, *, permanent: bool = False, retry_after: float | None = None) -> None:
        self.platform, self.problem, self.permanent, self.retry_after = platform, problem, permanent, retry_after
        super().__init__(f"{platform}: {problem}")
