"""Imports the package ``wechaty``, whose last release is of 2023, on today's Python and libraries. All knowledge of its age is here.

The import fails for three reasons, each with its cure: ``pyee`` moved ``AsyncIOEventEmitter``, ``urllib3`` dropped ``get_host``, and ``PuppetOptions`` is an unhashable dataclass
used as a default. On Python 3.13 ``telnetlib`` is gone too. The import would also create ``./.wechaty`` in the working directory, take options from the environment and reset the
handlers of its loggers, which print tokens and message texts at info level: none of that reaches the rest of the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.util
import logging
import os
import sys
import tempfile
import threading
import types
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

_IMPORT_ENVIRONMENT = ("WECHATY_LOG", "WECHATY_LOG_FILE", "CACHE_DIR")
_lock = threading.Lock()
_loaded: WechatyModules | None = None


@dataclass(frozen=True, slots=True)
class WechatyModules:
    """What we use of wechaty and its gRPC stubs; classes of an untyped package."""

    wechaty: Any
    options: Any
    puppet_options: Any
    puppet_stub: Any
    room: Any
    contact: Any


async def load_wechaty() -> WechatyModules:
    """Import wechaty in a short-lived thread: the import takes a second, in which the event loop goes on."""
    if _loaded is not None:
        return _loaded
    with ThreadPoolExecutor(1, thread_name_prefix="import-wechaty") as executor:
        return await asyncio.get_running_loop().run_in_executor(executor, import_wechaty)


def import_wechaty() -> WechatyModules:
    """Import wechaty once a process, with all cures, and leave environment, working directory and logging as they were."""
    global _loaded
    with _lock:
        if _loaded is None:
            with _quiet_import():
                _cure()
                wechaty = importlib.import_module("wechaty")
                grpc = importlib.import_module("wechaty_grpc.wechaty")
                puppet = importlib.import_module("wechaty_puppet")
                importlib.import_module("wechaty_puppet_service")  # which wechaty itself imports only later, with loggers of its own
            logging.getLogger("hpack").setLevel(logging.INFO)  # at debug level it prints each header, the token among them
            _loaded = WechatyModules(wechaty.Wechaty, wechaty.WechatyOptions, puppet.PuppetOptions, grpc.PuppetStub, wechaty.Room, wechaty.Contact)
        return _loaded


def _cure() -> None:
    pyee: Any = importlib.import_module("pyee")
    if not hasattr(pyee, "AsyncIOEventEmitter"):
        pyee.AsyncIOEventEmitter = importlib.import_module("pyee.asyncio").AsyncIOEventEmitter
    urllib3: Any = importlib.import_module("urllib3")
    if not hasattr(urllib3, "get_host"):
        urllib3.get_host = _get_host
    if importlib.util.find_spec("telnetlib") is None:
        sys.modules["telnetlib"] = _telnetlib()
    puppet_schemas: Any = importlib.import_module("wechaty_puppet.schemas.puppet")
    puppet_schemas.PuppetOptions.__hash__ = object.__hash__


def _get_host(url: str) -> tuple[str, str | None, int | None]:
    """What urllib3 1 offered under this name: scheme, host and port of a URL."""
    parsed = importlib.import_module("urllib3.util").parse_url(url)
    return parsed.scheme or "http", parsed.host, parsed.port


def _telnetlib() -> types.ModuleType:
    """wechaty uses ``telnetlib`` only to see whether a port is open, which we never let it do."""
    module = types.ModuleType("telnetlib")
    vars(module)["Telnet"] = type("Telnet", (), {})
    return module


@contextlib.contextmanager
def _quiet_import() -> Iterator[None]:
    environment = {name: os.environ.pop(name, None) for name in _IMPORT_ENVIRONMENT}
    loggers = _logging_state()
    with tempfile.TemporaryDirectory(prefix="wechaty-") as cache, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        os.environ["CACHE_DIR"] = cache
        try:
            yield
        finally:
            os.environ.pop("CACHE_DIR", None)
            os.environ.update({name: value for name, value in environment.items() if value is not None})
            _restore_logging(loggers)


def _logging_state() -> dict[str, tuple[list[logging.Handler], int, bool]]:
    known = {"": logging.root} | {name: logger for name, logger in logging.Logger.manager.loggerDict.items() if isinstance(logger, logging.Logger)}
    return {name: (list(logger.handlers), logger.level, logger.propagate) for name, logger in known.items()}


def _restore_logging(before: dict[str, tuple[list[logging.Handler], int, bool]]) -> None:
    """Loggers that were there get their state back; those the import made hand errors alone to the root, for they print tokens and texts at lower levels."""
    for name in _logging_state():
        logger = logging.getLogger(name or None)
        logger.handlers, level, logger.propagate = before.get(name, ([], logging.ERROR, True))
        logger.setLevel(level)
