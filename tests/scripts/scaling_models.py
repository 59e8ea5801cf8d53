"""Judgements as models of known quality would give them, for tests of the scaling law."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from core.head import sigmoid
from core.messages import ConversationKey, Question
from scripts.scaling_law.items import Item, patterns_of
from scripts.scaling_law.judging import Judgement
from scripts.scaling_law.specs import ModelSpec


def items(count: int = 200) -> list[Item]:
    """Half need resolution and hold a pronoun, half name a thing."""
    found = []
    for index in range(count):
        needs = index % 2 == 0
        text = f"它支持 {index} 么" if needs else f"ncnn 的第 {index} 层怎么量化到 int8 才不掉点"
        question = Question(f"q{index}", ConversationKey("file", str(index)), "A", text, datetime(2026, 3, 2, tzinfo=UTC))
        found.append(Item(f"q{index}", question, needs, patterns_of(text, needs, "zh"), "file"))
    return found


def judgement(name: str, size: float, truth: Sequence[bool], skill: float, *, seed: int = 1, trained: bool = False, flipped: Sequence[int] = ()) -> Judgement:
    """``skill``: distance between the mean log-odds of the two labels, in standard deviations; ``flipped``: items that the model sees the other way round, for sure."""
    labels = np.array(truth)
    margins = np.random.default_rng(seed).normal(0, 1, len(labels)) + np.where(labels, skill / 2, -skill / 2)
    for index in flipped:
        margins[index] = -6.0 if labels[index] else 6.0
    probabilities = np.array([sigmoid(float(margin)) for margin in margins])
    return Judgement(ModelSpec(name, size, f"{name}.gguf", Path("a.gguf") if trained else None, trained=trained), "gate-1", margins, probabilities, 0.5, "even odds")
