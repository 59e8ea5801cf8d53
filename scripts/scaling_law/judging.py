"""Each model's log-odds for each item, kept on disk as they come: a run that is killed goes on where it stopped.

The language model alone judges, by the very back ends and prompts that serve the gate: its log-odds of "needs resolution" against "stands alone" as the next token.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core.config import Config, GateSection
from core.errors import InputError
from core.gates.backends import ModelSource, close_all, open_language_models
from core.gates.cascade import UNCALIBRATED_THRESHOLD
from core.gates.factory import UNTRAINED_PROMPT
from core.gates.worker import ModelWorker
from core.head import GateCalibration, sigmoid
from core.ports import LanguageModel, Prompt
from core.prompts import DEFAULT_GATE_PROMPT, GATE_PROMPTS, gate_prompt
from scripts.scaling_law.items import Item
from scripts.scaling_law.specs import ModelSpec

CACHE = "judgements.jsonl"
_BATCH = 16
#: Called with the number of items that are judged since the last call.
Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Judgement:
    """What one model says of all items. ``margins``: log-odds, (n,); ``probabilities``: of "needs resolution", (n,), by the model's own calibration where it has one."""

    spec: ModelSpec
    prompt: str
    margins: NDArray[np.float64]
    probabilities: NDArray[np.float64]
    threshold: float
    threshold_from: str

    @property
    def predicted(self) -> NDArray[np.bool_]:
        return self.probabilities >= self.threshold


class JudgementCache:
    """Log-odds by model and prompt, one line each in a file that only grows. A line that a kill cut in half is ignored, and judged again."""

    def __init__(self, path: Path) -> None:
        """Read what is there. Raises InputError for a file that cannot be used."""
        self._path = path
        self._known: dict[tuple[str, str], float] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
            if text and not text.endswith("\n"):
                with path.open("a", encoding="utf-8") as file:
                    file.write("\n")
        except OSError as error:
            raise InputError(str(path), f"cannot be used: {error.strerror}", "Give another --out.") from None
        for line in text.splitlines():
            self._read(line)

    def _read(self, line: str) -> None:
        try:
            record = json.loads(line)
            self._known[record["model"], record["prompt"]] = float(record["margin"])
        except (ValueError, KeyError, TypeError):
            return

    def get(self, model: str, prompt: str) -> float | None:
        return self._known.get((model, prompt))

    def add(self, model: str, margins: Sequence[tuple[str, float]]) -> None:
        """Keep the log-odds of prompts, at once. Raises InputError when the disk does not take them."""
        try:
            with self._path.open("a", encoding="utf-8") as file:
                for prompt, margin in margins:
                    self._known[model, prompt] = round(margin, 6)
                    file.write(json.dumps({"model": model, "prompt": prompt, "margin": round(margin, 6)}) + "\n")
        except OSError as error:
            raise InputError(str(self._path), f"cannot be written: {error.strerror}", "Is the disk full?") from None


async def judge(spec: ModelSpec, items: Sequence[Item], cache: JudgementCache, config: Config, prompt: str = "", advance: Advance = lambda items: None) -> Judgement:
    """Ask the model about every item that the cache does not hold; it is loaded only when there is one.

    :param prompt: a version for all models; "": the one that belongs to the model. :raises ConfigError: for a model that cannot be opened. :raises BackendError: when it fails.
    """
    calibration = spec.calibration()
    version = prompt or _own_prompt(spec, calibration)
    if version not in GATE_PROMPTS:
        raise InputError("--prompt", f"{version!r} is no prompt version", f"Known: {', '.join(GATE_PROMPTS)}.")
    prompts = [gate_prompt(item.question, item.question.glossary, version) for item in items]
    keys = [_key(one, version) for one in prompts]
    model = spec.identity
    missing = list({key: index for index, key in enumerate(keys) if cache.get(model, key) is None}.values())
    advance(len(items) - len(missing))
    if missing:
        await _ask(spec, [(keys[index], prompts[index]) for index in sorted(missing)], version, cache, config, advance)
    margins = np.array([cache.get(model, key) for key in keys], dtype=np.float64)
    fitting = calibration if calibration is not None and calibration.prompt == version else None
    return Judgement(spec, version, margins, _probabilities(margins, items, fitting), *_threshold(fitting))


async def _ask(spec: ModelSpec, wanted: Sequence[tuple[str, Prompt]], version: str, cache: JudgementCache, config: Config, advance: Advance) -> None:
    worker = ModelWorker()
    try:
        source = ModelSource("gate", _section(spec, config), worker, config.gate.threads, config.gate.device, None)
        opened = await open_language_models(source, spec.backend, lambda note: None)
        try:
            await _ask_all(opened[0].model, spec.identity, wanted, GATE_PROMPTS[version].answers, cache, advance)
        finally:
            await close_all(opened)
    finally:
        worker.close()


async def _ask_all(model: LanguageModel, identity: str, wanted: Sequence[tuple[str, Prompt]], answers: Sequence[str], cache: JudgementCache, advance: Advance) -> None:
    for start in range(0, len(wanted), _BATCH):
        batch = wanted[start : start + _BATCH]
        rows = await model.answer_logprobs([prompt for _, prompt in batch], answers)
        cache.add(identity, [(key, yes - no) for (key, _), (yes, no) in zip(batch, rows, strict=True)])
        advance(len(batch))


def _section(spec: ModelSpec, config: Config) -> GateSection:
    """The gate section that opens this model: key, threads and lengths are those of the config."""
    named = {"backend": spec.backend, "model": spec.model, "adapter": str(spec.adapter) if spec.adapter else "none", "base_url": spec.base_url, "prompt": ""}
    return config.gate.model_copy(update=named)


def _own_prompt(spec: ModelSpec, calibration: GateCalibration | None) -> str:
    if calibration is not None:
        return calibration.prompt
    return DEFAULT_GATE_PROMPT if spec.trained else UNTRAINED_PROMPT


def _probabilities(margins: NDArray[np.float64], items: Sequence[Item], calibration: GateCalibration | None) -> NDArray[np.float64]:
    if calibration is None:
        return np.array([sigmoid(float(margin)) for margin in margins])
    return np.array([calibration.combine(None, float(margin), len(item.question.text)) for margin, item in zip(margins, items, strict=True)])


def _threshold(calibration: GateCalibration | None) -> tuple[float, str]:
    return (UNCALIBRATED_THRESHOLD, "even odds") if calibration is None else (calibration.threshold, "stored with the adapter")


def _key(prompt: Prompt, version: str) -> str:
    return hashlib.sha256(f"{version}\n{prompt.text}".encode("utf-8", "surrogatepass")).hexdigest()[:24]
