"""The models of a scaling run as the command line names them, in order of size.

::

    NAME=PATH[@ADAPTER]          a GGUF file or a folder of safetensors; the size is read from it
    NAME=packaged[@shipped]      the packaged model, bare or with the shipped adapter
    NAME=openai:URL[#MODEL]      a server; its size must be given
    NAME:270M=...                the size by hand
    NAME:1/8=PATH@ADAPTER        with --axis data: the share of the training data, or the number of examples
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from core.errors import ConfigError, InputError
from core.gates.factory import SHIPPED
from core.gates.packaged import packaged_model
from core.head import GateCalibration
from scripts.scaling_law.shares import parse_share
from scripts.scaling_law.sizes import parameters_of, parse_size, shown_size

_SERVER = "openai:"
_FORMS = "Write NAME=PATH, NAME=PATH@ADAPTER or NAME:SIZE=openai:URL#MODEL."


class Axis(StrEnum):
    """What grows from model to model."""

    SIZE = "size"
    DATA = "data"


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model under test. ``size``: parameters, or on the data axis the share or number of training examples (0: untrained).

    ``model`` is a path, or the name that a server knows; ``trained``: after training on labels of this kind, drawn blue; else before, drawn green.
    """

    name: str
    size: float
    model: str
    adapter: Path | None = None
    base_url: str = ""
    trained: bool = False

    @property
    def backend(self) -> str:
        """The back end that serves it."""
        if self.base_url:
            return "openai"
        is_peft = self.adapter is not None and self.adapter.is_dir()
        return "transformers" if is_peft or Path(self.model).is_dir() else "llama_cpp"

    @property
    def identity(self) -> str:
        """Changes when the model or adapter does: judgements are kept under it."""
        parts = [self.base_url, self.model, *(_stamp(path) for path in (Path(self.model), self.adapter) if not self.base_url and path is not None)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    def calibration(self) -> GateCalibration | None:
        """The one that was stored with the adapter, None where there is none. Raises InputError when it cannot be read."""
        if self.adapter is None:
            return None
        folder = self.adapter if self.adapter.is_dir() else self.adapter.parent
        path = folder / "calibration.json"
        found = GateCalibration.load(path) if path.is_file() else None
        if found is None or self.adapter.is_dir():
            return found
        digest = hashlib.sha256(self.adapter.read_bytes()).hexdigest()
        return found if digest.startswith(found.adapter_hash or "-") else None


def parse_models(values: Sequence[str], axis: Axis, trained: Collection[str] = ()) -> list[ModelSpec]:
    """The models, smallest first; of one size, the untrained ones first. ``trained`` names fully fine-tuned ones; those with an adapter are known to be.

    :raises InputError: for a name given twice, a model or adapter that is not there, or a size that nobody knows.
    """
    specs = [_parse(value, axis, trained) for value in values]
    names = [spec.name for spec in specs]
    for name in names:
        if names.count(name) > 1:
            raise InputError(name, "two models have this name", "Names must differ, for they stand in the report.")
    unknown = set(trained) - set(names)
    if unknown:
        raise InputError("--trained", f"no model is named {', '.join(sorted(unknown))}", f"Models: {', '.join(names)}.")
    if axis is Axis.DATA and any(0 < spec.size < 1 for spec in specs) and any(spec.size > 1 for spec in specs):
        raise InputError("--axis data", "some models have a share of the data, others a number of examples", "Write the share of each: NAME:1/8=PATH@ADAPTER.")
    return sorted(specs, key=lambda spec: (spec.size, spec.trained))


def axis_label(size: float, axis: Axis) -> str:
    """A place on the axis, for people."""
    if axis is Axis.SIZE:
        return shown_size(size)
    return "untrained" if size == 0 else f"{size:.3g}" if size <= 1 else f"{size:.0f}"


def _parse(value: str, axis: Axis, trained: Collection[str]) -> ModelSpec:
    head, separator, target = value.partition("=")
    name, colon, given = head.partition(":")
    if not separator or not name or not target:
        raise InputError(value, "is no model", _FORMS)
    if target.startswith(_SERVER):
        url, _, model = target.removeprefix(_SERVER).partition("#")
        if not url.startswith(("http://", "https://")):
            raise InputError(value, "needs the address of a server", "Such as big:14B=openai:http://127.0.0.1:8000/v1#qwen.")
        size = _given(value, given, axis) if colon else _unknown_size(value)
        return ModelSpec(name, size, model, base_url=url, trained=name in trained)
    model, adapter = _paths(value, target)
    size = _given(value, given, axis) if colon else _found(Path(model), adapter, axis, value)
    return ModelSpec(name, size, model, adapter, trained=adapter is not None or name in trained)


def _paths(value: str, target: str) -> tuple[str, Path | None]:
    """The model and its adapter. An @ may be part of a path: the whole is tried first."""
    model, adapter = (target, "") if Path(target).expanduser().exists() else _split(target)
    if model == "packaged":
        try:
            model = str(packaged_model("gate"))
        except ConfigError as error:
            raise InputError(value, error.problem, error.remedy) from None
    path = Path(model).expanduser()
    if not path.exists():
        raise InputError(value, f"{model} does not exist", _FORMS)
    if not adapter:
        return str(path), None
    found = SHIPPED / "gate" / "adapter.gguf" if adapter == "shipped" else Path(adapter).expanduser()
    if not found.exists():
        raise InputError(value, f"the adapter {adapter} does not exist", "Give a GGUF adapter, or the folder of a peft adapter.")
    return str(path), found


def _split(target: str) -> tuple[str, str]:
    model, at, adapter = target.rpartition("@")
    return (model, adapter) if at else (target, "")


def _given(value: str, text: str, axis: Axis) -> float:
    if axis is Axis.SIZE:
        size = parse_size(text)
        if size is None:
            raise InputError(value, f"{text!r} is no size", "Write 270M, 1.5B or the number of parameters.")
        return size
    if text.isdigit() and int(text) != 1:
        return float(text)
    return float(parse_share(text))


def _found(model: Path, adapter: Path | None, axis: Axis, value: str) -> float:
    """The size that the files tell: parameters; on the data axis the training examples of the adapter's metrics.json, 0 without an adapter."""
    if axis is Axis.SIZE:
        return float(parameters_of(model))
    if adapter is None:
        return 0.0
    path = adapter.parent / "metrics.json"  # beside adapter.gguf and the folder adapter, as scripts.train writes it
    try:
        return float(json.loads(path.read_text(encoding="utf-8"))["examples"])
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(value, f"{path} does not tell the number of training examples", "Write the share: NAME:1/8=PATH@ADAPTER.") from None


def _unknown_size(value: str) -> float:
    raise InputError(value, "the size of a server's model is not known", "Write it: NAME:14B=openai:URL#MODEL.")


def _stamp(path: Path) -> str:
    """Name, size and time of a file, or of all files in a folder."""
    try:
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        return " ".join(f"{file.resolve()} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files)
    except OSError as error:
        raise InputError(str(path), f"cannot be read: {error.strerror}", "Check the path.") from None
