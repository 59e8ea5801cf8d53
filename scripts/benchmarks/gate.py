"""Latency of the language-model gate against the bare prefill of the same new tokens, with and without reuse of the prefix. Figures in milliseconds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

from core.gates.llama_engine import LlamaEngine
from core.messages import Message
from core.prompts import DEFAULT_GATE_PROMPT, GATE_PROMPTS, gate_prompt_of


def gate_latency(model: Path, adapter: Path | None, messages: list[Message], questions: int, prompt: str = "gate-1-context", threads: int = 0) -> dict[str, float]:
    """Judge ``questions`` prompts three ways, interleaved so that the machine's noise meets all three alike.

    ``reused``: as the gate does it, only tokens behind the common prefix are read; ``whole``: the cache is dropped before each prompt; ``bare``: just as many new tokens
    as ``reused`` read, without any
    prompt before them.
    """
    engine = LlamaEngine(model, adapter, 2048, threads)
    answers = [engine.tokenize(answer)[0] for answer in GATE_PROMPTS[prompt].answers]
    times: dict[str, list[float]] = {"reused": [], "whole": [], "bare": []}
    new_tokens: list[int] = []
    kept: list[int] = []
    for index in range(questions):
        window = messages[index * 4 : index * 4 + 4]
        parts = gate_prompt_of(window[-1].text, [message.text for message in window[:-1]], version=prompt)
        tokens = engine.tokenize(parts.text, start=True)
        new = len(tokens) - min(_common(kept, tokens), len(tokens) - 1)
        engine.forget()
        times["whole"].append(_timed(lambda tokens=tokens: engine.next_logprobs(tokens)[answers]))  # type: ignore[misc]
        engine.forget()
        times["bare"].append(_timed(lambda tokens=tokens[:new]: engine.next_logprobs(tokens)))  # type: ignore[misc]
        engine.forget()
        if kept:
            engine.next_logprobs(kept)
        times["reused"].append(_timed(lambda tokens=tokens: engine.next_logprobs(tokens)[answers]))  # type: ignore[misc]
        new_tokens.append(new)
        kept = tokens
    engine.close()
    medians = {name: statistics.median(values[1:]) for name, values in times.items()}
    return {
        "questions": questions,
        "new_tokens_per_question": statistics.mean(new_tokens[1:]),
        "reused_ms": medians["reused"],
        "whole_ms": medians["whole"],
        "bare_prefill_ms": medians["bare"],
        "reused_over_bare": medians["reused"] / medians["bare"],
        "whole_over_reused": medians["whole"] / medians["reused"],
    }


def gate_batching(model: Path, adapter: Path | None, messages: list[Message], together: int = 15, groups: int = 4, threads: int = 0) -> dict[str, float]:
    """Questions of the shipped prompt one by one, and as sequences of one batch over their common prefix; milliseconds a question, the two ways in turn."""
    engine = LlamaEngine(model, adapter, 2048, threads)
    form = GATE_PROMPTS[DEFAULT_GATE_PROMPT]
    answers = [engine.tokenize(answer)[0] for answer in form.answers]
    times: dict[str, list[float]] = {"single": [], "batched": []}
    for group in range(groups):
        prompts = [form.fill(messages[(group * together + index) % len(messages)].text, ()) for index in range(together)]
        prefix, tails = engine.tokenize(prompts[0].fixed, start=True), [engine.tokenize(prompt.tail) for prompt in prompts]
        times["single"].append(_timed(lambda prefix=prefix, tails=tails: [engine.next_logprobs([*prefix, *tail])[answers] for tail in tails]) / together)  # type: ignore[misc]
        times["batched"].append(_timed(lambda prefix=prefix, tails=tails: engine.branch_logprobs(prefix, tails, answers)) / together)  # type: ignore[misc]
    engine.close()
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {"together": together, "single_ms": medians["single"], "batched_ms": medians["batched"], "single_over_batched": medians["single"] / medians["batched"]}


def _common(one: list[int], other: list[int]) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1000
