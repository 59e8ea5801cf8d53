"""The gate as a training task: samples become prompts whose one answer token says whether the question needs resolution."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from core.ports import Prompt
from core.prompts import GATE_PROMPTS, gate_prompt_of
from scripts.training.data import Sample, contrast, is_all_positive
from scripts.training.loop import TokenExample

Encode = Callable[[str], tuple[int, ...]]


class GateTask:
    """Examples of the gate. ``repeat`` shows samples without own context so often in an epoch, each time with fresh random lines; ``pair_limit`` bounds contrast samples per
    epoch and source."""

    def __init__(self, samples: Sequence[Sample], encode: Encode, start: tuple[int, ...], version: str, seed: int, *, repeat: int = 1, pair_limit: int = 0) -> None:
        self._encode, self._start, self._version, self._seed = encode, start, version, seed
        self._repeat, self._pair_limit = repeat, pair_limit
        self._form = GATE_PROMPTS[version]
        by_source: dict[str, list[Sample]] = {}
        for sample in samples:
            if sample.label and not sample.prompt:
                by_source.setdefault(sample.source, []).append(sample)
        self._sources = [(group, is_all_positive(group)) for group in by_source.values()]
        self._pool = [s.question for group in by_source.values() for s in group if s.distractor]

    def epoch(self, number: int) -> list[TokenExample]:
        """The examples of one epoch: deterministic in seed and number."""
        rng = random.Random(f"{self._seed}-gate-{number}")
        found: list[TokenExample] = []
        for group, positive in self._sources:
            chosen = self._pairs(group, number) if positive else group
            for sample in chosen:
                found += [self.example(sample, rng) for _ in range(self._repeat if sample.distractor else 1)]
        return found

    def _pairs(self, group: list[Sample], number: int) -> list[Sample]:
        """A window of ``pair_limit`` samples that moves on with each epoch; no pair stands twice in one."""
        shuffled = list(group)
        random.Random(self._seed).shuffle(shuffled)
        count = min(max(1, self._pair_limit // 2), len(shuffled)) if self._pair_limit else len(shuffled)
        start = number * count % len(shuffled)
        return contrast((shuffled + shuffled)[start : start + count], self._seed + number)

    def example(self, sample: Sample, rng: random.Random) -> TokenExample:
        lines = [line.text for line in sample.context]
        if sample.distractor and self._pool and self._form.context_lines:
            lines = rng.sample(self._pool, min(len(self._pool), rng.randint(0, self._form.context_lines)))
        prompt = gate_prompt_of(sample.question, lines, (), self._version)
        yes, no = self._encode(self._form.yes), self._encode(self._form.no)
        return TokenExample(self._start + self.tokens(prompt), yes if sample.needs_resolution else no, choices=yes + no)

    def tokens(self, prompt: Prompt) -> tuple[int, ...]:
        """Parts are tokenised one by one, as a back end with a kept prefix does."""
        return self._encode(prompt.fixed) + self._encode(prompt.context) + self._encode(prompt.tail)
