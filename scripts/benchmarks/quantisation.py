"""Size, speed and F1 of one model in several number formats."""

from __future__ import annotations

import ctypes
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from core.errors import InputError
from core.gates.worker import ModelWorker
from core.head import GateCalibration
from core.prompts import GATE_PROMPTS, gate_prompt
from scripts.benchmarks.examples import Sample
from scripts.benchmarks.ways import Model
from scripts.evaluation.metrics import Confusion, auc

#: llama.cpp's numbers of the formats (enum llama_ftype).
FORMATS = {"Q8_0": 7, "F16": 1}
_PREFILL_TOKENS, _PREFILL_RUNS = 256, 3


def requantised(source: Path, form: str, folder: Path | None = None) -> Path:
    """The GGUF file ``source`` in another format, made on first use and kept in the user's cache (or ``folder``).

    The weights are those of ``source``, dequantised: a wider format cannot bring back what a narrower one has lost. Raises InputError.
    """
    import llama_cpp

    cache = folder or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "doujie" / "bench"
    target = cache / f"{source.stem}-as-{form}.gguf"
    if target.exists() and target.stat().st_mtime >= source.stat().st_mtime:
        return target
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(str(cache), f"cannot be made: {error.strerror}", "Set XDG_CACHE_HOME to a folder that this user may write to.") from None
    fresh = target.with_suffix(f".new{os.getpid()}")
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype, parameters.allow_requantize, parameters.nthread = FORMATS[form], True, 1
    if llama_cpp.llama_model_quantize(str(source).encode(), str(fresh).encode(), ctypes.byref(parameters)) != 0:
        fresh.unlink(missing_ok=True)
        raise InputError(str(source), f"llama.cpp cannot write it as {form}", "Is it a complete GGUF file, and is there room on the disk?")
    fresh.replace(target)
    return target


async def quantisation(
    files: dict[str, Path], adapter: Path | None, calibration: GateCalibration | None, prompt: str, sample: Sample, threads: int, advance: Callable[[], None] = lambda: None
) -> dict[str, dict[str, float | None]]:
    """Figures by format (name -> GGUF file). The formats take turns at each question. ``f1`` is that of the language model alone, at the shipped threshold where there is one."""
    worker = ModelWorker()
    try:
        models: dict[str, Model] = {}
        figures: dict[str, dict[str, float | None]] = {}
        for name, path in files.items():
            started = time.perf_counter()
            models[name] = await worker.run(Model, path, adapter, worker, threads)
            figures[name] = {"size_mb": path.stat().st_size / 2**20, "load_s": time.perf_counter() - started}
        logits: dict[str, list[float]] = {name: [] for name in files}
        times: dict[str, list[float]] = {name: [] for name in files}
        answers = GATE_PROMPTS[prompt].answers
        for example in sample.examples:
            for name, model in models.items():
                asked, started = gate_prompt(example.question, example.question.glossary, prompt), time.perf_counter()
                ((yes, no),) = await model.port.answer_logprobs([asked], answers)
                times[name].append((time.perf_counter() - started) * 1000)
                logits[name].append(yes - no)
            advance()
        for name, model in models.items():
            figures[name] |= {"gate_ms_median": statistics.median(times[name]), "prefill_tokens_per_second": await worker.run(_prefill_speed, model)}
            figures[name] |= _quality(sample, logits[name], calibration)
            await model.port.close()
    finally:
        worker.close()
    return figures


def _prefill_speed(model: Model) -> float:
    """Tokens per second of a prompt that nothing is known of."""
    engine = model.engine
    tokens = (engine.tokenize("群里在聊显卡和机箱风扇的价格。") * _PREFILL_TOKENS)[:_PREFILL_TOKENS]
    best = 0.0
    for _ in range(_PREFILL_RUNS):
        engine.forget()
        started = time.perf_counter()
        engine.next_logprobs(tokens)
        best = max(best, len(tokens) / (time.perf_counter() - started))
    return best


def _quality(sample: Sample, logits: Sequence[float], calibration: GateCalibration | None) -> dict[str, Any]:
    truth = [example.needs for example in sample.examples]
    if calibration is None:
        predicted = [logit >= 0 for logit in logits]
    else:
        predicted = [calibration.combine(None, logit, len(example.question.text)) >= calibration.threshold for logit, example in zip(logits, sample.examples, strict=True)]
    return {**Confusion.of(truth, predicted).as_dict(), "auc": auc(truth, logits)}
