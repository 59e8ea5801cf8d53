"""The registry of trained gates: numbered versions that never change, and one small file that says which of them serves.

::

    models/
      0001/          adapter.gguf  calibration.json  head.npz  metrics.json  questions.json  README.md  manifest.json
      0002/
      current.json   {"format", "version", "manifest", "history", "promoted_at"}

Version 0 is what comes with doujie. A version is written beside and renamed into place; ``current.json`` likewise, so that a reader sees the old state or the new one, never half.
The manifest holds the hash of each file, and ``current.json`` that of the manifest: what was changed afterwards is refused. All formats are safe to load (GGUF, JSON, npz
without pickle); a file of another name is refused.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from core.clock import SystemClock
from core.errors import InputError

FORMAT = 1
SHIPPED_VERSION = 0
ADAPTER, CALIBRATION, HEAD, METRICS, QUESTIONS, CARD = "adapter.gguf", "calibration.json", "head.npz", "metrics.json", "questions.json", "README.md"
#: What the head was fitted on, where that is no packaged encoder: another one may ship by the time that the version serves.
ENCODER = "encoder.npz"
REQUIRED = frozenset({ADAPTER, CALIBRATION})
ALLOWED = REQUIRED | {HEAD, ENCODER, METRICS, QUESTIONS, CARD}
#: Versions that served and are kept, the serving one among them.
KEPT = 3

_MANIFEST, _CURRENT, _LOCK, _FRESH = "manifest.json", "current.json", "lock", ".new-"
_NUMBER = re.compile(r"\d{4,}")
_GGUF = b"GGUF"
_ROLL_BACK = "Roll back: python -m scripts.cycle rollback; or remove this version and train again."


@dataclass(frozen=True, slots=True)
class Version:
    """One trained gate on disk, checked. ``base``: name of the model that the adapter belongs to; ``about``: facts of its making, as JSON."""

    number: int
    folder: Path
    base: str
    created_at: str
    files: frozenset[str]
    manifest_hash: str
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def adapter(self) -> Path:
        return self.folder / ADAPTER

    @property
    def calibration(self) -> Path:
        return self.folder / CALIBRATION

    @property
    def head(self) -> Path | None:
        """The encoder head that was calibrated together with the adapter; None: the language model judges alone."""
        return self.folder / HEAD if HEAD in self.files else None


@dataclass(frozen=True, slots=True)
class Current:
    """Which version serves. ``history``: those trained ones that served before it and are kept, the last one first; ``promoted_at``: ISO 8601, "" where nothing was promoted."""

    version: int = SHIPPED_VERSION
    manifest_hash: str = ""
    history: tuple[int, ...] = ()
    promoted_at: str = ""


class Registry:
    """The registry in a folder, which need not exist. Methods are synchronous and raise InputError for files that cannot be used."""

    def __init__(self, folder: Path, now: Callable[[], datetime] | None = None) -> None:
        self.folder = folder.expanduser()
        self._now = now or SystemClock().now

    def stamp(self) -> bytes:
        """Changes when another version serves; empty when there is no registry. Cheap: a bot looks at it every few seconds."""
        try:
            return (self.folder / _CURRENT).read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise InputError(str(self.folder / _CURRENT), f"cannot be read: {error.strerror}", "Give the bot's user the right to read it.") from None

    def current(self) -> Current:
        """What is set to serve, unchecked."""
        text = self.stamp()
        if not text:
            return Current()
        try:
            values = json.loads(text)
            if values["format"] != FORMAT:
                raise ValueError(f"format {values['format']}")
            return Current(int(values["version"]), str(values["manifest"]), tuple(int(number) for number in values["history"]), str(values["promoted_at"]))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(str(self.folder / _CURRENT), f"is broken ({error})", "Remove it to serve what comes with doujie, or promote a version again.") from None

    def serving(self) -> Version | None:
        """The version that is set to serve, checked; None for the shipped one."""
        current = self.current()
        if current.version == SHIPPED_VERSION:
            return None
        version = self.open(current.version)
        if version.manifest_hash != current.manifest_hash:
            raise InputError(str(version.folder), "is not what was promoted: its manifest has changed", _ROLL_BACK)
        return version

    def numbers(self) -> list[int]:
        """All versions that are there, oldest first, unchecked."""
        found = [entry.name for entry in self.folder.iterdir() if entry.is_dir()] if self.folder.is_dir() else []
        return sorted(int(name) for name in found if _NUMBER.fullmatch(name))

    def open(self, number: int) -> Version:
        """A version with all its files checked by size and hash."""
        folder = self._folder_of(number)
        try:
            text = (folder / _MANIFEST).read_bytes()
            manifest = json.loads(text)
            if manifest["format"] != FORMAT or manifest["version"] != number:
                raise ValueError("it belongs to another version or format")
            files: dict[str, dict[str, Any]] = dict(manifest["files"])
            version = Version(
                number, folder, str(manifest["base"]), str(manifest["created_at"]), frozenset(files), hashlib.sha256(text).hexdigest(), dict(manifest.get("about") or {})
            )
        except FileNotFoundError:
            raise InputError(str(folder), "there is no such version", f"Versions here: {', '.join(map(str, self.numbers())) or 'none'}.") from None
        except OSError as error:
            raise InputError(str(folder), f"cannot be read: {error.strerror}", "Check the folder and its permissions.") from None
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(str(folder / _MANIFEST), f"is broken ({error})", _ROLL_BACK) from None
        _check_names(files, folder)
        for name, facts in files.items():
            _check_file(folder / name, facts)
        return version

    def add(self, files: Mapping[str, Path], base: str, about: Mapping[str, Any]) -> Version:
        """Copy ``files`` (name in the version -> path) into a new version, which does not serve yet."""
        _check_names(files, self.folder)
        current = self.current()
        number = max([SHIPPED_VERSION, *self.numbers(), current.version, *current.history]) + 1
        fresh = self.folder / f"{_FRESH}{number}-{os.getpid()}"
        try:
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir(parents=True)
            for name, path in files.items():
                shutil.copyfile(path, fresh / name)
                _sync(fresh / name)
            manifest = {"format": FORMAT, "version": number, "base": base, "created_at": self._now().isoformat(timespec="seconds")}
            facts = {name: {"sha256": _hash(fresh / name), "bytes": (fresh / name).stat().st_size} for name in sorted(files)}
            for name in facts:
                _check_file(fresh / name, facts[name])
            _write(fresh / _MANIFEST, {**manifest, "files": facts, "about": about})
            fresh.rename(self._folder_of(number))
            _sync(self.folder)
        except InputError:
            shutil.rmtree(fresh, ignore_errors=True)
            raise
        except OSError as error:
            shutil.rmtree(fresh, ignore_errors=True)
            raise InputError(str(self.folder), f"a version cannot be written: {error.strerror}", "Check the folder, its permissions, and the space on the disk.") from None
        return self.open(number)

    def promote(self, number: int) -> Current:
        """Let a version serve, after a check of its files. Nothing changes when it serves already."""
        before = self.current()
        if number == before.version:
            return before
        served = (one for one in (before.version, *before.history) if one not in (SHIPPED_VERSION, number))
        return self._switch(number, tuple(served)[: KEPT - 1])

    def rollback(self) -> Current:
        """Let the version serve that served before: the newest of the history that is whole, what comes with doujie when none is."""
        before = self.current()
        if before.version == SHIPPED_VERSION:
            raise InputError(str(self.folder), "what comes with doujie serves already: there is nothing to go back to", "python -m scripts.cycle status lists all versions.")
        for place, number in enumerate(before.history):
            with contextlib.suppress(InputError):
                return self._switch(number, before.history[place + 1 :])
        return self._switch(SHIPPED_VERSION, ())

    def prune(self) -> list[int]:
        """Remove all but the last KEPT versions that served and the newest one, and what a kill left half written. Returns the numbers that went."""
        current, there = self.current(), self.numbers()
        kept = {current.version, *current.history, *there[-1:]}
        gone = [number for number in there if number not in kept]
        for number in gone:
            shutil.rmtree(self._folder_of(number), ignore_errors=True)
        for half in self.folder.glob(f"{_FRESH}*"):
            shutil.rmtree(half, ignore_errors=True)
        return gone

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Only one process at a time changes the registry. Raises InputError when another one does, or the folder cannot be written."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = (self.folder / _LOCK).open("a")
        except OSError as error:
            raise InputError(str(self.folder), f"cannot be written: {error.strerror}", "Name another folder as [relabel] registry, or check its permissions.") from None
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise InputError(str(self.folder), "another process changes this registry", "Wait until its run ends; python -m scripts.cycle status shows what serves.") from None
            yield

    def _switch(self, number: int, history: tuple[int, ...]) -> Current:
        manifest = "" if number == SHIPPED_VERSION else self.open(number).manifest_hash
        current = Current(number, manifest, history, self._now().isoformat(timespec="seconds"))
        fresh = self.folder / f".{_CURRENT}-{os.getpid()}"
        values = {"format": FORMAT, "version": number, "manifest": manifest, "history": list(history), "promoted_at": current.promoted_at}
        try:
            _write(fresh, values)
            fresh.replace(self.folder / _CURRENT)
            _sync(self.folder)
        except OSError as error:
            raise InputError(str(self.folder / _CURRENT), f"cannot be written: {error.strerror}", "Check the folder, its permissions, and the space on the disk.") from None
        return current

    def _folder_of(self, number: int) -> Path:
        return self.folder / f"{number:04d}"


def _check_names(files: Mapping[str, object], folder: Path) -> None:
    """Only the known names, and all that are needed."""
    unknown, missing = set(files) - ALLOWED, REQUIRED - set(files)
    if unknown or missing:
        problem = f"holds {', '.join(sorted(unknown))}, which no version has" if unknown else f"lacks {', '.join(sorted(missing))}"
        raise InputError(str(folder), problem, f"A version holds {', '.join(sorted(ALLOWED))}.")


def _check_file(path: Path, facts: Mapping[str, Any]) -> None:
    try:
        fits = path.stat().st_size == facts["bytes"] and _hash(path) == facts["sha256"]
        begins = path.open("rb").read(4) if path.name == ADAPTER else _GGUF
    except FileNotFoundError:
        raise InputError(str(path), "is missing", _ROLL_BACK) from None
    except OSError as error:
        raise InputError(str(path), f"cannot be read: {error.strerror}", "Check the folder and its permissions.") from None
    except (KeyError, TypeError):
        raise InputError(str(path.parent / _MANIFEST), "is broken (no size and hash of each file)", _ROLL_BACK) from None
    if not fits:
        raise InputError(str(path), "has changed since it was trained: its hash is another", _ROLL_BACK)
    if begins != _GGUF:
        raise InputError(str(path), "is no GGUF file", _ROLL_BACK)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    _sync(path)


def _sync(path: Path) -> None:
    """To the disk, so that a rename after it cannot outlive what it names."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
