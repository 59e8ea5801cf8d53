"""One folder, one run: a checkpoint is continued only by the run that wrote it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.errors import InputError
from scripts.arguments import make_folder

SETTINGS = "settings.json"


def same_run(out: Path, facts: Mapping[str, Any]) -> None:
    """Write ``facts``, all that decides a run, to ``out/settings.json``. Raises InputError where ``out`` holds a checkpoint of a run with others."""
    own = json.loads(json.dumps(facts))
    kept = _read(out / SETTINGS)
    if kept == own:
        return
    if any((out / name).exists() for name in ("checkpoint", "checkpoint.old")):
        raise InputError(str(out), f"holds a run with other settings or data ({_changed(kept, own)})", "Give another --out, or delete this folder.")
    make_folder(out)
    (out / SETTINGS).write_text(json.dumps(own, indent=1) + "\n", encoding="utf-8")


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _changed(kept: dict[str, Any], own: dict[str, Any]) -> str:
    """Names of what differs."""
    before, now = _flat(kept), _flat(own)
    return ", ".join(sorted(name for name in {*before, *now} if before.get(name) != now.get(name)))[:160]


def _flat(facts: dict[str, Any]) -> dict[str, Any]:
    """Nested settings by their own names."""
    found: dict[str, Any] = {}
    for name, value in facts.items():
        found |= _flat(value) if isinstance(value, dict) else {name: value}
    return found
