"""Where a run's figures go: a local folder always, and wandb, trackio or tensorboard by flag."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from core.errors import InputError

TRACKERS = ("wandb", "trackio", "tensorboard")
_REMEDIES = {
    "wandb": "Run wandb login, or set WANDB_MODE=offline to sync later, or leave the flag out: the local folder is always written.",
    "trackio": "See its message, or leave the flag out: the local folder is always written.",
}


class Tracker(Protocol):
    def log(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class FolderTracker:
    """One JSON object a step in ``run.jsonl``. A resumed run drops what stands after its first step, so that no step stands twice."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "run.jsonl"
        self._seen = False

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if not self._seen:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._drop_from(step)
            self._seen = True
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")

    def _drop_from(self, step: int) -> None:
        if not self._path.exists():
            return
        kept = []
        for line in self._path.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] < step:
                    kept.append(line)
            except (ValueError, KeyError):
                continue  # the last line of a killed run
        self._path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def close(self) -> None:
        """Nothing is held open."""


class _RunTracker:
    """wandb, or trackio, which has the same interface. A resumed training continues its run, by the id that ``run-id`` in the folder keeps."""

    def __init__(self, name: str, folder: Path, settings: Mapping[str, Any]) -> None:
        self._module = _imported(name)
        kept = folder / "run-id"
        if not kept.exists():
            kept.write_text(secrets.token_hex(4) + "\n", encoding="utf-8")
        run = kept.read_text(encoding="utf-8").strip()
        # trackio knows a run by its name, and has one folder for all.
        own = {"name": folder.parent.name, "id": run, "dir": str(folder)} if name == "wandb" else {"name": f"{folder.parent.name}-{run}"}
        try:
            self._module.init(project="doujie", config=dict(settings), resume="allow", **own)
        except Exception as error:  # each service has errors of its own: no login, no network, a full disk
            why = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError("--track", f"{name} does not start ({why})", _REMEDIES[name]) from error

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._module.log(dict(values), step=step)

    def close(self) -> None:
        self._module.finish()


class _TensorboardTracker:
    def __init__(self, folder: Path) -> None:
        _imported("tensorboard")
        self._writer = import_module("torch.utils.tensorboard").SummaryWriter(str(folder / "tensorboard"))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class Trackers:
    """All trackers of a run as one. ``folder``: inside that of the run, which it is named after. Names are checked at once; folder and services are opened with the first step, so
    that a training that does not begin leaves nothing there. Raises InputError."""

    def __init__(self, folder: Path, names: list[str], settings: Mapping[str, Any]) -> None:
        for name in names:
            if name not in TRACKERS:
                raise InputError("--track", f"{name!r} is no tracker", f"Use {', '.join(TRACKERS)}; the local folder is always written.")
            _imported(name)
        self._folder, self._names, self._settings = folder, names, settings
        self._all: list[Tracker] = []

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if not self._all:
            self._open()
        for tracker in self._all:
            tracker.log(step, values)

    def close(self) -> None:
        for tracker in self._all:
            tracker.close()

    def _open(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._all.append(FolderTracker(self._folder))
        for name in self._names:
            self._all.append(_TensorboardTracker(self._folder) if name == "tensorboard" else _RunTracker(name, self._folder, self._settings))


def _imported(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise InputError("--track", f"{name} is not installed", f"pip install {name}, or leave the flag out: the local folder is always written.") from error
