"""Where a run's figures go: a local folder always, and wandb, trackio or tensorboard by flag."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from core.errors import InputError

TRACKERS = ("wandb", "trackio", "tensorboard")


class Tracker(Protocol):
    def log(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class FolderTracker:
    """One JSON object a step in ``run.jsonl``. A resumed run drops what stands after its first step, so that no step stands twice."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "run.jsonl"
        self._seen = False

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if not self._seen:
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
    """wandb, or trackio, which has the same interface."""

    def __init__(self, name: str, folder: Path, settings: Mapping[str, Any]) -> None:
        self._module = _imported(name)
        self._module.init(project="doujie", name=folder.name, config=dict(settings))

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
    """All trackers of a run as one."""

    def __init__(self, folder: Path, names: list[str], settings: Mapping[str, Any]) -> None:
        for name in names:
            if name not in TRACKERS:
                raise InputError("--track", f"{name!r} is no tracker", f"Use {', '.join(TRACKERS)}; the local folder is always written.")
        self._all: list[Tracker] = [FolderTracker(folder)]
        for name in names:
            self._all.append(_TensorboardTracker(folder) if name == "tensorboard" else _RunTracker(name, folder, settings))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for tracker in self._all:
            tracker.log(step, values)

    def close(self) -> None:
        for tracker in self._all:
            tracker.close()


def _imported(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise InputError("--track", f"{name} is not installed", f"pip install {name}, or leave the flag out: the local folder is always written.") from error
