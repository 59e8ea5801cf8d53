"""The training loop: supervised fine-tuning with the loss on the answer alone.

The vocabulary of Gemma has 262,144 entries, so logits of every position would cost most of a step's time and gigabytes of memory: the hidden states are computed first and the
output layer is applied
only where an answer token is predicted. A run is deterministic in its seed, writes its state atomically, and continues after ``kill -9`` to the same weights that an
uninterrupted run gives.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from scripts.training.checkpoint import Checkpoint, load_weights, trained_weights

if TYPE_CHECKING:
    import torch

IGNORED = -100


@dataclass(frozen=True, slots=True)
class TokenExample:
    """A prompt and its answer as token ids; ``weight`` multiplies its loss.

    ``choices``: all that an answer's tokens are taken from; the loss compares these alone. A gate is asked for one of two, which spares the other 262,142 columns of the output
    layer; empty: the whole vocabulary.
    """

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    weight: float = 1.0
    choices: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """Settings of a run. ``max_steps`` 0: as many as ``epochs`` gives. ``patience`` counts evaluations without a better validation loss; 0 switches early stopping off.
    ``eval_every`` and ``save_every`` in steps; 0: never, apart from the state after the last step. ``loraplus_ratio`` 0: AdamW."""

    learning_rate: float = 3e-4
    schedule: str = "cosine"
    warmup_steps: int = 20
    epochs: int = 2
    batch_size: int = 16
    accumulation: int = 1
    max_steps: int = 0
    label_smoothing: float = 0.0
    weight_decay: float = 0.0
    grad_clip: float = 1.0
    loraplus_ratio: float = 0.0
    seed: int = 1
    save_every: int = 100
    eval_every: int = 100
    patience: int = 0
    device: str = "cpu"
    autocast: bool = False


@dataclass(slots=True)
class Progress:
    """State of a run after a step, as trackers and the progress bar see it."""

    step: int
    total_steps: int
    loss: float
    learning_rate: float
    tokens_per_second: float
    seconds_left: float
    validation_loss: float | None = None


@dataclass(slots=True)
class FitResult:
    """What a run gave. ``losses`` is the training loss of each step and ``seconds`` the time of all, those before a kill included as far as the last checkpoint; ``best_step`` is
    where the kept weights come from."""

    steps: int
    tokens: int
    seconds: float
    losses: list[float] = field(default_factory=list)
    validation: list[tuple[int, float]] = field(default_factory=list)
    best_step: int = 0
    stopped_early: bool = False


def batches(examples: Sequence[TokenExample], size: int, rng: Random) -> list[list[int]]:
    """Indices of ``examples`` in random batches of similar length, so that little is padded."""
    order = list(range(len(examples)))
    rng.shuffle(order)
    pools = [sorted(order[i : i + size * 8], key=lambda j: len(examples[j])) for i in range(0, len(order), size * 8)]
    found = [pool[i : i + size] for pool in pools for i in range(0, len(pool), size)]
    rng.shuffle(found)
    return found


def collate(examples: Sequence[TokenExample], pad: int, device: str) -> dict[str, Any]:
    """Right-padded tensors (batch, longest): ids, mask, labels (IGNORED but at answers) and weights (batch); ``choices`` when all examples share them, else empty."""
    import torch

    longest = max(len(e) for e in examples)
    ids = torch.full((len(examples), longest), pad, dtype=torch.long)
    mask = torch.zeros((len(examples), longest), dtype=torch.long)
    labels = torch.full((len(examples), longest), IGNORED, dtype=torch.long)
    for row, example in enumerate(examples):
        tokens = example.prompt + example.answer
        ids[row, : len(tokens)] = torch.tensor(tokens)
        mask[row, : len(tokens)] = 1
        labels[row, len(example.prompt) : len(tokens)] = torch.tensor(example.answer)
    weights = torch.tensor([e.weight for e in examples])
    shared = examples[0].choices if len({e.choices for e in examples}) == 1 else ()
    return {"ids": ids.to(device), "mask": mask.to(device), "labels": labels.to(device), "weights": weights.to(device), "choices": shared}


def answer_logits(model: torch.nn.Module, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits at the positions that predict answer tokens, (n, vocabulary) or (n, choices); their targets (n), as columns of the logits, and rows in the batch (n)."""
    import torch

    causal = model.get_base_model() if hasattr(model, "peft_config") else model
    hidden = causal.base_model(input_ids=batch["ids"], attention_mask=batch["mask"], use_cache=False).last_hidden_state
    targets = batch["labels"][:, 1:]
    wanted = targets != IGNORED
    rows = wanted.nonzero()[:, 0]
    chosen, output = hidden[:, :-1][wanted], causal.get_output_embeddings()
    if not batch["choices"]:
        return output(chosen).float(), targets[wanted], rows
    choices = torch.tensor(batch["choices"], device=chosen.device)
    bias = None if output.bias is None else output.bias[choices]
    logits = torch.nn.functional.linear(chosen, output.weight[choices], bias)
    return logits.float(), (targets[wanted][:, None] == choices).long().argmax(1), rows


def answer_loss(model: torch.nn.Module, batch: dict[str, Any], smoothing: float = 0.0) -> torch.Tensor:
    """Weighted mean over the answer tokens of the cross-entropy."""
    import torch

    logits, targets, rows = answer_logits(model, batch)
    losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing)
    weights = batch["weights"][rows]
    return (losses * weights).sum() / weights.sum()


def learning_rate_factor(step: int, total: int, warmup: int, schedule: str) -> float:
    """Factor of the learning rate at ``step`` (from 0): linear warm-up, then cosine or linear to zero, or constant."""
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, total - warmup)
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    return 1 - done if schedule == "linear" else 1.0


def make_optimizer(model: torch.nn.Module, settings: LoopSettings) -> torch.optim.Optimizer:
    """AdamW, or peft's LoRA+ (Hayou et al. 2024: B matrices learn ``loraplus_ratio`` times as fast)."""
    import torch

    if settings.loraplus_ratio > 0:
        from peft.optimizers import create_loraplus_optimizer

        return create_loraplus_optimizer(
            model=model,
            optimizer_cls=torch.optim.AdamW,
            lr=settings.learning_rate,
            loraplus_lr_ratio=settings.loraplus_ratio,
            loraplus_weight_decay=settings.weight_decay,
        )
    trained = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=settings.weight_decay)


def validation_loss(model: torch.nn.Module, examples: Sequence[TokenExample], pad: int, settings: LoopSettings) -> float:
    """Mean answer loss over ``examples``, without smoothing."""
    import torch

    model.eval()
    total = count = 0.0
    with torch.no_grad():
        for start in range(0, len(examples), settings.batch_size):
            chunk = examples[start : start + settings.batch_size]
            total += float(answer_loss(model, collate(chunk, pad, settings.device))) * len(chunk)
            count += len(chunk)
    model.train()
    return total / max(1.0, count)


def fit(
    model: torch.nn.Module,
    epoch_examples: Callable[[int], Sequence[TokenExample]],
    settings: LoopSettings,
    folder: Path,
    pad: int,
    validation: Sequence[TokenExample] = (),
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> FitResult:
    """Train ``model`` in place and leave it with its best weights (the last ones where nothing was evaluated).

    ``epoch_examples(epoch)`` gives the examples of an epoch and must be deterministic. State is kept in ``folder/checkpoint``: a run that finds one continues it.
    """
    return _Run(model, epoch_examples, settings, folder, pad, validation, on_progress).run()


class _Run:
    """One call of :func:`fit`."""

    def __init__(
        self,
        model: torch.nn.Module,
        epoch_examples: Callable[[int], Sequence[TokenExample]],
        settings: LoopSettings,
        folder: Path,
        pad: int,
        validation: Sequence[TokenExample],
        on_progress: Callable[[Progress], None],
    ) -> None:
        self.model, self.settings, self.folder, self.pad = model, settings, folder, pad
        self.epoch_examples, self.validation, self.on_progress = epoch_examples, validation, on_progress
        self.optimizer = make_optimizer(model, settings)
        self.base_rates = [group["lr"] for group in self.optimizer.param_groups]
        self.checkpoint = Checkpoint(folder)
        self.plan = self._plan()
        self.result = FitResult(0, 0, 0.0)
        self.best, self.bad_evaluations, self._tokens_before = math.inf, 0, 0

    def _plan(self) -> list[tuple[int, list[list[int]]]]:
        """(epoch, micro-batches as example indices) of each optimizer step."""
        settings = self.settings
        steps: list[tuple[int, list[list[int]]]] = []
        for epoch in range(settings.epochs):
            micro = batches(self.epoch_examples(epoch), settings.batch_size, Random(f"{settings.seed}-{epoch}"))
            steps += [(epoch, micro[i : i + settings.accumulation]) for i in range(0, len(micro), settings.accumulation)]
        return steps[: settings.max_steps] if settings.max_steps else steps

    def run(self) -> FitResult:
        import torch

        torch.manual_seed(self.settings.seed)
        first = self._resume()
        self._tokens_before, seconds_before = self.result.tokens, self.result.seconds
        self.model.train()
        started = time.monotonic()
        epoch, examples = -1, list[TokenExample]()
        for step in range(first, len(self.plan)):
            wanted, micro = self.plan[step]
            if wanted != epoch:
                epoch, examples = wanted, list(self.epoch_examples(wanted))
            loss = self._step(step, [[examples[i] for i in indices] for indices in micro])
            self.result.losses.append(loss)
            self.result.steps = step + 1
            seconds = time.monotonic() - started
            self.result.seconds = seconds_before + seconds
            stop = self._after_step(step, loss, seconds, first)
            if stop:
                self.result.stopped_early = True
                break
        self._restore_best()
        return self.result

    def _resume(self) -> int:
        state = self.checkpoint.load(self.model, self.optimizer)
        if state is None:
            return 0
        self.best, self.bad_evaluations = state["best"] if state["best"] is not None else math.inf, state["bad_evaluations"]
        self.result.best_step, self.result.validation = state["best_step"], [(s, v) for s, v in state["validation"]]
        self.result.tokens, self.result.steps, self.result.stopped_early = state["tokens"], state["step"], state["stopped"]
        self.result.losses, self.result.seconds = state["losses"], state["seconds"]
        return len(self.plan) if state["stopped"] else int(state["step"])

    def _step(self, step: int, micro: list[list[TokenExample]]) -> float:
        import torch

        settings = self.settings
        factor = learning_rate_factor(step, len(self.plan), settings.warmup_steps, settings.schedule)
        for group, rate in zip(self.optimizer.param_groups, self.base_rates, strict=True):
            group["lr"] = rate * factor
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for chunk in micro:
            batch = collate(chunk, self.pad, settings.device)
            with torch.autocast(settings.device.split(":")[0], dtype=torch.bfloat16, enabled=settings.autocast):
                loss = answer_loss(self.model, batch, settings.label_smoothing) / len(micro)
            loss.backward()
            total += float(loss.detach())
            self.result.tokens += int(batch["mask"].sum())
        torch.nn.utils.clip_grad_norm_([p for p in self.model.parameters() if p.requires_grad], settings.grad_clip)
        self.optimizer.step()
        return total

    def _after_step(self, step: int, loss: float, seconds: float, first: int) -> bool:
        """Evaluate, save and report. True: stop early."""
        settings, done, last = self.settings, step + 1, step + 1 == len(self.plan)
        measured = None
        if self.validation and settings.eval_every and (done % settings.eval_every == 0 or last):
            measured = validation_loss(self.model, self.validation, self.pad, settings)
            self._judge(done, measured)
        stop = bool(settings.patience) and self.bad_evaluations >= settings.patience
        if (settings.save_every and done % settings.save_every == 0) or last or stop:
            self._save(done, stop)
        per_step = seconds / (done - first)
        rate = self.optimizer.param_groups[0]["lr"]
        self.on_progress(Progress(done, len(self.plan), loss, rate, (self.result.tokens - self._tokens_before) / max(seconds, 1e-9), per_step * (len(self.plan) - done), measured))
        return stop

    def _judge(self, done: int, measured: float) -> None:
        from safetensors.torch import save_file

        self.result.validation.append((done, measured))
        if measured < self.best:
            self.best, self.bad_evaluations, self.result.best_step = measured, 0, done
            fresh = self.folder / "best.new.safetensors"
            self.folder.mkdir(parents=True, exist_ok=True)
            save_file(trained_weights(self.model), fresh)
            fresh.replace(self.folder / "best.safetensors")
        else:
            self.bad_evaluations += 1

    def _save(self, done: int, stopped: bool) -> None:
        state = {
            "step": done,
            "tokens": self.result.tokens,
            "losses": self.result.losses,
            "seconds": self.result.seconds,
            "best": None if math.isinf(self.best) else self.best,
            "bad_evaluations": self.bad_evaluations,
            "best_step": self.result.best_step,
            "validation": self.result.validation,
            "stopped": stopped,
        }
        self.checkpoint.save(self.model, self.optimizer, state)

    def _restore_best(self) -> None:
        from safetensors.torch import load_file

        path = self.folder / "best.safetensors"
        if math.isfinite(self.best) and path.exists():  # a file alone may be another run's
            load_weights(self.model, load_file(path))
        else:
            self.result.best_step = self.result.steps
