"""One training run: base, adapter, data, loop, and what it leaves behind."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import InputError
from scripts.training import base as bases
from scripts.training.base import Base
from scripts.training.data import Sample, data_hash, fold_of, load_samples
from scripts.training.gate_task import GateTask
from scripts.training.loop import FitResult, Progress, TokenExample, fit, validation_loss
from scripts.training.machine import prepare_machine
from scripts.training.rewrite_task import RewriteTask
from scripts.training.settings import TrainSettings

if TYPE_CHECKING:
    import torch

MEASURED = 400


@dataclass(slots=True)
class Outcome:
    """What a run gave: its loop result, metrics as they are written to metrics.json, and the folder."""

    fit: FitResult
    metrics: dict[str, Any]
    folder: Path


class Examples:
    """Training and validation examples of a run, tokenised on demand; examples longer than the sequence length are left out and counted."""

    def __init__(self, samples: Sequence[Sample], base: Base, settings: TrainSettings) -> None:
        self._settings, self._base = settings, base
        held = held_out(samples, settings)
        self.training = [s for s, out in zip(samples, held, strict=True) if not out]
        self._tasks = self._make_tasks(self.training)
        self._epochs: dict[int, list[TokenExample]] = {}
        self.too_long = 0
        validation = [e for task in self._make_tasks([s for s, out in zip(samples, held, strict=True) if out]) for e in task.epoch(0)]
        random.Random(settings.loop.seed).shuffle(validation)
        self.validation = self._short(validation)[:MEASURED]
        if not self.epoch(0):
            raise InputError("training data", f"nothing in it serves the task {settings.task}", "The gate needs labels, rewriting needs gold rewrites.")

    def _make_tasks(self, samples: Sequence[Sample]) -> list[Any]:
        settings, base = self._settings, self._base
        tasks: list[Any] = []
        if settings.task in ("gate", "both"):
            tasks.append(GateTask(samples, base.encode, base.start, settings.gate_prompt, settings.loop.seed, repeat=settings.repeat, pair_limit=settings.pair_limit))
        if settings.task in ("rewrite", "both"):
            tasks.append(RewriteTask(samples, base.encode, base.start, settings.rewrite_prompt, settings.rewrite_lines))
        tasks.append(_AsWritten(samples, base))
        return tasks

    def epoch(self, number: int) -> list[TokenExample]:
        if number not in self._epochs:
            self._epochs = {number: self._short([e for task in self._tasks for e in task.epoch(number)])}
        return self._epochs[number]

    def _short(self, examples: list[TokenExample]) -> list[TokenExample]:
        kept = [e for e in examples if len(e) <= self._settings.sequence]
        self.too_long += len(examples) - len(kept)
        return kept


class _AsWritten:
    """Alpaca records: their instruction and input are the prompt, their output the answer."""

    def __init__(self, samples: Sequence[Sample], base: Base) -> None:
        self._samples, self._base = [s for s in samples if s.prompt], base

    def epoch(self, number: int) -> list[TokenExample]:
        return [TokenExample(self._base.start + self._base.encode(s.prompt), self._base.encode(s.answer)) for s in self._samples]


def held_out(samples: Sequence[Sample], settings: TrainSettings) -> list[bool]:
    """Which samples form the validation split: about the asked share, authors and equal questions together."""
    if settings.validation <= 0:
        return [False] * len(samples)
    folds = max(2, round(1 / settings.validation))
    numbers = [fold_of(sample, folds) for sample in samples]
    held = min(numbers, default=0)  # the first fold that is not empty: few authors may leave some empty
    return [number == held for number in numbers]


def train(data: list[Path], base_name: str, out: Path, settings: TrainSettings, on_progress: Callable[[Progress], None], init_adapter: Path | None = None) -> Outcome:
    """Train and write adapter, GGUF adapter, metrics and card into ``out``; continues a run that was killed there. Raises InputError."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    settings.check()
    samples = load_samples(data)
    prepare_machine(settings.threads)
    base = bases.load_base(base_name)
    config = bases.base_config(base)
    if init_adapter is not None:
        from scripts.training.lora_gguf import as_folder

        init_adapter = as_folder(init_adapter, base.folder, out / "initial")
        bases.check_adapter(init_adapter, base, config)
    _same_run(out, settings, data_hash(data), base)
    examples = Examples(samples, base, settings)
    torch.manual_seed(settings.loop.seed)
    model = AutoModelForCausalLM.from_pretrained(str(base.folder), dtype=getattr(torch, settings.dtype))
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    if init_adapter is not None:
        model = PeftModel.from_pretrained(model, str(init_adapter), is_trainable=True)
    elif settings.method == "lora":
        model = _with_adapter(model, settings)
    model.to(settings.loop.device)
    before = validation_loss(model, examples.validation, base.pad, settings.loop) if examples.validation else None
    loop = replace(settings.loop, autocast=settings.dtype == "float32" and settings.loop.autocast)
    result = fit(model, examples.epoch, loop, out, base.pad, examples.validation, on_progress)
    metrics = _metrics(model, examples, base, settings, result, before)
    metrics |= {"data": {path.name: data_hash([path]) for path in data}, "data_hash": data_hash(data), "base": base.name, "settings": settings.shown()}
    _write(model, base, config, out, settings, metrics)
    return Outcome(result, metrics, out)


def _same_run(out: Path, settings: TrainSettings, data: str, base: Base) -> None:
    """Refuse to continue a checkpoint that other settings or data made."""
    out.mkdir(parents=True, exist_ok=True)
    path, own = out / "settings.json", json.loads(json.dumps({"settings": settings.shown(), "data": data, "tokenizer": base.tokenizer_hash}))
    if (out / "checkpoint").exists() and path.exists() and json.loads(path.read_text(encoding="utf-8")) != own:
        raise InputError(str(out), "holds a run with other settings or data", "Give another --out, or delete this folder.")
    path.write_text(json.dumps(own, indent=1) + "\n", encoding="utf-8")


def _with_adapter(model: Any, settings: TrainSettings) -> Any:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=settings.modules(),
        use_rslora=settings.rslora,
        use_dora=settings.dora,
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise InputError("--targets", str(error).splitlines()[0][:160], "Use all-linear, attention, or module names of this base.") from error


def _metrics(model: torch.nn.Module, examples: Examples, base: Base, settings: TrainSettings, result: FitResult, before: float | None) -> dict[str, Any]:
    """Losses before and after, speed, and for gate answers precision, recall, F1 and AUC on the validation split."""
    found: dict[str, Any] = {
        "steps": result.steps,
        "best_step": result.best_step,
        "stopped_early": result.stopped_early,
        "seconds": round(result.seconds, 1),
        "tokens": result.tokens,
        "examples": len(examples.epoch(0)),
        "too_long": examples.too_long,
        "validation_examples": len(examples.validation),
        "training_loss": {"first": _mean(result.losses[:10]), "last": _mean(result.losses[-10:])},
    }
    if examples.validation:
        found["validation_loss"] = {"before": before, "after": validation_loss(model, examples.validation, base.pad, settings.loop)}
        found["gate"] = gate_metrics(model, examples.validation, base, settings)
    return found


def gate_metrics(model: torch.nn.Module, validation: Sequence[TokenExample], base: Base, settings: TrainSettings) -> dict[str, float] | None:
    """Precision, recall, F1 and AUC of the gate on ``validation``; None when it holds no example of the gate."""
    from scripts.training.head import binary_metrics

    judged = [e for e in validation if len(e.choices) == 2]
    if not judged:
        return None
    return binary_metrics(margins(model, judged, base.pad, settings.loop.device), [e.answer == e.choices[:1] for e in judged])


def margins(model: torch.nn.Module, examples: Sequence[TokenExample], pad: int, device: str) -> list[float]:
    """Logit of the first choice minus that of the second as the next token after each prompt."""
    import torch

    from scripts.training.loop import answer_logits, collate

    model.eval()
    found: list[float] = []
    with torch.no_grad():
        for start in range(0, len(examples), 16):
            logits, _, _ = answer_logits(model, collate(examples[start : start + 16], pad, device))
            found += (logits[:, 0] - logits[:, 1]).tolist()
    return found


def _mean(values: Sequence[float]) -> float | None:
    return round(sum(values) / len(values), 4) if values else None


def _write(model: Any, base: Base, config: dict[str, Any], out: Path, settings: TrainSettings, metrics: dict[str, Any]) -> None:
    from scripts.training import lora_gguf
    from scripts.training.card import write_card

    adapter = out / "adapter" if settings.method == "lora" else out / "model"
    model.save_pretrained(adapter)
    prompts = {"gate": settings.gate_prompt, "rewrite": settings.rewrite_prompt}
    identity = {"base": base.name, "tokenizer_hash": base.tokenizer_hash, "shape": bases.identity_shape(config), "prompts": prompts}
    (adapter / bases.IDENTITY).write_text(json.dumps(identity, indent=1) + "\n", encoding="utf-8")
    if settings.method == "full":
        base.tokenizer.save_pretrained(adapter)
    elif not settings.dora and base.folder.is_dir():
        try:
            lora_gguf.convert(adapter, base.folder, out / "adapter.gguf")
            metrics["gguf"] = "adapter.gguf"
        except InputError as error:
            metrics["gguf"] = str(error)
    (out / "metrics.json").write_text(json.dumps(metrics, indent=1, default=str) + "\n", encoding="utf-8")
    write_card(out, settings, metrics)
