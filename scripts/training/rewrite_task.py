"""Rewriting as a training task: the chosen lines and the question are the prompt, the gold rewrite is the answer."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from core.dialogue import is_dialogue
from core.messages import ConversationKey, Question
from core.resolver_prompts import DIALOGUE_PROMPTS, rewrite_prompt
from scripts.training.data import Sample
from scripts.training.gate_task import Encode
from scripts.training.loop import TokenExample

_NEVER = datetime(1970, 1, 1, tzinfo=UTC)


def question_of(sample: Sample, lines: int = 0) -> Question:
    """``sample`` as a question, with its last ``lines`` lines of context (0: all)."""
    return Question(sample.id, ConversationKey("train", sample.group), sample.sender or "?", sample.question, _NEVER, sample.context[-lines:])


class RewriteTask:
    """Examples of rewriting, with the last ``lines`` lines as context; where the prompt is one of short dialogues, of these alone.

    The loss compares the tokens that occur in the task's texts: a rewrite takes its words from them, and the output layer's other columns (Gemma has 262,144) are most of the work.
    """

    def __init__(self, samples: Sequence[Sample], encode: Encode, start: tuple[int, ...], version: str, lines: int) -> None:
        self._samples = [s for s in samples if s.rewrite and s.label == "yes" and not s.prompt]
        if version in DIALOGUE_PROMPTS:
            self._samples = [s for s in self._samples if is_dialogue(question_of(s))]
        self._encode, self._start, self._version, self._lines = encode, start, version, lines
        texts = [self._texts(sample) for sample in self._samples]
        self._vocabulary = tuple(sorted({token for prompt, answer in texts for token in (*prompt, *answer)}))

    def epoch(self, number: int) -> list[TokenExample]:
        return [self.example(sample) for sample in self._samples]

    def example(self, sample: Sample) -> TokenExample:
        prompt, answer = self._texts(sample)
        return TokenExample(self._start + prompt, answer, choices=self._vocabulary)

    def _texts(self, sample: Sample) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """(prompt without the begin-of-sequence token, answer) as token ids."""
        question = question_of(sample, self._lines)
        prompt = rewrite_prompt(self._version, question, question.context)
        return self._encode(prompt.fixed) + self._encode(prompt.context) + self._encode(prompt.tail), self._encode(f" {sample.rewrite}\n")
