"""Which words of a question carry its subject: to tell that a group has begun to talk about something new."""

from __future__ import annotations

from core.antecedents import content_words
from core.privacy import mask


def words(text: str) -> frozenset[str]:
    """Words of two characters and more that name or describe, normalised; without function words, numbers and what is masked (phone numbers, keys)."""
    return frozenset(word for word in content_words(mask(text)) if len(word) > 1)


class Vocabulary:
    """The words that were seen so far."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def new_in(self, text: str) -> list[str]:
        """The words of ``text`` that were in no text before, sorted; from now on they are known."""
        new = words(text) - self._seen
        self._seen |= new
        return sorted(new)
