"""How well labellers agree: share of equal labels, and Cohen's kappa (Cohen 1960), which takes out what chance alone would give."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Agreement:
    """``items``: judged by both; ``share``: equal among them, 0 to 1; ``kappa``: -1 to 1, None where it is undefined. Both are None without items."""

    items: int
    share: float | None
    kappa: float | None


def agreement(pairs: Sequence[tuple[str, str]]) -> Agreement:
    """Of the pairs (first labeller's label, second labeller's label), one for each item that both judged."""
    if not pairs:
        return Agreement(0, None, None)
    return Agreement(len(pairs), _observed(pairs), cohen_kappa(pairs))


def cohen_kappa(pairs: Sequence[tuple[str, str]]) -> float | None:
    """(observed - expected) / (1 - expected) agreement; None for no pairs, and where both gave one and the same label throughout: chance then explains everything."""
    if not pairs:
        return None
    first, second = Counter(a for a, _ in pairs), Counter(b for _, b in pairs)
    expected = sum(first[label] * second[label] for label in first) / len(pairs) ** 2
    return None if expected == 1.0 else (_observed(pairs) - expected) / (1.0 - expected)


def _observed(pairs: Sequence[tuple[str, str]]) -> float:
    return sum(a == b for a, b in pairs) / len(pairs)
