"""What each part of the gate's prompt buys: F1 and AUC of prompts that differ in one part, with the shipped adapter and without any."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from core.gates.worker import ModelWorker
from core.prompts import GATE_PROMPTS, GatePrompt
from scripts.benchmarks.examples import Example, Sample
from scripts.benchmarks.ways import Model
from scripts.evaluation.metrics import Confusion, auc

_BARE, _CONTEXT, _RULE = GATE_PROMPTS["gate-1"], GATE_PROMPTS["gate-1-context"], GATE_PROMPTS["gate-rule"]
#: Each adds one part to another: the question alone, what asks for the answer, the mark before the question, the rule in words, the last lines of the conversation.
PARTS: dict[str, GatePrompt] = {
    "question alone": replace(_BARE, answer_mark=""),
    "+ answer mark (gate-1, shipped)": _BARE,
    "+ answer mark + question mark": replace(_BARE, question_mark=_RULE.question_mark),
    "+ answer mark + rule (gate-rule)": _RULE,
    "+ answer mark + 3 lines of context (gate-1-context)": _CONTEXT,
    "+ answer mark + rule + 3 lines of context": replace(_RULE, context_lines=_CONTEXT.context_lines, line_chars=_CONTEXT.line_chars),
}


async def prompt_parts(path: Path, adapters: dict[str, Path | None], sample: Sample, threads: int, advance: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Figures by adapter (name -> file, None for the bare model) and prompt. Where an adapter was trained with one prompt, the others show what it does beside its training.

    ``f1``: at even odds of the two answers; ``f1_best``: at the best threshold for these very questions, which is what the margin could give at most.
    """
    worker = ModelWorker()
    found: dict[str, Any] = {}
    try:
        for name, adapter in adapters.items():
            model = await worker.run(Model, path, adapter, worker, threads)
            found[name] = {}
            for part, form in PARTS.items():
                found[name][part] = await _measure(model, form, sample.examples)
                advance()
            await model.port.close()
    finally:
        worker.close()
    return found


async def _measure(model: Model, form: GatePrompt, examples: Sequence[Example]) -> dict[str, float | None]:
    margins, times = [], []
    tokens = model.decoded_tokens
    for example in examples:
        question = example.question
        prompt = form.fill(question.text, [line.text for line in question.context], question.glossary)
        started = time.perf_counter()
        ((yes, no),) = await model.port.answer_logprobs([prompt], form.answers)
        times.append((time.perf_counter() - started) * 1000)
        margins.append(yes - no)
    truth = [example.needs for example in examples]
    return {
        "f1": Confusion.of(truth, [margin >= 0 for margin in margins]).f1,
        "f1_best": max(Confusion.of(truth, [margin >= threshold for margin in margins]).f1 for threshold in margins),
        "auc": auc(truth, margins),
        "new_tokens_per_question": (model.decoded_tokens - tokens) / len(examples),
        "ms_median": statistics.median(times),
    }
