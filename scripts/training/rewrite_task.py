"""Rewriting as a training task: the chosen lines and the question are the prompt, the gold rewrite is the answer."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from core.messages import ConversationKey, Question
from core.resolver_prompts import rewrite_prompt
from scripts.training.data import Sample
from scripts.training.gate_task import Encode
from scripts.training.loop import TokenExample

_NEVER = datetime(1970, 1, 1, tzinfo=UTC)


class RewriteTask:
    """Examples of rewriting, with the last ``lines`` lines as context."""

    def __init__(self, samples: Sequence[Sample], encode: Encode, start: tuple[int, ...], version: str, lines: int) -> None:
        self._samples = [s for s in samples if s.rewrite and s.label == "yes" and not s.prompt]
        self._encode, self._start, self._version, self._lines = encode, start, version, lines

    def epoch(self, number: int) -> list[TokenExample]:
        return [self.example(sample) for sample in self._samples]

    def example(self, sample: Sample) -> TokenExample:
        lines = sample.context[-self._lines :]
        question = Question(sample.id, ConversationKey("train", sample.group), sample.sender or "?", sample.question, _NEVER, lines)
        prompt = rewrite_prompt(self._version, question, lines)
        tokens = self._encode(prompt.fixed) + self._encode(prompt.context) + self._encode(prompt.tail)
        return TokenExample(self._start + tokens, self._encode(f" {sample.rewrite}\n"))
