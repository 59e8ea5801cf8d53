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
from scripts.training.data import Sample, data_hash, load_samples
from scripts.training.gate_task import GateTask
from scripts.training.init_adapter import adapter_hash, adapter_settings, with_init_adapter
from scripts.training.loop import FitResult, Progress, TokenExample, fit, validation_loss
from scripts.training.machine import check_device, prepare_machine
from scripts.training.rewrite_task import RewriteTask
from scripts.training.same_run import same_run
from scripts.training.settings import TrainSettings
from scripts.training.splits import split_samples

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
    """Training and validation examples of a run, tokenised on demand. Examples longer than the sequence length are left out; ``too_long`` counts those of the first epoch and of
    the validation split, ``first_epoch`` the examples of that epoch."""

    def __init__(self, samples: Sequence[Sample], base: Base, settings: TrainSettings) -> None:
        self._settings, self._base = settings, base
        training, held = split_samples(samples, settings.validation)
        if not training:
            raise InputError("training data", f"all {len(samples)} samples are kept for validation", "Give more data, or --validation 0.")
        self._tasks = self._make_tasks(training)
        validation = [e for task in self._make_tasks(held) for e in task.epoch(0)]
        random.Random(settings.loop.seed).shuffle(validation)
        first, short = self._all(0), self._short(validation)
        self._epochs = {0: self._short(first)}
        self.first_epoch = len(self.epoch(0))
        self.too_long = len(first) - self.first_epoch + len(validation) - len(short)
        self.validation = short[:MEASURED]
        if not first:
            raise InputError("training data", f"nothing in it serves the task {settings.task}", "The gate needs labels, rewriting needs gold rewrites.")
        if not self.first_epoch:
            raise InputError("--sequence", f"all {len(first)} examples are longer than {settings.sequence} tokens", "Give a larger number.")

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
            self._epochs = {number: self._short(self._all(number))}
        return self._epochs[number]

    def _all(self, number: int) -> list[TokenExample]:
        return [e for task in self._tasks for e in task.epoch(number)]

    def _short(self, examples: list[TokenExample]) -> list[TokenExample]:
        return [e for e in examples if len(e) <= self._settings.sequence]


class _AsWritten:
    """Alpaca records: their instruction and input are the prompt, their output the answer, which ends with the tokenizer's end-of-text token as in axolotl."""

    def __init__(self, samples: Sequence[Sample], base: Base) -> None:
        self._samples, self._base = [s for s in samples if s.prompt], base

    def epoch(self, number: int) -> list[TokenExample]:
        return [TokenExample(self._base.start + self._base.marked_up(s.prompt), self._base.marked_up(s.answer) + self._base.end) for s in self._samples]


def train(data: list[Path], base_name: str, out: Path, settings: TrainSettings, on_progress: Callable[[Progress], None], init_adapter: Path | None = None) -> Outcome:
    """Train and write adapter, GGUF adapter, metrics and card into ``out``; continues a run that was killed there. Raises InputError."""
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    settings.check()
    if init_adapter is not None and settings.method == "full":
        raise InputError("--method full", "trains the whole model, --init-adapter goes on with an adapter", "Use --method lora, or leave --init-adapter out.")
    check_device(settings.loop.device)
    samples = load_samples(data)
    prepare_machine(settings.threads)
    base = bases.load_base(base_name)
    config = bases.base_config(base)
    facts = {
        "settings": settings.shown(),
        "data": data_hash(data),
        "base": bases.base_identity(base, base_name),
        "tokenizer": base.tokenizer_hash,
        "init_adapter": adapter_hash(init_adapter),
    }
    examples = Examples(samples, base, settings)
    same_run(out, facts)
    torch.manual_seed(settings.loop.seed)
    # Full fine-tuning keeps float32 weights: AdamW's small steps would be rounded away in bfloat16.
    dtype = torch.bfloat16 if settings.dtype == "bfloat16" and settings.method == "lora" else torch.float32
    try:
        model = AutoModelForCausalLM.from_pretrained(str(base.folder), dtype=dtype)
    except (OSError, SafetensorError) as error:
        raise InputError(str(base.folder), f"its weights cannot be loaded ({str(error).splitlines()[0][:120]})", bases.REMEDY) from error
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    if init_adapter is not None:
        model = with_init_adapter(model, init_adapter, base, config, out / "initial")
        settings = replace(settings, **adapter_settings(model))
    elif settings.method == "lora":
        model = _with_adapter(model, settings)
    model.to(settings.loop.device)
    before = _measured(model, examples.validation, base, settings)
    loop = replace(settings.loop, autocast=dtype == torch.float32 and (settings.loop.autocast or settings.dtype == "bfloat16"))
    result = fit(model, examples.epoch, loop, out, base.pad, examples.validation, on_progress)
    metrics = _metrics(examples, result, before, _measured(model, examples.validation, base, settings))
    metrics |= {"data": _hashes(data), "data_hash": data_hash(data), "base": base.name, "settings": settings.shown()}
    _write(model, base, config, out, settings, metrics)
    return Outcome(result, metrics, out)


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


def _measured(model: torch.nn.Module, validation: Sequence[TokenExample], base: Base, settings: TrainSettings) -> tuple[float, dict[str, float] | None] | None:
    """(loss, figures of the gate) on the validation split; None without one."""
    if not validation:
        return None
    return validation_loss(model, validation, base.pad, settings.loop), gate_metrics(model, validation, base, settings)


def _metrics(examples: Examples, result: FitResult, before: tuple[float, Any] | None, after: tuple[float, Any] | None) -> dict[str, Any]:
    """Speed and losses; before and after the training the loss on the validation split and, for gate answers, precision, recall, F1 and AUC."""
    found: dict[str, Any] = {
        "steps": result.steps,
        "best_step": result.best_step,
        "stopped_early": result.stopped_early,
        "seconds": round(result.seconds, 1),
        "tokens": result.tokens,
        "examples": examples.first_epoch,
        "too_long": examples.too_long,
        "validation_examples": len(examples.validation),
        "training_loss": {"first": _mean(result.losses[:10]), "last": _mean(result.losses[-10:])},
    }
    if before is not None and after is not None:
        found |= {"validation_loss": {"before": before[0], "after": after[0]}, "gate_before": before[1], "gate": after[1]}
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


def _hashes(data: Sequence[Path]) -> dict[str, str]:
    """Hash of each file by its name; by its whole path where another has the same name."""
    names = [path.name for path in set(data)]
    return {path.name if names.count(path.name) == 1 else str(path): data_hash([path]) for path in data}


def _mean(values: Sequence[float]) -> float | None:
    return round(sum(values) / len(values), 4) if values else None


def gguf_adapter(adapter: Path, base: Base, out: Path) -> str:
    """Write the adapter in folder ``adapter`` to ``out`` as GGUF. Returns the file's name, or why there is none."""
    from scripts.training import lora_gguf

    if not base.folder.is_dir():
        return f"none: {base.name} is a name on a model hub, and the conversion reads the base's files. Give its folder or a GGUF file as --base."
    try:
        lora_gguf.convert(adapter, base.folder, out)
    except InputError as error:
        return str(error)
    return out.name


def _write(model: Any, base: Base, config: dict[str, Any], out: Path, settings: TrainSettings, metrics: dict[str, Any]) -> None:
    from scripts.training.card import write_card

    adapter = out / "adapter" if settings.method == "lora" else out / "model"
    model.save_pretrained(adapter)
    prompts = {"gate": settings.gate_prompt, "rewrite": settings.rewrite_prompt}
    identity = {"base": base.name, "tokenizer_hash": base.tokenizer_hash, "shape": bases.identity_shape(config), "prompts": prompts}
    (adapter / bases.IDENTITY).write_text(json.dumps(identity, indent=1) + "\n", encoding="utf-8")
    if settings.method == "full":
        base.tokenizer.save_pretrained(adapter)
    else:
        metrics["gguf"] = gguf_adapter(adapter, base, out / "adapter.gguf")
    (out / "metrics.json").write_text(json.dumps(metrics, indent=1, default=str) + "\n", encoding="utf-8")
    write_card(out, settings, metrics)
