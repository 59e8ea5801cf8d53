"""Two people's first lines: a small language model that was trained on such dialogues writes the rewrite freely.

In a group the right thing has to be chosen among many, which free writing does badly (:mod:`core.ranker` does that). Where only two people have spoken, in three
lines at most, there is little to choose, and what is left out is as often a person, a deed or a whole clause, which no list of candidate terms holds.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from core.antecedents import split_quote
from core.errors import BackendError, InputError
from core.grounding import refusal
from core.messages import Question, RefusalReason, Resolution
from core.ports import LanguageModel, Resolver
from core.resolver_prompts import DIALOGUE_PROMPTS, rewrite_prompt

log = structlog.get_logger(__name__)

MOST_LINES = 3
MOST_TOKENS = 64


def is_dialogue(question: Question) -> bool:
    """Whether only the asker and one other have spoken before, in :data:`MOST_LINES` lines at most, and the question replies to nothing by quotation."""
    lines = question.context
    if not question.has_antecedents or len(lines) > MOST_LINES or split_quote(question.text)[1]:
        return False
    return len({question.sender, *(line.sender for line in lines)}) <= 2 and not any(line.is_reply_target for line in lines)


@dataclass(frozen=True, slots=True)
class DialogueCalibration:
    """P(a free rewrite says what is meant) = logistic(bias + mean weight * mean + least weight * least) over the natural-log probabilities of its tokens, and the least of it that
    is accepted. ``prompt``: the version that the adapter was trained with."""

    version: str
    prompt: str
    bias: float
    mean_weight: float
    least_weight: float
    threshold: float

    @classmethod
    def load(cls, path: Path) -> DialogueCalibration:
        """Raises InputError for a file that is missing or of another form."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            numbers = [float(data[name]) for name in ("bias", "mean_weight", "least_weight", "threshold")]
            found = cls(str(data["version"]), str(data["prompt"]), *numbers)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(str(path), f"no calibration of a dialogue's rewrites ({error})", "Reinstall doujie, or make it: python -m scripts.training.dialogue") from None
        if found.prompt not in DIALOGUE_PROMPTS:
            raise InputError(str(path), f"its prompt {found.prompt!r} is none of a dialogue", "Reinstall doujie, or make it: python -m scripts.training.dialogue")
        return found

    def __call__(self, logprobs: Sequence[float]) -> float:
        """0..1; 0 for a text without tokens."""
        if not logprobs:
            return 0.0
        z = self.bias + self.mean_weight * sum(logprobs) / len(logprobs) + self.least_weight * min(logprobs)
        return 1.0 / (1.0 + math.exp(-max(-40.0, min(40.0, z))))


class DialogueResolver:
    """Implements :class:`core.ports.Resolver`: short dialogues are written by ``writer``, all else, and whatever the writer leaves as it is or fails at, goes to ``group``.

    Where what is written is refused, nothing is said: what ``group`` is sure of in such a question is wrong too often. ``min_confidence`` None: the calibration's threshold.
    """

    def __init__(self, group: Resolver, writer: LanguageModel, calibration: DialogueCalibration, min_confidence: float | None = None) -> None:
        self._group, self._writer, self._calibration = group, writer, calibration
        self._threshold = calibration.threshold if min_confidence is None else min_confidence

    async def resolve(self, question: Question) -> Resolution:
        """See :class:`core.ports.Resolver`."""
        started = time.perf_counter()
        if not is_dialogue(question):
            return await self._group.resolve(question)
        try:
            generation = await self._writer.generate(rewrite_prompt(self._calibration.prompt, question, question.context), MOST_TOKENS)
        except BackendError as error:
            log.warning("dialogue_writer_failed", backend=error.backend, problem=error.problem, effect="the ranker decides")
            return await self._group.resolve(question)
        candidate = generation.text.strip()
        confidence = self._calibration(generation.logprobs)
        reason, found = refusal(question, candidate, confidence, self._threshold)
        if reason in (RefusalReason.NO_CANDIDATE, RefusalReason.UNCHANGED):
            second = await self._group.resolve(question)
            return replace(second, latency_ms=(time.perf_counter() - started) * 1000.0)
        return Resolution(
            candidate=candidate,
            rewrite=candidate if reason is None else None,
            confidence=confidence,
            model=f"dialogue {self._calibration.version}",
            prompt_version=self._calibration.prompt,
            reason=reason,
            adapter=self._writer.adapter,
            latency_ms=(time.perf_counter() - started) * 1000.0,
            invented=found.invented,
        )

    async def close(self) -> None:
        await self._writer.close()
        await self._group.close()
