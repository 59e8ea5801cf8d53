"""The parts of lark-oapi that the adapter uses, imported on demand and without the rest.

``import lark_oapi`` loads about ten thousand modules of generated API models: seconds, and 130 MB that stay. We call the REST API by the SDK's transport with plain dictionaries
and replace its event dispatcher (see :mod:`adapters.feishu.long_connection`), so while its WebSocket client is imported, the package's own ``__init__`` and the dispatcher's
module, which pull the models in, are left out. Afterwards ``import lark_oapi`` works as ever for anybody else in the process.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
from dataclasses import dataclass
from types import ModuleType
from typing import Any

_DISPATCHER = "lark_oapi.event.dispatcher_handler"
_lock = threading.Lock()
_loaded: Sdk | None = None


@dataclass(frozen=True)
class Sdk:
    """``ws`` is ``lark_oapi.ws.client``; ``core`` holds enums and JSON; ``http`` the transport; ``model`` requests and config; ``utils`` the webhook cipher."""

    ws: Any
    core: Any
    http: Any
    model: Any
    utils: Any


def load() -> Sdk:
    """Import the SDK: about a second of work, so call it in a thread. Later calls return at once."""
    global _loaded
    with _lock:
        if _loaded is None:
            _loaded = _import() if "lark_oapi" in sys.modules else _import_slim()
        return _loaded


def _import() -> Sdk:
    # The client module asks for the thread's event loop when it is imported; nothing of ours uses that loop.
    core, http, model, utils, ws = (importlib.import_module(f"lark_oapi.{name}") for name in ("core", "core.http", "core.model", "core.utils", "ws.client"))
    return Sdk(ws, core, http, model, utils)


def _import_slim() -> Sdk:
    spec = importlib.util.find_spec("lark_oapi")
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError("No module named 'lark_oapi'", name="lark_oapi")
    package = ModuleType("lark_oapi")
    package.__path__ = list(spec.submodule_search_locations)
    package.__spec__ = spec
    dispatcher = ModuleType(_DISPATCHER)
    dispatcher.EventDispatcherHandler = object  # type: ignore[attr-defined]  # the client only names it in an annotation
    sys.modules["lark_oapi"], sys.modules[_DISPATCHER] = package, dispatcher
    try:
        return _import()
    finally:
        del sys.modules["lark_oapi"], sys.modules[_DISPATCHER]
